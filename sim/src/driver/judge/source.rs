//! What the balancer makes of a source: which sets it takes or holds, and when it gives the last one
//! up.

use std::{collections::BTreeSet, mem};

use tinylb_core::{Held, Update};

use super::{Judge, heard::places};
use crate::{
    Law, Sometimes,
    driver::orders::{LOST, Order},
    scenario::{Backends, Key, Place, backends_of},
    trace::Note,
};

#[derive(Default)]
pub(in crate::driver) struct Source {
    /// Since when a set is held.
    held_at: Option<u64>,
    /// The set that was said last was held, and dropped at a loss.
    is_dropped: bool,
    /// Since when the source is lost, as it was told to be.
    lost_at: Option<u64>,
    /// The last set was given up.
    is_stale: bool,
    /// The next set is the empty one that follows from that.
    gives_up: bool,
}

impl Judge {
    /// The source is told to say a set.
    pub(in crate::driver) fn source_says(&mut self) {
        let Source { held_at, .. } = self.source;
        self.source = Source { held_at, ..Source::default() };
    }

    /// The source is told to be lost.
    pub(in crate::driver) fn source_loses(&mut self) {
        if self.scenario.config.source == 1 {
            self.source.lost_at.get_or_insert(self.at);
        }
    }

    /// The source is told to say its set with an entry that is no backend.
    pub(in crate::driver) fn spoil(&mut self) {
        if self.scenario.config.source == 0 {
            return;
        }
        let set = self.newest.clone();
        match self.scenario.config.leave_out {
            0 => self.source_loses(),
            // Nothing is left of it, and the source hasn't stated that there are no backends.
            _ if set.is_empty() => self.source_loses(),
            _ => self.say(std::slice::from_ref(&set)),
        }
        self.order(Order::Spoil(set));
    }

