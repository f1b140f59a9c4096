//! What becomes of sessions.

use tinylb_core::EndReason;

use super::{Ledger, Phase, Session};
use crate::{
    Law, Sometimes,
    scenario::{Key, Place},
    trace::Failure,
};

impl Ledger {
    pub(crate) fn accepted_one(&mut self, serial: u64) {
        if serial != self.sessions.len() as u64 {
            let text =
                format!("session {serial} was accepted after {} others", self.sessions.len());
            return self.fail(Law::OneEnd, text);
        }
        if self.is_closing {
            self.fail(Law::Shutdown, format!("session {serial} was accepted after the shutdown"));
        }
        let waits = !self.has_set && self.waiting < self.waiting_max;
        self.waiting += usize::from(waits);
        self.sessions.push(Session {
            phase: if waits { Phase::Waiting } else { Phase::New },
            key: Key(0),
            place: Place(0),
            tried: 0,
            failures: 0,
            live_at: self.live.len() as u32,
            began: self.at,
            dial_began: 0,
            may_panic: false,
            is_doubtful: false,
        });
        self.live.push(serial as u32);
    }

    pub(crate) fn admitted(&mut self, serial: u64, key: Key, place: Place) {
        let Some(session) = self.session(serial) else { return };
        let phase = session.phase;
        if self.has_tried_all(serial) {
            self.counts.add(Sometimes::TriedAgain, 1);
            self.sessions[serial as usize].tried = 0;
        }
        let tried = self.sessions[serial as usize].tried;
        match phase {
            Phase::New | Phase::Revoked(_) | Phase::Failed => {}
            Phase::Waiting => {
                self.waiting -= 1;
                let earlier = (0..serial as usize)
                    .rev()
                    .find(|earlier| self.sessions[*earlier].phase == Phase::Waiting);
                if let Some(earlier) = earlier {
                    let text = format!("session {serial} was admitted before session {earlier}");
                    self.fail(Law::Order, text);
                }
            }
            phase => {
                self.fail(Law::Pool, format!("session {serial} was admitted while {phase:?}"));
            }
        }
        match phase {
            Phase::Waiting => self.counts.add(Sometimes::WaitingAdmitted, 1),
            Phase::Revoked(_) => self.counts.add(Sometimes::RetryAfterRevoked, 1),
            _ => {}
        }
        self.leave_pool(serial, phase);
        self.check_turn(serial, key, place, tried);
        let at = self.at;
        let session = &mut self.sessions[serial as usize];
        if matches!(phase, Phase::Waiting) {
            session.began = at;
        }
        session.phase = Phase::Dialling;
        (session.key, session.place, session.dial_began) = (key, place, 0);
        self.loads[usize::from(place.0)].dialling += 1;
    }

    /// Whether dials of each target of the set have failed for a session.
    pub(crate) fn has_tried_all(&self, serial: u64) -> bool {
        let tried = self.sessions.get(serial as usize).map_or(0, |session| session.tried);
        !self.set.is_empty() && self.set.iter().all(|(_, place)| tried & 1 << place.0 != 0)
    }

    pub(crate) fn dial_started(&mut self, serial: u64, place: Place) {
        let at = self.at;
        let Some(session) = self.session(serial) else { return };
        session.dial_began = at.max(1);
        let (phase, expected) = (session.phase, session.place);
        if phase != Phase::Dialling || expected != place {
            let text = format!("session {serial} dials {place} while {phase:?} with {expected}");
            self.fail(Law::InSet, text);
        }
    }

    pub(crate) fn dial_failed(&mut self, serial: u64, failure: Failure) {
        let at = self.at + self.slack;
        let (timeout, time_max) = (self.dial_timeout, self.dial_time_max);
        let Some(session) = self.session(serial) else { return };
        let due = (session.dial_began + timeout).min(session.began + time_max);
        let is_early = failure == Failure::TimedOut && at < due;
        let was_revoked = failure == Failure::Revoked;
        match session.phase {
            Phase::Dialling if !was_revoked => {
                session.phase = Phase::Failed;
                session.tried |= 1 << session.place.0;
                session.failures += 1;
            }
            // It failed in the moment in which it was revoked.
            Phase::Revoked(_) => session.failures += u32::from(!was_revoked),
            phase => {
                let text = format!("a dial of session {serial} failed while {phase:?}");
                return self.fail(if was_revoked { Law::Kept } else { Law::Pool }, text);
            }
        }
        let failures = session.failures;
        if failures > self.dial_attempts_max {
            let text = format!("session {serial} has failed to dial {failures} times");
            self.fail(Law::TimeLimit, text);
        }
        if is_early {
            self.fail(Law::TimeLimit, format!("a dial of session {serial} timed out too early"));
        }
    }

    /// The next dial of this session may panic.
    pub(crate) fn may_panic(&mut self, serial: u64) {
        if let Some(session) = self.sessions.get_mut(serial as usize) {
            session.may_panic = true;
        }
    }

