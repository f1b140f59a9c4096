use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU8, Ordering},
};

use rustix::process::{Pid, Signal, kill_process};

use super::say;

/// One member of a cluster: its command, and its process while it runs.
pub(crate) struct Process {
    command: Command,
    child: Option<Child>,
}

/// How members and clients know each other.
pub(crate) enum Security {
    /// Not at all. Passwords count once they are enabled.
    Open,
    /// By certificates in this directory, which must hold `ca.pem`, `etcd.pem` and `etcd.key`.
    Certificates(PathBuf),
}

impl Security {
    pub(crate) fn scheme(&self) -> &'static str {
        match self {
            Self::Open => "http",
            Self::Certificates(_) => "https",
        }
    }
}

impl Process {
    /// The command of a member; the others are at these places of the same host.
    pub(crate) fn new(
        host: Ipv4Addr,
        place: usize,
        members: usize,
        data: &Path,
        security: &Security,
    ) -> Self {
        let name = |place| format!("m{place}");
        let peer = |place| format!("http://{host}:{}", peer_port(place));
        let client = format!("{}://{host}:{}", security.scheme(), client_port(place));
        let all: Vec<_> = (0..members).map(|at| format!("{}={}", name(at), peer(at))).collect();
        let mut command = Command::new("etcd");
        for (option, value) in [
            ("--name", name(place)),
            ("--data-dir", data.display().to_string()),
            ("--listen-client-urls", client.clone()),
            ("--advertise-client-urls", client),
            ("--listen-peer-urls", peer(place)),
            ("--initial-advertise-peer-urls", peer(place)),
            ("--initial-cluster", all.join(",")),
            ("--initial-cluster-state", "new".into()),
            ("--heartbeat-interval", "50".into()),
            ("--election-timeout", "500".into()),
            // So that a login is cheap.
            ("--bcrypt-cost", "4".into()),
            ("--log-level", "error".into()),
            ("--logger", "zap".into()),
        ] {
            command.arg(option).arg(value);
        }
        if let Security::Certificates(directory) = security {
            let file = |name: &str| directory.join(name);
            command.arg("--cert-file").arg(file("etcd.pem"));
            command.arg("--key-file").arg(file("etcd.key"));
            command.arg("--trusted-ca-file").arg(file("ca.pem"));
            command.arg("--client-cert-auth");
        }
        Self::of(command)
    }

    /// The command of etcd's gRPC proxy, before members at these addresses.
    pub(crate) fn proxy(members: &[SocketAddr], at: SocketAddr) -> Self {
        let members: Vec<_> = members.iter().map(SocketAddr::to_string).collect();
        let mut command = Command::new("etcd");
        command.args(["grpc-proxy", "start", "--endpoints", &members.join(",")]);
        command.args(["--listen-addr", &at.to_string()]);
        Self::of(command)
    }

    fn of(mut command: Command) -> Self {
        // Every option can come from there too.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { command, child: None }
    }

    /// Starts it, if it doesn't run. `None`: etcd isn't installed.
    pub(crate) fn start(&mut self) -> Option<()> {
        match self.command.spawn() {
            Ok(child) => self.child = Some(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                say("SKIPPED: etcd isn't installed (Debian: apt-get install etcd-server)");
                return None;
            }
            Err(error) => panic!("etcd doesn't start: {error}"),
        }
        Some(())
    }

    /// As by `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// As by SIGSTOP: it keeps its connections, and does nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// As by SIGCONT.
    pub(crate) fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// The system's, while it runs.
    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("the member runs"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A host of this test's own (the whole of 127.0.0.0/8 leads to this machine), so that nobody else
/// can have taken its ports.
pub(crate) fn own_host() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

pub(crate) fn client_port(place: usize) -> u16 {
    2379 + 10 * place as u16
}

fn peer_port(place: usize) -> u16 {
    client_port(place) + 1
}
