//! What the balancer says, held against what it may do.

use std::io;

use tinylb_core::{CheckId, DialFailure, EndReason, Event, Fault, Report, Side, Update};

use super::{Judge, LinkFault, streams::other};
use crate::{
    Law, Sometimes,
    driver::orders::Order,
    scenario::{Backends, Config, Key, Place, Reply, Trigger, backends_of, key_number},
    trace::{Failure, Note},
};

impl Judge {
    /// `now`: the time on the balancer's clock.
    pub(in crate::driver) fn event(&mut self, now: u64, event: &Event<Place>) {
        self.case.set_now(now);
        self.is_dirty = true;
        match event {
            Event::Accepted { id, peer, .. } => self.accepted(id.serial(), peer),
            Event::Admitted { id, pick } => {
                self.admitted(id.serial(), key_number(&pick.key), pick.target);
            }
            Event::DialStarted { id, pick } => self.dial_started(id.serial(), pick.target),
            Event::DialFailed { id, pick, failure } => {
                let failure = match failure {
                    DialFailure::Failed(error) => Failure::Failed(fault_of(error)),
                    DialFailure::GivenUp => Failure::GivenUp,
                    DialFailure::Revoked => Failure::Revoked,
                    _ => Failure::TimedOut,
                };
                self.dial_failed(id.serial(), pick.target, failure);
            }
            Event::Connected { id, pick } => self.connected(id.serial(), pick.target),
            Event::Ejected { target, fault } => self.ejected(*target, *fault),
            Event::Returned { target, ejected_for } => {
                self.returned(*target, ejected_for.as_micros() as u64);
            }
            Event::Probed { target, failure } => {
                let fault = failure.as_ref().map(|failure| match failure {
                    DialFailure::Failed(error) => fault_of(error),
                    _ => Fault::TimedOut,
                });
                self.case.note(Note::Probed(*target, fault));
                self.case.ledger.probed(*target, fault);
            }
            Event::HalfClosed { id, by } => self.half_closed(id.serial(), *by),
            Event::Ended { id, reason, bytes_to_backend, bytes_to_client, .. } => {
                self.ended(id.serial(), *reason, (*bytes_to_backend, *bytes_to_client));
            }
            Event::SetReplaced { report, set } => self.replaced(report, &backends_of(set)),
            Event::SourceLost { reason, .. } => {
                self.source.lost(&mut self.case, reason);
                self.checks.source_lost(&mut self.case);
            }
            Event::SetHeld(held) => self.source.held(&mut self.case, held),
            Event::SourceStale { .. } => self.source.stale(&mut self.case),
            Event::EntriesLeftOut(entries) => self.source.left_out(&mut self.case, entries.len()),
            Event::SourceBack { .. } => {
                self.case.note(Note::SourceBack);
                self.checks.source_back(&mut self.case);
            }
            Event::AcceptFailed { pause, .. } => {
                self.case.count(Sometimes::AcceptFailed);
                self.case.note(Note::AcceptFailed);
                let pause = pause.unwrap_or_default().as_micros() as u64;
                self.deadlines.accept_failed(&self.case, pause);
            }
            _ => {}
        }
    }

    // Sessions.

    fn accepted(&mut self, serial: u64, peer: &str) {
        self.case.note(Note::Accepted(serial));
        self.case.ledger.accepted_one(serial);
        self.sessions.accepted(serial);
        self.pairs.accepted(serial, peer);
        if self.case.is_full() {
            self.case.count(Sometimes::LimitReached);
        }
    }

    fn admitted(&mut self, serial: u64, key: Key, place: Place) {
        self.case.note(Note::Admitted(serial, key, place));
        self.case.ledger.admitted(serial, key, place);
        self.sessions.admitted(serial);
        self.links.admitted(serial);
    }

    fn dial_started(&mut self, serial: u64, place: Place) {
        self.case.note(Note::DialStarted(serial, place));
        self.case.ledger.dial_started(serial, place);
        self.sessions.dial_started(serial);
        if self.cues.will_panic(place) {
            self.case.ledger.may_panic(serial);
        }
        self.trigger(Trigger::DialStarted, place);
    }

    fn dial_failed(&mut self, serial: u64, place: Place, failure: Failure) {
        match failure {
            Failure::Failed(_) => self.case.count(Sometimes::DialRefused),
            Failure::TimedOut => self.case.count(Sometimes::DialTimedOut),
            Failure::GivenUp | Failure::Revoked => {}
        }
        self.case.note(Note::DialFailed(serial, failure));
        self.case.ledger.dial_failed(serial, failure);
        self.trigger(Trigger::DialFailed, place);
    }

