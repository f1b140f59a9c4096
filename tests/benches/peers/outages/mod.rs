//! What clients notice of backends that hang, die and return: timed, in a network namespace whose rules
//! drop packets, with the balancers beside each other.

mod cases;
mod own;
mod stage;

use std::{
    env, io,
    os::unix::process::CommandExt,
    process::Command,
    time::{Duration, SystemTime},
};

use tinylb_tests::{outage::Filter, program};

use self::stage::{Balancer, Table};
use crate::machine::{cores, date, kernel};

/// What is to be measured.
#[derive(clap::Args)]
pub struct Args {
    /// Only cases whose name begins so [default: all].
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Only balancers whose name begins so [default: all].
    #[arg(long, value_name = "NAME")]
    proxy: Vec<String>,
    /// Shortens what takes minutes: shows that it runs, not what it costs.
    #[arg(long)]
    short: bool,
}

/// How long the cases take.
#[derive(Clone, Copy)]
struct Times {
    /// For how long a backend hangs that then recovers.
    hung: Duration,
    /// For how long healthy backends are left alone.
    idle: Duration,
    /// How often a backend goes down and comes up again.
    flaps: u32,
    /// Dials while packets are lost.
    dials: u32,
    /// Sessions with a backend that falls silent.
    sessions: usize,
}

const LONG: Times = Times {
    hung: Duration::from_secs(60),
    idle: Duration::from_secs(60),
    flaps: 150,
    dials: 10_000,
    sessions: 1000,
};

const SHORT: Times = Times {
    hung: Duration::from_secs(2),
    idle: Duration::from_secs(1),
    flaps: 3,
    dials: 300,
    sessions: 50,
};

/// Set where the namespace has been entered.
const INSIDE: &str = "TINYLB_BENCH_NAMESPACE";

/// Measures all cases.
pub fn bench(args: &Args) -> io::Result<()> {
    if env::var_os(INSIDE).is_none() {
        program::build()?;
        return Err(enter());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime?.block_on(measure(args))
}

/// Runs this program again, in a network namespace. Returns only if that fails.
fn enter() -> io::Error {
    let script = "ip link set lo up && exec \"$0\" \"$@\"";
    let Ok(own) = env::current_exe() else { return io::ErrorKind::NotFound.into() };
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--net", "sh", "-c", script]);
    command.arg(own).args(env::args_os().skip(1)).env(INSIDE, "1").exec()
}

async fn measure(args: &Args) -> io::Result<()> {
    let times = if args.short { SHORT } else { LONG };
    let matches = |names: &[String], name: &str| {
        names.is_empty() || names.iter().any(|wanted| name.starts_with(wanted))
    };
    let balancers: Vec<_> = Balancer::ALL
        .into_iter()
        .filter(|balancer| matches(&args.proxy, balancer.name))
        .filter(|balancer| balancer.proxy.version().is_some())
        .collect();
    let versions = balancers.iter().filter_map(|balancer| {
        Some(format!("{} {}", balancer.proxy.family(), balancer.proxy.version()?))
    });
    let mut versions: Vec<_> = versions.collect();
    versions.dedup();
    println!(
        "{}, Linux {}, {} cores: {}\n",
        date(SystemTime::now()),
        kernel(),
        cores(),
        versions.join(", ")
    );
    let filter = Filter::new()?;
    let mut beside = Table::new("case", balancers.iter().map(|balancer| balancer.name.to_string()));
    for case in cases::ALL.into_iter().filter(|case| matches(&args.case, case.name())) {
        eprint!("\r{}\x1b[K", case.name());
        beside.rows.extend(case.measure(&balancers, &filter, times).await?);
    }
    eprint!("\r\x1b[K");
    if !beside.rows.is_empty() {
        println!("{beside}");
    }
    let is_own = |balancer: &&Balancer| balancer.name.starts_with("tinylb");
    let own: Vec<_> = balancers.iter().filter(is_own).copied().collect();
    let mut alone = Table::new("case", own.iter().map(|balancer| balancer.name.to_string()));
    for case in own::ALL.into_iter().filter(|case| matches(&args.case, case.name())) {
        eprint!("\r{}\x1b[K", case.name());
        alone.rows.extend(case.measure(&own, &filter, times).await?);
    }
    eprint!("\r\x1b[K");
    if !alone.rows.is_empty() {
        println!("{alone}");
    }
    Ok(())
}
