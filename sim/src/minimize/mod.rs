//! A smaller scenario that breaks the same law.
//!
//! Steps and rules are taken away by halves, quarters and so on down to single ones (Zeller and
//! Hildebrandt's ddmin, <https://doi.org/10.1109/32.988498>). Then every number is moved as far as
//! it goes towards what is plain: few clients and backends, a short run, defaults, small values.
//! All this is repeated until nothing changes. The same scenario and the same way of running it
//! give the same result.

mod change;
mod search;

pub use self::search::Minimized;
pub(crate) use self::search::Search;
use crate::{Law, Outcome, Scenario, scenario::CONFIG_FIELDS};

/// After this many runs, the best so far is good enough.
const RUNS_MAX: u32 = 4_000;

/// What is left out deals the rest of the run anew, and may hide what it had no part in. So what is
/// left is tried with these seeds too.
const OTHER_SEEDS: [u64; 4] = [0, 1, 2, 3];

/// Looks for a small scenario that breaks this law, beginning with one that does. `None` if that
/// one doesn't.
pub fn minimize(
    scenario: &Scenario,
    law: Law,
    run: impl FnMut(&Scenario) -> Outcome,
) -> Option<Minimized<Scenario>> {
    let search = Search::new(scenario, law, run, RUNS_MAX)?;
    Some(search.repeat(|search| {
        search.drop_items();
        search.shrink_backends();
        search.shrink_config();
        search.shrink_numbers();
        search.shrink_times();
        search.drop_members();
        search.simplify();
    }))
}

impl<F: FnMut(&Scenario) -> Outcome> Search<Scenario, F> {
    /// Takes a candidate if it is one that can be run and breaks the law.
    fn take(&mut self, candidate: Scenario) -> bool {
        change::is_sound(&candidate) && self.try_candidate(candidate)
    }

    /// Takes a candidate if it breaks the law, with its own seed or another.
    fn take_with_any_seed(&mut self, candidate: Scenario) -> bool {
        let others = OTHER_SEEDS.map(|seed| Scenario { seed, ..candidate.clone() });
        self.take(candidate) || others.into_iter().any(|other| self.take(other))
    }

    fn drop_items(&mut self) {
        let mut size = change::items(&self.best).div_ceil(2);
        while size > 0 {
            let (mut first, mut has_dropped) = (0, false);
            while first < change::items(&self.best) {
                match self
                    .take_with_any_seed(change::without_items(&self.best, first..first + size))
                {
                    true => has_dropped = true,
                    false => first += size,
                }
            }
            if size > 1 || !has_dropped {
                size /= 2;
            }
        }
    }

    /// Moves a number as far towards `to` as the law stays broken on the way that bisection takes.
    fn shrink(&mut self, from: u32, to: u32, with: impl Fn(&Scenario, u32) -> Scenario) {
        if from == to || self.take_with_any_seed(with(&self.best, to)) {
            return;
        }
        let (mut near, mut far) = (from, to);
        while near.abs_diff(far) > 1 {
            let middle = near.midpoint(far);
            match self.take(with(&self.best, middle)) {
                true => near = middle,
                false => far = middle,
            }
        }
    }

    fn shrink_backends(&mut self) {
        self.shrink(self.best.config.backends, 1, change::with_backends);
    }

    fn shrink_config(&mut self) {
        for field in CONFIG_FIELDS.iter().filter(|field| field.name != "backends") {
            let from = *(field.of)(&mut self.best.config);
            let to = change::plain_value(field, &self.best);
            self.shrink(from, to, |scenario, value| {
                let mut smaller = scenario.clone();
                *(field.of)(&mut smaller.config) = value;
                smaller
            });
        }
    }

    fn shrink_numbers(&mut self) {
        for place in 0..change::numbers(&mut self.best.clone()).len() {
            let mut before = self.best.clone();
            let (from, to) = {
                let (number, to) = &change::numbers(&mut before)[place];
                (**number, *to)
            };
            self.shrink(from, to, |scenario, value| {
                let mut smaller = scenario.clone();
                *change::numbers(&mut smaller)[place].0 = value;
                smaller
            });
        }
    }

    fn shrink_times(&mut self) {
        for number in 0..self.best.steps.len() {
            let pause = change::pause_before(&self.best, number);
            self.shrink(pause, 0, |scenario, pause| change::with_pause(scenario, number, pause));
        }
    }

    fn drop_members(&mut self) {
        for number in 0..self.best.steps.len() {
            let mut member = 0;
            while let Some(smaller) = change::without_member(&self.best, number, member) {
                if !self.take_with_any_seed(smaller) {
                    member += 1;
                }
            }
        }
    }

    fn simplify(&mut self) {
        for number in 0..self.best.steps.len() {
            if let Some(simpler) = change::with_simpler_step(&self.best, number) {
                self.take(simpler);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Counts, Trace, Violation, scenario::Operation};

    /// A made-up bug: the target of `crash` must not be in a set given before, with 3 clients or
    /// more.
    fn run(scenario: &Scenario) -> Outcome {
        let crash = scenario.steps.iter().find_map(|step| match step.operation {
            Operation::Crash(place) => Some((step.at, place)),
            _ => None,
        });
        let is_hit = crash.is_some_and(|(at, place)| {
            scenario.steps.iter().any(|step| match &step.operation {
                Operation::Replace(set) => step.at < at && set.iter().any(|(_, p)| *p == place),
                _ => false,
            })
        });
        let is_broken = is_hit && scenario.config.clients >= 3;
        let violation = Violation { at: 0, law: Law::Kept, text: String::new() };
        Outcome {
            violations: is_broken.then_some(violation).into_iter().collect(),
            steps: 0,
            simulated: 0,
            counts: Counts::default(),
            trace: Trace::new(false),
        }
    }

    const LARGE: &str = "\
seed 42
backends 6
yields 7
clients 50
on ended chance 30 crash after 5 times 7
at 0 replace k0=b0 k1=b1
at 10 replace k0=b0 k1=b1 k2=b2
at 20 connect 10 idle up 5 down 5 pace 5
at 500 replace k3=b3
at 900 crash b1
at 1000 shutdown 5
";

    #[test]
    fn only_what_the_bug_needs_is_left() {
        let large: Scenario = LARGE.parse().unwrap();
        let small = minimize(&large, Law::Kept, run).unwrap();
        let text = "\
seed 42
backends 2
clients 3
duration 100
at 0 replace k1=b1
at 1 crash b1
";
        assert_eq!(small.scenario.to_string(), text);
        assert_eq!(minimize(&large, Law::Kept, run).unwrap().runs, small.runs);
    }

    #[test]
    fn what_breaks_no_such_law_is_left_alone() {
        let large: Scenario = LARGE.parse().unwrap();
        assert!(minimize(&large, Law::Pick, run).is_none());
        assert!(minimize(&Scenario::default(), Law::Kept, run).is_none());
    }
}
