//! What the balancer makes of a source: which sets it takes or holds, and when it gives the last
//! one up.

use std::{collections::BTreeSet, mem};

use tinylb_core::{Held, Update};

use super::{
    case::Case,
    heard::{Heard, places},
};
use crate::{
    Law, Sometimes,
    driver::orders::LOST,
    scenario::{Backends, Config, Key, Place, backends_of},
    trace::Note,
};

/// Knows what the source was ordered to say, and what the balancer has heard and held of it.
pub(super) struct Source {
    heard: Heard,
    /// Since when a set is held.
    held_at: Option<u64>,
    /// The source's newest set was held, and dropped at a loss.
    is_dropped: bool,
    /// Since when the source is lost, as it was ordered to be.
    lost_at: Option<u64>,
    /// The last set was given up.
    is_stale: bool,
    /// The next set is the empty one that follows from that.
    gives_up: bool,
}

impl Source {
    pub(super) fn new(case: &Case) -> Self {
        let keep = case.config().source_settings().keep_absent.unwrap_or_default();
        Self {
            heard: Heard::new(keep.as_micros() as u64, case.patience()),
            held_at: None,
            is_dropped: false,
            lost_at: None,
            is_stale: false,
            gives_up: false,
        }
    }

    /// The source is ordered to say a set.
    pub(super) fn says(&mut self) {
        (self.is_dropped, self.lost_at) = (false, None);
        (self.is_stale, self.gives_up) = (false, false);
    }

    /// The source is ordered to be lost.
    pub(super) fn loses(&mut self, case: &Case) {
        if case.has_source() {
            self.lost_at.get_or_insert(case.at());
        }
    }

    /// The balancer hears what the source says.
    pub(super) fn hears(&mut self, case: &mut Case, update: &Update<Place>) {
        let (now, in_force) = (case.now(), case.in_force());
        if let Update::Narrowed(set) = update {
            self.heard.narrow(now, &backends_of(set), &in_force);
        } else if let Some(set) = set_given(case.config(), update) {
            let back = self.heard.hear(now, &set, &in_force);
            if case.config().keep_absent > 0 {
                case.count_times(Sometimes::AbsentBack, back);
            }
        } else {
            return self.heard.hear_loss(now);
        }
        self.is_dropped = false;
        if !self.may_remove_too_much(case) {
            self.held_at = None;
        }
    }

    /// Entries are left out of what the source says.
    pub(super) fn left_out(&self, case: &mut Case, entries: usize) {
        case.count(Sometimes::EntryLeftOut);
        case.note(Note::LeftOut(entries as u32));
        if case.config().leave_out == 0 {
            case.fail(Law::Source, "an entry is left out that makes a set no good".into());
        }
    }

    /// The balancer says that the source is lost.
    pub(super) fn lost(&mut self, case: &mut Case, reason: &str) {
        case.note(Note::SourceLost);
        if !reason.ends_with(LOST) {
            case.fail(Law::Order, format!("a good set was rejected: {reason}"));
        }
        if !self.heard.report_loss(case.now()) {
            case.fail(Law::Source, "a source that isn't lost is reported lost".into());
        }
        // A set that came just before may be dropped, too, if it would have been held. One that only
        // narrows the last set is held on.
        let is_held = self.held_at.is_some();
        self.held_at.take_if(|_| !self.heard.narrows());
        self.is_dropped = is_held || self.may_remove_too_much(case);
    }

    /// The balancer holds a set that removes too much.
    pub(super) fn held(&mut self, case: &mut Case, held: &Held) {
        case.count(Sometimes::SetHeld);
        case.note(Note::SetHeld(held.removed as u32, held.targets as u32));
        self.held_at = Some(case.at());
        let (least, most) = self.heard.removes(case.now());
        let Held { removed, targets, .. } = *held;
        let is_right =
            (least..=most).contains(&removed) && targets == places(&case.in_force()).len();
        if !is_right || !is_too_much(case, removed, targets) {
            let text =
                format!("the source's newest set doesn't remove {removed} of {targets} targets");
            case.fail(Law::Source, text);
        }
    }

