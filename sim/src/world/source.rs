//! What the balancer makes of a source: which sets it holds, and when it gives the last one up.

use std::collections::BTreeSet;

use tinylb_core::Held;

use super::{
    judge::Judge,
    orders::{LOST, Order},
};
use crate::{
    Law, Sometimes,
    scenario::{Backends, Place},
    trace::Note,
};

#[derive(Default)]
pub(super) struct Source {
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
    pub(super) fn source_says(&mut self) {
        let Source { held_at, lost_at, .. } = self.source;
        if let Some(lost_at) = lost_at {
            self.pause_absences(self.at - lost_at);
        }
        self.source = Source { held_at, ..Source::default() };
    }

    /// The source is told to be lost.
    pub(super) fn source_loses(&mut self) {
        if self.scenario.config.source == 1 {
            self.source.lost_at.get_or_insert(self.at);
        }
    }

    /// The source is told to say its set with an entry that is no backend.
    pub(super) fn spoil(&mut self) {
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

    pub(super) fn left_out(&mut self, entries: usize) {
        self.count(Sometimes::EntryLeftOut);
        self.note(Note::LeftOut(entries as u32));
        if self.scenario.config.leave_out == 0 {
            self.fail(Law::Source, "an entry is left out that makes a set no good".into());
        }
    }

    pub(super) fn source_lost(&mut self, reason: &str) {
        self.note(Note::SourceLost);
        if !reason.ends_with(LOST) {
            self.fail(Law::Order, format!("a good set was rejected: {reason}"));
        }
        // What was said just before may be dropped, too, if it would have been held.
        let is_held = self.source.held_at.take().is_some();
        self.source.is_dropped = is_held || self.removes_too_much(&self.newest.clone());
    }

    pub(super) fn held(&mut self, held: &Held) {
        self.count(Sometimes::SetHeld);
        self.note(Note::SetHeld(held.removed as u32, held.targets as u32));
        self.source.held_at = Some(self.at);
        let keep = self.keep();
        let is_said = |set: &Backends| {
            let (removed, targets) = self.removed_by(set);
            // Of what a set lacks, some may be kept.
            let is_it = removed == held.removed || keep.is_some() && removed > held.removed;
            is_it && targets == held.targets && self.is_too_much(held.removed, targets)
        };
        if !self.said.iter().chain(keep.and(self.taken.as_ref())).any(is_said) {
            let (removed, targets) = (held.removed, held.targets);
            let text = format!("no set that was said removes {removed} of {targets} targets");
            self.fail(Law::Source, text);
        }
    }

    /// A set takes effect.
    pub(super) fn source_replaces(&mut self, set: &Backends) {
        if std::mem::take(&mut self.source.gives_up) {
            return;
        }
        self.check_absent(set);
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

    pub(super) fn stale(&mut self) {
        self.count(Sometimes::SourceStale);
        self.note(Note::SourceStale);
        (self.source.is_stale, self.source.gives_up) = (true, true);
        self.taken = None;
        if self.stale_at().is_none_or(|at| self.at + self.patience < at) {
            self.fail(Law::Source, "the last set is given up too early".into());
        }
    }

    /// Whether the next set comes from nobody: the last one is given up.
    pub(super) fn gives_set_up(&self) -> bool {
        self.source.gives_up
    }

    /// Whether the set may be another than the one that was said last.
    pub(super) fn may_lag(&self) -> bool {
        let hold = u64::from(self.scenario.config.hold) * 1000;
        let is_held = self.source.held_at.is_some_and(|at| self.at <= at + hold + self.patience);
        is_held || self.source.is_dropped || self.source.is_stale
    }

    /// The last set is given up in time.
    pub(super) fn check_source(&mut self) {
        let is_late = self.stale_at().is_some_and(|at| self.at > at + self.patience);
        let has_set = self.ledger.set().is_some_and(|set| !set.is_empty());
        if is_late && has_set && !self.source.is_stale {
            self.fail(Law::Source, "the last set of a lost source isn't given up".into());
        }
    }

    /// Since when the source is lost, as it was told to be.
    pub(super) fn lost_at(&self) -> Option<u64> {
        self.source.lost_at
    }

    fn stale_at(&self) -> Option<u64> {
        let stale = self.scenario.config.source_settings().max_stale?;
        Some(self.source.lost_at? + stale.as_micros() as u64)
    }

    fn removes_too_much(&self, set: &Backends) -> bool {
        let (removed, targets) = self.removed_by(set);
        self.is_too_much(removed, targets)
    }

    fn is_too_much(&self, removed: usize, targets: usize) -> bool {
        let floor = self.scenario.config.floor as usize;
        floor > 0 && removed * 100 > targets * floor
    }

    /// How many targets of those in force a set removes, and how many there are.
    fn removed_by(&self, set: &Backends) -> (usize, usize) {
        let places = |set: &Backends| set.iter().map(|(_, place)| *place).collect();
        let before: BTreeSet<Place> = self.ledger.set().map(places).unwrap_or_default();
        let after: BTreeSet<Place> = places(set);
        (before.difference(&after).count(), before.len())
    }
}