    /// What is said instead of a set while absent backends are kept: there, a place has eight keys of
    /// its own, so that no key goes to another place while the old one is kept.
    pub(in crate::driver) fn as_said(&self, set: Backends) -> Backends {
        if self.scenario.config.keep_absent == 0 {
            return set;
        }
        let own = |(key, place): (Key, Place)| (Key(place.0 * 8 + key.0 % 8), place);
        set.into_iter().map(own).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The balancer hears what the source says.
    pub(in crate::driver) fn hears(&mut self, now: u64, update: &Update<Place>) {
        self.now = now;
        let leaves_out = self.scenario.config.leave_out == 1;
        let said = match update {
            Update::Set(set) => set,
            Update::Partial(set, _) if leaves_out && !set.is_empty() => set,
            _ => return self.heard.hear_loss(now),
        };
        let back = self.heard.hear(now, &backends_of(said), &self.in_force());
        if self.scenario.config.keep_absent > 0 {
            self.ledger.counts.add(Sometimes::AbsentBack, back as u64);
        }
        self.source.is_dropped = false;
        if !self.may_remove_too_much() {
            self.source.held_at = None;
        }
    }

    pub(in crate::driver) fn left_out(&mut self, entries: usize) {
        self.count(Sometimes::EntryLeftOut);
        self.note(Note::LeftOut(entries as u32));
        if self.scenario.config.leave_out == 0 {
            self.fail(Law::Source, "an entry is left out that makes a set no good".into());
        }
    }

    pub(in crate::driver) fn source_lost(&mut self, reason: &str) {
        self.note(Note::SourceLost);
        if !reason.ends_with(LOST) {
            self.fail(Law::Order, format!("a good set was rejected: {reason}"));
        }
        if !self.heard.told_loss(self.now) {
            self.fail(Law::Source, "a source that isn't lost is told to be".into());
        }
        // What was said just before may be dropped, too, if it would have been held.
        let is_held = self.source.held_at.take().is_some();
        self.source.is_dropped = is_held || self.may_remove_too_much();
    }

    pub(in crate::driver) fn held(&mut self, held: &Held) {
        self.count(Sometimes::SetHeld);
        self.note(Note::SetHeld(held.removed as u32, held.targets as u32));
        self.source.held_at = Some(self.at);
        let (least, most) = self.heard.removes(self.now);
        let Held { removed, targets, .. } = *held;
        let is_right =
            (least..=most).contains(&removed) && targets == places(&self.in_force()).len();
        if !is_right || !self.is_too_much(removed, targets) {
            let text = format!("the set said last doesn't remove {removed} of {targets} targets");
            self.fail(Law::Source, text);
        }
    }

    /// A set takes effect.
    pub(in crate::driver) fn source_replaces(&mut self, generation: u64, set: &Backends) {
        if mem::take(&mut self.source.gives_up) {
            if !set.is_empty() {
                self.fail(Law::Order, "a set is given up for one that isn't empty".into());
            }
            return self.heard.give_up();
        }
        match self.heard.replaced(self.now, &self.in_force(), set) {
            Ok(kept) => {
                self.ledger.counts.add(Sometimes::AbsentGone, kept.gone as u64);
                self.ledger.counts.add(Sometimes::AbsentWhileLost, kept.gone_after_loss as u64);
            }
            Err((law, text)) => self.fail(law, format!("replacement {generation}: {text}")),
        }
        let held_at = self.source.held_at.take();
        if !self.removes_too_much(set) {
            return;
        }
        let hold = u64::from(self.scenario.config.hold) * 1000;
        if held_at.is_some_and(|at| self.at + self.patience >= at + hold) {
            self.count(Sometimes::HoldOver);
        } else {
            self.fail(Law::Source, "a set that removes too much wasn't held".into());
        }
    }

    pub(in crate::driver) fn stale(&mut self) {
        self.count(Sometimes::SourceStale);
        self.note(Note::SourceStale);
        (self.source.is_stale, self.source.gives_up) = (true, true);
        if self.stale_at().is_none_or(|at| self.at + self.patience < at) {
            self.fail(Law::Source, "the last set is given up too early".into());
        }
    }

    /// Whether the set may be another than the one that was said last.
    pub(in crate::driver) fn may_lag(&self) -> bool {
        let hold = u64::from(self.scenario.config.hold) * 1000;
        let is_held = self.source.held_at.is_some_and(|at| self.at <= at + hold + self.patience);
        is_held || self.source.is_dropped || self.source.is_stale
    }

    /// The last set is given up in time.
    pub(in crate::driver) fn check_source(&mut self) {
        let is_late = self.stale_at().is_some_and(|at| self.at > at + self.patience);
        let has_set = self.ledger.set().is_some_and(|set| !set.is_empty());
        if is_late && has_set && !self.source.is_stale {
            self.fail(Law::Source, "the last set of a lost source isn't given up".into());
        }
    }

    /// How the set in force isn't the one to be expected of what was said last.
    pub(in crate::driver) fn lags(&self) -> Option<String> {
        let set = self.ledger.set()?;
        match self.scenario.config.source {
            0 if *set == self.newest => None,
            0 => Some("the set isn't the one that was said last".into()),
            _ => self.heard.is_late(self.at, &self.newest, set),
        }
    }

    fn stale_at(&self) -> Option<u64> {
        let stale = self.scenario.config.source_settings().max_stale?;
        Some(self.source.lost_at? + stale.as_micros() as u64)
    }

    fn in_force(&self) -> Backends {
        self.ledger.set().cloned().unwrap_or_default()
    }

    fn removes_too_much(&self, set: &Backends) -> bool {
        let before = places(&self.in_force());
        self.is_too_much(before.difference(&places(set)).count(), before.len())
    }

    /// Whether the set heard last may remove too much if it took effect now.
    fn may_remove_too_much(&self) -> bool {
        let (_, most) = self.heard.removes(self.now);
        self.is_too_much(most, places(&self.in_force()).len())
    }

    fn is_too_much(&self, removed: usize, targets: usize) -> bool {
        let floor = self.scenario.config.floor as usize;
        floor > 0 && removed * 100 > targets * floor
    }
}