    fn connected(&mut self, serial: u64, place: Place) {
        self.case.note(Note::Connected(serial, place));
        self.case.ledger.connected(serial, place);
        self.sessions.connected(&self.case, serial);
        self.trigger(Trigger::Connected, place);
    }

    // Targets.

    fn ejected(&mut self, place: Place, fault: Fault) {
        self.case.note(Note::Ejected(place, fault));
        self.case.ledger.ejected(place, fault);
        self.trigger(Trigger::Ejected, place);
    }

    fn returned(&mut self, place: Place, after: u64) {
        self.case.note(Note::Returned(place, after));
        self.case.ledger.returned(place, after);
        self.trigger(Trigger::Returned, place);
    }

    /// Targets are ejected from now on, or no more.
    pub(in crate::driver) fn set_ejection(&mut self, now: u64, is_on: bool) {
        self.case.set_now(now);
        self.case.ledger.set_ejection(is_on);
    }

    /// The settings are these from now on, apart from whether targets are ejected and how long
    /// sessions drain.
    pub(in crate::driver) fn settings_change(&mut self, now: u64, config: &Config) {
        self.case.set_now(now);
        self.deadlines.settings_change(&self.case);
        self.case.configure(config);
    }

    fn half_closed(&mut self, serial: u64, by: Side) {
        self.case.count(Sometimes::HalfClosed);
        self.case.note(Note::HalfClosed(serial, by.into()));
        self.sessions.half_closed(&mut self.case, serial, by);
        let attempt = self.pairs.attempt_of(serial);
        let has_closed =
            |attempt| self.streams.has_closed(attempt, by) || self.has_given_up(attempt, by);
        if attempt.is_some_and(|attempt| !has_closed(attempt)) {
            let text = format!("session {serial} passes on an end that the {by} didn't send");
            self.case.fail(Law::HalfClose, text);
        }
        self.trigger(Trigger::HalfClosed, self.case.ledger.place_of(serial));
    }

    fn ended(&mut self, serial: u64, reason: EndReason, moved: (u64, u64)) {
        self.case.note(Note::Ended(serial, reason));
        self.case.note(Note::Moved(serial, moved.0, moved.1));
        let place = self.case.ledger.place_of(serial);
        self.deadlines.ends(&self.case);
        if reason == EndReason::Shutdown {
            self.case.count(Sometimes::GraceOver);
        }
        self.case.ledger.ended(serial, reason);
        if !self.sessions.ended(&mut self.case, serial, reason, moved) {
            return;
        }
        match reason {
            EndReason::ClientFailed => self.check_delivered(serial, Side::Client),
            EndReason::BackendFailed => self.check_delivered(serial, Side::Backend),
            _ => {}
        }
        self.sessions.check_silence(&mut self.case, serial, reason);
        if let Some(attempt) = self.pairs.attempt_of(serial) {
            self.check_cut(attempt, Side::Client);
            self.check_cut(attempt, Side::Backend);
            self.check_cause(attempt, serial, reason, place);
        }
        self.trigger(Trigger::Ended, place);
    }

    /// What a side sent before it failed was delivered to the other, unless the network or the
    /// other side failed too.
    fn check_delivered(&mut self, serial: u64, failed: Side) {
        let Some(attempt) = self.pairs.attempt_of(serial) else { return };
        let Some(written) = self.sessions.to_deliver(serial, failed) else { return };
        let is_excused = self.is_lossy(attempt) || !self.is_calm(attempt);
        let is_other_gone = self.has_given_up(attempt, other(failed))
            || self.streams.sight(attempt, other(failed)).is_some();
        if !is_excused && !is_other_gone {
            self.streams.check_delivered(&mut self.case, attempt, failed, written);
        }
    }

    /// What a session blames was so.
    pub(super) fn check_cause(
        &mut self,
        attempt: u32,
        serial: u64,
        reason: EndReason,
        place: Place,
    ) {
        let is_calm = self.is_calm(attempt);
        let is_silent = self.streams.plan(attempt).is_silent();
        let law = match reason {
            EndReason::ClientFailed if !self.has_given_up(attempt, Side::Client) => Law::OneEnd,
            EndReason::BackendFailed if !self.has_given_up(attempt, Side::Backend) => Law::OneEnd,
            EndReason::HalfCloseTimedOut if is_calm && !is_silent => Law::HalfClose,
            EndReason::IdleTimedOut if is_calm && !is_silent => Law::Progress,
            _ => return,
        };
        let text = format!("session {serial} at {place} ended with {reason} without cause");
        self.case.fail(law, text);
    }

