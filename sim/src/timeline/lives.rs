//! What the sessions and connections of a run went through, read off its records.

use std::collections::BTreeMap;

use tinylb_core::EndReason;

use crate::{
    scenario::{Backends, Place},
    trace::{Note, Record, Sight},
};

/// What a session is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activity {
    /// It waits for the first set, or for its next attempt.
    Waiting,
    Dialling,
    Connected,
    /// Its target has left, and it has time.
    Draining,
    /// Its target has left, and it is about to end.
    Ending,
}

/// A part of a session's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) activity: Activity,
    /// Which backend it is about.
    pub(super) place: Option<Place>,
}

/// A session, from its acceptance to its end, or to the end of the trace.
#[derive(Clone, Debug)]
pub(super) struct Life {
    pub(super) serial: u64,
    pub(super) spans: Vec<Span>,
    pub(super) reason: Option<EndReason>,
}

/// A connection as one of its ends sees it, beyond the balancer.
#[derive(Clone, Debug)]
pub(super) struct Connection {
    pub(super) number: u32,
    pub(super) from: u64,
    pub(super) to: u64,
    /// The backend that it reaches.
    pub(super) place: Option<Place>,
    /// Bytes sent and received, and how it was over; `None` if it wasn't.
    pub(super) over: Option<(u64, u64, Sight)>,
}

/// All that lives in a run.
#[derive(Default)]
pub(super) struct Lives {
    pub(super) sessions: BTreeMap<u64, Life>,
    /// By number, as the clients see them.
    pub(super) clients: BTreeMap<u32, Connection>,
    /// As the backends see them, in the order in which they took them.
    pub(super) backends: Vec<Connection>,
}

impl Lives {
    pub(super) fn read(records: &[Record], end: u64) -> Self {
        let mut lives = Self::default();
        let mut set = Backends::new();
        for record in records {
            lives.read_session(record, &mut set);
            lives.read_peer(record);
        }
        let close = |to: &mut u64| *to = if *to == OPEN { end } else { *to };
        for life in lives.sessions.values_mut() {
            life.spans.iter_mut().for_each(|span| close(&mut span.to));
        }
        lives.clients.values_mut().chain(&mut lives.backends).for_each(|c| close(&mut c.to));
        lives
    }

    fn read_session(&mut self, record: &Record, set: &mut Backends) {
        let at = record.at;
        match &record.note {
            Note::Accepted(serial) => self.enter(*serial, at, Activity::Waiting, None),
            Note::Admitted(serial, _, place) | Note::DialStarted(serial, place) => {
                self.enter(*serial, at, Activity::Dialling, Some(*place));
            }
            Note::DialFailed(serial, _) => self.enter(*serial, at, Activity::Waiting, None),
            Note::Connected(serial, place) => {
                self.enter(*serial, at, Activity::Connected, Some(*place));
            }
            Note::Ended(serial, reason) => {
                if let Some(life) = self.sessions.get_mut(serial) {
                    life.reason = Some(*reason);
                    life.spans.last_mut().into_iter().for_each(|span| span.to = at);
                }
            }
            Note::Replaced(_, new, _, _, draining) => {
                set.clone_from(new);
                self.replaced(at, set, *draining > 0);
            }
            _ => {}
        }
    }

    fn enter(&mut self, serial: u64, at: u64, activity: Activity, place: Option<Place>) {
        let new = || Life { serial, spans: Vec::new(), reason: None };
        let life = self.sessions.entry(serial).or_insert_with(new);
        if let Some(last) = life.spans.last_mut() {
            if last.activity == activity && last.place == place {
                return;
            }
            last.to = at;
        }
        life.spans.retain(|span| span.from < span.to);
        life.spans.push(Span { from: at, to: OPEN, activity, place });
    }

    /// What a replacement makes of each session: it stays, drains or ends.
    fn replaced(&mut self, at: u64, set: &Backends, drains: bool) {
        let mut entries = Vec::new();
        for (serial, life) in &self.sessions {
            let Some(span) = life.spans.last().filter(|span| span.to == OPEN) else { continue };
            let Some(place) = span.place else { continue };
            let is_in_set = set.iter().any(|(_, other)| *other == place);
            let activity = match span.activity {
                Activity::Connected if !is_in_set && drains => Activity::Draining,
                Activity::Connected | Activity::Dialling if !is_in_set => Activity::Ending,
                Activity::Draining if is_in_set => Activity::Connected,
                _ => continue,
            };
            entries.push((*serial, activity, place));
        }
        for (serial, activity, place) in entries {
            self.enter(serial, at, activity, Some(place));
        }
    }

