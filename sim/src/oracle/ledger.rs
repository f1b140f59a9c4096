//! What a balancer may do, decided anew from what it says that it does.

use std::fmt::Display;

use tinylb_core::{EndReason, Load};

use super::{Law, Violation};
use crate::{
    Counts, Sometimes,
    scenario::{Backends, Config, Key, Place},
    trace::Failure,
};

/// A naive balancer beside the one that is judged. It hears of each step, and says whether the step
/// was the right one. It knows neither bytes nor packets.
///
/// Times are microseconds since the beginning.
pub(crate) struct Ledger {
    at: u64,
    is_fair: bool,
    may_be_unheard: bool,
    dial_timeout: u64,
    dial_time_max: u64,
    dial_attempts_max: u32,
    waiting_max: usize,
    waiting_timeout: u64,
    start: u64,

    set: Backends,
    has_set: bool,
    /// How many keys each place has.
    keys_of: [u8; PLACES],
    /// The key served last.
    anchor: Option<Key>,
    generation: u64,
    sessions: Vec<Session>,
    /// Serials of those that have not ended, in no order.
    live: Vec<u32>,
    waiting: usize,
    loads: [PlaceLoad; PLACES],
    /// Replacements that took attempts out, ascending, each with how many have not let go.
    owed: Vec<(u64, u32)>,
    is_closing: bool,
    /// When the server aborts what is left, or has done so.
    closes_at: Option<u64>,
    /// How late a timer may be.
    slack: u64,
    /// When the unfinished drains began, by replacement, ascending.
    drains: Vec<(u64, u64)>,
    /// Until then, if a session's target came back after its deadline, or its deadline was
    /// postponed after it, the session may be kept or cut.
    doubt_until: u64,
    violations: Vec<Violation>,
    pub(crate) counts: Counts,
}

/// A scenario has at most 32 backends.
pub(crate) const PLACES: usize = 32;

/// How late a timer may be in a simulation: the clock's grain, and a task that has to wait for the
/// others.
pub(crate) const SLACK: u64 = 30_000;

#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct PlaceLoad {
    dialling: u32,
    connected: u32,
}

struct Session {
    phase: Phase,
    key: Key,
    place: Place,
    /// A bit for each place whose dial failed.
    tried: u32,
    failures: u32,
    /// Its place among the live.
    live_at: u32,
    /// When it began to wait or to dial for the first time.
    began: u64,
    /// When this attempt's dial began; 0: not yet.
    dial_began: u64,
    /// The target's dial is to panic.
    may_panic: bool,
    /// Its target came back after the deadline of its drain, or the deadline was postponed after it
    /// had passed; the deadline may have come first.
    is_doubtful: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Accepted, and no more is known.
    New,
    Waiting,
    /// It waited in vain, and is about to end: the first set was empty, or the server has closed.
    Refused,
    Dialling,
    /// The dial has failed; still in the pool until the next attempt.
    Failed,
    /// Taken out by this replacement while it dialled.
    Revoked(u64),
    Connected,
    /// Since this replacement, until this time.
    Draining(u64, u64),
    /// Taken out by this replacement.
    Cut(u64),
    /// Taken out by the deadline of this replacement's drain.
    Expired(u64),
    Ended,
}

impl Phase {
    /// Whether bytes may move in it, or may have moved just before.
    fn may_move(self) -> bool {
        matches!(self, Self::Connected | Self::Draining(..) | Self::Cut(_) | Self::Expired(_))
    }
}

/// What a replacement says it did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said {
    pub(crate) generation: u64,
    pub(crate) cut: usize,
    pub(crate) revoked: usize,
    pub(crate) draining: usize,
}