    // Sets.

    /// The balancer hears what the source says. `now`: the time on the balancer's clock.
    pub(in crate::driver) fn hears(&mut self, now: u64, update: &Update<Place>) {
        self.case.set_now(now);
        self.source.hears(&mut self.case, update);
    }

    // Checks.

    /// An update of the source, before it is narrowed to the backends that pass.
    pub(in crate::driver) fn source_gives(&mut self, now: u64, update: &Update<Place>) {
        self.case.set_now(now);
        self.checks.source_gives(&mut self.case, update);
    }

    /// What follows from the checks is asked for.
    pub(in crate::driver) fn verdicts_asked(&mut self, now: u64) {
        self.case.set_now(now);
        self.checks.asked(&mut self.case);
    }

    pub(in crate::driver) fn check_started(&mut self, now: u64, id: CheckId, place: Place) {
        self.case.set_now(now);
        self.checks.started(&mut self.case, id, place);
        self.trigger(Trigger::CheckStarted, place);
    }

    pub(in crate::driver) fn check_answered(
        &mut self,
        now: u64,
        id: CheckId,
        place: Place,
        reply: Reply,
    ) {
        self.case.set_now(now);
        self.checks.answered(&mut self.case, id, place, reply);
    }

    /// A check is given up, since its backend has left.
    pub(in crate::driver) fn check_given_up(&mut self, now: u64, id: CheckId, place: Place) {
        self.case.set_now(now);
        self.checks.given_up(&mut self.case, id, place);
    }

    /// What keeps a backend from the answer to a check, if anything does.
    pub(in crate::driver) fn met_by_check(&self, place: Place) -> Option<LinkFault> {
        self.links.silences(place)
    }

    fn replaced(&mut self, report: &Report, set: &Backends) {
        let generation = report.generation.number();
        let draining = report.sessions_draining;
        let (cut, revoked) = (report.sessions_cut as u32, report.dials_revoked as u32);
        let note = Note::Replaced(generation, set.clone(), cut, revoked, draining as u32);
        self.case.note(note);
        if self.case.has_source() {
            self.source.replaces(&mut self.case, generation, set);
            let sessions = report.sessions_cut + report.dials_revoked + draining;
            self.checks.replaces(&mut self.case, set, sessions);
        } else {
            self.sets.check_order(&mut self.case, generation, set);
        }
        self.sets.replaced(&mut self.case, report, set);
        if self.case.has_source() {
            self.cues.order(Order::Confirm);
        }
        let place = set.first().map_or(Place(0), |(_, place)| *place);
        if draining > 0 {
            self.trigger(Trigger::DrainBegan, place);
        }
        self.trigger(Trigger::Replaced, place);
    }

    /// A set that was handed over was the same set again. With the replacement's number;
    /// `is_confirmation`: nobody ordered it, it is there to be waited for.
    pub(in crate::driver) fn repeated(&mut self, generation: u64, is_confirmation: bool) {
        self.sets.repeated(&mut self.case, generation, is_confirmation);
    }

    /// A replacement is applied, and so are those before it.
    pub(in crate::driver) fn applied(&mut self, generation: u64) {
        self.sets.applied(&mut self.case, generation);
    }

    /// From now on, sessions of removed targets drain for this many milliseconds.
    pub(in crate::driver) fn drains(&mut self, time: u32) {
        self.sets.drains(&mut self.case, time);
    }

    /// The rotation begins anew.
    pub(in crate::driver) fn reset_cycle(&mut self) {
        self.case.ledger.reset_cycle();
    }

    // The server's life.

    /// The balancer begins its shutdown, with this many milliseconds of grace; a second time, it
    /// aborts at once.
    pub(in crate::driver) fn closing(&mut self, grace: u32) {
        self.deadlines.closing(&mut self.case, grace);
    }

    pub(in crate::driver) fn shut_down(&mut self) {
        self.deadlines.shut_down(&mut self.case);
    }
}

/// Whose fault it is that a dial failed, by what the networks of these runs report.
fn fault_of(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        io::ErrorKind::ConnectionReset => Fault::Reset,
        io::ErrorKind::HostUnreachable => Fault::Unreachable,
        _ => Fault::Ours,
    }
}
