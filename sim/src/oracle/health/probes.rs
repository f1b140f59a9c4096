//! When ejected targets are probed.

use std::collections::BTreeMap;

use super::{
    super::{Judged, Law, wrong},
    Rules,
};
use crate::scenario::Place;

/// The probes of a run: those in flight, and when the next ones may and must begin.
#[derive(Default)]
pub(super) struct Probes {
    in_flight: Vec<Probe>,
    plans: BTreeMap<Place, Plan>,
    /// Since when there is room for another probe.
    room_since: u64,
}

#[derive(Clone, Copy)]
struct Probe {
    number: u32,
    place: Place,
    began: u64,
    /// The replacement that removed its target.
    owed: Option<u64>,
}

/// When a target is probed.
#[derive(Clone, Copy, Default)]
struct Plan {
    /// Probes that have had a result, in one numbering.
    results: u32,
    /// When the next one begins: not before, and no later than.
    window: (u64, u64),
    /// It is to begin although another one is in flight, which is given up.
    is_hurried: bool,
    /// When the newest one let go, and how long it took.
    free_since: u64,
    took: u64,
    returned_at: Option<u64>,
}

/// How soon targets are probed anew when the first of all has returned.
const HURRY: u64 = 100_000;

impl Probes {
    /// A target is ejected. If it was so not long ago, its probes go on as if it had never returned.
    /// Returns whether that is so.
    pub(super) fn ejected(&mut self, at: u64, place: Place, rules: &Rules) -> bool {
        let plan = self.plans.entry(place).or_default();
        let flaps = plan.returned_at.is_some_and(|since| at < since + 2 * rules.interval_max);
        plan.is_hurried = false;
        if flaps {
            plan.window = after(at, plan.results.saturating_sub(1), rules);
        } else {
            (plan.results, plan.window) = (0, (at, at));
        }
        flaps
    }

    pub(super) fn returned(&mut self, at: u64, place: Place) {
        self.plans.entry(place).or_default().returned_at = Some(at);
    }

    /// These are to be probed anew: all were ejected, and the first has returned.
    pub(super) fn hurry(&mut self, at: u64, places: impl IntoIterator<Item = Place>) {
        for place in places {
            let is_in_flight = self.is_in_flight(place);
            let plan = self.plans.entry(place).or_default();
            plan.is_hurried = is_in_flight;
            plan.window = (plan.window.0.min(at), at + HURRY);
        }
    }

    /// The settings have changed. Pauses that have begun may be shorter now, and none is longer.
    pub(super) fn configure(&mut self, at: u64, probes_max_before: usize, rules: &Rules) {
        if self.in_flight.len() >= probes_max_before {
            self.room_since = at;
        }
        for (place, plan) in &mut self.plans {
            let is_there = |probe: &Probe| probe.place == *place && probe.owed.is_none();
            let begun = plan.results + u32::from(self.in_flight.iter().any(is_there));
            let (first, last) = after(at, begun.saturating_sub(1), rules);
            plan.window = (plan.window.0.min(first), plan.window.1.min(last));
        }
    }

    /// Some targets have left. Returns how many probes go to them.
    pub(super) fn replaced(&mut self, stays: impl Fn(Place) -> bool, generation: u64) -> usize {
        self.plans.retain(|place, _| stays(*place));
        let gone = |probe: &&mut Probe| probe.owed.is_none() && !stays(probe.place);
        let gone = self.in_flight.iter_mut().filter(gone);
        gone.map(|probe| probe.owed = Some(generation)).count()
    }

    /// A probe begins, and has this number from now on.
    pub(super) fn started(
        &mut self,
        at: u64,
        (number, place): (u32, Place),
        rules: &Rules,
        grain: u64,
    ) -> Judged {
        let is_second = self.is_in_flight(place);
        self.in_flight.push(Probe { number, place, began: at, owed: None });
        let plan = self.plans.entry(place).or_default();
        let (first, _) = plan.window;
        plan.window = after(at, plan.results, rules);
        plan.is_hurried = false;
        if is_second {
            return wrong(Law::Probes, format!("two probes go to {place}"));
        }
        if at + grain < first {
            return wrong(Law::Probes, format!("{place} is probed, and not before {first} again"));
        }
        if self.in_flight.len() > rules.probes_max_at(at) {
            return wrong(Law::Probes, format!("{} probes are in flight", self.in_flight.len()));
        }
        Ok(())
    }

