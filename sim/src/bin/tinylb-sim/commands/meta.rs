//! `tinylb-sim meta`: whether a seed gives the same trace wherever and however it is run.

use std::{env, path::Path, process::Command, thread};

use tinylb_sim::AnyScenario;

use crate::{
    args::{self, Way},
    catch,
    commands::run::cores,
    output::{Failure, print},
};

pub(crate) fn meta(args: &args::Meta) -> Result<(), Failure> {
    let Some(end) = args.seeds.end else {
        return Err(Failure::Usage("--seeds has no end; it must look like 0..5".into()));
    };
    let own = env::current_exe()
        .map_err(|error| Failure::Error(format!("this program can't be found: {error}")))?;
    let mut failed = 0;
    for seed in args.seeds.first..end {
        let scenario = AnyScenario::from_seed(args.way.level, args.way.profile, seed);
        let base = Seen::here(&scenario, args.way);
        let mut others = here(&scenario, args.way);
        others.push(("in another process", Seen::of_program(&own, seed, args.way, base.hash)?));
        for program in &args.against {
            let seen = Seen::of_program(program, seed, args.way, base.hash)?;
            others.push(("by the other program", seen));
        }
        let unequal: Vec<_> = others.iter().filter(|(_, seen)| seen.hash != base.hash).collect();
        print(format_args!("seed {seed}: {:016x}\n", base.hash));
        for (how, seen) in &unequal {
            print(format_args!("    {how}: {:016x}\n", seen.hash));
            base.print_difference(seen);
        }
        failed += usize::from(!unequal.is_empty());
    }
    if failed == 0 {
        return Ok(());
    }
    let count = end - args.seeds.first;
    Err(Failure::Error(format!("{failed} of {count} seeds gave different traces")))
}

/// The same in this process, in every way that could make a difference.
fn here(scenario: &AnyScenario, way: Way) -> Vec<(&'static str, Seen)> {
    let mut seen = vec![
        ("for the second time", Seen::here(scenario, way)),
        ("without keeping the trace", Seen::without_records(scenario, way)),
    ];
    thread::scope(|scope| {
        let together: Vec<_> =
            (0..cores().max(2)).map(|_| scope.spawn(|| Seen::here(scenario, way))).collect();
        for thread in together {
            let joined = thread.join().unwrap_or_else(|_| Seen { hash: 0, records: Vec::new() });
            seen.push(("on another thread, beside others", joined));
        }
    });
    seen
}

/// A trace: its hash, and its records as text if they are known.
struct Seen {
    hash: u64,
    records: Vec<String>,
}

impl Seen {
    fn here(scenario: &AnyScenario, way: Way) -> Self {
        let trace = catch::run(way.level, scenario, true).trace;
        let records = trace.records().iter().map(|record| scenario.describe(record)).collect();
        Self { hash: trace.hash(), records }
    }

    fn without_records(scenario: &AnyScenario, way: Way) -> Self {
        let trace = catch::run(way.level, scenario, false).trace;
        Self { hash: trace.hash(), records: Vec::new() }
    }

    /// The records are asked for only if the hash isn't the expected one.
    fn of_program(program: &Path, seed: u64, way: Way, expected: u64) -> Result<Self, Failure> {
        let ask = |what: &str| -> Result<String, Failure> {
            let mut command = Command::new(program);
            command.args(["replay", &seed.to_string(), what]);
            command.args(["--profile", way.profile.name, "--level", way.level.name()]);
            let output = command.output().map_err(|error| {
                let program = program.display();
                Failure::Usage(format!("{program} can't be run: {error}; name another build"))
            })?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let hash = ask("--hash-only")?;
        let hash = u64::from_str_radix(hash.trim(), 16).map_err(|_| {
            let program = program.display();
            Failure::Usage(format!("{program} prints no hash; name a build of this program"))
        })?;
        let records = match hash == expected {
            true => Vec::new(),
            false => ask("--records-only")?.lines().map(Into::into).collect(),
        };
        Ok(Self { hash, records })
    }

    /// Prints the first record that differs from the other's.
    fn print_difference(&self, other: &Self) {
        if other.records.is_empty() {
            return;
        }
        let none = || "(no more records)".to_owned();
        for number in 0..=self.records.len().max(other.records.len()) {
            let (own, theirs) = (self.records.get(number), other.records.get(number));
            if own != theirs {
                let (own, theirs) = (own.cloned(), theirs.cloned());
                let (own, theirs) = (own.unwrap_or_else(none), theirs.unwrap_or_else(none));
                print(format_args!(
                    "    record {number} is\n      {own}\n    and\n      {theirs}\n"
                ));
                return;
            }
        }
        print(format_args!("    the records are the same, as they are written\n"));
    }
}
