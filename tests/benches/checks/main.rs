//! What it costs to check many backends all the time: CPU time and memory of the checks alone.
//!
//!     cargo bench -p tinylb-tests --bench checks -- --help
//!
//! The servers are another process. Each backend has an address of its own in 127.0.0.0/8.
#![allow(clippy::print_stdout, clippy::print_stderr)]

#[path = "../peers/machine.rs"]
#[allow(dead_code)] // Some of it is for results that are kept.
mod machine;
mod server;
#[path = "../peers/usage.rs"]
mod usage;

use std::{
    env, io,
    net::{Ipv4Addr, SocketAddr},
    num::NonZeroU16,
    process::{Child, Command, ExitCode, Stdio, id},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use clap::{Parser, ValueEnum};
use futures::StreamExt;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tinylb_core::{Answer, BackendSet, CheckSettings, publisher};
use tinylb_tokio::{Address, Checked, Checker, HttpCheck, TcpCheck};
use tokio::{
    runtime::Builder,
    time::{sleep, timeout},
};

use crate::{
    machine::{date, kernel, round},
    usage::Usage,
};

/// What it costs to check many backends all the time.
#[derive(Parser)]
struct Cli {
    #[arg(long, value_enum, default_value_t = Kind::Http)]
    check: Kind,
    /// Backends, each number in turn.
    #[arg(long, default_value = "100,1000,10000", value_name = "COUNTS", value_delimiter = ',')]
    backends: Vec<u32>,
    /// Time between two checks of one backend, in milliseconds.
    #[arg(long, default_value_t = 1000, value_name = "MILLISECONDS")]
    interval: u64,
    /// How long each number is measured, in seconds.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    time: u64,
    /// Serve at this port instead, until the standard input ends.
    #[arg(long, hide = true)]
    serve: Option<u16>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Kind {
    Http,
    Tcp,
}

/// Counts the checks.
struct Counted<C> {
    checker: C,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    passed: AtomicU64,
    other: AtomicU64,
    running: AtomicU64,
    running_max: AtomicU64,
}

#[async_trait]
impl<C: Checker> Checker for Counted<C> {
    async fn check(&self, target: &Address, within: Duration) -> Answer {
        let counts = &self.counts;
        let running = counts.running.fetch_add(1, Relaxed) + 1;
        counts.running_max.fetch_max(running, Relaxed);
        let answer = self.checker.check(target, within).await;
        counts.running.fetch_sub(1, Relaxed);
        let count = if answer == Answer::Pass { &counts.passed } else { &counts.other };
        count.fetch_add(1, Relaxed);
        answer
    }

    fn retain(&self, set: &BackendSet<Address>) {
        self.checker.retain(set);
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = raise_limit().and_then(|()| match cli.serve {
        Some(port) => server::serve(port),
        None => measure(&cli),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A connection for each backend needs a descriptor.
fn raise_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?)
}

fn measure(cli: &Cli) -> io::Result<()> {
    let name = match cli.check {
        Kind::Http => "HTTP",
        Kind::Tcp => "TCP",
    };
    let date = date(std::time::SystemTime::now());
    println!(
        "{name} checks, one each {} ms of each backend; {date}, Linux {}",
        cli.interval,
        kernel()
    );
    println!(
        "| backends | checks/s | passed | CPU s per s | µs per check | at a time | memory, MB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for &backends in &cli.backends {
        let mut server = start_server()?;
        // One thread, as a server's listener has: what is measured is the cost, not the speed.
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let row = runtime.block_on(run(cli, backends, server.port));
        println!("{}", row?);
        drop(server.process.stdin.take());
        server.process.wait()?;
    }
    Ok(())
}

/// The process of the servers, which ends when its input does.
struct Served {
    process: Child,
    port: NonZeroU16,
}

fn start_server() -> io::Result<Served> {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("0.0.0.0:0")?.local_addr()?.port();
    let mut command = Command::new(env::current_exe()?);
    command.args(["--serve", &port.to_string()]).stdin(Stdio::piped());
    let process = command.spawn()?;
    let began = Instant::now();
    while std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
        if began.elapsed() > Duration::from_secs(10) {
            return Err(io::Error::other("the servers don't start"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let port = NonZeroU16::new(port).ok_or_else(|| io::Error::other("port 0"))?;
    Ok(Served { process, port })
}

async fn run(cli: &Cli, backends: u32, port: NonZeroU16) -> io::Result<String> {
    let interval = Duration::from_millis(cli.interval);
    let mut settings = CheckSettings::default();
    settings.interval = interval;
    let counts = Arc::new(Counts::default());
    let counted = Arc::clone(&counts);
    let checked = match cli.check {
        Kind::Http => {
            let checker = HttpCheck::new("/health").map_err(io::Error::other)?;
            Checked::new(Counted { checker, counts: counted }, settings)
        }
        Kind::Tcp => Checked::new(Counted { checker: TcpCheck::new(), counts: counted }, settings),
    };
    let (publisher, source) = publisher();
    publisher.publish(set(backends, port)?);
    let updates = checked.map_err(io::Error::other)?.updates(source);
    // Until each has been checked a few times, and has its connection.
    let mut updates = Box::pin(updates);
    let _ = timeout(interval * 5, updates.by_ref().for_each(|_| async {})).await;
    let (before, began) = (Usage::of(&[id()]), Instant::now());
    let checks = || [counts.passed.load(Relaxed), counts.other.load(Relaxed)];
    let [passed, other] = checks();
    counts.running_max.store(0, Relaxed);
    tokio::select! {
        biased;
        () = updates.for_each(|_| async {}) => return Err(io::Error::other("the checks have ended")),
        () = sleep(Duration::from_secs(cli.time)) => {}
    }
    let (after, seconds) = (Usage::of(&[id()]), began.elapsed().as_secs_f64());
    let [passed, other] = [checks()[0] - passed, checks()[1] - other];
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let total = (passed + other) as f64;
    Ok(format!(
        "| {backends} | {} | {} % | {} | {} | {} | {} |",
        round(total / seconds),
        round(passed as f64 * 100.0 / total),
        round(cpu / seconds),
        round(cpu * 1e6 / total),
        counts.running_max.load(Relaxed),
        round(after.memory as f64 / 1e6),
    ))
}

/// Backends at addresses of their own, all served by one listener.
fn set(backends: u32, port: NonZeroU16) -> io::Result<BackendSet<Address>> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 0));
    let entry = |number: u32| {
        let address = SocketAddr::from((Ipv4Addr::from(first + number), port.get()));
        (format!("b{number:05}"), Address::from(address))
    };
    BackendSet::new((0..backends).map(entry)).map_err(io::Error::other)
}
