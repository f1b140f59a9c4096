//! What the balancer says, held against what it may do.

use tinylb_core::{DialFailure, EndReason, Event, Side};

use super::{Judge, attempt::other, flows::Flow};
use crate::{
    Law, Sometimes,
    driver::payload::{Greeting, Header},
    scenario::{Backends, Place, Trigger, key_number},
    trace::{Failure, Note},
};

impl Judge {
    /// `now`: the time on the balancer's clock. `set`: the set as the balancer has it, if this says
    /// that it was replaced.
    pub(in crate::driver) fn event(
        &mut self,
        now: u64,
        event: &Event<Place>,
        set: Option<Backends>,
    ) {
        self.now = now;
        self.is_dirty = true;
        match event {
            Event::Accepted { id, peer, .. } => self.accepted(id.serial(), peer),
            Event::Admitted { id, pick } => {
                let key = key_number(&pick.key);
                self.note(Note::Admitted(id.serial(), key, pick.target));
                self.ledger.admitted(id.serial(), key, pick.target);
                if let Some(flow) = self.flows.get_mut(id.serial() as usize) {
                    (flow.is_crashed, flow.backend) = (false, None);
                }
            }
            Event::DialStarted { id, pick } => {
                self.note(Note::DialStarted(id.serial(), pick.target));
                self.ledger.dial_started(id.serial(), pick.target);
                self.dialling = id.serial();
                if self.panics.contains(&pick.target) {
                    self.ledger.may_panic(id.serial());
                }
                self.trigger(Trigger::DialStarted, pick.target);
            }
            Event::DialFailed { id, pick, failure } => {
                let failure = match failure {
                    DialFailure::Failed(_) => Failure::Failed,
                    DialFailure::Revoked => Failure::Revoked,
                    _ => Failure::TimedOut,
                };
                match failure {
                    Failure::Failed => self.count(Sometimes::DialRefused),
                    Failure::TimedOut => self.count(Sometimes::DialTimedOut),
                    Failure::Revoked => {}
                }
                self.note(Note::DialFailed(id.serial(), failure));
                self.ledger.dial_failed(id.serial(), failure);
                self.trigger(Trigger::DialFailed, pick.target);
            }
            Event::Connected { id, pick } => {
                self.note(Note::Connected(id.serial(), pick.target));
                self.ledger.connected(id.serial(), pick.target);
                let at = self.at;
                if let Some(flow) = self.flows.get_mut(id.serial() as usize) {
                    flow.moved_at = at;
                }
                self.trigger(Trigger::Connected, pick.target);
            }
            Event::HalfClosed { id, by } => self.half_closed(id.serial(), *by),
            Event::Ended { id, reason, bytes_to_backend, bytes_to_client, .. } => {
                self.ended(id.serial(), *reason, *bytes_to_backend, *bytes_to_client);
            }
            Event::SetReplaced(report) => self.replaced(report, &set.unwrap_or_default()),
            Event::SourceLost { reason } => self.source_lost(reason),
            Event::SetHeld(held) => self.held(held),
            Event::SourceStale { .. } => self.stale(),
            Event::EntriesLeftOut(entries) => self.left_out(entries.len()),
            Event::SourceBack { .. } => self.note(Note::SourceBack),
            Event::AcceptFailed { pause, .. } => {
                self.count(Sometimes::AcceptFailed);
                self.note(Note::AcceptFailed);
                let pause = pause.unwrap_or_default().as_micros() as u64;
                self.room_since = self.room_since.max(self.at + pause);
            }
            _ => {}
        }
    }

    pub(in crate::driver) fn accepted(&mut self, serial: u64, peer: &str) {
        self.note(Note::Accepted(serial));
        self.ledger.accepted_one(serial);
        while self.flows.len() <= serial as usize {
            self.flows.push(Flow::default());
        }
        match self.attempt_of.remove(peer) {
            Some(attempt) => self.meet(attempt, serial),
            None => drop(self.session_of.insert(peer.into(), serial)),
        }
        if self.is_full() {
            self.count(Sometimes::LimitReached);
        }
    }

    /// This attempt and this session are about the same connection.
    pub(in crate::driver) fn meet(&mut self, attempt: u32, serial: u64) {
        self.attempts[attempt as usize].session = Some(serial);
        if let Some(flow) = self.flows.get_mut(serial as usize) {
            flow.attempt = Some(attempt);
        }
    }

    pub(in crate::driver) fn is_full(&self) -> bool {
        self.ledger.live() >= self.scenario.config.connections as usize
    }

