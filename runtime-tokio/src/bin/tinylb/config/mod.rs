//! The configuration file: its format, and every problem in it at once.

mod check;
mod document;
mod etcd;
mod fields;
mod problem;
mod reader;
mod source;
mod syntax;
#[cfg(test)]
mod tests;
mod tls;
mod values;

use std::{
    collections::BTreeMap,
    fmt, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use tinylb_core::{Settings, SettingsError};
use tinylb_services::{CheckKind, Definition, Need, Room};
use tinylb_tokio::{Address, TcpOptions, read_file};

pub(crate) use check::{CheckArgs, CheckConfig};
pub(crate) use etcd::Etcd;
#[cfg(not(feature = "etcd"))]
pub(crate) use etcd::WITHOUT_ETCD;
pub(crate) use problem::Problem;
pub(crate) use source::{Backends, Followed, Place};
pub(crate) use tls::Tls;
pub(crate) use values::duration;

/// The largest file that is read, in bytes: room for ten million backends. It keeps a device or
/// a log given by mistake from filling the memory.
pub(crate) const FILE_BYTES_MAX: u64 = 1 << 30;

/// The most workers there can be.
pub(crate) const WORKERS_MAX: u64 = 1024;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The content of a file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// How many workers there are, 1 to [`WORKERS_MAX`]. `None`: the program chooses.
    pub(crate) workers: Option<usize>,
    /// By name; at least one.
    pub(crate) services: BTreeMap<String, ServiceConfig>,
}

/// One service as the file describes it: where it listens, its backends, and its settings.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ServiceConfig {
    /// Where it listens: IP addresses and Unix sockets, at least one, in the order of the file.
    pub(crate) listen: Vec<Address>,
    pub(crate) backends: Backends,
    /// Which of them may be used. `None`: all.
    pub(crate) check: Option<CheckConfig>,
    /// The core's settings; `max_connections`, `start` and `seed` are in it too if they were given.
    pub(crate) settings: Settings,
    /// `None`: the program derives it from the limit of descriptors.
    pub(crate) max_connections: Option<usize>,
    /// Where the rotation begins. `None`: the program chooses, for each process another.
    pub(crate) start: Option<u64>,
    /// What spreads the pauses between probes. `None`: the program chooses, for each process another.
    pub(crate) seed: Option<u64>,
    /// How long a peer may leave something unanswered, 5 s to 24 h. `None`: the system decides.
    pub(crate) peer_timeout: Option<Duration>,
    /// The addresses of this machine that backends are dialled from, in turn. None: the system
    /// chooses.
    pub(crate) dial_from: Vec<IpAddr>,
    /// How long sessions may finish at shutdown, 0 s to 24 h.
    pub(crate) shutdown_timeout: Duration,
}

impl ServiceConfig {
    /// A service with the default settings.
    pub(crate) fn new(listen: Vec<Address>, backends: Backends) -> Self {
        Self {
            listen,
            backends,
            check: None,
            settings: Settings::default(),
            max_connections: None,
            start: None,
            seed: None,
            peer_timeout: TcpOptions::default().peer_timeout,
            dial_from: Vec::new(),
            shutdown_timeout: Duration::from_secs(30),
        }
    }

    /// What its TCP connections are set to.
    pub(crate) fn tcp_options(&self) -> TcpOptions {
        let mut options = TcpOptions::default();
        options.peer_timeout = self.peer_timeout;
        options
    }

    /// What it needs descriptors for, beside its connections.
    pub(crate) fn need(&self) -> Need {
        let checks = self.check.as_ref().map(|check| match check.keeps_connections() {
            true => CheckKind::Keep,
            false => CheckKind::Connect,
        });
        Need { addresses: self.listen.len(), probes: self.settings.probes_max, checks }
    }

    /// Checks the range of every setting; the first that is out of it.
    pub(crate) fn check_ranges(&self) -> Result<(), SettingsError> {
        self.settings.validate()?;
        let own = [
            ("peer_timeout", self.peer_timeout, TcpOptions::PEER_TIMEOUT_MIN, "5s to 24h, or off"),
            ("shutdown_timeout", Some(self.shutdown_timeout), Duration::ZERO, "0s to 24h"),
        ];
        for (name, value, min, range) in own {
            if let Some(value) = value
                && (value < min || value > DAY)
            {
                return Err(SettingsError { name, value: format!("{value:?}"), range });
            }
        }
        Ok(())
    }
}

