//! What becomes of each client.

use std::{mem, time::Duration};

use tinylb_core::{EndReason, Fault};

use super::{
    Policy, Verdict,
    queue::{Due, Failed, Word},
    run::{DialLimits, Run, SessionTask},
};
use crate::{
    Sometimes,
    scenario::{Key, Manner, Place, Plan, SILENCE, Trigger},
    trace::{Failure, Note},
};

/// Microseconds before targets that have failed are dialled again.
const ROUND_PAUSE: u64 = 250_000;

impl<P: Policy> Run<'_, P> {
    pub(super) fn arrive(&mut self, due: Due) {
        if self.is_healed && matches!(due, Due::Loop(_)) {
            return;
        }
        if self.is_closing {
            return;
        }
        let is_full = self.ledger.is_full();
        if is_full || self.is_client_link_cut {
            self.ledger.counts.add(Sometimes::LimitReached, u64::from(is_full));
            return self.parked.push(due);
        }
        let (client, manner, length) = match due {
            Due::Loop(client) => {
                let plan = Plan::draw(&self.scenario.config, &mut self.entropy);
                (Some(client), plan.manner, length_of(&plan))
            }
            Due::Once(length, manner) => (None, manner, length),
            _ => (None, Manner::Ask, 1),
        };
        let session = self.sessions.len() as u32;
        self.sessions.push(SessionTask {
            epoch: 0,
            began: self.now,
            dial_began: self.now,
            waits_since: self.now,
            unpaid: 0,
            failures: 0,
            limits: None,
            client,
            manner,
            length,
            is_probe: due == Due::Probe,
            has_ended: false,
        });
        let verdict = self.policy.admit(session);
        self.note(Note::Accepted(u64::from(session)));
        self.ledger.accepted_one(u64::from(session));
        match verdict {
            Verdict::Dial(key, place) => self.dial(session, key, place),
            Verdict::Wait => {
                let timeout = u64::from(self.config.waiting_timeout) * 1000;
                self.after(timeout, timeout, Due::WaitOver(session, 0));
            }
            Verdict::End(reason) => self.end(session, reason),
        }
    }

    /// A session was given a backend.
    pub(super) fn dial(&mut self, session: u32, key: Key, place: Place) {
        let serial = u64::from(session);
        self.note(Note::Admitted(serial, key, place));
        self.ledger.admitted(serial, key, place);
        self.note(Note::DialStarted(serial, place));
        self.ledger.dial_started(serial, place);
        let config = &self.config;
        let state = &mut self.places[usize::from(place.0)];
        let record = &mut self.sessions[session as usize];
        let limits = *record.limits.get_or_insert(DialLimits {
            timeout: u64::from(config.dial_timeout) * 1000,
            time_max: u64::from(config.dial_time) * 1000,
            attempts_max: config.dial_attempts,
        });
        self.probed |= u64::from(record.is_probe) << place.0;
        record.epoch += 1;
        let epoch = record.epoch;
        if mem::take(&mut state.panics) {
            self.ledger.may_panic(serial);
            return self.after(0, 0, Due::Signalled(session, epoch, Word::Panicked));
        }
        record.dial_began = self.now;
        let used = self.now - record.began - record.unpaid;
        let timeout = limits.time_max.saturating_sub(used).min(limits.timeout);
        let (takes, failed) = self.connect(place, timeout);
        self.after(takes, takes, Due::Dialled(session, epoch, failed));
        let patience = self.policy.patience(session).map(|time| time.as_micros() as u64);
        if self.policy.ejects() {
            self.ledger.check_patience(serial, patience);
        }
        if let Some(patience) = patience.filter(|patience| *patience < timeout) {
            self.after(patience, patience, Due::Overdue(session, epoch));
        }
        self.trigger(Trigger::DialStarted, place);
    }

    pub(super) fn dialled(&mut self, session: u32, failed: Failed) {
        let serial = u64::from(session);
        let place = self.ledger.place_of(serial);
        let lasted =
            self.time() - Duration::from_micros(self.sessions[session as usize].dial_began);
        let Failed::Through(fault) = self.by_now(place, failed) else {
            if self.policy.connected(session, lasted, self.time()) {
                self.note(Note::Connected(serial, place));
                self.ledger.connected(serial, place);
                self.see_findings();
                self.relay(session);
                self.trigger(Trigger::Connected, place);
            } else {
                self.ledger.counts.add(Sometimes::LateConnect, 1);
                self.dial_failed(session, place, Failure::Revoked);
            }
            return;
        };
        let (failure, what) = match fault {
            Fault::TimedOut => (Failure::TimedOut, Sometimes::DialTimedOut),
            fault => (Failure::Failed(fault), Sometimes::DialRefused),
        };
        self.ledger.counts.add(what, 1);
        self.policy.dial_failed(session, fault, lasted, self.time());
        self.dial_failed(session, place, failure);
    }

    pub(super) fn dial_failed(&mut self, session: u32, place: Place, failure: Failure) {
        let serial = u64::from(session);
        self.note(Note::DialFailed(serial, failure));
        self.ledger.dial_failed(serial, failure);
        self.see_findings();
        let record = &mut self.sessions[session as usize];
        let counts = !matches!(failure, Failure::Revoked | Failure::GivenUp);
        record.failures += u32::from(counts);
        if failure == Failure::GivenUp {
            record.unpaid += self.now - record.dial_began;
        }
        let (failures, began) = (record.failures, record.began + record.unpaid);
        let limits = self.limits_of(session);
        if failures >= limits.attempts_max {
            self.end(session, EndReason::DialFailed);
        } else if self.now - began >= limits.time_max {
            self.end(session, EndReason::DialTimedOut);
        } else if counts && self.ledger.has_tried_all(serial) {
            // A signal to the session meanwhile still counts, and ends the pause.
            let epoch = self.sessions[session as usize].epoch;
            let left = began + limits.time_max - self.now;
            let pause = ROUND_PAUSE.min(left);
            self.after(pause, pause, Due::Again(session, epoch));
        } else {
            self.retry(session);
        }
        self.trigger(Trigger::DialFailed, place);
    }

    pub(super) fn retry(&mut self, session: u32) {
        let time = self.limits_of(session).time_max;
        let record = &self.sessions[session as usize];
        if self.now - record.began - record.unpaid >= time {
            return self.end(session, EndReason::DialTimedOut);
        }
        match self.policy.retry(session) {
            Verdict::Dial(key, place) => self.dial(session, key, place),
            Verdict::Wait => {
                self.ledger.waits(u64::from(session));
                let record = &mut self.sessions[session as usize];
                record.epoch += 1;
                record.waits_since = self.now;
                let epoch = record.epoch;
                let timeout = u64::from(self.config.waiting_timeout) * 1000;
                self.after(timeout, timeout, Due::WaitOver(session, epoch));
            }
            Verdict::End(reason) => self.end(session, reason),
        }
    }

    fn limits_of(&self, session: u32) -> DialLimits {
        self.sessions[session as usize].limits.expect("a session that has dialled has its limits")
    }

    fn relay(&mut self, session: u32) {
        let record = &mut self.sessions[session as usize];
        record.epoch += 1;
        let (epoch, length) = (record.epoch, u64::from(record.length) * 1000);
        let reason = match record.manner {
            Manner::ClientAborts => EndReason::ClientFailed,
            Manner::BackendAborts => EndReason::BackendFailed,
            _ => EndReason::Finished,
        };
        self.after(length / 2, length, Due::Over(session, epoch, reason));
    }

    pub(super) fn end(&mut self, session: u32, reason: EndReason) {
        let serial = u64::from(session);
        let place = self.ledger.place_of(serial);
        self.policy.finish(session, reason);
        self.note(Note::Ended(serial, reason));
        self.ledger.ended(serial, reason);
        let record = &mut self.sessions[session as usize];
        record.has_ended = true;
        let client = record.client;
        if let Some(client) = client {
            let pause = u64::from(self.scenario.config.pause) * 1000;
            self.after(1, pause, Due::Loop(client));
        }
        if !self.is_client_link_cut
            && let Some(due) = self.parked.pop()
        {
            self.after(0, 1000, due);
        }
        self.trigger(Trigger::Ended, place);
    }

    pub(super) fn signal(&mut self, sessions: Vec<u32>, word: Word) {
        for session in sessions {
            let epoch = self.sessions[session as usize].epoch;
            self.after(0, 3000, Due::Signalled(session, epoch, word));
        }
    }

    pub(super) fn signalled(&mut self, session: u32, word: Word) {
        let reason = match word {
            Word::Removed => EndReason::BackendRemoved,
            Word::Expired => EndReason::DrainExpired,
            Word::Silent => EndReason::BackendSilent,
            Word::Refused => EndReason::NoBackends,
            Word::Closed => EndReason::Shutdown,
            Word::Panicked => EndReason::Panicked,
            Word::Revoked => {
                let place = self.ledger.place_of(u64::from(session));
                return self.dial_failed(session, place, Failure::Revoked);
            }
        };
        self.end(session, reason);
    }
}

/// How long a connection lasts, in milliseconds.
pub(super) fn length_of(plan: &Plan) -> u32 {
    let pieces = (plan.up + plan.down) / 1500 + 1;
    match plan.manner {
        Manner::Idle | Manner::Stall => SILENCE,
        _ => 5 + pieces * plan.pace,
    }
}
