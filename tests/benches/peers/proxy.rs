use std::{
    env,
    fmt::Write as _,
    fs,
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tinylb_core::Recording;
use tinylb_sim::recorded::judge;
use tinylb_tests::program;

use crate::process::Process;

/// One way to have connections carried: a row of each table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proxy {
    /// None at all.
    Direct,
    Tinylb {
        workers: u8,
        splice: &'static str,
    },
    /// The same with one worker, recorded and judged.
    Recorded,
    /// Another build of tinylb, with one worker: the program's path.
    Build(&'static str),
    /// A loop on tokio around `copy_bidirectional`, on one thread.
    Copy,
    /// A loop on epoll and little else, on one thread.
    Epoll,
    /// `splice`: forced, with buffers of 64 KiB.
    Haproxy {
        threads: u8,
        splice: bool,
    },
    Nginx {
        workers: u8,
    },
    Envoy {
        threads: u8,
    },
}

/// What a scenario wants.
pub struct Wanted<'a> {
    pub backends: &'a [SocketAddr],
    /// How many of them are in the set at first.
    pub first: usize,
    /// Much is to be moved, so buffers may be large.
    pub bulk: bool,
    /// Lines for tinylb's service or for haproxy's backend, parameters of each of nginx's servers, or a
    /// line for Envoy's filter.
    pub settings: &'a str,
}

/// A proxy at work.
pub struct Running {
    pub proxy: Proxy,
    pub address: SocketAddr,
    pub process: Option<Process>,
    pub controller: Controller,
    files: TempDir,
}

/// Replaces a proxy's set of backends.
#[derive(Default)]
pub struct Controller {
    backends: Vec<SocketAddr>,
    control: Control,
}

/// How that is done.
#[derive(Default)]
enum Control {
    /// Not at all, in a way that closes connections.
    #[default]
    None,
    /// PUT to this address.
    Http(SocketAddr),
    /// Commands to a socket.
    Haproxy(PathBuf),
}

/// How late a timer of a program under load may be, beyond its own pauses.
const SLACK: Duration = Duration::from_secs(1);

/// Within the 20,000 descriptors that a process may have here and there.
const CONNECTIONS_MAX: usize = 9_900;

impl Proxy {
    pub const ALL: [Self; 13] = [
        Self::Direct,
        Self::Tinylb { workers: 1, splice: "hot" },
        Self::Tinylb { workers: 2, splice: "hot" },
        Self::Tinylb { workers: 1, splice: "never" },
        Self::Tinylb { workers: 1, splice: "always" },
        Self::Copy,
        Self::Epoll,
        Self::Haproxy { threads: 1, splice: false },
        Self::Haproxy { threads: 1, splice: true },
        Self::Haproxy { threads: 2, splice: true },
        Self::Nginx { workers: 1 },
        Self::Nginx { workers: 2 },
        Self::Envoy { threads: 1 },
    ];

    pub fn name(self) -> String {
        match self {
            Self::Direct => "direct".into(),
            Self::Tinylb { workers, splice: "hot" } => format!("tinylb, {workers}"),
            Self::Tinylb { workers, splice } => format!("tinylb, {workers}, splice {splice}"),
            Self::Recorded => "tinylb, 1, recorded".into(),
            Self::Build(program) => program.into(),
            Self::Copy => "copy_bidirectional, 1".into(),
            Self::Epoll => "epoll loop, 1".into(),
            Self::Haproxy { threads, splice: false } => format!("haproxy, {threads}"),
            Self::Haproxy { threads, .. } => format!("haproxy, {threads}, splice"),
            Self::Nginx { workers } => format!("nginx, {workers}"),
            Self::Envoy { threads } => format!("envoy, {threads}"),
        }
    }

