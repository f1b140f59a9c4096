//! What becomes of sessions.

use tinylb_core::{EndReason, Fault};

use super::{Account, Ledger, Phase, Tried, turns::Coming};
use crate::{
    Law, Sometimes,
    oracle::health::{Stake, Way},
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
        self.check_room(serial);
        let waits = self.may_wait() && self.waiting < self.limits.waiting_max;
        self.waiting += usize::from(waits);
        self.sessions.push(Account {
            phase: if waits { Phase::Waiting } else { Phase::New },
            key: Key(0),
            place: Place(0),
            tried: Tried::default(),
            or_tried: Vec::new(),
            failures: 0,
            live_at: self.live.len() as u32,
            began: self.at,
            dial_limits: None,
            dial_began: 0,
            may_panic: false,
            is_doubtful: false,
            stake: Stake { place: Place(0), successes: 0, began: 0, patience: None },
            moves: 0,
            is_moving: false,
            unpaid: 0,
            stuck_since: None,
            waits_since: waits.then_some(self.at),
        });
        self.live.push(serial as u32);
    }

    pub(crate) fn admitted(&mut self, serial: u64, key: Key, place: Place) {
        let serves_waiting = self.serves_waiting;
        let Some(session) = self.session(serial) else { return };
        let phase = session.phase;
        let coming = match phase {
            Phase::Waiting => Coming::HasWaited,
            Phase::Revoked(_) if session.waits_since.is_some() && serves_waiting => Coming::Either,
            _ => Coming::Asks,
        };
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
        self.check_turn(serial, key, place, coming);
        let (at, successes) = (self.at, self.health.successes(place));
        let session = &mut self.sessions[serial as usize];
        if let Some(since) = session.waits_since.take() {
            session.unpaid += at - since;
        }
        session.phase = Phase::Dialling;
        (session.key, session.place, session.dial_began) = (key, place, 0);
        session.stake = Stake { place, successes, began: 0, patience: None };
        (session.is_moving, session.stuck_since) = (false, None);
        self.loads[usize::from(place.0)].dialling += 1;
    }

    /// Whether dials of each target of the set have failed for a session.
    pub(crate) fn has_tried_all(&self, serial: u64) -> bool {
        let Some(session) = self.sessions.get(serial as usize) else { return false };
        !self.set.is_empty() && self.set.iter().all(|(_, place)| session.tried.has(*place))
    }

    pub(crate) fn dial_started(&mut self, serial: u64, place: Place) {
        self.serves_waiting = false;
        let (at, now, patience) = (self.at, self.now, self.health.patience(place));
        let limits = self.limits.dial;
        let Some(session) = self.session(serial) else { return };
        session.dial_limits.get_or_insert(limits);
        session.dial_began = at.max(1);
        (session.stake.began, session.stake.patience) = (now, patience);
        let (phase, expected) = (session.phase, session.place);
        if phase != Phase::Dialling || expected != place {
            let text = format!("session {serial} dials {place} while {phase:?} with {expected}");
            self.fail(Law::InSet, text);
        }
    }

    pub(crate) fn dial_failed(&mut self, serial: u64, failure: Failure) {
        let at = self.at + self.slack;
        let limits = self.limits.dial;
        self.serves_waiting = false;
        self.note_silenced(self.place_of(serial));
        let Some(session) = self.session(serial) else { return };
        let limits = *session.dial_limits.get_or_insert(limits);
        let due = (session.dial_began + limits.timeout)
            .min(session.began + session.unpaid + limits.time_max);
        let is_early = failure == Failure::TimedOut && at < due;
        let (was_revoked, moves) = (failure == Failure::Revoked, failure == Failure::GivenUp);
        let (phase, stake) = (session.phase, session.stake);
        match phase {
            Phase::Dialling if moves => {
                self.given_up(serial);
                self.sessions[serial as usize].phase = Phase::Failed;
            }
            Phase::Revoked(_) if moves => self.given_up(serial),
            Phase::Dialling if !was_revoked => {
                session.phase = Phase::Failed;
                let place = session.place;
                session.all_tried_mut().for_each(|tried| tried.add(place));
                session.failures += 1;
                let fault = match failure {
                    Failure::Failed(fault) => fault,
                    _ => Fault::TimedOut,
                };
                self.health.dial_failed(self.now, &stake, fault);
                self.counts.add(Sometimes::OwnFault, u64::from(fault == Fault::Ours));
            }
            // It failed in the moment in which it was revoked.
            Phase::Revoked(_) => session.failures += u32::from(!was_revoked),
            phase => {
                let text = format!("a dial of session {serial} failed while {phase:?}");
                return self.fail(if was_revoked { Law::Kept } else { Law::Pool }, text);
            }
        }
        let failures = self.sessions[serial as usize].failures;
        if failures > limits.attempts_max {
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
        self.note_silenced(place);
        let now = self.now;
        let Some(session) = self.session(serial) else { return };
        let (phase, expected) = (session.phase, session.place);
        let took = now.saturating_sub(session.stake.began);
        session.phase = Phase::Connected;
        self.health.succeeded(now, place, took, Way::Dial);
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
            EndReason::BackendSilent => Some(Sometimes::SilenceCut),
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
        let dialled = since_began.saturating_sub(session.unpaid);
        let waited = now.saturating_sub(session.waits_since.unwrap_or(now));
        let is_between = matches!(phase, Phase::Failed | Phase::Revoked(_));
        let is_new_or_between = phase == Phase::New || is_between;
        let is_relaying = phase.may_move();
        // What was so when it was refused may have changed since, and what it waited for may have
        // come.
        let may_be_outdated = self.is_concurrent && now <= self.filled_at + self.slack;
        let has_just_waited =
            self.is_concurrent && phase == Phase::Dialling && session.dial_began == 0;
        let is_true = match reason {
            EndReason::Finished => is_relaying,
            EndReason::BackendRemoved => matches!(phase, Phase::Cut(_)),
            EndReason::DrainExpired => {
                let is_due = match phase {
                    Phase::Draining(_, until) => now + self.slack >= until,
                    phase => matches!(phase, Phase::Expired(_)),
                };
                is_due || is_relaying && session.is_doubtful && self.is_in_doubt()
            }
            EndReason::WaitingTimedOut if has_just_waited => true,
            EndReason::NoBackends | EndReason::WaitingFull
                if may_be_outdated && is_new_or_between =>
            {
                true
            }
            EndReason::NoBackends if self.waits_if_empty => false,
            EndReason::NoBackends => {
                phase == Phase::Refused && self.has_set
                    || self.has_set && self.set.is_empty() && (phase == Phase::New || is_between)
            }
            // Of those that wait again after an attempt that was revoked, it may know too few.
            EndReason::WaitingFull if self.waits_if_empty && self.has_set => {
                self.may_wait() && (phase == Phase::Waiting && waited == 0 || is_new_or_between)
            }
            EndReason::WaitingFull => phase == Phase::New && !self.has_set,
            // Its time may be over in the moment in which the first set, an empty one, ends it.
            EndReason::WaitingTimedOut => {
                let waits = matches!(phase, Phase::Waiting | Phase::Refused)
                    || session.waits_since.is_some() && is_between;
                waits && waited + self.slack >= self.waiting_timeout(session).0
            }
            EndReason::BackendSilent => {
                let is_silent = self.health.may_be_silent(self.now + self.slack, session.place);
                matches!(phase, Phase::Silenced(_))
                    || is_relaying && (is_silent || session.is_doubtful)
            }
            EndReason::DialFailed | EndReason::DialTimedOut => {
                is_between && self.has_used_up(session, reason, dialled)
            }
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
                EndReason::BackendRemoved | EndReason::DrainExpired | EndReason::BackendSilent => {
                    Law::Kept
                }
                EndReason::NoBackends if !self.set.is_empty() => Law::NoWorse,
                EndReason::DialFailed | EndReason::DialTimedOut if session.moves > 0 => {
                    Law::NoWorse
                }
                EndReason::Panicked => Law::Panic,
                _ => Law::OneEnd,
            };
            self.fail(law, text);
        }
    }

    /// A session in this phase gives up what it has in the pool, or owes.
    pub(super) fn leave_pool(&mut self, serial: u64, phase: Phase) {
        // A session that had no backend yet has no place.
        let place = usize::from(self.sessions[serial as usize].place.0);
        match phase {
            Phase::Dialling | Phase::Failed => self.loads[place].dialling -= 1,
            Phase::Connected | Phase::Draining(..) => self.loads[place].connected -= 1,
            Phase::Revoked(generation)
            | Phase::Cut(generation)
            | Phase::Expired(generation)
            | Phase::Silenced(generation) => self.acknowledged(generation),
            _ => {}
        }
    }

    /// Whether sessions may wait for a set with backends.
    fn may_wait(&self) -> bool {
        !self.has_set || self.waits_if_empty && self.set.is_empty()
    }

    /// A session that has dialled waits for a set with backends.
    pub(crate) fn waits(&mut self, serial: u64) {
        let phase = self.sessions[serial as usize].phase;
        if !self.may_wait() || !matches!(phase, Phase::Revoked(_) | Phase::Failed) {
            self.fail(Law::Pool, format!("session {serial} is to wait while {phase:?}"));
        }
        self.leave_pool(serial, phase);
        self.waiting += 1;
        let session = &mut self.sessions[serial as usize];
        session.phase = Phase::Waiting;
        session.waits_since.get_or_insert(self.at);
        self.counts.add(Sometimes::WaitedAgain, 1);
    }

    pub(super) fn session(&mut self, serial: u64) -> Option<&mut Account> {
        if serial >= self.sessions.len() as u64 {
            self.fail(Law::OneEnd, format!("session {serial} was never accepted"));
            return None;
        }
        self.sessions.get_mut(serial as usize)
    }
}
