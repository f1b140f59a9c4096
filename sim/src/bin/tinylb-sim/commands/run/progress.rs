use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use crate::{output::print_error, seeds::Seeds};

/// How often the time is looked at.
pub(super) const GLANCE: Duration = Duration::from_millis(100);

/// How far it is: a bar on a terminal, a line now and then elsewhere. On standard error.
pub(super) struct Progress {
    began: Instant,
    shown: Instant,
    looked: Instant,
    count: Option<u64>,
    budget: Option<Duration>,
    is_terminal: bool,
}

/// Between two lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(30);
const BAR_WIDTH: usize = 30;

impl Progress {
    pub(super) fn new(seeds: Seeds, budget: Option<Duration>) -> Self {
        let now = Instant::now();
        let is_terminal = io::stderr().is_terminal();
        let count = seeds.count();
        Self { began: now, shown: now, looked: now, count, budget, is_terminal }
    }

    /// Whether it is time to look again: how long ago the last look was.
    pub(super) fn due(&mut self) -> Option<Duration> {
        let passed = self.looked.elapsed();
        (passed >= GLANCE).then(|| {
            self.looked = Instant::now();
            passed
        })
    }

    pub(super) fn show(&mut self, seeds: u64, failures: usize) {
        if !self.is_terminal && self.shown.elapsed() < QUIET {
            return;
        }
        self.shown = Instant::now();
        let elapsed = self.began.elapsed().as_secs_f64();
        let rate = seeds as f64 / elapsed;
        let (share, left) = self.estimate(seeds, elapsed, rate);
        let text = format!("{seeds} seeds, {rate:.0}/s, {failures} failures{left}");
        match (self.is_terminal, share) {
            (true, Some(share)) => {
                let full = (share.min(1.0) * BAR_WIDTH as f64) as usize;
                let bar = "#".repeat(full) + &"-".repeat(BAR_WIDTH - full);
                print_error(format_args!("\r\x1b[K[{bar}] {text}"));
            }
            (true, None) => print_error(format_args!("\r\x1b[K{text}")),
            (false, _) => print_error(format_args!("{text}\n")),
        }
    }

    /// Which part is done, and how long the rest will take, by seeds or by time.
    fn estimate(&self, seeds: u64, elapsed: f64, rate: f64) -> (Option<f64>, String) {
        let by_seeds = self.count.filter(|_| seeds > 0).map(|count| {
            let left = count.saturating_sub(seeds) as f64 / rate;
            (seeds as f64 / count as f64, left)
        });
        let by_time = self.budget.map(|budget| {
            let budget = budget.as_secs_f64();
            (elapsed / budget, (budget - elapsed).max(0.0))
        });
        let nearest = by_seeds.into_iter().chain(by_time).min_by(|a, b| a.1.total_cmp(&b.1));
        match nearest {
            Some((share, left)) => (Some(share), format!(", {left:.0} s left")),
            None => (None, String::new()),
        }
    }

    /// Takes the bar away, so that other lines can be printed.
    pub(super) fn clear(&self) {
        if self.is_terminal {
            print_error(format_args!("\r\x1b[K"));
        }
    }
}