impl Definition for ServiceConfig {
    type Address = Address;

    fn listen(&self) -> &[Address] {
        &self.listen
    }

    fn takes_any_port(address: &Address) -> bool {
        matches!(address, Address::Tcp(target) if target.port == 0)
    }

    fn is_followed(&self) -> bool {
        matches!(self.backends, Backends::Followed(_))
    }

    fn has_backends_of(&self, other: &Self) -> bool {
        self.backends == other.backends
    }

    fn is_checked(&self) -> bool {
        self.check.is_some()
    }

    fn shutdown_timeout(&self) -> Duration {
        self.shutdown_timeout
    }

    fn room(&self) -> Room {
        let check = self.check.as_ref();
        Room {
            probes: self.settings.probes_max,
            checks: check.map_or(0, |check| check.settings.checks_max),
            check_connections: check.map_or(0, |check| check.connections_max),
        }
    }
}

/// Why there is no [`Config`]. Displayed as one line for each problem.
#[derive(Debug)]
pub(crate) enum LoadError {
    /// The file could not be read.
    Io { path: PathBuf, source: io::Error },
    /// The file of a password could not be read.
    Password { path: PathBuf, source: io::Error },
    /// A file of the check of this service can't be read or used.
    Check { service: String, cause: String },
    /// It was read, and this is wrong with it: at least one, in order of position.
    Problems { path: PathBuf, problems: Vec<Problem> },
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io { path, source } => {
                let remedy = match source.kind() {
                    io::ErrorKind::NotFound => "check the path",
                    io::ErrorKind::PermissionDenied => "let the user who runs tinylb read it",
                    _ => "give the path of a TOML file",
                };
                write!(f, "can't read {}: {source}: {remedy}", path.display())
            }
            Self::Password { path, source } => {
                let path = path.display();
                write!(f, "can't read the etcd user's password in {path}: {source}: check the path")
            }
            Self::Check { service, cause } => write!(f, "the check of {service}: {cause}"),
            Self::Problems { path, problems } => {
                let lines: Vec<_> = problems.iter().map(|problem| problem.one_line(path)).collect();
                f.write_str(&lines.join("\n"))
            }
        }
    }
}

impl std::error::Error for LoadError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } | Self::Password { source, .. } => Some(source),
            Self::Check { .. } | Self::Problems { .. } => None,
        }
    }
}

/// Reads and checks a file.
pub(crate) fn load(path: &Path) -> Result<Config, LoadError> {
    let bytes = read_file(path, FILE_BYTES_MAX)
        .map_err(|source| LoadError::Io { path: path.to_path_buf(), source })?;
    let mut config = parse_bytes(&bytes)
        .map_err(|problems| LoadError::Problems { path: path.to_path_buf(), problems })?;
    let directory = path.parent().unwrap_or(Path::new(""));
    for (name, service) in &mut config.services {
        if let Some(check) = &mut service.check {
            check
                .read_files(directory)
                .map_err(|cause| LoadError::Check { service: name.clone(), cause })?;
        }
        if let Backends::Followed(followed) = &mut service.backends {
            followed
                .resolve_paths(directory)
                .map_err(|(path, source)| LoadError::Password { path, source })?;
        }
    }
    Ok(config)
}

/// The configuration in a file's bytes, or everything that is wrong with them.
pub(crate) fn parse_bytes(bytes: &[u8]) -> Result<Config, Vec<Problem>> {
    // A byte order mark is no part of the text: columns count from the first character.
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(text) => document::read(text),
        Err(error) => {
            let at = error.valid_up_to();
            let message =
                format!("the byte 0x{:02x} is not UTF-8: save the file as UTF-8", bytes[at]);
            Err(problem::locate(&String::from_utf8_lossy(bytes), vec![(at, message)]))
        }
    }
}
