use std::time::Duration;

use tinylb_sim::{Counts, Entropy, Outcome, Seeded};

use crate::{output::print, seeds::Seeds};

/// What many runs come to. The order in which they are added makes no difference.
#[derive(Default)]
pub(super) struct Sums {
    pub(super) seeds: u64,
    pub(super) counts: Counts,
    simulated: u64,
    steps: u64,
    hash: u64,
}

impl Sums {
    pub(super) fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.counts.merge(&outcome.counts);
        self.simulated += outcome.simulated;
        self.steps += outcome.steps;
        let mixed = Seeded::for_purpose(outcome.trace.hash(), seed).next();
        self.hash = self.hash.wrapping_add(mixed);
    }

    pub(super) fn print(&self, seeds: Seeds, failures: usize, elapsed: Duration, jobs: usize) {
        let Self { seeds: done, simulated, steps, hash, .. } = self;
        let of = match seeds.count() {
            Some(count) if count != *done => format!(" of {count}"),
            _ => String::new(),
        };
        let (simulated, elapsed) = (*simulated as f64 / 1e6, elapsed.as_secs_f64());
        let rate = *done as f64 / elapsed;
        print(format_args!(
            "{done}{of} seeds from {}, {failures} failures\n\
             {simulated:.0} s simulated in {elapsed:.2} s by {jobs} threads: {rate:.0} seeds/s, \
             {steps} steps\n\
             hash of all traces {hash:016x}\n",
            seeds.first,
        ));
    }
}
