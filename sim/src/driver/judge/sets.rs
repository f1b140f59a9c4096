//! Sets take effect in the order in which they were given, and are applied in time.

use std::collections::{BTreeMap, VecDeque};

use tinylb_core::{BackendKey, Report};

use super::case::Case;
use crate::{
    Law,
    oracle::Reported,
    scenario::{Backends, Key, Place, key_number},
    trace::Note,
};

/// Follows each set from the order to take it until it is applied.
pub(super) struct Sets {
    /// Sets that the handle was ordered to take, and that haven't taken effect.
    ordered: VecDeque<Backends>,
    /// The set that was ordered last, and when.
    newest: Backends,
    ordered_at: u64,
    /// How long sessions of removed targets drain, in milliseconds; 0: they are aborted.
    drain: u32,
    /// Replacements that aren't applied yet, with the time that they took effect.
    unapplied: Vec<(u64, u64)>,
}

impl Sets {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            ordered: VecDeque::new(),
            newest: Vec::new(),
            ordered_at: 0,
            drain: case.config().drain,
            unapplied: Vec::new(),
        }
    }

    /// These sets are ordered, one right after the other.
    pub(super) fn ordered(&mut self, case: &Case, sets: &[Backends]) {
        let Some(newest) = sets.last() else { return };
        self.ordered_at = case.at();
        self.newest.clone_from(newest);
        if !case.has_source() {
            self.ordered.extend(sets.iter().cloned());
        }
    }

    /// The set that was ordered last.
    pub(super) fn newest(&self) -> &Backends {
        &self.newest
    }

    /// From now on, sessions of removed targets drain for this many milliseconds.
    pub(super) fn drains(&mut self, case: &mut Case, time: u32) {
        self.drain = time;
        case.ledger.drains_change(u64::from(time) * 1000);
    }

    /// The sets of the handle take effect in the order in which they were given.
    pub(super) fn check_order(&mut self, case: &mut Case, generation: u64, set: &Backends) {
        if self.ordered.pop_front().as_ref() != Some(set) {
            let text = format!("replacement {generation} has a set that wasn't ordered then");
            case.fail(Law::Order, text);
        }
    }

    /// A set takes effect, and the report says what that changes.
    pub(super) fn replaced(&mut self, case: &mut Case, report: &Report, set: &Backends) {
        check_keys(case, report, set);
        let generation = report.generation.number();
        let drain_until = (self.drain > 0).then(|| case.at() + u64::from(self.drain) * 1000);
        let reported = Reported {
            generation,
            cut: report.sessions_cut,
            revoked: report.dials_revoked,
            draining: report.sessions_draining,
        };
        case.ledger.replaced(set, reported, drain_until);
        self.unapplied.push((generation, case.at()));
    }

    /// A set that was handed over was the same set again. With the replacement's number;
    /// `is_confirmation`: nobody ordered it, it is there to be waited for.
    pub(super) fn repeated(&mut self, case: &mut Case, generation: u64, is_confirmation: bool) {
        case.note(Note::Repeated(generation));
        case.ledger.repeated(generation);
        self.unapplied.push((generation, case.at()));
        if !is_confirmation && self.ordered.pop_front().as_ref() != case.ledger.set() {
            let text = format!("replacement {generation} was taken for the same set again");
            case.fail(Law::Order, text);
        }
    }

    /// A replacement is applied, and so are those before it.
    pub(super) fn applied(&mut self, case: &mut Case, generation: u64) {
        case.note(Note::Applied(generation));
        case.ledger.applied(generation);
        self.unapplied.retain(|(number, _)| *number > generation);
    }

    /// Each replacement is applied in time.
    pub(super) fn check_times(&self, case: &mut Case) {
        if let Some((generation, since)) = self.unapplied.first()
            && case.at() > since + case.patience()
        {
            let text = format!("replacement {generation} isn't applied");
            case.fail(Law::AppliedInTime, text);
        }
    }

    /// Whether the set that was ordered last has to be in force.
    pub(super) fn is_due(&self, case: &Case) -> bool {
        case.at() > self.ordered_at + case.patience()
    }

    /// What is wrong with the set in force, if the handle's newest one is due.
    pub(super) fn is_late(&self, set: &Backends) -> Option<String> {
        (*set != self.newest).then(|| "the set isn't the newest one that was ordered".into())
    }
}

/// The report's keys are those in which the sets differ.
fn check_keys(case: &mut Case, report: &Report, set: &Backends) {
    let before: BTreeMap<_, _> = case.ledger.set().into_iter().flatten().copied().collect();
    let after: BTreeMap<_, _> = set.iter().copied().collect();
    let lacks = |keys: &BTreeMap<Key, Place>, from: &BTreeMap<Key, Place>| -> Vec<Key> {
        from.keys().filter(|key| !keys.contains_key(*key)).copied().collect()
    };
    let moved = |(key, place): &(_, _)| before.get(key).is_some_and(|was| was != place);
    let moved = set.iter().filter(|entry| moved(entry)).map(|(key, _)| *key).collect();
    let numbers = |keys: &[BackendKey]| keys.iter().map(key_number).collect::<Vec<_>>();
    let reported = [&report.added, &report.removed, &report.retargeted].map(|keys| numbers(keys));
    let were = [lacks(&before, &after), lacks(&after, &before), moved];
    if reported != were || report.backends != set.len() {
        let text = format!(
            "replacement {} reports that {reported:?} were added, removed and moved; it was {were:?}",
            report.generation
        );
        case.fail(Law::Report, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_take_effect_in_the_order_in_which_they_were_ordered() {
        let mut case = Case::of("");
        let mut sets = Sets::new(&case);
        let [first, second] = [0, 1].map(|number| vec![(Key(number), Place(number))]);
        sets.ordered(&case, &[first.clone(), second.clone()]);
        assert_eq!(sets.newest(), &second);
        sets.check_order(&mut case, 1, &first);
        sets.check_order(&mut case, 2, &second);
        assert_eq!(case.laws(), []);
        sets.ordered(&case, &[second.clone(), first]);
        sets.check_order(&mut case, 3, &Vec::new());
        assert_eq!(case.laws(), [Law::Order]);
    }

    #[test]
    fn a_set_that_was_ordered_is_due_in_time() {
        let mut case = Case::of("");
        let mut sets = Sets::new(&case);
        case.set_time(1_000);
        sets.ordered(&case, &[Vec::new()]);
        case.set_time(31_000);
        assert!(!sets.is_due(&case));
        case.set_time(31_001);
        assert!(sets.is_due(&case));
    }
}
