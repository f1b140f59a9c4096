use std::{ffi::OsString, num::NonZeroU16, path::PathBuf, time::Duration};

use clap::{ArgGroup, Args, Parser, Subcommand, ValueEnum, builder::RangedU64ValueParser};
use tinylb_core::BackendSet;
use tinylb_tokio::{Address, DnsName, DnsOptions, Host, Splice, TcpTarget};

use crate::{
    Failure,
    config::{Backends, CheckArgs, Etcd, Followed, Place, Tls, WORKERS_MAX, duration},
};

/// A round-robin load balancer of connections. When a backend is removed, its connections are
/// reset at once, so that clients go to a live one.
#[derive(Parser)]
#[command(name = "tinylb", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Balance connections until stopped.
    Run(Run),
    /// Report every problem in a configuration file, and do nothing else.
    Check {
        /// The configuration file.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Keep a backend registered in etcd until stopped, or until a command ends.
    Register(Register),
    /// Show a balancer at work for 8 seconds: backends, clients, a backend that hangs, and replacements.
    Demo,
}

impl Command {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Run(_) => "run",
            Self::Check { .. } => "check",
            Self::Register(_) => "register",
            Self::Demo => "demo",
        }
    }

    /// The log options, if the command logs.
    pub(crate) fn log(&self) -> Option<&Log> {
        match self {
            Self::Run(args) => Some(&args.log),
            Self::Register(args) => Some(&args.log),
            Self::Check { .. } | Self::Demo => None,
        }
    }
}

// `Run::check` checks the combinations: clap would demand two options that exclude each other.
#[derive(Args)]
#[command(group(
    ArgGroup::new("backends")
        .args(["backend", "dns", "etcd"])
        .conflicts_with("config")
        .multiple(true)
))]
pub(crate) struct Run {
    /// The configuration file; read again when it changes, and on SIGHUP.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    // As text, since the documentation would take the brackets for a link.
    #[arg(help = "Listen here, for a service named `default`: HOST:PORT, [IPV6]:PORT or \
                  unix:/PATH. Port 0 takes a free one. May be repeated")]
    #[arg(long, value_name = "ADDRESS", value_parser = listen_address, conflicts_with = "config")]
    pub(crate) listen: Vec<Address>,
    /// A backend of that service. May be repeated.
    #[arg(long, value_name = "KEY=ADDRESS", value_parser = backend,
          conflicts_with_all = ["dns", "etcd"])]
    pub(crate) backend: Vec<(String, Address)>,
    /// Look that service's backends up in DNS: A and AAAA records of NAME:PORT, or SRV records of a
    /// name such as _db._tcp.example.org.
    #[arg(long, value_name = "NAME[:PORT]", conflicts_with = "etcd")]
    pub(crate) dns: Option<DnsName>,
    /// Answer GET /healthz, /readyz, /metrics and /services here: HOST:PORT or unix:/PATH.
    #[arg(long, value_name = "ADDRESS", value_parser = listen_address)]
    pub(crate) admin: Option<Address>,
    /// Let the admin address also accept PUT /services/NAME/backends.
    #[arg(long, requires = "admin")]
    pub(crate) admin_write: bool,
    /// Threads that carry connections [default: `workers` of the file, or the number of cores, or fewer
    /// if descriptors are few].
    #[arg(long, value_name = "COUNT", value_parser = RangedU64ValueParser::<usize>::new().range(1..=WORKERS_MAX))]
    pub(crate) workers: Option<usize>,
    /// When to move bytes from socket to socket inside the kernel, instead of through memory (Linux).
    #[arg(long, value_enum, value_name = "WHEN", default_value = "hot")]
    pub(crate) splice: SpliceWhen,
    /// Record what happens to connections here, for `tinylb-sim judge`.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// The most that a recording takes, in MiB; it ends there.
    #[arg(long, value_name = "MIB", default_value_t = 1024, requires = "record",
          value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    pub(crate) record_max: u64,
    #[command(flatten)]
    pub(crate) log: Log,
    #[command(flatten)]
    pub(crate) check: CheckArgs,
    #[command(flatten)]
    pub(crate) etcd: Etcd,
}

#[derive(Args)]
#[cfg_attr(not(feature = "etcd"), allow(dead_code))] // Without etcd, the command only fails.
pub(crate) struct Register {
    /// The backend's key, without the prefix.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: String,
    #[arg(help = "Where balancers reach the backend: HOST:PORT, [IPV6]:PORT or unix:/PATH")]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) address: Address,
    /// How long the backend stays registered if this program is killed: whole seconds, up to 1h. A
    /// third of it is the time limit for etcd's answers, and the pause between two renewals.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "5s")]
    pub(crate) ttl: Duration,
    /// Register the backend only while it passes a check.
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) check: Option<CheckHow>,
    #[command(flatten)]
    pub(crate) question: Question,
    /// A command to run. The backend is registered while it runs, and tinylb exits with its exit
    /// code.
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
    #[command(flatten)]
    pub(crate) log: Log,
    #[command(flatten)]
    pub(crate) etcd: Etcd,
}

