use super::{CONFIG_FIELDS, Config, Operation, Scenario};
use crate::{
    Law, Outcome,
    minimize::{Minimized, Search},
};

/// See [`Search::new`].
const RUNS_MAX: u32 = 20_000;

/// What is left out deals the rest of the run anew, so what is left is tried with these seeds too.
const OTHER_SEEDS: u64 = 20;

/// Looks for a small scenario that breaks this law, beginning with one that does. `None` if that
/// one doesn't. Steps are taken away one by one, and numbers are made small, until nothing changes.
pub fn minimize(
    scenario: &Scenario,
    law: Law,
    run: impl FnMut(&Scenario) -> Outcome,
) -> Option<Minimized<Scenario>> {
    let search = Search::new(scenario, law, run, RUNS_MAX)?;
    Some(search.repeat(|search| {
        search.drop_steps();
        search.shrink_config();
        search.shrink_steps();
    }))
}

impl<F: FnMut(&Scenario) -> Outcome> Search<Scenario, F> {
    /// Takes a candidate if it breaks the law, with its own seed or another.
    fn take(&mut self, candidate: Scenario) -> bool {
        if candidate == self.best {
            return false;
        }
        let own = candidate.seed;
        let mut seeds = std::iter::once(own).chain(0..OTHER_SEEDS);
        seeds.any(|seed| self.try_candidate(Scenario { seed, ..candidate.clone() }))
    }

    fn drop_steps(&mut self) {
        let mut number = 0;
        while number < self.best.steps.len() {
            let mut smaller = self.best.clone();
            smaller.steps.remove(number);
            number += usize::from(!self.take(smaller));
        }
    }

    fn shrink_config(&mut self) {
        for field in CONFIG_FIELDS {
            let mut plain = self.best.clone();
            *(field.of)(&mut plain.config) = *(field.of)(&mut Config::default());
            self.take(plain);
        }
    }

    fn shrink_steps(&mut self) {
        for number in 0..self.best.steps.len() {
            let mut at_once = self.best.clone();
            at_once.steps[number].after = 0;
            self.take(at_once);
            loop {
                let mut smaller = self.best.clone();
                match &mut smaller.steps[number].operation {
                    Operation::Send(_, count) | Operation::FailSplices(count) if *count > 1 => {
                        *count /= 2;
                    }
                    _ => break,
                }
                if !self.take(smaller) {
                    break;
                }
            }
        }
    }
}