    /// A set takes effect.
    pub(super) fn replaces(&mut self, case: &mut Case, generation: u64, set: &Backends) {
        if mem::take(&mut self.gives_up) {
            if !set.is_empty() {
                case.fail(Law::Order, "a set is given up for one that isn't empty".into());
            }
            return self.heard.give_up();
        }
        let is_stale = |at| case.at() > at + case.patience();
        if self.heard.narrows() && self.stale_at(case).is_some_and(is_stale) {
            case.fail(Law::Source, "a set is narrowed that was given up".into());
        }
        match self.heard.replaced(case.now(), &case.in_force(), set) {
            Ok(kept) => {
                case.count_times(Sometimes::AbsentGone, kept.gone);
                case.count_times(Sometimes::AbsentWhileLost, kept.gone_after_loss);
            }
            Err((law, text)) => case.fail(law, format!("replacement {generation}: {text}")),
        }
        let held_at = self.held_at.take();
        if !removes_too_much(case, set) {
            return;
        }
        let hold = u64::from(case.config().hold) * 1000;
        if held_at.is_some_and(|at| case.at() + case.patience() >= at + hold) {
            case.count(Sometimes::HoldOver);
        } else {
            case.fail(Law::Source, "a set that removes too much wasn't held".into());
        }
    }

    /// The balancer gives the last set up.
    pub(super) fn stale(&mut self, case: &mut Case) {
        case.count(Sometimes::SourceStale);
        case.note(Note::SourceStale);
        (self.is_stale, self.gives_up) = (true, true);
        if self.stale_at(case).is_none_or(|at| case.at() + case.patience() < at) {
            case.fail(Law::Source, "the last set is given up too early".into());
        }
    }

    /// Whether the last set is due to be given up, or about to be. Nobody says so if it is empty.
    pub(super) fn may_be_stale(&self, case: &Case) -> bool {
        self.stale_at(case).is_some_and(|at| case.at() + case.patience() >= at)
    }

    /// Whether the set may be another than the source's newest.
    pub(super) fn may_lag(&self, case: &Case) -> bool {
        let hold = u64::from(case.config().hold) * 1000;
        let is_held = self.held_at.is_some_and(|at| case.at() <= at + hold + case.patience());
        is_held || self.is_dropped || self.is_stale
    }

    /// The last set is given up in time.
    pub(super) fn check_times(&self, case: &mut Case) {
        let is_late = self.stale_at(case).is_some_and(|at| case.at() > at + case.patience());
        let has_set = case.ledger.set().is_some_and(|set| !set.is_empty());
        if is_late && has_set && !self.is_stale {
            case.fail(Law::Source, "the last set of a lost source isn't given up".into());
        }
    }

    /// What is wrong with the set in force, if the source's newest is due.
    pub(super) fn is_late(&self, case: &Case, newest: &Backends, set: &Backends) -> Option<String> {
        self.heard.is_late(case.at(), newest, set)
    }

    fn stale_at(&self, case: &Case) -> Option<u64> {
        let stale = case.config().source_settings().max_stale?;
        Some(self.lost_at? + stale.as_micros() as u64)
    }

    /// Whether the set heard last may remove too much if it took effect now.
    fn may_remove_too_much(&self, case: &Case) -> bool {
        let (_, most) = self.heard.removes(case.now());
        is_too_much(case, most, places(&case.in_force()).len())
    }
}

/// The set that the source gives; `None`: it is lost.
pub(super) fn set_given(config: &Config, update: &Update<Place>) -> Option<Backends> {
    match update {
        Update::Set(set) => Some(backends_of(set)),
        Update::Partial(set, _) if config.leave_out == 1 && !set.is_empty() => {
            Some(backends_of(set))
        }
        Update::Partial(..) | Update::Lost(_) | Update::Narrowed(_) => None,
    }
}

/// Whether the source is lost by saying this set with an entry that is no backend.
pub(super) fn is_lost_by_bad_entry(config: &Config, set: &Backends) -> bool {
    // If nothing is left of a set, the source hasn't stated that there are no backends.
    config.leave_out == 0 || set.is_empty()
}

/// What is ordered instead of a set while absent backends are kept: there, a place has eight keys
/// of its own, so that no key goes to another place while the old one is kept.
pub(super) fn as_ordered(config: &Config, set: Backends) -> Backends {
    if config.keep_absent == 0 {
        return set;
    }
    let own = |(key, place): (Key, Place)| (Key(place.0 * 8 + key.0 % 8), place);
    set.into_iter().map(own).collect::<BTreeSet<_>>().into_iter().collect()
}

fn removes_too_much(case: &Case, set: &Backends) -> bool {
    let before = places(&case.in_force());
    is_too_much(case, before.difference(&places(set)).count(), before.len())
}

fn is_too_much(case: &Case, removed: usize, targets: usize) -> bool {
    let floor = case.config().floor as usize;
    floor > 0 && removed * 100 > targets * floor
}