    /// Who makes it.
    pub fn family(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Tinylb { .. } => "tinylb",
            Self::Recorded => "tinylb, recorded",
            Self::Build(program) => program,
            Self::Copy => "copy_bidirectional",
            Self::Epoll => "epoll loop",
            Self::Haproxy { .. } => "haproxy",
            Self::Nginx { .. } => "nginx",
            Self::Envoy { .. } => "envoy",
        }
    }

    /// What it says its version is, or `None` where it isn't installed.
    pub fn version(self) -> Option<String> {
        let (program, argument) = match self {
            Self::Direct | Self::Copy | Self::Epoll => return Some(String::new()),
            Self::Tinylb { .. } | Self::Recorded => (program::path().ok()?, "--version"),
            Self::Build(program) => (program.into(), "--version"),
            Self::Haproxy { .. } => ("haproxy".into(), "-v"),
            Self::Nginx { .. } if nginx_module().is_none() => return None,
            Self::Nginx { .. } => ("nginx".into(), "-v"),
            Self::Envoy { .. } => (envoy(), "--version"),
        };
        let output = Command::new(program).arg(argument).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let is_version = |word: &&str| {
            word.split('.').count() > 2 && word.contains(|c: char| c.is_ascii_digit())
        };
        let mut words = said.split([' ', '/', '\n', '-']);
        Some(words.find(is_version).unwrap_or("?").to_string())
    }

    /// Whether it is tinylb in a mode that makes no difference but to bulk transfers.
    pub fn is_other_mode(self) -> bool {
        matches!(self, Self::Tinylb { splice, .. } if splice != "hot")
    }

    /// Whether its set of backends can be replaced, with the connections of removed ones closed.
    pub fn can_replace(self) -> bool {
        let is_tinylb = matches!(self, Self::Tinylb { .. } | Self::Recorded | Self::Build(_));
        is_tinylb || matches!(self, Self::Haproxy { .. })
    }

    /// Starts it, and waits until it accepts.
    pub fn start(self, wanted: &Wanted<'_>) -> io::Result<Running> {
        let files = tempfile::tempdir()?;
        let address = free_address()?;
        let mut running = Running {
            proxy: self,
            address,
            process: None,
            controller: Controller { backends: wanted.backends.to_vec(), control: Control::None },
            files,
        };
        let command = match self {
            Self::Direct => {
                running.address = wanted.backends[0];
                return Ok(running);
            }
            Self::Tinylb { workers, splice } => {
                running.tinylb(program::path()?, wanted, workers, splice)?
            }
            Self::Recorded => {
                let mut command = running.tinylb(program::path()?, wanted, 1, "hot")?;
                command.arg("--record").arg(running.recording());
                command
            }
            Self::Build(program) => running.tinylb(program.into(), wanted, 1, "hot")?,
            Self::Copy => running.own("copy", wanted)?,
            Self::Epoll => running.own("epoll", wanted)?,
            Self::Haproxy { threads, splice } => running.haproxy(wanted, threads, splice)?,
            Self::Nginx { workers } => running.nginx(wanted, workers)?,
            Self::Envoy { threads } => running.envoy(wanted, threads)?,
        };
        let log = running.files.path().join("log");
        running.process = Some(Process::start(command, &log)?);
        running.await_start(&log)?;
        Ok(running)
    }
}

impl Controller {
    /// Replaces the set by these of the backends, and waits for the answer.
    pub fn replace(&self, keep: &[usize]) -> io::Result<()> {
        let all = 0..self.backends.len();
        match &self.control {
            Control::None => Err(io::ErrorKind::Unsupported.into()),
            Control::Http(address) => {
                let pairs = keep.iter().map(|&n| format!("\"b{n}\":\"{}\"", self.backends[n]));
                put(*address, &format!("{{{}}}", pairs.collect::<Vec<_>>().join(",")))
            }
            Control::Haproxy(socket) => {
                let mut commands = String::new();
                for n in all.clone().filter(|n| keep.contains(n)) {
                    let _ = write!(commands, "enable server b/b{n};");
                }
                for n in all.filter(|n| !keep.contains(n)) {
                    let _ = write!(commands, "disable server b/b{n};");
                    let _ = write!(commands, "shutdown sessions server b/b{n};");
                }
                let mut stream = UnixStream::connect(socket)?;
                stream.write_all(format!("{commands}\n").as_bytes())?;
                stream.read_to_end(&mut Vec::new()).map(|_| ())
            }
        }
    }
}

