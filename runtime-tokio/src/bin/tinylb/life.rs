//! The lives of the program's services, and what becomes of each at a new configuration or a
//! signal. Plain state and decisions; `Program` and `Service` carry them out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tinylb_core::{EndReason, Totals};
use tokio::time::Instant;

/// Where a service is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Life {
    /// It is in the configuration and accepts. It leaves when a configuration lacks it, or when the
    /// program stops.
    Serving,
    /// It no longer accepts. Its sessions may finish, and its set is still followed and replaced,
    /// so that a removal reaches them. It serves again if a configuration names it again. It is
    /// closed once nothing is left of it, or its time is over.
    Leaving(Departure),
    /// The rest of it is being cut. It can't come back, and another service may take its name. It
    /// is forgotten when that is done.
    Closing(Departure),
}

/// The departure of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Departure {
    pub(crate) why: Why,
    since: Instant,
    /// How its sessions had ended until then.
    ended: Totals,
    /// It has no more time.
    is_urgent: bool,
}

/// Why a service leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The configuration lacks it.
    Removed,
    /// The program stops.
    Stopping,
}

/// What a configuration does to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It begins.
    Start,
    /// It goes on, perhaps with changes.
    Change,
    /// It was leaving and serves again: its sessions, its rotation and its totals go on.
    Return,
    /// It keeps leaving, with another set and other settings.
    Adjust,
}

/// What a configuration does to all services.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Plan<'a> {
    /// The step for each service that it names.
    pub(crate) steps: BTreeMap<&'a str, Step>,
    /// The services that it names too late: the program stops and nothing begins.
    pub(crate) passed_over: BTreeSet<&'a str>,
    /// The serving services that it lacks.
    pub(crate) leave: BTreeSet<&'a str>,
}

impl<'a> Plan<'a> {
    /// What a configuration with these names does to the living services.
    pub(crate) fn new(
        lives: impl IntoIterator<Item = (&'a str, &'a Life)>,
        named: impl IntoIterator<Item = &'a str>,
        is_stopping: bool,
    ) -> Self {
        let lives: BTreeMap<&str, &Life> = lives.into_iter().collect();
        let mut plan = Self::default();
        for name in named {
            let step = match lives.get(name) {
                Some(Life::Serving) => Some(Step::Change),
                Some(Life::Leaving(_)) if is_stopping => Some(Step::Adjust),
                Some(Life::Leaving(_)) => Some(Step::Return),
                Some(Life::Closing(_)) | None => (!is_stopping).then_some(Step::Start),
            };
            match step {
                Some(step) => drop(plan.steps.insert(name, step)),
                None => drop(plan.passed_over.insert(name)),
            }
        }
        let serving = lives.iter().filter(|(_, life)| ***life == Life::Serving);
        let lacking = serving.map(|(name, _)| *name).filter(|name| !plan.steps.contains_key(name));
        plan.leave = lacking.collect();
        plan
    }
}

impl Departure {
    pub(crate) fn new(why: Why, since: Instant, ended: Totals) -> Self {
        Self { why, since, ended, is_urgent: false }
    }

    /// It has no more time.
    pub(crate) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// How long a service with this many sessions and listeners may still take to leave, if it may
    /// take `timeout` altogether. `None`: close it.
    pub(crate) fn time_left(
        &self,
        now: Instant,
        sessions: usize,
        listeners: usize,
        timeout: Duration,
    ) -> Option<Duration> {
        // A listener that is about to stop may just have accepted a client.
        let is_over = sessions == 0 && listeners == 0;
        let left = timeout.saturating_sub(now.saturating_duration_since(self.since));
        (!is_over && !self.is_urgent && !left.is_zero()).then_some(left)
    }

    /// How the sessions ended that were there when the service began to leave.
    pub(crate) fn ends(&self, now: &Totals) -> Ends {
        Ends::between(&self.ended, now)
    }
}

/// How sessions ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ends {
    /// Sessions that finished by themselves.
    pub(crate) finished: u64,
    /// Sessions that were cut because the time was over.
    pub(crate) cut: u64,
    /// Sessions that were cut because their backend was removed, at once or after a drain.
    pub(crate) removed: u64,
    /// Other ends: one side failed, or a time limit expired.
    pub(crate) otherwise: u64,
}

impl Ends {
    /// The sessions that ended between two moments.
    pub(crate) fn between(before: &Totals, now: &Totals) -> Self {
        let of = |reason| now.of(reason) - before.of(reason);
        let (finished, cut) = (of(EndReason::Finished), of(EndReason::Shutdown));
        let removed = of(EndReason::BackendRemoved) + of(EndReason::DrainExpired);
        let otherwise = now.sum() - before.sum() - finished - cut - removed;
        Self { finished, cut, removed, otherwise }
    }

    pub(crate) fn sum(&self) -> u64 {
        self.finished + self.cut + self.removed + self.otherwise
    }
}

impl std::ops::AddAssign for Ends {
    fn add_assign(&mut self, more: Self) {
        self.finished += more.finished;
        self.cut += more.cut;
        self.removed += more.removed;
        self.otherwise += more.otherwise;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(why: Why) -> Life {
        Life::Leaving(Departure::new(why, Instant::now(), Totals::default()))
    }

    fn closing() -> Life {
        Life::Closing(Departure::new(Why::Removed, Instant::now(), Totals::default()))
    }

    #[test]
    fn what_is_named_serves_and_whatever_else_serves_leaves() {
        let lives = [
            ("changed", Life::Serving),
            ("closing", closing()),
            ("gone", leaving(Why::Removed)),
            ("lacking", Life::Serving),
            ("returning", leaving(Why::Removed)),
        ];
        let named = ["changed", "closing", "new", "returning"];
        let plan = Plan::new(lives.iter().map(|(name, life)| (*name, life)), named, false);
        let steps = [
            ("changed", Step::Change),
            ("closing", Step::Start),
            ("new", Step::Start),
            ("returning", Step::Return),
        ];
        assert_eq!(plan.steps, steps.into());
        assert_eq!(plan.leave, ["lacking"].into());
        assert!(plan.passed_over.is_empty());
    }

    #[test]
    fn while_the_program_stops_sets_reach_what_lives_and_nothing_begins() {
        let lives = [
            ("closing", closing()),
            ("leaving", leaving(Why::Stopping)),
            ("removed", leaving(Why::Removed)),
            ("unnamed", leaving(Why::Stopping)),
        ];
        let named = ["closing", "leaving", "new", "removed"];
        let plan = Plan::new(lives.iter().map(|(name, life)| (*name, life)), named, true);
        assert_eq!(plan.steps, [("leaving", Step::Adjust), ("removed", Step::Adjust)].into());
        assert_eq!(plan.passed_over, ["closing", "new"].into());
        assert!(plan.leave.is_empty());
    }

    #[test]
    fn a_service_has_left_when_nothing_is_left_of_it_or_its_time_is_over() {
        let since = Instant::now();
        let mut departure = Departure::new(Why::Removed, since, Totals::default());
        let secs = Duration::from_secs;
        let left = |departure: &Departure, at, sessions, listeners| {
            departure.time_left(since + secs(at), sessions, listeners, secs(30))
        };
        assert_eq!(left(&departure, 0, 1, 0), Some(secs(30)));
        assert_eq!(left(&departure, 10, 0, 1), Some(secs(20)));
        assert_eq!(left(&departure, 10, 0, 0), None);
        assert_eq!(left(&departure, 30, 1, 0), None);
        departure.hurry();
        assert_eq!(left(&departure, 10, 1, 0), None);
    }
}
