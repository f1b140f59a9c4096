use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::programs::Programs;

/// PostgreSQL's port on each node, and that of Patroni's REST API.
pub(crate) const PORT: u16 = 5432;
pub(crate) const API_PORT: u16 = 8008;

/// One node: Patroni, and the PostgreSQL that it runs.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) host: Ipv4Addr,
    /// Of its own. It is in the command line of each of its processes, except for those that the
    /// postmaster forks.
    directory: PathBuf,
    patroni: Child,
}

impl Node {
    /// Starts it, with its files in a directory of its own.
    pub(crate) fn start(
        programs: &Programs,
        place: usize,
        host: Ipv4Addr,
        etcd: SocketAddr,
        directory: &Path,
    ) -> Self {
        let name = format!("n{}", place + 1);
        let directory = directory.join(&name);
        programs.create_dir(&directory);
        let file = directory.join("patroni.yml");
        fs::write(&file, configuration(programs, &name, host, etcd, &directory)).unwrap();
        programs.give(&file);
        let log = fs::File::create(directory.join("log")).unwrap();
        let mut command: Command = programs.command("patroni");
        command.arg(&file).current_dir(&directory).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        Self { name, host, directory, patroni: command.spawn().unwrap() }
    }

    /// Where PostgreSQL listens.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host.into(), PORT)
    }

    /// Where the REST API answers.
    pub(crate) fn api(&self) -> SocketAddr {
        SocketAddr::new(self.host.into(), API_PORT)
    }

    /// Patroni's configuration of this node.
    pub(crate) fn file(&self) -> PathBuf {
        self.directory.join("patroni.yml")
    }

    /// Kills every process of PostgreSQL, as by `kill -9`. Patroni goes on.
    pub(crate) fn kill_postgres(&self) {
        let postmaster = self.postmaster().expect("PostgreSQL runs");
        let children = children(postmaster);
        send(postmaster, Signal::KILL);
        children.into_iter().for_each(|child| send(child, Signal::KILL));
    }

    /// Stops every process of it, as a machine that hangs: connections stay, and nobody answers.
    pub(crate) fn stop(&self) {
        let mut stopped = Vec::new();
        loop {
            // Those that began meanwhile are found the next time.
            let mut running = self.processes();
            running.retain(|process| !stopped.contains(process));
            if running.is_empty() {
                return;
            }
            running.iter().for_each(|process| send(*process, Signal::STOP));
            stopped.append(&mut running);
        }
    }

    /// Stops Patroni alone: PostgreSQL goes on.
    pub(crate) fn stop_patroni(&self) {
        send(Pid::from_child(&self.patroni), Signal::STOP);
    }

    /// Lets all go on that was stopped.
    pub(crate) fn go_on(&self) {
        self.processes().into_iter().for_each(|process| send(process, Signal::CONT));
    }

    /// The newest lines of what Patroni and PostgreSQL logged.
    pub(crate) fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<_> = log.lines().collect();
        format!("{}:\n{}", self.name, lines[lines.len().saturating_sub(25)..].join("\n"))
    }

    /// Takes note of the end of Patroni, which has ended.
    pub(crate) fn reap(&mut self) {
        let _ = self.patroni.wait();
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = fs::read_to_string(self.directory.join("data/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.parse().ok()?).filter(|process| self.is_own(*process))
    }

    /// Patroni, PostgreSQL, and all that they have started.
    fn processes(&self) -> Vec<Pid> {
        let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let ids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ids = ids.filter_map(Pid::from_raw).filter(|process| self.is_own(*process));
        let mut processes: Vec<Pid> = ids.collect();
        let mut next = 0;
        while let Some(process) = processes.get(next) {
            let children = children(*process);
            let new: Vec<_> =
                children.into_iter().filter(|child| !processes.contains(child)).collect();
            processes.extend(new);
            next += 1;
        }
        processes
    }

    /// Its command line names the directory. (That of a process that has ended is empty.)
    fn is_own(&self, process: Pid) -> bool {
        let line = fs::read(format!("/proc/{}/cmdline", process.as_raw_nonzero()));
        let directory = format!("{}/", self.directory.display());
        line.is_ok_and(|line| String::from_utf8_lossy(&line).contains(&directory))
    }
}

/// One that has ended meanwhile needs no signal.
fn send(process: Pid, signal: Signal) {
    let _ = kill_process(process, signal);
}

fn children(process: Pid) -> Vec<Pid> {
    let id = process.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let ids = children.split_whitespace().filter_map(|child| child.parse().ok());
    ids.filter_map(Pid::from_raw).collect()
}

/// The times are short, yet as Patroni needs them: `ttl` is at least `loop_wait` and twice
/// `retry_timeout`, and with a `retry_timeout` of a second no node ever takes the lock.
///
/// Replication is synchronous, since otherwise a failover may lose a row that was acknowledged.
fn configuration(
    programs: &Programs,
    name: &str,
    host: Ipv4Addr,
    etcd: SocketAddr,
    directory: &Path,
) -> String {
    let (binaries, directory) = (programs.postgres().display(), directory.display());
    format!(
        "scope: db
name: {name}
etcd: {{ host: '{etcd}' }}
restapi: {{ listen: '{host}:{API_PORT}', connect_address: '{host}:{API_PORT}' }}
bootstrap:
  dcs:
    ttl: 8
    loop_wait: 1
    retry_timeout: 3
    synchronous_mode: true
    postgresql:
      use_pg_rewind: true
      parameters:
        fsync: 'off'
        full_page_writes: 'off'
        wal_log_hints: 'on'
        shared_buffers: 16MB
        # Not in /dev/shm itself, where it would stay when a process is killed.
        dynamic_shared_memory_type: mmap
  initdb: [ encoding: UTF8, no-sync, {{ auth: trust }} ]
postgresql:
  listen: '{host}:{PORT}'
  connect_address: '{host}:{PORT}'
  data_dir: '{directory}/data'
  bin_dir: '{binaries}'
  pgpass: '{directory}/pgpass'
  authentication:
    superuser: {{ username: postgres, password: unused }}
    replication: {{ username: postgres, password: unused }}
  parameters: {{ unix_socket_directories: '' }}
  pg_hba:
    - host all all 0.0.0.0/0 trust
    - host replication all 0.0.0.0/0 trust
"
    )
}
