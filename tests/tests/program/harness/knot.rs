use std::{
    fs,
    io::{Write, stderr},
    net::{TcpListener, UdpSocket},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::until;

/// Knot DNS at a port of its own, for the zone `lb.test`. Killed when dropped.
pub(crate) struct Knot {
    dir: TempDir,
    child: Child,
    port: u16,
}

impl Knot {
    /// Starts it; `None`, and a word about it, where it isn't installed.
    pub(crate) fn start(records: &[&str]) -> Option<Self> {
        if Command::new("knotd").arg("--version").stdout(Stdio::null()).status().is_err() {
            // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
            let skipped = "SKIPPED: knotd isn't installed (Debian: apt-get install knot)";
            let _ = writeln!(stderr(), "{skipped}");
            return None;
        }
        let dir = TempDir::new().unwrap();
        let path = dir.path().display();
        let port = free_port();
        let config = format!(
            "server:\n    answer-rotation: on\n    rundir: \"{path}\"\n    listen: \"127.0.0.1@{port}\"\n    \
             udp-workers: 1\n    tcp-workers: 1\n    background-workers: 1\n\
             database:\n    storage: \"{path}\"\n\
             log:\n  - target: stderr\n    any: warning\n\
             template:\n  - id: default\n    storage: \"{path}\"\n    journal-content: none\n    \
             zonefile-load: whole\n    zonefile-sync: -1\n\
             zone:\n  - domain: lb.test\n    file: \"zone\"\n"
        );
        fs::write(dir.path().join("conf"), config).unwrap();
        let head = "$ORIGIN lb.test.\n$TTL 1\n@ SOA ns hostmaster 1 3600 600 86400 1\n@ NS ns\n\
                    ns A 127.0.0.1\n";
        fs::write(dir.path().join("zone"), format!("{head}{}\n", records.join("\n"))).unwrap();
        let mut command = Command::new("knotd");
        command.arg("-c").arg(dir.path().join("conf")).stdin(Stdio::null()).stderr(Stdio::null());
        let knot = Self { child: command.spawn().unwrap(), dir, port };
        until("an answer of knot", || knot.control("zone-status lb.test").contains("lb.test"));
        Some(knot)
    }

    /// Where it answers.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Changes the zone in one step, by lines such as `set web 1 A 127.0.0.1` and `unset web A`.
    pub(crate) fn change(&self, lines: &[&str]) {
        let mut commands = String::from("zone-begin lb.test\n");
        for line in lines {
            let (verb, rest) = line.split_once(' ').unwrap();
            commands += &format!("zone-{verb} lb.test {rest}\n");
        }
        let said = self.control(&(commands + "zone-commit lb.test\n"));
        assert!(!said.contains("error"), "{said}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn control(&self, commands: &str) -> String {
        let mut control = Command::new("knotc")
            .arg("-s")
            .arg(self.dir.path().join("knot.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        control.stdin.take().unwrap().write_all(format!("{commands}\n").as_bytes()).unwrap();
        let output = control.wait_with_output().unwrap();
        String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
    }
}

impl Drop for Knot {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 that is free for both transports.
fn free_port() -> u16 {
    loop {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
