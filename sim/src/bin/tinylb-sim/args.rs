use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use tinylb_sim::{Level, Profile};

use crate::{seeds::Seeds, time};

/// Runs scenarios of the balancer on simulated time, finds those that break a law, and shows how.
#[derive(Parser)]
#[command(name = "tinylb-sim", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Run the scenarios of many seeds, and print those that break a law.
    Run(Run),
    /// Run one scenario, and print what happens.
    Replay(Replay),
    /// Write a smaller scenario that breaks the same law.
    Minimize(Minimize),
    /// Write what happens in one scenario as a page of HTML.
    Timeline(Timeline),
    /// Report which laws a recording of the program breaks (`tinylb run --record FILE`).
    Judge(Judge),
    /// Check that a seed gives the same trace in any process, on any thread and by any build.
    Meta(Meta),
    /// Run the scenarios of a directory on every level.
    Corpus {
        /// Where they are, each a file that ends in .txt.
        #[arg(value_name = "DIR", default_value = "sim/corpus")]
        dir: PathBuf,
    },
    /// Plant each bug in a copy of the sources, and see how soon it is found.
    Zoo(Zoo),
}

/// In which way scenarios are drawn from seeds, and run.
#[derive(Args, Clone, Copy)]
pub(crate) struct Way {
    /// How scenarios are drawn from seeds.
    #[arg(long, value_name = "NAME", value_parser = profile, default_value = "fast")]
    pub(crate) profile: &'static Profile,
    /// How much of the balancer is run.
    #[arg(long, value_name = "NAME", value_parser = level, default_value = Level::default().name())]
    pub(crate) level: Level,
}

#[derive(Args)]
pub(crate) struct Run {
    /// Which seeds: FIRST..END (END not included), or FIRST.. for as many as there is time.
    #[arg(long, value_name = "RANGE", default_value = "0..10000")]
    pub(crate) seeds: Seeds,
    /// How many run at once [default: the number of cores].
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub(crate) jobs: Option<usize>,
    #[command(flatten)]
    pub(crate) way: Way,
    /// Begin no more seeds after this time, such as 5m.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub(crate) budget: Option<Duration>,
    /// Stop at the first seed that fails.
    #[arg(long)]
    pub(crate) first: bool,
    /// A seed that takes longer is taken for one that never ends, which ends the program.
    #[arg(long, value_name = "TIME", value_parser = time::parse, default_value = "60s")]
    pub(crate) hang: Duration,
    /// Write the first 10 failures here: a smaller scenario and its timeline for each.
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Print how often each thing happened that good runs reach.
    #[arg(long)]
    pub(crate) counts: bool,
    /// Fail if one of these things never happened.
    #[arg(long)]
    pub(crate) require_sometimes: bool,
}

/// Which scenario.
#[derive(Args)]
pub(crate) struct What {
    /// A seed, or a file with a scenario.
    #[arg(value_name = "SEED|FILE")]
    pub(crate) what: String,
    #[command(flatten)]
    pub(crate) way: Way,
}

#[derive(Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    pub(crate) what: What,
    /// Print records up to this simulated time, such as 1.5s or 1500ms.
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    pub(crate) until: Option<Duration>,
    /// Print the trace's hash and nothing else.
    #[arg(long, conflicts_with_all = ["until", "records_only"])]
    pub(crate) hash_only: bool,
    /// Print the records and nothing else.
    #[arg(long, hide = true)]
    pub(crate) records_only: bool,
}

#[derive(Args)]
pub(crate) struct Minimize {
    #[command(flatten)]
    pub(crate) what: What,
    /// Where to write the smaller scenario.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Args)]
pub(crate) struct Timeline {
    #[command(flatten)]
    pub(crate) what: What,
    /// Where to write the page.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
}

#[derive(Args)]
pub(crate) struct Judge {
    /// The recording.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// How late a timer of the program may be; the longest pause of the program is added.
    #[arg(long, value_name = "TIME", value_parser = time::parse, default_value = "1s")]
    pub(crate) slack: Duration,
}

#[derive(Args)]
pub(crate) struct Meta {
    /// Which seeds: FIRST..END (END not included).
    #[arg(long, value_name = "RANGE", default_value = "0..5")]
    pub(crate) seeds: Seeds,
    #[command(flatten)]
    pub(crate) way: Way,
    /// Another build of this program that has to agree. May be repeated.
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) against: Vec<PathBuf>,
}

#[derive(Args)]
pub(crate) struct Zoo {
    /// The bugs to plant [default: all].
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Where the sources are.
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub(crate) root: PathBuf,
    /// Only on this level [default: on every level].
    #[arg(long, value_name = "NAME", value_parser = level)]
    pub(crate) level: Option<Level>,
    /// How many seeds to look through for a bug, from each start.
    #[arg(long, value_name = "COUNT", default_value_t = 200,
          value_parser = clap::value_parser!(u64).range(1..1_000_000))]
    pub(crate) seeds: u64,
    /// How many starts there are, far from each other.
    #[arg(long, value_name = "COUNT", default_value_t = 3,
          value_parser = clap::value_parser!(u64).range(1..1000))]
    pub(crate) starts: u64,
    /// One start only.
    #[arg(long, conflicts_with = "starts")]
    pub(crate) short: bool,
    /// How many bugs are tried at once, each in its own copy [default: the number of cores].
    #[arg(long, value_name = "COUNT", value_parser = jobs)]
    pub(crate) jobs: Option<usize>,
    /// Print what each bug is.
    #[arg(long)]
    pub(crate) describe: bool,
}

fn profile(name: &str) -> Result<&'static Profile, String> {
    static ALL: [Profile; 3] = Profile::ALL;
    let found = ALL.iter().find(|profile| profile.name == name);
    found.ok_or_else(|| format!("it must be {}", one_of(ALL.iter().map(|profile| profile.name))))
}

fn level(name: &str) -> Result<Level, String> {
    let names = || one_of(Level::ALL.iter().map(|level| level.name()));
    Level::named(name).ok_or_else(|| format!("it must be {}", names()))
}

fn jobs(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=1024).contains(count));
    count.ok_or_else(|| "it must be 1 to 1024".into())
}

fn one_of(names: impl Iterator<Item = &'static str>) -> String {
    names.collect::<Vec<_>>().join(" or ")
}
