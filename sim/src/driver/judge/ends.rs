//! What clients and backends see and do.

use tinylb_core::{EndReason, Side};

use super::{Judge, streams::other};
use crate::{
    Law,
    driver::{
        orders::ClientOrder,
        payload::{Greeting, Header},
    },
    scenario::{Place, Plan},
    trace::{Note, Sight},
};

impl Judge {
    /// A client connects. Returns the number of its attempt.
    pub(in crate::driver) fn client_dials(&mut self, plan: Plan, is_probe: bool) -> u32 {
        self.links.client_dials();
        self.deadlines.client_dials(&self.case);
        let is_late = self.is_healed && !is_probe;
        self.cues.client_dials(if is_late { ClientOrder::Close } else { ClientOrder::GoOn });
        self.streams.client_dials(&mut self.case, plan, is_probe)
    }

    /// A client is connected, and known by this name.
    pub(in crate::driver) fn client_connected(&mut self, attempt: u32, name: &str) {
        self.case.note(Note::ClientConnected(attempt));
        self.deadlines.client_connected(&self.case, attempt);
        self.links.client_connected(attempt, name);
        self.pairs.connected(attempt, name);
        // Its session may have ended before the client knew that it had one.
        let Some(serial) = self.pairs.session_of(attempt) else { return };
        if let Some(reason) = self.sessions.reason(serial) {
            let place = self.case.ledger.place_of(serial);
            self.check_cause(attempt, serial, reason, place);
        }
    }

    /// A client has read the greeting; `None`: what it read is none.
    pub(in crate::driver) fn greeted(&mut self, attempt: u32, greeting: Option<Greeting>) {
        let expected = self.place_of(attempt);
        self.streams.greeted(&mut self.case, attempt, greeting, expected);
    }

    /// A client's header has reached a backend; `None`: what it read is none. Returns whether there
    /// is such an attempt.
    pub(in crate::driver) fn backend_took(&mut self, place: Place, header: Option<Header>) -> bool {
        let expected = header.and_then(|header| self.place_of(header.attempt));
        let serial = header.and_then(|header| self.pairs.session_of(header.attempt));
        if expected == Some(place)
            && let Some(serial) = serial
        {
            self.sessions.taken(serial);
        }
        self.streams.backend_took(&mut self.case, place, header, expected)
    }

    /// An end of an attempt has sent this many bytes by now.
    pub(in crate::driver) fn sent(&mut self, attempt: u32, by: Side, bytes: u64) {
        self.streams.sent(attempt, by, bytes);
    }

    /// An end of an attempt has received these bytes.
    pub(in crate::driver) fn received(&mut self, attempt: u32, by: Side, bytes: &[u8]) {
        self.streams.received(&mut self.case, attempt, by, bytes);
    }

    /// An end of an attempt ends its stream.
    pub(in crate::driver) fn closes(&mut self, attempt: u32, by: Side) {
        self.streams.closes(attempt, by);
    }

    /// An end of an attempt is about to reset the connection.
    pub(in crate::driver) fn gives_up(&mut self, attempt: u32, by: Side) {
        self.streams.gives_up(attempt, by);
    }

    /// An end of an attempt sees a clean end.
    pub(in crate::driver) fn sees_end(&mut self, attempt: u32, by: Side, is_greeted: bool) {
        let is_dead = by == Side::Client && self.is_crashed(attempt);
        self.streams.sees_end(&mut self.case, attempt, by, is_greeted, is_dead);
    }

    /// A backend's stream ended within what a client says first.
    pub(in crate::driver) fn ends_too_early(&mut self, place: Place, bytes: usize) {
        self.streams.ends_too_early(&mut self.case, place, bytes);
    }

    pub(in crate::driver) fn client_over(&mut self, attempt: u32, sight: Sight) {
        self.streams.client_over(&mut self.case, attempt, sight);
        self.check_cut(attempt, Side::Client);
    }

    pub(in crate::driver) fn backend_over(&mut self, place: Place, attempt: u32, sight: Sight) {
        self.streams.backend_over(&mut self.case, place, attempt, sight);
        self.check_cut(attempt, Side::Backend);
    }

    /// No end is cut off from a session that is reported to have come to its end.
    pub(super) fn check_cut(&mut self, attempt: u32, by: Side) {
        if self.streams.sight(attempt, by) != Some(Sight::Cut) {
            return;
        }
        let Some(serial) = self.pairs.session_of(attempt) else { return };
        let is_finished = self.sessions.reason(serial) == Some(EndReason::Finished);
        if is_finished && !self.has_given_up(attempt, other(by)) {
            let text = format!("the {by} of attempt {attempt} was cut, and session {serial} ended");
            self.case.fail(Law::Bytes, text);
        }
    }
}
