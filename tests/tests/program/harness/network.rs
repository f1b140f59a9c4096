use std::{
    fs::File,
    io::{Write, stderr},
    os::fd::AsFd,
    process::{Child, Command, Stdio},
    thread,
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::until;

/// Three hosts in a row, each a network namespace: clients, the balancer and backends. A link can
/// go down, like a pulled cable.
pub(crate) struct Network {
    pub(crate) clients: Host,
    pub(crate) balancer: Host,
    pub(crate) backends: Host,
}

/// A network namespace, which lives as long as this.
pub(crate) struct Host {
    /// A process in it, which ends when its standard input does: with the tests, if not before.
    holder: Child,
}

/// Where the balancer listens for clients.
pub(crate) const BALANCER: &str = "10.0.1.1";
/// Where backends are.
pub(crate) const BACKENDS: &str = "10.0.2.2";

impl Network {
    /// `None` where namespaces can't be made: that is written to standard error, and the test can
    /// do nothing.
    pub(crate) fn start() -> Option<Self> {
        if !can_be_made() {
            // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
            let skipped =
                "SKIPPED: no network namespaces (they take root, unshare, nsenter and ip)";
            let _ = writeln!(stderr(), "{skipped}");
            return None;
        }
        let network = Self { clients: Host::new(), balancer: Host::new(), backends: Host::new() };
        network.link(&network.clients, "10.0.1.2/24", "clients", "10.0.1.1/24");
        network.link(&network.backends, "10.0.2.2/24", "backends", "10.0.2.1/24");
        Some(network)
    }

    /// Connects a host, by its `eth0`, to the balancer.
    fn link(&self, host: &Host, address: &str, name: &str, balancer_address: &str) {
        let holder = host.holder.id();
        self.balancer.ip(&format!("link add {name} type veth peer name eth0 netns {holder}"));
        self.balancer.ip(&format!("address add {balancer_address} dev {name}"));
        self.balancer.ip(&format!("link set {name} up"));
        host.ip(&format!("address add {address} dev eth0"));
        host.set_link("up");
    }
}

/// Makes one, and checks that the tools for it are installed.
fn can_be_made() -> bool {
    let made = Command::new("unshare")
        .args(["--net", "nsenter", "--net=/proc/self/ns/net", "ip", "link"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    made.is_ok_and(|status| status.success())
}

impl Host {
    fn new() -> Self {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let host = Self { holder: command.spawn().unwrap() };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        until("a namespace", || std::fs::read_link(host.path()).is_ok_and(|path| path != own));
        host
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.holder.id())
    }

    /// Makes a command run on this host.
    pub(crate) fn command(&self, command: &Command) -> Command {
        let mut there = Command::new("nsenter");
        there.arg(format!("--net={}", self.path()));
        there.arg(command.get_program()).args(command.get_args());
        there
    }

    /// Does something on this host. A socket that is made there stays there.
    pub(crate) fn run<T: Send>(&self, run: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(self.path()).unwrap();
        let run = move || {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            run()
        };
        thread::scope(|scope| scope.spawn(run).join().unwrap())
    }

    /// Pulls the host's cable (`down`) or plugs it in (`up`).
    pub(crate) fn set_link(&self, state: &str) {
        self.ip(&format!("link set eth0 {state}"));
    }

    fn ip(&self, args: &str) {
        let mut ip = Command::new("ip");
        ip.args(args.split(' '));
        assert!(self.command(&ip).status().unwrap().success(), "ip {args}");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