impl Ledger {
    pub(crate) fn new(config: &Config) -> Self {
        let us = |ms: u32| u64::from(ms) * 1000;
        Self {
            at: 0,
            is_fair: true,
            may_be_unheard: false,
            dial_timeout: us(config.dial_timeout),
            dial_time_max: us(config.dial_time),
            dial_attempts_max: config.dial_attempts,
            waiting_max: config.waiting as usize,
            waiting_timeout: us(config.waiting_timeout),
            start: u64::from(config.start),
            set: Vec::new(),
            has_set: false,
            keys_of: [0; PLACES],
            anchor: None,
            generation: 0,
            sessions: Vec::new(),
            live: Vec::new(),
            waiting: 0,
            loads: [PlaceLoad::default(); PLACES],
            owed: Vec::new(),
            is_closing: false,
            closes_at: None,
            slack: SLACK,
            drains: Vec::new(),
            doubt_until: 0,
            violations: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// Doesn't ask for turns in key order: for a policy that chooses otherwise.
    pub(crate) fn allow_any_order(&mut self) {
        self.is_fair = false;
    }

    /// Lets replacements go unheard of that change nothing.
    pub(crate) fn allow_unheard(&mut self) {
        self.may_be_unheard = true;
    }

    /// Lets timers be this late, in microseconds.
    pub(crate) fn set_slack(&mut self, slack: u64) {
        self.slack = slack;
    }

    /// What comes now happens at this time.
    pub(crate) fn set_time(&mut self, at: u64) {
        self.at = at;
    }

    pub(crate) fn violations(&self) -> &[Violation] {
        &self.violations
    }

    pub(crate) fn live(&self) -> usize {
        self.live.len()
    }

    /// The set, once there is one.
    pub(crate) fn set(&self) -> Option<&Backends> {
        self.has_set.then_some(&self.set)
    }

    /// Whether the balancer may move bytes for a session.
    pub(crate) fn may_move(&self, serial: u64) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| session.phase.may_move())
    }