/// What a check asks, and how many answers it takes.
#[derive(Args)]
pub(crate) struct Question {
    /// The path that `--check http` and `--check https` get [default: /]. Only the status 200 passes.
    #[arg(long = "check-path", value_name = "PATH")]
    pub(crate) path: Option<String>,
    /// The port that is asked [default: the backend's].
    #[arg(long = "check-port", value_name = "PORT")]
    pub(crate) port: Option<NonZeroU16>,
    /// The Host header of `--check http` and `--check https` [default: the address that is asked].
    #[arg(long = "check-host", value_name = "HOST")]
    pub(crate) host: Option<String>,
    #[command(flatten)]
    pub(crate) tls: Tls,
    /// How many checks in a row must pass before a backend that was taken out is registered again, 1 to
    /// 100.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) rise: u32,
    /// How many refusals or wrong statuses in a row take the backend out, 1 to 100.
    #[arg(long, value_name = "COUNT", default_value_t = 1)]
    pub(crate) fall: u32,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum CheckHow {
    /// Connect once a second, without the backend's notice. The backend is taken out of etcd when a
    /// connection is refused, or after 5 in a row without an answer within 1 s
    Tcp,
    /// Ask over HTTP once a second. The backend is taken out of etcd when it answers with another
    /// status, when a connection is refused, or after 5 in a row without an answer within 1 s
    Http,
    /// As `http`, over HTTPS; needs `--check-ca`. A certificate that isn't trusted is no answer
    Https,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum SpliceWhen {
    /// Never
    Never,
    /// For connections that move much data
    Hot,
    /// For all TCP connections, at any cost
    Always,
}

impl From<SpliceWhen> for Splice {
    fn from(when: SpliceWhen) -> Self {
        match when {
            SpliceWhen::Never => Self::Never,
            SpliceWhen::Hot => Self::Hot,
            SpliceWhen::Always => Self::Always,
        }
    }
}

#[derive(Args)]
pub(crate) struct Log {
    /// The format of log lines [default: human on a terminal, json elsewhere].
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub(crate) log_format: Option<LogFormat>,
    /// Log lines of this severity and above; debug has a line for each connection.
    #[arg(long, value_enum, value_name = "LEVEL", default_value = "info")]
    pub(crate) log_level: LogLevel,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

impl Run {
    /// Checks that there is something to balance.
    ///
    /// # Errors
    /// What is missing.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        let has_etcd = self.etcd != Etcd::default();
        let has_backends = !self.backend.is_empty() || self.dns.is_some() || has_etcd;
        let missing = match (&self.config, self.listen.is_empty(), has_backends) {
            (Some(_), ..) | (None, false, true) => return Ok(()),
            (None, true, true) => "`--listen ADDRESS`, where clients connect, is missing",
            (None, false, false) => {
                "there are no backends: give `--backend KEY=ADDRESS`, `--dns NAME:PORT`, or `--etcd \
                 URL` with `--prefix`"
            }
            (None, true, false) => {
                "there is nothing to balance: give `--config FILE`; or `--listen ADDRESS` with \
                 `--backend KEY=ADDRESS`, `--dns NAME:PORT` or `--etcd URL`"
            }
        };
        Err(Failure::Usage(missing.into()))
    }

    /// Where the backends come from, according to the arguments.
    ///
    /// # Errors
    /// They are wrong, or a file that they name can't be read.
    pub(crate) fn backends(&self) -> Result<Backends, Failure> {
        for (place, address) in self.listen.iter().enumerate() {
            if self.listen[..place].contains(address) {
                let message = format!("--listen {address} is given twice: once is enough");
                return Err(Failure::Usage(message));
            }
            for other in &self.listen[..place] {
                for (wide, narrow) in [(other, address), (address, other)] {
                    if wide.takes_in(narrow) {
                        let message = format!("--listen {wide} covers {narrow}: keep one of them");
                        return Err(Failure::Usage(message));
                    }
                }
            }
        }
        let place = match (&self.dns, self.etcd.read()?) {
            (Some(name), _) => Place::Dns(name.clone(), DnsOptions::default()),
            (None, Some(etcd)) => Place::Etcd(etcd),
            (None, None) => return self.given().map_err(Failure::Usage),
        };
        Ok(Backends::Followed(Box::new(Followed::new(place))))
    }

    fn given(&self) -> Result<Backends, String> {
        for (key, address) in &self.backend {
            address
                .validate_target(&self.listen)
                .map_err(|reason| format!("the target {address} of {key} is invalid: {reason}"))?;
        }
        let backends = self.backend.iter().map(|(key, address)| (key.as_str(), address.clone()));
        BackendSet::new(backends).map(Backends::Given).map_err(|error| error.to_string())
    }
}

fn listen_address(text: &str) -> Result<Address, String> {
    match text.parse() {
        Ok(Address::Tcp(TcpTarget { host: Host::Name(name), .. })) => {
            Err(format!("`{name}` is a name: give the IP address to listen at"))
        }
        Ok(address) => Ok(address),
        Err(error) => Err(format!("{error}")),
    }
}

fn time(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|cause| format!("`{text}`, {cause}: write for example 5s"))
}

fn backend(text: &str) -> Result<(String, Address), String> {
    let (key, address) = text.split_once('=').ok_or("it has no `=`: write KEY=ADDRESS")?;
    if key.is_empty() {
        return Err("the key is empty: write KEY=ADDRESS".into());
    }
    Ok((key.into(), address.parse().map_err(|error| format!("{error}"))?))
}
