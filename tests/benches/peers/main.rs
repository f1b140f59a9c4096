//! What tinylb costs beside its peers: CPU time for each unit of work first, rates second, by
//! rounds in which all take turns.
//!
//!     cargo bench -p tinylb-tests --bench peers -- --help
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backend;
mod calls;
mod chart;
mod copy;
mod epoll;
mod load;
mod machine;
mod outages;
mod paced;
mod process;
mod proxy;
mod report;
mod scenario;
mod usage;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tinylb_tests::program;

use crate::{
    machine::create_result,
    proxy::{Proxy, Running},
    report::{Report, Row, Table},
    scenario::{Scenario, What},
};

/// What tinylb costs beside its peers: those of haproxy, nginx and envoy that are installed.
/// ($ENVOY names envoy's program, if it isn't on the path.)
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Only scenarios whose name begins so [default: all].
    #[arg(long, value_name = "NAME")]
    scenario: Vec<String>,
    /// Only rows whose name begins so [default: all].
    #[arg(long, value_name = "NAME")]
    proxy: Vec<String>,
    /// Another build of tinylb, which gets a row of its own; may be given again.
    #[arg(long, value_name = "PROGRAM")]
    build: Vec<String>,
    /// Add a row of tinylb while it records; the recording is judged, and must break no law.
    #[arg(long)]
    record: bool,
    /// Rounds, in each of which all take turns.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    rounds: usize,
    /// How long a turn takes, in seconds; those that have an end of their own take as long as that.
    #[arg(long, default_value_t = 3.0, value_name = "SECONDS")]
    seconds: f64,
    /// Also write all figures of all rounds; relative to the project's folder.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the summary; relative to the project's folder.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// What clients notice of backends that hang, die and return, beside the same balancers.
    Outages(outages::Args),
    /// The plain proxy that is one of the rows.
    #[command(hide = true)]
    Copy(Addresses),
    /// The smallest one, which is another.
    #[command(hide = true)]
    Epoll(Addresses),
}

#[derive(Args)]
struct Addresses {
    at: SocketAddr,
    #[arg(required = true)]
    backends: Vec<SocketAddr>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = raise_limit().and_then(|()| match &cli.command {
        Some(Command::Copy(Addresses { at, backends })) => copy::run(*at, backends),
        Some(Command::Epoll(Addresses { at, backends })) => epoll::run(*at, backends),
        Some(Command::Outages(args)) => outages::bench(args),
        None => bench(&cli),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("peers: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(cli: &Cli) -> io::Result<()> {
    let json = cli.json.as_deref().map(create_result).transpose()?;
    let svg = cli.svg.as_deref().map(create_result).transpose()?;
    program::build()?;
    let matches = |names: &[String], name: &str| {
        names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted))
    };
    let mut report = Report::new(cli.rounds, cli.seconds);
    let mut proxies = Vec::new();
    let builds = cli.build.iter().map(|program| Proxy::Build(program.clone().leak()));
    let known = Proxy::ALL.into_iter().filter(|proxy| matches(&cli.proxy, &proxy.name()));
    let recorded = cli.record.then_some(Proxy::Recorded);
    for proxy in known.chain(recorded).chain(builds) {
        match proxy.version() {
            Some(version) => {
                report.versions.insert(proxy.family(), version);
                proxies.push(proxy);
            }
            None => report.leave_out(&proxy.name(), "it isn't installed"),
        }
    }
    for scenario in scenario::ALL.iter().filter(|scenario| matches(&cli.scenario, scenario.name)) {
        if matches!(scenario.what, What::Calls { .. }) && !calls::can_count() {
            report.leave_out(scenario.name, "strace isn't installed");
            continue;
        }
        let table = run(scenario, &proxies, cli, &mut report)?;
        println!("{table}");
        report.tables.push(table);
    }
    print!("{report}");
    if let Some(mut file) = json {
        file.write_all(report.json().as_bytes())?;
    }
    if let Some(mut file) = svg {
        file.write_all(chart::draw(&report).as_bytes())?;
    }
    match report.failures {
        0 => Ok(()),
        count => Err(io::Error::other(format!("{count} rows have failed; see above"))),
    }
}

/// All rounds of one scenario.
fn run(
    scenario: &Scenario,
    proxies: &[Proxy],
    cli: &Cli,
    report: &mut Report,
) -> io::Result<Table> {
    let backends = scenario.start_backends();
    let runtime = load::current_thread();
    let mut running: BTreeMap<usize, Running> = BTreeMap::new();
    let mut rows: Vec<Row> = proxies.iter().map(|proxy| Row::new(*proxy)).collect();
    let rounds = cli.rounds.min(scenario.rounds_max());
    for round in 0..rounds {
        for (place, proxy) in
            proxies.iter().enumerate().filter(|(_, proxy)| scenario.suits(**proxy))
        {
            eprint!(
                "\r{}, round {} of {}: {}\x1b[K",
                scenario.name,
                round + 1,
                rounds,
                proxy.name()
            );
            if rows[place].has_failed {
                continue;
            }
            let turn = running.remove(&place).map_or_else(|| scenario.start(*proxy, &backends), Ok);
            let time = Duration::from_secs_f64(cli.seconds);
            let is_last = scenario.is_fresh_each_round() || round + 1 == rounds;
            let done = turn.and_then(|mut proxy| {
                let figures = runtime.block_on(scenario.round(&mut proxy, time))?;
                if is_last {
                    proxy.stop()?;
                } else {
                    running.insert(place, proxy);
                }
                Ok(figures)
            });
            match done {
                Ok(figures) => rows[place].add(figures),
                Err(error) => {
                    rows[place].has_failed = true;
                    report.failures += 1;
                    let row = format!("{} in {}", proxy.name(), scenario.name);
                    report.leave_out(&row, &error.to_string());
                }
            }
        }
    }
    eprint!("\r\x1b[K");
    rows.retain(|row| !row.has_failed && !row.figures.is_empty());
    Ok(Table { name: scenario.name, title: scenario.title(), rows })
}

/// 9,000 connections have two ends here.
fn raise_limit() -> io::Result<()> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?)
}
