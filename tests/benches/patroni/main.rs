//! How long a switchover of PostgreSQL keeps its writers from writing, through tinylb and through
//! haproxy: with a real cluster of Patroni, which is started for that and must be installed.
//!
//!     cargo bench -p tinylb-tests --bench patroni -- --help
//!
//! Both stand in front of one cluster, so that each switchover happens to both. PostgreSQL itself ends the
//! connections of writers as it shuts down. It keeps those of readers when it is promoted, so only a
//! balancer ends them.
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod haproxy;
#[path = "../../tests/patroni/harness/mod.rs"]
#[allow(clippy::unwrap_used, dead_code, unused_imports)]
mod harness;
#[path = "../peers/machine.rs"]
#[allow(dead_code)]
mod machine;
mod round;
/// What starts the program and what is around it.
#[path = "../../tests/program"]
mod tinylb {
    #[allow(clippy::unwrap_used, dead_code, unused_imports)]
    pub(crate) mod harness;
}

use std::{process::ExitCode, time::SystemTime};

use clap::{Parser, value_parser};
use tokio::runtime::Runtime;

use crate::{
    haproxy::Haproxy,
    harness::{Balancer, Cluster},
    round::{Figure, Side},
};

/// How long a switchover of PostgreSQL keeps its writers from writing.
#[derive(Parser)]
struct Cli {
    /// How many switchovers follow each other.
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = value_parser!(u32).range(1..))]
    switchovers: u32,
    /// Only the balancers whose name begins so [default: all].
    #[arg(long, value_name = "NAME")]
    proxy: Vec<String>,
    /// Clients of each balancer.
    #[arg(long, default_value_t = 10, value_name = "COUNT", value_parser = value_parser!(u32).range(1..=40))]
    clients: u32,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match Runtime::new() {
        Ok(runtime) => runtime.block_on(bench(&cli)),
        Err(error) => {
            eprintln!("patroni: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn bench(cli: &Cli) -> ExitCode {
    let Some(cluster) = Cluster::start().await else { return ExitCode::FAILURE };
    let is_wanted = |name: &str| {
        cli.proxy.is_empty() || cli.proxy.iter().any(|wanted| name.starts_with(wanted))
    };
    let tinylb =
        is_wanted("tinylb").then(|| [Balancer::primary(&cluster), Balancer::replicas(&cluster)]);
    let haproxy = is_wanted("haproxy").then(|| Haproxy::start(&cluster)).transpose();
    let haproxy = haproxy.unwrap_or_else(|_| {
        eprintln!("haproxy is left out: it isn't installed");
        None
    });
    let tinylb = tinylb.iter().map(|tinylb| ("tinylb", tinylb.each_ref().map(Balancer::address)));
    let haproxy = haproxy.iter().map(|haproxy| ("haproxy", [haproxy.primary, haproxy.replicas]));
    let mut sides = Vec::new();
    for (name, addresses) in tinylb.chain(haproxy) {
        sides.push(Side::start(name, &cluster, addresses, cli.clients).await);
    }
    for number in 1..=cli.switchovers {
        eprint!("\rswitchover {number} of {}\x1b[K", cli.switchovers);
        round::switch_over(&cluster, &mut sides).await;
    }
    eprint!("\r\x1b[K");
    let (date, kernel) = (machine::date(SystemTime::now()), machine::kernel());
    println!(
        "{date}, Linux {kernel}, {} cores: {} switchovers, {} clients of each balancer; median and maximum\n",
        machine::cores(),
        cli.switchovers,
        cli.clients
    );
    print(&sides);
    ExitCode::SUCCESS
}

/// A row for each figure, a column for each balancer.
fn print(sides: &[Side]) {
    let names: Vec<_> = sides.iter().map(|side| side.name).collect();
    println!("| from the first 503 of the old primary | {} |", names.join(" | "));
    println!("| --- |{}", " --- |".repeat(sides.len()));
    for figure in Figure::ALL {
        print!("| {} |", figure.title());
        for side in sides {
            let mut values: Vec<f64> =
                side.rounds.iter().map(|round| round.value(figure)).collect();
            values.sort_by(f64::total_cmp);
            let middle = values.len() / 2;
            let median = match values.len() % 2 {
                0 => f64::midpoint(values[middle - 1], values[middle]),
                _ => values[middle],
            };
            print!(" {}, {} |", machine::round(median), machine::round(values[values.len() - 1]));
        }
        println!();
    }
}
