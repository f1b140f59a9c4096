//! What a scenario's steps and rules do to the balancer and to the places around it.

use std::mem;

use tinylb_core::EndReason;

use super::{
    Policy,
    queue::{Due, Word},
    run::{PlaceState, Run},
    sessions::length_of,
};
use crate::{
    Entropy, Sometimes,
    nemesis::Deed,
    oracle::{Law, PLACES, Reported},
    scenario::{Backends, Leaving, Link, Operation, Place, Trigger, all, removal},
    trace::Note,
};

impl<P: Policy> Run<'_, P> {
    pub(super) fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Replace(set) => self.replace(set),
            Operation::Flap(set) => {
                let before = self.set.clone();
                self.replace(set);
                self.replace(&before);
            }
            Operation::Again => {
                let set = self.set.clone();
                self.replace(&set);
            }
            Operation::Connect(count, plan) => {
                for _ in 0..*count {
                    self.after(0, 2000, Due::Once(length_of(plan), plan.manner));
                }
            }
            Operation::Leave(how) => self.leave(*how),
            Operation::Partition(link)
            | Operation::CutTo(link)
            | Operation::CutFrom(link)
            | Operation::Hold(link) => match link {
                Link::Clients => self.is_client_link_cut = true,
                Link::Backend(place) => self.place(*place).is_cut = true,
            },
            Operation::Release(Link::Clients) => self.let_clients_in(),
            Operation::Release(Link::Backend(place)) => self.place(*place).is_cut = false,
            Operation::Latency(Link::Backend(place), time) => {
                self.place(*place).latency = Some(*time);
            }
            Operation::Crash(place) => self.place(*place).is_down = true,
            Operation::PowerLoss(place) => {
                *self.place(*place) =
                    PlaceState { is_down: true, is_cut: true, ..Default::default() };
            }
            Operation::Bounce(place) => *self.place(*place) = PlaceState::default(),
            Operation::PanicDial(place) => self.place(*place).panics = true,
            Operation::FailDial(place, count, error) => {
                self.place(*place).failing = Some((*count, error.fault()));
            }
            Operation::Ejection(is_on) => {
                self.config.ejection = u32::from(*is_on);
                self.ledger.set_ejection(*is_on);
                self.policy.configure(&self.config.settings(), self.time());
                self.see_findings();
            }
            Operation::Set(setting, value) => {
                self.config.set(*setting, *value);
                self.settings_change();
            }
            Operation::Drain(time) => self.drains_change(*time),
            Operation::ResetCycle => {
                self.policy.reset_cycle();
                self.ledger.reset_cycle();
            }
            Operation::Shutdown(grace) => self.shut_down(*grace),
            // There is nothing of the kind here.
            Operation::LoseSource
            | Operation::Spoil
            | Operation::Check(..)
            | Operation::FailAccept(..)
            | Operation::Latency(Link::Clients, _) => {}
        }
    }

    fn place(&mut self, place: Place) -> &mut PlaceState {
        &mut self.places[usize::from(place.0)]
    }

    fn let_clients_in(&mut self) {
        self.is_client_link_cut = false;
        for due in mem::take(&mut self.parked) {
            self.after(0, 2000, due);
        }
    }

    fn leave(&mut self, how: Leaving) {
        let reason = match how {
            Leaving::Close => EndReason::Finished,
            Leaving::Abort => EndReason::ClientFailed,
        };
        for session in 0..self.sessions.len() as u32 {
            let epoch = self.sessions[session as usize].epoch;
            let is_connected = self.ledger.connected_place(u64::from(session)).is_some();
            if is_connected && self.entropy.chance(25) {
                self.after(0, 1000, Due::Over(session, epoch, reason));
            }
        }
    }

    fn replace(&mut self, set: &Backends) {
        let removal = removal(self.drain);
        let before = mem::replace(&mut self.set, set.clone());
        let taken = self.policy.replace(set, removal, self.time());
        let generation = taken.generation;
        if !taken.is_change {
            self.note(Note::Repeated(generation));
            self.ledger.repeated(generation);
            if before != *set {
                let text = format!("replacement {generation} was taken for the same set again");
                self.ledger.fail(Law::Order, text);
            }
            return;
        }
        let reported = Reported {
            generation,
            cut: taken.cut.len(),
            revoked: taken.revoked.len(),
            draining: taken.draining,
        };
        let (cut, revoked, draining) =
            (reported.cut as u32, reported.revoked as u32, reported.draining as u32);
        self.note(Note::Replaced(generation, set.clone(), cut, revoked, draining));
        let drain_until = (self.drain > 0).then(|| self.now + u64::from(self.drain) * 1000);
        self.ledger.replaced(set, reported, drain_until);
        self.ledger.check_taken(generation, taken.cut.iter().chain(&taken.revoked).copied());
        self.unapplied.push_back(generation);
        self.ledger.check_probes_taken(taken.probes.len());
        self.give_probes_up(&taken.probes);
        self.signal(taken.cut, Word::Removed);
        self.signal(taken.revoked, Word::Revoked);
        for session in &taken.refused {
            self.sessions[*session as usize].epoch += 1;
        }
        self.signal(taken.refused, Word::Refused);
        for (session, key, place) in taken.admitted {
            let record = &mut self.sessions[session as usize];
            record.unpaid += self.now - record.waits_since;
            self.dial(session, key, place);
        }
        if taken.draining > 0 {
            self.draining.push(generation);
            let time = u64::from(self.drain) * 1000;
            self.after(time, time, Due::Deadline(generation));
            self.trigger(Trigger::DrainBegan, Place(0));
        }
        let place = set.first().map_or(Place(0), |(_, place)| *place);
        self.trigger(Trigger::Replaced, place);
    }

    /// The settings are those of `config` from now on.
    fn settings_change(&mut self) {
        self.slackest.slacken(&self.config);
        self.ledger.configure(&self.config.settings());
        self.policy.configure(&self.config.settings(), self.time());
        self.see_findings();
        // There may be room for those that wait for some.
        if !self.is_client_link_cut {
            self.let_clients_in();
        }
    }

    fn drains_change(&mut self, time: u32) {
        self.drain = time;
        self.ledger.drains_change(u64::from(time) * 1000);
        for generation in self.draining.clone() {
            let until = self.ledger.drain_until(generation, u64::from(time) * 1000);
            let at = until.unwrap_or_default().max(self.now);
            self.due(at, Due::Deadline(generation));
        }
    }

    /// Whether a drain that has begun is over, given its present time.
    pub(super) fn is_over(&mut self, generation: u64) -> bool {
        let until = self.ledger.drain_until(generation, u64::from(self.drain) * 1000);
        let is_over = until.is_some_and(|until| until <= self.now);
        self.draining.retain(|draining| !is_over || *draining != generation);
        is_over
    }

    fn shut_down(&mut self, grace: u32) {
        if self.is_closing {
            return self.close();
        }
        self.is_closing = true;
        self.note(Note::Closing);
        let grace = u64::from(grace) * 1000;
        self.ledger.closing(self.now + grace);
        self.after(grace, grace, Due::GraceOver);
    }

    pub(super) fn close(&mut self) {
        let killed = self.policy.abort_all();
        self.note(Note::Closed);
        if !killed.is_empty() {
            self.ledger.counts.add(Sometimes::GraceOver, 1);
        }
        self.ledger.closed(killed.len());
        self.signal(killed, Word::Closed);
        self.give_all_probes_up();
    }

    // The nemesis.

    pub(super) fn trigger(&mut self, on: Trigger, place: Place) {
        let mut last = None;
        while let Some(answer) = self.nemesis.answer(on, last, &mut self.entropy) {
            last = Some(answer);
            self.after(answer.after, answer.after, Due::Act(answer.rule, place));
        }
    }

    pub(super) fn act(&mut self, rule: u32, place: Place) {
        self.note(Note::Act(rule, place));
        self.ledger.counts.add(Sometimes::RuleFired, 1);
        match self.nemesis.deed(rule, place, &self.set, &self.scenario.config) {
            Deed::Replace(sets) => sets.iter().for_each(|set| self.replace(set)),
            Deed::ShutDown => self.shut_down(0),
            Deed::Disturb(operation) => self.operate(&operation),
        }
    }

    // The end.

    pub(super) fn heal(&mut self) {
        self.note(Note::Healed);
        self.is_healed = true;
        self.ledger.healed();
        self.nemesis.stop();
        self.places = [PlaceState::default(); PLACES];
        self.let_clients_in();
        self.replace(&all(&self.scenario.config));
        let before = self.config.clone();
        self.config.set_all(&self.scenario.config);
        if self.config != before {
            self.settings_change();
        }
        let config = &self.slackest;
        let settled = u64::from(config.dial_time + config.waiting_timeout) * 1000
            + u64::from(config.moves_max()) * 1000
            + self.ledger.return_max();
        for _ in 0..config.backends {
            self.after(settled, settled, Due::Probe);
        }
    }
}
