//! How fast a change in etcd cuts connections, and what it costs etcd and the balancers: with a real
//! etcd, which is started for that and must be installed.
//!
//!     cargo bench -p tinylb-tests --features etcd --bench etcd -- --help
//!
//! CPU time and memory are a process' own: balancers and sources have one apart from what measures.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod balancer;
mod changes;
mod child;
mod connections;
mod fan_out;
mod harness;
#[path = "../peers/machine.rs"]
mod machine;
mod prefix;
mod report;
#[path = "../peers/usage.rs"]
mod usage;
mod watchers;
mod window;

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Parser, Subcommand, value_parser};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Builder;

use crate::{
    child::Control,
    harness::Etcd,
    machine::create_result,
    report::{Report, Table},
};

/// How fast a change in etcd cuts connections, and what it costs etcd and the balancers.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,
    /// How many changes follow each other; where sources are many, 100 at most.
    #[arg(long, default_value_t = 300, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    changes: u32,
    /// How many backends a balancer has, each number in turn.
    #[arg(long, default_value = "10,1000,10000", value_name = "COUNTS", value_delimiter = ',',
          value_parser = value_parser!(u32).range(1..=100_000))]
    backends: Vec<u32>,
    /// How many sources watch one prefix, each number in turn.
    #[arg(long, default_value = "1,100,500,1000", value_name = "COUNTS", value_delimiter = ',',
          value_parser = value_parser!(u32).range(1..=5_000))]
    watchers: Vec<u32>,
    /// Members of etcd.
    #[arg(long, default_value_t = 1, value_name = "COUNT", value_parser = value_parser!(u8).range(1..=7))]
    members: u8,
    /// A gRPC proxy stands before them, and counts as a part of etcd.
    #[arg(long)]
    proxy: bool,
    /// How long nothing changes, in seconds [default: 50 ms for each change, 1 s at least].
    #[arg(long, value_name = "SECONDS")]
    idle: Option<f64>,
    /// Also write all figures and times.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Part {
    /// A balancer that follows etcd.
    #[command(hide = true)]
    Balancer {
        control: SocketAddr,
        #[arg(required = true)]
        urls: Vec<String>,
    },
    /// Many sources.
    #[command(hide = true)]
    Watchers { control: SocketAddr, count: usize, url: String },
}

impl Cli {
    async fn start_etcd(&self) -> io::Result<Etcd> {
        Etcd::start(usize::from(self.members), self.proxy).await
    }

    fn idle(&self) -> Duration {
        let seconds = self.idle.unwrap_or(f64::from(self.changes) * 0.05);
        Duration::from_secs_f64(seconds.clamp(1.0, 3600.0))
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = Builder::new_current_thread().enable_all().build();
    let done = raise_limit().and(runtime).and_then(|runtime| runtime.block_on(run(&cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("etcd: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> io::Result<()> {
    match &cli.part {
        Some(Part::Balancer { control, urls }) => {
            balancer::run(Control::connect(*control).await?, urls).await
        }
        Some(Part::Watchers { control, count, url }) => {
            watchers::run(Control::connect(*control).await?, url, *count).await
        }
        None => bench(cli).await,
    }
}

async fn bench(cli: &Cli) -> io::Result<()> {
    let json = cli.json.as_deref().map(create_result).transpose()?;
    let proxies = if cli.proxy { " behind a gRPC proxy" } else { "" };
    let processes = format!("members: {}{proxies}", cli.members);
    let mut report = Report::new(harness::version()?, processes);
    let mut table = Table::new("changes", changes::TITLE, "backends");
    for backends in &cli.backends {
        eprint!("\rchanges, {backends} backends\x1b[K");
        table.add(changes::measure(cli, *backends as usize).await?);
    }
    report.add(table);
    let mut table = Table::new("fan-out", fan_out::TITLE, "sources");
    for watchers in &cli.watchers {
        eprint!("\rfan-out, {watchers} sources\x1b[K");
        table.add(fan_out::measure(cli, *watchers as usize).await?);
    }
    report.add(table);
    eprint!("\r\x1b[K");
    print!("{report}");
    if let Some(mut file) = json {
        file.write_all(report.json().as_bytes())?;
    }
    Ok(())
}

/// Every source has connections of its own, and etcd has the other end of each.
fn raise_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