    pub(in crate::driver) fn ended(&mut self, serial: u64, reason: EndReason, up: u64, down: u64) {
        self.note(Note::Ended(serial, reason));
        self.note(Note::Moved(serial, up, down));
        let place = self.ledger.place_of(serial);
        if self.is_full() {
            self.room_since = self.room_since.max(self.at);
        }
        if reason == EndReason::Shutdown {
            self.count(Sometimes::GraceOver);
        }
        self.ledger.ended(serial, reason);
        let Some(flow) = self.flows.get_mut(serial as usize) else { return };
        flow.ended = Some(reason);
        let flow = *flow;
        if flow.open > 0 {
            let text = format!("session {serial} has ended and holds {} connections", flow.open);
            self.fail(Law::Barrier, text);
        }
        let passed_on = (flow.written_up - flow.lost_up, flow.written_down - flow.lost_down);
        if passed_on != (up, down) {
            let text = format!(
                "session {serial} says that it moved {up} and {down} bytes; it was {} and {}",
                passed_on.0, passed_on.1
            );
            self.fail(Law::Bytes, text);
        }
        let in_flight = flow.read_up > flow.written_up || flow.read_down > flow.written_down;
        match reason {
            EndReason::BackendRemoved | EndReason::DrainExpired if in_flight => {
                self.count(Sometimes::CutInFlight);
            }
            EndReason::Finished if in_flight => {
                let text = format!("session {serial} is finished with bytes not written");
                self.fail(Law::Bytes, text);
            }
            EndReason::HalfCloseTimedOut => self.count(Sometimes::HalfCloseTimedOut),
            EndReason::IdleTimedOut => self.count(Sometimes::IdleTimedOut),
            _ => {}
        }
        match reason {
            EndReason::ClientFailed => self.check_delivered(&flow, Side::Client),
            EndReason::BackendFailed => self.check_delivered(&flow, Side::Backend),
            _ => {}
        }
        if matches!(reason, EndReason::HalfCloseTimedOut | EndReason::IdleTimedOut)
            && self
                .silence_max(&flow)
                .is_none_or(|max| self.at + self.patience < flow.moved_at + max)
        {
            let text = format!("session {serial} ended with {reason} too early");
            self.fail(Law::TimeLimit, text);
        }
        if let Some(attempt) = flow.attempt {
            self.check_cut(attempt, Side::Client);
            self.check_cut(attempt, Side::Backend);
        }
        self.check_cause(serial, reason, place);
        self.trigger(Trigger::Ended, place);
    }

    /// Checks that what a side sent before it failed was delivered to the other. Exceptions are a
    /// network fault, a fault of the other side, and bytes that the failed side had not read: then
    /// its reset may overtake what it sent.
    fn check_delivered(&mut self, flow: &Flow, failed: Side) {
        let Some(number) = flow.attempt else { return };
        let attempt = &self.attempts[number as usize];
        let (head, their_head, written, to_failed) = match failed {
            Side::Client => (Header::LENGTH, Greeting::LENGTH, flow.written_up, flow.written_down),
            Side::Backend => (Greeting::LENGTH, Header::LENGTH, flow.written_down, flow.written_up),
        };
        let Some((sent, received)) = attempt.moved(failed) else { return };
        let has_read_all = to_failed == 0
            || attempt.has_read_head(failed) && to_failed == received + their_head as u64;
        // A side that fails during a dial has sent nothing; and an unread end of stream causes a
        // reset as well.
        if flow.moved_at == 0 || flow.is_half_closed || flow.is_crashed {
            return;
        }
        if !has_read_all || self.is_lossy(attempt) || !self.is_calm(attempt) {
            return;
        }
        if self.has_given_up(number, other(failed)) || self.is_over(number, other(failed)) {
            return;
        }
        let sent = sent + head as u64;
        if written < sent {
            let text = format!(
                "of attempt {number}, {written} bytes reached the other side of {sent} that the \
                 {failed} sent before it failed"
            );
            return self.fail(Law::Bytes, text);
        }
        self.count(Sometimes::Delivered);
    }

    fn half_closed(&mut self, serial: u64, by: Side) {
        self.count(Sometimes::HalfClosed);
        self.note(Note::HalfClosed(serial, by.into()));
        let at = self.at;
        if let Some(flow) = self.flows.get_mut(serial as usize) {
            (flow.is_half_closed, flow.moved_at) = (true, at);
            let attempt = flow.attempt;
            if attempt.is_some_and(|attempt| !self.has_closed(attempt, by)) {
                let text = format!("session {serial} passes on an end that the {by} didn't send");
                self.fail(Law::HalfClose, text);
            }
        }
        self.trigger(Trigger::HalfClosed, self.ledger.place_of(serial));
    }

    /// What a session blames was so.
    fn check_cause(&mut self, serial: u64, reason: EndReason, place: Place) {
        let Some(number) = self.flows[serial as usize].attempt else { return };
        let attempt = &self.attempts[number as usize];
        let is_calm = self.is_calm(attempt);
        let law = match reason {
            EndReason::ClientFailed if !self.has_given_up(number, Side::Client) => Law::OneEnd,
            EndReason::BackendFailed if !self.has_given_up(number, Side::Backend) => Law::OneEnd,
            EndReason::HalfCloseTimedOut if is_calm && !attempt.plan.is_silent() => Law::HalfClose,
            EndReason::IdleTimedOut if is_calm && !attempt.plan.is_silent() => Law::Progress,
            _ => return,
        };
        let text = format!("session {serial} at {place} ended with {reason} without cause");
        self.fail(law, text);
    }
}