    pub(crate) fn connected(&mut self, serial: u64, place: Place) {
        let Some(session) = self.session(serial) else { return };
        let (phase, expected) = (session.phase, session.place);
        session.phase = Phase::Connected;
        let load = &mut self.loads[usize::from(expected.0)];
        if phase == Phase::Dialling && expected == place {
            load.dialling -= 1;
            load.connected += 1;
        } else {
            load.connected += 1;
            let text = format!("session {serial} is connected to {place} while {phase:?}");
            self.fail(Law::InSet, text);
        }
    }

    pub(crate) fn ended(&mut self, serial: u64, reason: EndReason) {
        let Some(session) = self.session(serial) else { return };
        let (phase, live_at) = (session.phase, session.live_at as usize);
        if phase == Phase::Ended {
            return self.fail(Law::OneEnd, format!("session {serial} has ended twice"));
        }
        self.check_reason(serial, reason);
        let counted = match reason {
            EndReason::Finished => Some(Sometimes::Finished),
            EndReason::NoBackends => Some(Sometimes::EmptySetHit),
            EndReason::WaitingFull => Some(Sometimes::WaitingFull),
            EndReason::WaitingTimedOut => Some(Sometimes::WaitingTimedOut),
            EndReason::DialFailed => Some(Sometimes::DialFailed),
            EndReason::DrainExpired => Some(Sometimes::DrainExpired),
            EndReason::Panicked => Some(Sometimes::DialPanicked),
            _ => None,
        };
        if let Some(what) = counted {
            self.counts.add(what, 1);
        }
        self.sessions[serial as usize].phase = Phase::Ended;
        self.waiting -= usize::from(phase == Phase::Waiting);
        self.leave_pool(serial, phase);
        self.live.swap_remove(live_at);
        if let Some(moved) = self.live.get(live_at) {
            self.sessions[*moved as usize].live_at = live_at as u32;
        }
    }

    fn check_reason(&mut self, serial: u64, reason: EndReason) {
        let session = &self.sessions[serial as usize];
        let (phase, now) = (session.phase, self.at);
        let since_began = now.saturating_sub(session.began);
        let is_between = matches!(phase, Phase::Failed | Phase::Revoked(_));
        let is_relaying = phase.may_move();
        let is_true = match reason {
            EndReason::Finished => is_relaying,
            EndReason::BackendRemoved => matches!(phase, Phase::Cut(_)),
            EndReason::DrainExpired => match phase {
                Phase::Draining(_, until) => {
                    now + self.slack >= until || session.is_doubtful && self.is_in_doubt()
                }
                Phase::Connected => session.is_doubtful && self.is_in_doubt(),
                phase => matches!(phase, Phase::Expired(_)),
            },
            EndReason::NoBackends => {
                phase == Phase::Refused && self.has_set
                    || self.has_set && self.set.is_empty() && (phase == Phase::New || is_between)
            }
            EndReason::WaitingFull => phase == Phase::New && !self.has_set,
            // Its time may be over in the moment in which the first set, an empty one, ends it.
            EndReason::WaitingTimedOut => {
                matches!(phase, Phase::Waiting | Phase::Refused)
                    && since_began + self.slack >= self.waiting_timeout
            }
            EndReason::DialFailed => is_between && session.failures >= self.dial_attempts_max,
            EndReason::DialTimedOut => is_between && since_began + self.slack >= self.dial_time_max,
            EndReason::ClientFailed => phase != Phase::New,
            EndReason::BackendFailed | EndReason::HalfCloseTimedOut | EndReason::IdleTimedOut => {
                is_relaying
            }
            EndReason::Shutdown => self.has_closed(),
            EndReason::Panicked => session.may_panic,
            _ => false,
        };
        if !is_true {
            let text = format!("session {serial} ended with {reason} while {phase:?}");
            let law = match reason {
                EndReason::BackendRemoved | EndReason::DrainExpired => Law::Kept,
                EndReason::Panicked => Law::Panic,
                _ => Law::OneEnd,
            };
            self.fail(law, text);
        }
    }

    /// A session in this phase gives up what it has in the pool, or owes.
    pub(super) fn leave_pool(&mut self, serial: u64, phase: Phase) {
        let load = &mut self.loads[usize::from(self.sessions[serial as usize].place.0)];
        match phase {
            Phase::Dialling | Phase::Failed => load.dialling -= 1,
            Phase::Connected | Phase::Draining(..) => load.connected -= 1,
            Phase::Revoked(generation) | Phase::Cut(generation) | Phase::Expired(generation) => {
                if let Some(at) = self.owed.iter().position(|(number, _)| *number == generation) {
                    self.owed[at].1 -= 1;
                    if self.owed[at].1 == 0 {
                        self.owed.remove(at);
                    }
                }
            }
            _ => {}
        }
    }

    pub(super) fn session(&mut self, serial: u64) -> Option<&mut Session> {
        if serial >= self.sessions.len() as u64 {
            self.fail(Law::OneEnd, format!("session {serial} was never accepted"));
            return None;
        }
        self.sessions.get_mut(serial as usize)
    }
}
