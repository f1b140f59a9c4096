//! `tinylb-sim run`: the scenarios of many seeds, on all cores.

mod keep;
mod pool;
mod progress;
mod sums;

use std::{
    process,
    sync::mpsc::RecvTimeoutError,
    thread,
    time::{Duration, Instant},
};

use tinylb_sim::Violation;

use self::{
    keep::Found,
    pool::{Done, Pool},
    progress::{GLANCE, Progress},
    sums::Sums,
};
use crate::{
    args,
    output::{Failure, print},
    scenario_arg,
};

pub(crate) fn run(args: &args::Run) -> Result<(), Failure> {
    let began = Instant::now();
    let jobs = args.jobs.unwrap_or_else(cores);
    let pool = Pool::start(args.seeds, jobs, args.way, args.first);
    let mut progress = Progress::new(args.seeds, args.budget);
    let mut sums = Sums::default();
    let mut found = Vec::new();
    loop {
        match pool.done.recv_timeout(GLANCE) {
            Ok(Done { seed, outcome }) => {
                sums.add(seed, &outcome);
                if let Some(violation) = outcome.violations.into_iter().next() {
                    let failure = Found { seed, violation };
                    if !args.first {
                        progress.clear();
                        print_found(&failure, args.way);
                    }
                    found.push(failure);
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        if let Some(passed) = progress.due() {
            progress.show(sums.seeds, found.len());
            exit_if_hung(&pool, passed, args);
            if args.budget.is_some_and(|budget| began.elapsed() >= budget) {
                pool.stop();
            }
        }
    }
    progress.clear();
    finish(args, &sums, found, began.elapsed(), jobs)
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

fn print_found(found: &Found, way: args::Way) {
    let Found { seed, violation: Violation { at, law, text } } = found;
    let text = text.lines().collect::<Vec<_>>().join(" ");
    let command = scenario_arg::replay_command(*seed, way);
    let (ms, us) = (at / 1000, at % 1000);
    print(format_args!("seed {seed} breaks {law} at {ms}.{us:03} ms: {text} | {command}\n"));
}

/// A thread can't be ended from outside, so that the program ends instead.
fn exit_if_hung(pool: &Pool, passed: Duration, args: &args::Run) {
    if let Some(seed) = pool.hangs(passed, args.hang) {
        let (seconds, command) =
            (args.hang.as_secs_f64(), scenario_arg::replay_command(seed, args.way));
        print(format_args!("\nseed {seed} hangs: it runs for more than {seconds} s | {command}\n"));
        process::exit(1);
    }
}

fn finish(
    args: &args::Run,
    sums: &Sums,
    mut found: Vec<Found>,
    elapsed: Duration,
    jobs: usize,
) -> Result<(), Failure> {
    found.sort_by_key(|found| found.seed);
    if args.first {
        found.truncate(1);
        found.iter().for_each(|found| print_found(found, args.way));
    }
    if args.counts {
        print(format_args!("{}", sums.counts));
    }
    sums.print(args.seeds, found.len(), elapsed, jobs);
    let never: Vec<_> = sums.counts.never(&args.way.level.reaches()).collect();
    for what in &never {
        print(format_args!("never: {}\n", what.name()));
    }
    if let Some(dir) = &args.keep {
        keep::keep(dir, &found, args.way)?;
    }
    let reaches_all = never.is_empty() || !args.require_sometimes;
    if found.is_empty() && reaches_all { Ok(()) } else { Err(Failure::Reported) }
}