    fn read_peer(&mut self, record: &Record) {
        let (from, to) = (record.at, OPEN);
        match record.note {
            Note::ClientDials(number) => {
                let connection = Connection { number, from, to, place: None, over: None };
                self.clients.insert(number, connection);
            }
            Note::Greeted(number, place, _) => {
                if let Some(connection) = self.clients.get_mut(&number) {
                    connection.place = Some(place);
                }
            }
            Note::ClientOver(number, sent, received, sight) => {
                if let Some(connection) = self.clients.get_mut(&number) {
                    connection.to = record.at;
                    connection.over = Some((sent, received, sight));
                }
            }
            Note::BackendTook(place, number) => {
                let place = Some(place);
                self.backends.push(Connection { number, from, to, place, over: None });
            }
            Note::Crashed(place) => {
                let at = record.at;
                let cut = |connection: &Connection| {
                    connection.place == Some(place) && connection.over.is_none()
                };
                let cut = self.backends.iter_mut().filter(|connection| cut(connection));
                cut.for_each(|connection| connection.to = connection.to.min(at));
            }
            Note::BackendOver(place, number, sent, received, sight) => {
                let is_this = |connection: &&mut Connection| {
                    connection.number == number && connection.place == Some(place)
                };
                if let Some(connection) = self.backends.iter_mut().rev().find(is_this) {
                    connection.to = record.at;
                    connection.over = Some((sent, received, sight));
                }
            }
            _ => {}
        }
    }
}

/// The end isn't known yet.
const OPEN: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Key;

    const B0: Place = Place(0);
    const B1: Place = Place(1);

    fn read(notes: &[(u64, Note)]) -> Lives {
        let records: Vec<_> =
            notes.iter().map(|(at, note)| Record { at: *at, note: note.clone() }).collect();
        Lives::read(&records, 100)
    }

    fn set(generation: u64, places: &[Place], draining: u32) -> Note {
        let backends = places.iter().map(|place| (Key(place.0), *place)).collect();
        Note::Replaced(generation, backends, 0, 0, draining)
    }

    #[test]
    fn a_session_goes_from_phase_to_phase() {
        let lives = read(&[
            (0, set(1, &[B0, B1], 0)),
            (5, Note::Accepted(0)),
            (5, Note::Admitted(0, Key(1), B1)),
            (6, Note::DialStarted(0, B1)),
            (9, Note::DialFailed(0, crate::trace::Failure::TimedOut)),
            (9, Note::Admitted(0, Key(0), B0)),
            (20, Note::Connected(0, B0)),
            (30, set(2, &[B1], 1)),
            (40, set(3, &[B0, B1], 0)),
            (50, set(4, &[B1], 0)),
            (51, Note::Ended(0, EndReason::BackendRemoved)),
            (60, Note::Accepted(1)),
        ]);
        let span = |from, to, activity, place| Span { from, to, activity, place };
        let expected = [
            span(5, 9, Activity::Dialling, Some(B1)),
            span(9, 20, Activity::Dialling, Some(B0)),
            span(20, 30, Activity::Connected, Some(B0)),
            span(30, 40, Activity::Draining, Some(B0)),
            span(40, 50, Activity::Connected, Some(B0)),
            span(50, 51, Activity::Ending, Some(B0)),
        ];
        assert_eq!(lives.sessions[&0].spans, expected);
        assert_eq!(lives.sessions[&0].reason, Some(EndReason::BackendRemoved));
        assert_eq!(lives.sessions[&1].spans, [span(60, 100, Activity::Waiting, None)]);
        assert_eq!(lives.sessions[&1].reason, None);
    }

    #[test]
    fn a_connection_is_known_from_both_its_ends() {
        let lives = read(&[
            (1, Note::ClientDials(7)),
            (2, Note::ClientConnected(7)),
            (4, Note::BackendTook(B1, 7)),
            (5, Note::Greeted(7, B1, 0)),
            (8, Note::BackendOver(B1, 7, 10, 20, Sight::End)),
            (6, Note::BackendTook(B1, 9)),
            (8, Note::Crashed(B1)),
            (9, Note::ClientOver(7, 20, 10, Sight::Cut)),
            (9, Note::ClientDials(8)),
        ]);
        let client = &lives.clients[&7];
        let over = Some((20, 10, Sight::Cut));
        assert_eq!((client.from, client.to, client.place, client.over), (1, 9, Some(B1), over));
        let backend = &lives.backends[0];
        let over = Some((10, 20, Sight::End));
        assert_eq!((backend.from, backend.to, backend.place, backend.over), (4, 8, Some(B1), over));
        assert_eq!((lives.backends[1].to, lives.backends[1].over), (8, None));
        assert_eq!((lives.clients[&8].to, lives.clients[&8].over), (100, None));
    }
}
