//! What the balancer makes of its orders.

use std::{collections::BTreeMap, io, task::Waker};

use tinylb_core::{BackendKey, Report};

use super::Judge;
use crate::{
    Law,
    driver::orders::{Order, Visit},
    oracle::Said,
    scenario::{Backends, Key, Place, Trigger, key_number},
    trace::Note,
};

impl Judge {
    pub(in crate::driver) fn order(&mut self, order: Order) {
        let _ = self.orders.0.unbounded_send(order);
    }

    pub(in crate::driver) fn order_sets(&mut self, sets: Vec<Backends>) {
        let sets: Vec<_> = sets.into_iter().map(|set| self.as_said(set)).collect();
        self.say(&sets);
        self.order(Order::Replace(sets));
    }

    /// These sets are said, one right after the other.
    pub(in crate::driver) fn say(&mut self, sets: &[Backends]) {
        let Some(newest) = sets.last() else { return };
        self.said_at = self.at;
        self.newest.clone_from(newest);
        match self.scenario.config.source {
            0 => self.said.extend(sets.iter().cloned()),
            _ => self.source_says(),
        }
    }

    /// The set that was ordered last.
    pub(in crate::driver) fn newest(&self) -> &Backends {
        &self.newest
    }

    /// A set that was handed over was the same set again; with the replacement's number.
    pub(in crate::driver) fn said_again(&mut self, generation: u64, is_confirmation: bool) {
        self.note(Note::SaidAgain(generation));
        self.ledger.said_again(generation);
        self.unapplied.push((generation, self.at));
        if !is_confirmation && self.said.pop_front().as_ref() != self.ledger.set() {
            let text = format!("replacement {generation} was taken for the same set again");
            self.fail(Law::Order, text);
        }
    }

    pub(in crate::driver) fn applied(&mut self, generation: u64) {
        self.note(Note::Applied(generation));
        self.ledger.applied(generation);
        self.unapplied.retain(|(number, _)| *number > generation);
    }

    /// The balancer's settings are these from now on.
    pub(in crate::driver) fn drains(&mut self, time: u32) {
        self.drain = time;
        self.ledger.drains_change(u64::from(time) * 1000);
    }

    /// The balancer begins its shutdown; a second time: it aborts at once.
    pub(in crate::driver) fn closing(&mut self, grace: u32) {
        self.note(Note::Closing);
        let at = self.at + u64::from(grace) * 1000;
        let at = if self.closes_at.is_some() { self.at } else { at };
        self.closes_at = Some(at);
        self.ledger.closing(at);
    }

    pub(in crate::driver) fn shut_down(&mut self) {
        self.note(Note::ShutDown);
        self.ledger.shut_down();
        self.is_shut_down = true;
    }

    pub(in crate::driver) fn is_closing(&self) -> bool {
        self.closes_at.is_some()
    }

    pub(in crate::driver) fn visit(&mut self, visit: Visit) {
        let _ = self.visits.0.unbounded_send(visit);
    }

    /// A backend starts: how often it has.
    pub(in crate::driver) fn boots(&mut self, place: Place) -> u32 {
        let boots = &mut self.boots[usize::from(place.0)];
        *boots += 1;
        *boots
    }

    pub(in crate::driver) fn panic_next_dial(&mut self, place: Place) {
        self.panics.insert(place);
    }

    /// Accepts fail; who accepts has to be woken.
    pub(in crate::driver) fn fail_accepts(
        &mut self,
        errors: impl Iterator<Item = io::Error>,
    ) -> Option<Waker> {
        self.accept_failures.extend(errors);
        self.acceptor.take()
    }

    pub(in crate::driver) fn replaced(&mut self, report: &Report, set: &Backends) {
        let generation = report.generation.number();
        let (cut, revoked) = (report.sessions_cut, report.dials_revoked);
        let draining = report.sessions_draining;
        let note = (cut as u32, revoked as u32, draining as u32);
        self.note(Note::Replaced(generation, set.clone(), note.0, note.1, note.2));
        match self.scenario.config.source {
            0 => self.check_order(generation, set),
            _ => self.source_replaces(generation, set),
        }
        self.check_keys(report, set);
        let drain_until = (self.drain > 0).then(|| self.at + u64::from(self.drain) * 1000);
        let said = Said { generation, cut, revoked, draining };
        self.ledger.replaced(set, said, drain_until);
        self.unapplied.push((generation, self.at));
        if self.scenario.config.source == 1 {
            self.order(Order::Confirm);
        }
        let place = set.first().map_or(Place(0), |(_, place)| *place);
        if draining > 0 {
            self.trigger(Trigger::DrainBegan, place);
        }
        self.trigger(Trigger::Replaced, place);
    }

    /// The sets of the handle take effect in the order in which they were said.
    fn check_order(&mut self, generation: u64, set: &Backends) {
        if self.said.pop_front().as_ref() != Some(set) {
            let text = format!("replacement {generation} has a set that wasn't said then");
            self.fail(Law::Order, text);
        }
    }

    /// The report's keys are those in which the sets differ.
    fn check_keys(&mut self, report: &Report, set: &Backends) {
        let before: BTreeMap<_, _> = self.ledger.set().into_iter().flatten().copied().collect();
        let after: BTreeMap<_, _> = set.iter().copied().collect();
        let lacks = |keys: &BTreeMap<Key, Place>, from: &BTreeMap<Key, Place>| -> Vec<Key> {
            from.keys().filter(|key| !keys.contains_key(*key)).copied().collect()
        };
        let moved = |(key, place): &(_, _)| before.get(key).is_some_and(|was| was != place);
        let moved = set.iter().filter(|entry| moved(entry)).map(|(key, _)| *key).collect();
        let numbers = |keys: &[BackendKey]| keys.iter().map(key_number).collect::<Vec<_>>();
        let told = [&report.added, &report.removed, &report.retargeted].map(|keys| numbers(keys));
        let were = [lacks(&before, &after), lacks(&after, &before), moved];
        if told != were || report.backends != set.len() {
            let text = format!(
                "replacement {} says that {told:?} were added, removed and moved; it was {were:?}",
                report.generation
            );
            self.fail(Law::Report, text);
        }
    }
}