impl Running {
    fn await_start(&mut self, log: &Path) -> io::Result<()> {
        let began = Instant::now();
        while TcpStream::connect(self.address).is_err() {
            let has_ended = self.process.as_mut().is_none_or(Process::has_ended);
            if has_ended || began.elapsed() > Duration::from_secs(10) {
                let said = fs::read_to_string(log)?;
                let name = self.proxy.name();
                return Err(io::Error::other(format!("{name} doesn't start: {said}")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    pub fn files(&self) -> &Path {
        self.files.path()
    }

    fn recording(&self) -> PathBuf {
        self.files.path().join("recording")
    }

    /// Ends it, and has its recording judged if there is one.
    pub fn stop(mut self) -> io::Result<()> {
        self.process = None;
        if self.proxy != Proxy::Recorded {
            return Ok(());
        }
        let recording = Recording::read(&fs::read(self.recording())?).map_err(io::Error::other)?;
        let judgement = judge(&recording, SLACK).map_err(io::Error::other)?;
        match judgement.is_broken() {
            true => Err(io::Error::other(format!("its recording breaks a law: {judgement:?}"))),
            false => Ok(()),
        }
    }

    fn tinylb(
        &mut self,
        program: PathBuf,
        wanted: &Wanted<'_>,
        workers: u8,
        splice: &str,
    ) -> io::Result<Command> {
        let admin = free_address()?;
        self.controller.control = Control::Http(admin);
        let mut command = Command::new(program);
        command.args(["run", "--admin", &admin.to_string(), "--admin-write"]);
        command.args(["--workers", &workers.to_string(), "--splice", splice]);
        let backends = wanted.backends.iter().enumerate().take(wanted.first);
        if wanted.settings.is_empty() {
            command.args(["--log-level", "error", "--listen", &self.address.to_string()]);
            for (n, backend) in backends {
                command.args(["--backend", &format!("b{n}={backend}")]);
            }
        } else {
            let backends: Vec<_> = backends.map(|(n, b)| format!("b{n} = \"{b}\"")).collect();
            let config = format!(
                "[services.default]\nlisten = [\"{}\"]\nbackends = {{ {} }}\n{}\n",
                self.address,
                backends.join(", "),
                wanted.settings
            );
            command.args(["--log-level", "info", "--log-format", "json", "--config"]);
            command.arg(self.write("tinylb.toml", &config)?);
        }
        Ok(command)
    }

    /// A subcommand of this program.
    fn own(&self, name: &str, wanted: &Wanted<'_>) -> io::Result<Command> {
        let mut command = Command::new(env::current_exe()?);
        command.arg(name).arg(self.address.to_string());
        command.args(wanted.backends.iter().map(ToString::to_string));
        Ok(command)
    }

    fn haproxy(&mut self, wanted: &Wanted<'_>, threads: u8, splice: bool) -> io::Result<Command> {
        let socket = self.files.path().join("socket");
        let mut config = format!(
            "global\n nbthread {threads}\n maxconn {CONNECTIONS_MAX}\n \
             stats socket {} level admin\n {}\n\
             defaults\n mode tcp\n balance roundrobin\n timeout connect 3s\n timeout client 1h\n \
             timeout server 1h\n {}\n\
             frontend f\n bind {} backlog 4096\n default_backend b\n\
             backend b\n{}",
            socket.display(),
            if splice { "tune.bufsize 65536\n maxpipes 32" } else { "" },
            if splice { "option splice-request\n option splice-response" } else { "" },
            self.address,
            wanted.settings,
        );
        for (n, backend) in wanted.backends.iter().enumerate() {
            let disabled = if n < wanted.first { "" } else { "disabled" };
            let _ = writeln!(config, " server b{n} {backend} {disabled}");
        }
        self.controller.control = Control::Haproxy(socket);
        let mut command = Command::new("haproxy");
        command.arg("-f").arg(self.write("haproxy.cfg", &config)?);
        Ok(command)
    }

    fn nginx(&mut self, wanted: &Wanted<'_>, workers: u8) -> io::Result<Command> {
        let mut servers = String::new();
        for backend in &wanted.backends[..wanted.first] {
            let _ = write!(servers, "server {backend} {}; ", wanted.settings);
        }
        let module = nginx_module().unwrap_or_default();
        let config = format!(
            "load_module {}; user root; daemon off; pid {}/pid; error_log stderr error;\n\
             worker_processes {workers}; worker_rlimit_nofile 20000;\n\
             events {{ worker_connections 19900; }}\n\
             stream {{ upstream b {{ {servers} }}\n\
             server {{ listen {} {} backlog=4096; proxy_pass b; proxy_half_close on; \
             proxy_connect_timeout 3s; proxy_timeout 1h; {} }} }}\n",
            module.display(),
            self.files.path().display(),
            self.address,
            if workers > 1 { "reuseport" } else { "" },
            if wanted.bulk { "proxy_buffer_size 64k;" } else { "" },
        );
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.files.path()).arg("-c").arg(self.write("nginx.conf", &config)?);
        Ok(command)
    }

    fn envoy(&self, wanted: &Wanted<'_>, threads: u8) -> io::Result<Command> {
        let socket = |address: SocketAddr| {
            let (ip, port) = (address.ip(), address.port());
            format!("{{socket_address: {{address: {ip}, port_value: {port}}}}}")
        };
        let endpoint =
            |backend: &SocketAddr| format!("{{endpoint: {{address: {}}}}}", socket(*backend));
        let endpoints: Vec<_> = wanted.backends[..wanted.first].iter().map(endpoint).collect();
        let config = format!(
            "static_resources:\n  listeners:\n  - address: {}\n    tcp_backlog_size: 4096\n    \
             filter_chains:\n    - filters:\n      - name: envoy.filters.network.tcp_proxy\n        \
             typed_config:\n          \
             \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n          \
             stat_prefix: t\n          cluster: b\n          {}\n\
             \x20 clusters:\n  - name: b\n    connect_timeout: 3s\n    type: STATIC\n    \
             circuit_breakers: {{thresholds: [{{max_connections: 100000, max_pending_requests: 100000}}]}}\n    \
             load_assignment: {{cluster_name: b, endpoints: [{{lb_endpoints: [{}]}}]}}\n",
            socket(self.address),
            wanted.settings,
            endpoints.join(", "),
        );
        let mut command = Command::new(envoy());
        command.arg("-c").arg(self.write("envoy.yaml", &config)?);
        command.args(["--concurrency", &threads.to_string(), "--disable-hot-restart"]);
        command.args(["--log-level", "error"]);
        Ok(command)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<PathBuf> {
        let path = self.files.path().join(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

fn put(address: SocketAddr, body: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    let head =
        "PUT /services/default/backends HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n";
    let length = body.len();
    stream.write_all(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200 ") {
        Ok(())
    } else {
        Err(io::Error::other(format!("the answer is {answer:?}")))
    }
}

fn envoy() -> PathBuf {
    env::var_os("ENVOY").unwrap_or_else(|| "envoy".into()).into()
}

fn nginx_module() -> Option<PathBuf> {
    let places = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx"];
    let paths = places.map(|place| Path::new(place).join("ngx_stream_module.so"));
    paths.into_iter().find(|path| path.exists())
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0")?.local_addr()
}