    /// A probe has let go of its connection. Returns the replacement that it owes that to.
    pub(super) fn let_go(&mut self, at: u64, number: u32, rules: &Rules) -> Option<u64> {
        let there = self.in_flight.iter().position(|probe| probe.number == number)?;
        if self.in_flight.len() >= rules.probes_max {
            self.room_since = at;
        }
        let probe = self.in_flight.remove(there);
        if let Some(plan) = self.plans.get_mut(&probe.place).filter(|_| probe.owed.is_none()) {
            (plan.free_since, plan.took) = (at, at - probe.began);
        }
        probe.owed
    }

    /// A probe of an ejected target has had a result: it wasn't given up.
    pub(super) fn has_result(&mut self, place: Place) {
        self.plans.entry(place).or_default().results += 1;
    }

    /// How long the newest probe took that has let go.
    pub(super) fn took(&self, place: Place) -> u64 {
        self.plans.get(&place).map_or(0, |plan| plan.took)
    }

    /// Whether a probe has a place as its target, or has yet to let go of it.
    pub(super) fn is_at(&self, place: Place) -> bool {
        self.in_flight.iter().any(|probe| probe.place == place)
    }

    /// How many have not let go.
    pub(super) fn count(&self) -> usize {
        self.in_flight.len()
    }

    fn is_in_flight(&self, place: Place) -> bool {
        self.in_flight.iter().any(|probe| probe.place == place && probe.owed.is_none())
    }

    /// No probe is late, if there is room for it.
    pub(super) fn check_times(
        &self,
        at: u64,
        slack: u64,
        ejected: &[Place],
        rules: &Rules,
    ) -> Judged {
        if self.in_flight.len() >= rules.probes_max {
            return Ok(());
        }
        for place in ejected {
            let Some(plan) = self.plans.get(place) else { continue };
            let due = plan.window.1.max(self.room_since).max(plan.free_since);
            let is_to_wait = self.is_in_flight(*place) && !plan.is_hurried;
            if !is_to_wait && at > due + slack {
                return wrong(Law::Probes, format!("{place} isn't probed, and was to be by {due}"));
            }
        }
        Ok(())
    }
}

/// When the next probe begins, after the one of this number has begun.
fn after(at: u64, number: u32, rules: &Rules) -> (u64, u64) {
    let pause = match number {
        0..=30 => (rules.interval_min << number).min(rules.interval_max),
        _ => rules.interval_max,
    };
    (at + pause / 2, at + pause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Config;

    const B0: Place = Place(0);

    #[test]
    fn probes_begin_at_once_and_then_in_intervals_that_double_up_to_a_limit() {
        let config = Config { probe_min: 40, probe_max: 100, ..Config::default() };
        let rules = Rules::new(&config.settings());
        let mut probes = Probes::default();
        let start = |probes: &mut Probes, at, number| {
            let started = probes.started(at, (number, B0), &rules, 0);
            probes.let_go(at, number, &rules);
            probes.has_result(B0);
            started
        };
        assert!(!probes.ejected(1_000, B0, &rules));
        assert_eq!(start(&mut probes, 1_000, 0), Ok(()));
        assert_eq!(probes.plans[&B0].window, (21_000, 41_000));
        assert!(start(&mut probes, 20_999, 1).is_err(), "half an interval has to pass");
        assert_eq!(probes.plans[&B0].window, (60_999, 100_999));
        assert_eq!(start(&mut probes, 100_000, 2), Ok(()));
        assert_eq!(probes.plans[&B0].window, (150_000, 200_000));
        assert_eq!(probes.check_times(200_000, 0, &[B0], &rules), Ok(()));
        assert!(probes.check_times(200_001, 0, &[B0], &rules).is_err());

        // Ejected again soon after its return, it is probed after the pause that was next.
        probes.returned(200_000, B0);
        assert!(probes.ejected(250_000, B0, &rules));
        assert_eq!(probes.plans[&B0].window, (300_000, 350_000));
        probes.returned(300_000, B0);
        assert!(!probes.ejected(500_000, B0, &rules));
        assert_eq!(probes.plans[&B0].window, (500_000, 500_000));
    }
}