    /// Whether a session may have, or await, a connection to this place.
    pub(crate) fn is_at(&self, serial: u64, place: Place) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| {
            let is_dialling = matches!(session.phase, Phase::Dialling | Phase::Revoked(_));
            session.place == place && (is_dialling || session.phase.may_move())
        })
    }

    /// How many sessions were accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.sessions.len() as u64
    }

    pub(crate) fn has_ended(&self, serial: u64) -> bool {
        self.sessions.get(serial as usize).is_some_and(|session| session.phase == Phase::Ended)
    }

    /// Whether the balancer may have to do with a place: it is in the set, or a session is there
    /// that drains or hasn't let go yet.
    pub(crate) fn is_in_use(&self, place: Place) -> bool {
        self.keys_of[usize::from(place.0)] > 0
            || self.live.iter().any(|serial| {
                let session = &self.sessions[*serial as usize];
                let may_be_there = matches!(
                    session.phase,
                    Phase::Draining(..)
                        | Phase::Cut(_)
                        | Phase::Expired(_)
                        | Phase::Revoked(_)
                        | Phase::Failed
                );
                session.place == place && may_be_there
            })
    }

    /// The target of a session's newest attempt; b0 if there was none.
    pub(crate) fn place_of(&self, serial: u64) -> Place {
        self.sessions.get(serial as usize).map_or(Place(0), |session| session.place)
    }

    /// Where a session is served, if it is connected.
    pub(crate) fn connected_place(&self, serial: u64) -> Option<Place> {
        let session = self.sessions.get(serial as usize)?;
        matches!(session.phase, Phase::Connected | Phase::Draining(..)).then_some(session.place)
    }

    pub(crate) fn fail(&mut self, law: Law, text: String) {
        self.violations.push(Violation { at: self.at, law, text });
    }

    // Sessions.

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

    /// The pick is the next turn, or the first target after it that this session hasn't tried.
    fn check_turn(&mut self, serial: u64, key: Key, place: Place, tried: u32) {
        let is_tried = |(_, place): &(Key, Place)| tried & 1 << place.0 != 0;
        if !self.set.contains(&(key, place)) {
            let text = format!("session {serial} was given {key}={place}, which isn't in the set");
            self.fail(Law::Pick, text);
            return;
        }
        if !self.is_fair {
            return;
        }
        let length = self.set.len();
        let next = match self.anchor {
            None => (self.start % length as u64) as usize,
            Some(anchor) => self.set.iter().position(|(key, _)| *key > anchor).unwrap_or(0),
        };
        let turn = self.set[next];
        if !is_tried(&turn) {
            self.anchor = Some(key);
            if turn != (key, place) {
                let text = format!(
                    "session {serial} was given {key}={place}, and it was the turn of {}={}",
                    turn.0, turn.1
                );
                self.fail(Law::Fairness, text);
            }
            return;
        }
        self.counts.add(Sometimes::TurnPassed, 1);
        let due = (1..length).map(|step| self.set[(next + step) % length]).find(|e| !is_tried(e));
        if due != Some((key, place)) {
            self.anchor = Some(key);
            let text = format!("session {serial} was given {key}={place} for a retry, not {due:?}");
            self.fail(Law::Fairness, text);
        }
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
    fn leave_pool(&mut self, serial: u64, phase: Phase) {
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

    fn session(&mut self, serial: u64) -> Option<&mut Session> {
        if serial >= self.sessions.len() as u64 {
            self.fail(Law::OneEnd, format!("session {serial} was never accepted"));
            return None;
        }
        self.sessions.get_mut(serial as usize)
    }

    // Sets.

    /// The set was replaced by this one; `drain_until`: what sessions of removed targets may do.
    pub(crate) fn replaced(&mut self, set: &Backends, said: Said, drain_until: Option<u64>) {
        self.said_again(said.generation);
        let generation = said.generation;
        let mut keys_of = [0; PLACES];
        for (_, place) in set {
            keys_of[usize::from(place.0)] += 1;
        }
        let (mut cut, mut revoked, mut draining, mut refused) = (0, 0, 0, 0);
        let (mut kept, mut shared, mut interrupted) = (0, 0, 0);
        let was_in_doubt = self.is_in_doubt();
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            let place = usize::from(session.place.0);
            let stays = keys_of[place] > 0;
            match session.phase {
                Phase::Dialling | Phase::Failed if !stays => {
                    // What had failed already counts as revoked, and isn't tried.
                    if session.phase == Phase::Failed {
                        session.tried &= !(1 << place);
                    }
                    session.phase = Phase::Revoked(generation);
                    self.loads[place].dialling -= 1;
                    revoked += 1;
                }
                Phase::Connected if !stays => match drain_until {
                    Some(until) => {
                        session.phase = Phase::Draining(generation, until);
                        draining += 1;
                    }
                    None => {
                        session.phase = Phase::Cut(generation);
                        self.loads[place].connected -= 1;
                        cut += 1;
                    }
                },
                Phase::Draining(_, until) if stays => {
                    session.phase = Phase::Connected;
                    let may_be_over = self.at >= until;
                    session.is_doubtful = may_be_over || session.is_doubtful && was_in_doubt;
                    if may_be_over {
                        self.doubt_until = self.at + self.slack;
                    }
                    interrupted += 1;
                }
                Phase::Dialling => kept += 1,
                Phase::Connected if keys_of[place] < self.keys_of[place] => shared += 1,
                Phase::Waiting if set.is_empty() => {
                    session.phase = Phase::Refused;
                    refused += 1;
                }
                _ => {}
            }
        }
        self.waiting -= refused;
        for (what, times) in [
            (Sometimes::CutSession, cut),
            (Sometimes::RevokedDial, revoked),
            (Sometimes::KeptDial, kept),
            (Sometimes::SharedTargetKept, shared),
            (Sometimes::DrainInterrupted, interrupted),
        ] {
            self.counts.add(what, times as u64);
        }
        self.owe(generation, (cut + revoked) as u32);
        if draining > 0 {
            self.drains.push((generation, self.at));
        }
        self.set.clone_from(set);
        self.keys_of = keys_of;
        self.has_set = true;
        let is_report_wrong = (cut, revoked, draining) != (said.cut, said.revoked, said.draining);
        if is_report_wrong && !self.has_closed() && !self.is_in_doubt() {
            let text = format!(
                "replacement {generation} says that it cut {}, revoked {} and drains {}, and it \
                 had to cut {cut}, revoke {revoked} and drain {draining}",
                said.cut, said.revoked, said.draining
            );
            self.fail(Law::Report, text);
        }
    }

    /// A replacement that changes nothing.
    pub(crate) fn said_again(&mut self, generation: u64) {
        let is_next = match self.may_be_unheard {
            true => generation > self.generation,
            false => generation == self.generation + 1,
        };
        if !is_next {
            let text = format!("replacement {generation} came after {}", self.generation);
            self.fail(Law::Order, text);
        }
        self.generation = generation;
    }

    /// Sessions of removed targets may drain for this long from now on, including those that
    /// already drain.
    pub(crate) fn drains_change(&mut self, time: u64) {
        let (at, slack, was_in_doubt) = (self.at, self.slack, self.is_in_doubt());
        let mut counts = [(Sometimes::DrainShortened, 0), (Sometimes::DrainProlonged, 0)];
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            let Phase::Draining(generation, until) = session.phase else { continue };
            let Ok(drain) = self.drains.binary_search_by_key(&generation, |(number, _)| *number)
            else {
                continue;
            };
            let now_until = (self.drains[drain].1 + time).max(at);
            session.phase = Phase::Draining(generation, now_until);
            let may_be_over = at + slack >= until && now_until > until;
            session.is_doubtful = may_be_over || session.is_doubtful && was_in_doubt;
            if may_be_over {
                self.doubt_until = at + slack;
            }
            counts[0].1 += u64::from(now_until < until);
            counts[1].1 += u64::from(now_until > until);
        }
        counts.into_iter().for_each(|(what, times)| self.counts.add(what, times));
    }

    /// When a replacement's drain must be over, if it takes this long.
    pub(crate) fn drain_until(&self, generation: u64, time: u64) -> Option<u64> {
        let drain = self.drains.iter().find(|(number, _)| *number == generation)?;
        Some(drain.1 + time)
    }

    /// The deadline of a replacement's drain has come; how many sessions were taken out.
    pub(crate) fn drain_expired(&mut self, generation: u64, taken: usize) {
        self.drains.retain(|(number, _)| *number != generation);
        let mut due = 0;
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            if matches!(session.phase, Phase::Draining(since, _) if since == generation) {
                session.phase = Phase::Expired(generation);
                self.loads[usize::from(session.place.0)].connected -= 1;
                due += 1;
            }
        }
        self.owe(generation, due);
        if due as usize != taken {
            let text = format!("the deadline of {generation} took out {taken} sessions, not {due}");
            self.fail(Law::Kept, text);
        }
    }

    /// A replacement says that it is applied.
    pub(crate) fn applied(&mut self, generation: u64) {
        if let Some((owing, count)) = self.owed.first().filter(|(owing, _)| *owing <= generation) {
            let text = format!(
                "replacement {generation} is said to be applied, and {count} attempts taken out \
                 by {owing} have not let go"
            );
            self.fail(Law::Barrier, text);
        }
    }

    /// These are the attempts that a replacement took out: each of them, and no other.
    pub(crate) fn check_taken(&mut self, generation: u64, taken: impl Iterator<Item = u32>) {
        for serial in taken {
            let phase = self.sessions[serial as usize].phase;
            if !matches!(phase, Phase::Cut(by) | Phase::Revoked(by) if by == generation) {
                let text = format!("replacement {generation} took out session {serial}: {phase:?}");
                self.fail(Law::Kept, text);
            }
        }
    }

    /// Whether a replacement has to count as applied: nothing is owed to it or those before.
    pub(crate) fn is_applied(&self, generation: u64) -> bool {
        self.owed.first().is_none_or(|(owing, _)| *owing > generation)
    }

    pub(crate) fn reset_cycle(&mut self) {
        self.anchor = None;
    }

    // The server's life.

    /// The server shuts down and lets sessions finish until this time.
    pub(crate) fn closing(&mut self, closes_at: u64) {
        self.is_closing = true;
        self.closes_at = Some(self.closes_at.unwrap_or(closes_at).min(closes_at));
    }

    /// Whether the server has aborted what was left, or may have.
    fn has_closed(&self) -> bool {
        self.closes_at.is_some_and(|at| self.at + self.slack >= at)
    }

    /// The server aborts what is left. `told`: how many sessions it says that is.
    pub(crate) fn closed(&mut self, told: usize) {
        self.closing(self.at);
        let waiting = std::mem::take(&mut self.waiting);
        let mut taken = 0;
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            let load = &mut self.loads[usize::from(session.place.0)];
            match session.phase {
                Phase::Dialling | Phase::Failed => {
                    load.dialling -= 1;
                    session.phase = Phase::Revoked(self.generation);
                }
                Phase::Connected | Phase::Draining(..) => {
                    load.connected -= 1;
                    session.phase = Phase::Cut(self.generation);
                }
                Phase::Waiting => {
                    session.phase = Phase::Refused;
                    continue;
                }
                _ => continue,
            }
            taken += 1;
        }
        self.owe(self.generation, taken);
        if told != waiting + taken as usize {
            let text = format!("{told} sessions were aborted, not {}", waiting + taken as usize);
            self.fail(Law::Shutdown, text);
        }
    }

    /// The server says that its shutdown is complete.
    pub(crate) fn shut_down(&mut self) {
        if !self.live.is_empty() {
            let text = format!("the shutdown is complete, and {} sessions live", self.live.len());
            self.fail(Law::Shutdown, text);
        }
    }

    /// Whether a deadline and a replacement came at about the same time, and either may have been
    /// first: what the deadline cut is known only when it has ended.
    fn is_in_doubt(&self) -> bool {
        self.at < self.doubt_until
    }

    fn owe(&mut self, generation: u64, count: u32) {
        let at = self.owed.partition_point(|(number, _)| *number < generation);
        match self.owed.get_mut(at) {
            Some((number, owed)) if *number == generation => *owed += count,
            _ if count == 0 => {}
            _ => self.owed.insert(at, (generation, count)),
        }
    }

    // Looking at it.

    /// The pool holds what it should.
    pub(crate) fn check_loads<T: Display>(
        &mut self,
        loads: impl Iterator<Item = Load<T>>,
        place_of: impl Fn(&T) -> Option<Place>,
    ) {
        let mut seen = [PlaceLoad::default(); PLACES];
        let may_close = self.closes_at.is_some_and(|at| self.at < at) && self.has_closed();
        if may_close || self.is_in_doubt() {
            // In these moments it may be either way.
            return;
        }
        for load in loads {
            if load.dialling + load.connected == 0 {
                self.fail(Law::Pool, format!("an entry of {} has no session", load.target));
            }
            if let Some(place) = place_of(&load.target) {
                if load.is_draining == (self.keys_of[usize::from(place.0)] > 0) {
                    let text = format!("{place} is said to drain: {}", load.is_draining);
                    self.fail(Law::Pool, text);
                }
                let seen = &mut seen[usize::from(place.0)];
                seen.dialling += load.dialling as u32;
                seen.connected += load.connected as u32;
            }
        }
        if seen != self.loads {
            let place = seen.iter().zip(&self.loads).position(|(a, b)| a != b).unwrap_or_default();
            let (seen, due) = (seen[place], self.loads[place]);
            let text = format!(
                "of b{place} the pool has {} dialling and {} connected, and there are {} and {}",
                seen.dialling, seen.connected, due.dialling, due.connected
            );
            self.fail(Law::Pool, text);
        }
    }

    /// accepted = live + ended, as the balancer counts.
    pub(crate) fn check_counts(&mut self, accepted: u64, live: usize, ended: u64) {
        if accepted != live as u64 + ended || live != self.live.len() {
            let text = format!(
                "accepted {accepted}, live {live}, ended {ended}; and {} sessions live",
                self.live.len()
            );
            self.fail(Law::OneEnd, text);
        }
    }

    /// No session is in a state for longer than it may be.
    pub(crate) fn check_times(&mut self) {
        let at = self.at;
        let late = self.live.iter().find_map(|serial| {
            let session = &self.sessions[*serial as usize];
            let over = |since: u64, limit: u64| at > since + limit + self.slack;
            let late = match session.phase {
                Phase::Dialling if session.dial_began > 0 => {
                    over(session.dial_began, self.dial_timeout)
                        || over(session.began, self.dial_time_max)
                }
                Phase::Dialling | Phase::New | Phase::Refused | Phase::Failed => {
                    over(session.began, self.dial_time_max)
                }
                Phase::Waiting => over(session.began, self.waiting_timeout),
                Phase::Draining(_, until) => over(until, 0),
                _ => false,
            };
            late.then_some((*serial, session.phase))
        });
        if let Some((serial, phase)) = late {
            self.fail(Law::TimeLimit, format!("session {serial} is {phase:?} for too long"));
        }
    }
}
