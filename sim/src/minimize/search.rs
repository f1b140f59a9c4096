use crate::{Law, Outcome};

/// What a search for a smaller scenario has found.
#[derive(Clone, Debug)]
pub struct Minimized<S> {
    /// The smallest scenario that was found.
    pub scenario: S,
    /// How many runs it took.
    pub runs: u32,
}

/// The search for a smaller scenario, of any kind, that breaks the same law.
pub(crate) struct Search<S, F> {
    /// Breaks the law.
    pub(crate) best: S,
    law: Law,
    run: F,
    runs: u32,
    runs_max: u32,
}

impl<S: Clone + PartialEq, F: FnMut(&S) -> Outcome> Search<S, F> {
    /// Begins with a scenario. `None` if it doesn't break the law. After `runs_max` runs, the best
    /// so far is good enough.
    pub(crate) fn new(scenario: &S, law: Law, run: F, runs_max: u32) -> Option<Self> {
        let mut search = Self { best: scenario.clone(), law, run, runs: 0, runs_max };
        search.breaks(scenario).then_some(search)
    }

    /// Tries everything, again and again until nothing changes.
    pub(crate) fn repeat(mut self, mut try_all: impl FnMut(&mut Self)) -> Minimized<S> {
        loop {
            let before = self.best.clone();
            try_all(&mut self);
            if self.best == before || self.runs >= self.runs_max {
                return Minimized { scenario: self.best, runs: self.runs };
            }
        }
    }

    fn breaks(&mut self, scenario: &S) -> bool {
        self.runs += 1;
        (self.run)(scenario).violations.iter().any(|violation| violation.law == self.law)
    }

    /// Takes a candidate if it is new and breaks the law.
    pub(crate) fn try_candidate(&mut self, candidate: S) -> bool {
        let is_better =
            candidate != self.best && self.runs < self.runs_max && self.breaks(&candidate);
        if is_better {
            self.best = candidate;
        }
        is_better
    }
}
