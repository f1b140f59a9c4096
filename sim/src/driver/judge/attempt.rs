//! Clients' attempts, from both their ends: what is sent must arrive, in order, and end as it was
//! ended.

use std::{
    net::SocketAddr,
    task::{Context, Poll, Waker},
};

use tinylb_core::{EndReason, Side};

use super::Judge;
use crate::{
    Entropy, Law, Sometimes,
    driver::payload::{Greeting, Header, Payload},
    scenario::{Place, Plan},
    trace::{Host, Note, Sight},
};

/// One client's attempt.
pub(in crate::driver) struct Attempt {
    pub(in crate::driver) plan: Plan,
    pub(in crate::driver) is_probe: bool,
    pub(in crate::driver) began: u64,
    pub(in crate::driver) connected_at: Option<u64>,
    /// The balancer's session, once it is known.
    pub(in crate::driver) session: Option<u64>,
    pub(in crate::driver) address: Option<SocketAddr>,
    word: Word,
    waker: Option<Waker>,
    client: Half,
    backend: Option<Half>,
    greeted_by: Option<Place>,
    /// Disturbances of the clients' link when it began.
    pub(in crate::driver) calm_since: u32,
    pub(in crate::driver) is_over: bool,
}

/// One end of an attempt's connection.
#[derive(Clone, Copy, Default)]
struct Half {
    sent: u64,
    received: u64,
    has_closed: bool,
    sight: Option<Sight>,
}

/// What a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::driver) enum Word {
    GoOn,
    /// To send no more and to come to its end.
    Close,
    /// To reset the connection.
    Abort,
}

impl Attempt {
    /// Tells the client, who then has to be woken.
    pub(in crate::driver) fn tell(&mut self, word: Word) -> Option<Waker> {
        self.word = self.word.max(word);
        self.waker.take()
    }

    fn answered_by(&self) -> Option<Place> {
        let is_whole = self.client.sight == Some(Sight::End)
            && self.client.received == u64::from(self.plan.down);
        self.greeted_by.filter(|_| is_whole)
    }

    /// What is known of an end; nothing, if it isn't there.
    fn seen(&self, side: Side) -> Half {
        match side {
            Side::Client => self.client,
            Side::Backend => self.backend.unwrap_or_default(),
        }
    }

    /// Bytes of the payloads that an end has sent and received, if it has sent any.
    pub(in crate::driver) fn moved(&self, side: Side) -> Option<(u64, u64)> {
        let half = self.seen(side);
        (half.sent > 0).then_some((half.sent, half.received))
    }

    /// Whether an end has read what comes before the other's payload.
    pub(in crate::driver) fn has_read_head(&self, side: Side) -> bool {
        match side {
            Side::Client => self.greeted_by.is_some(),
            Side::Backend => self.backend.is_some(),
        }
    }

    fn half(&mut self, side: Side) -> &mut Half {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => self.backend.get_or_insert_default(),
        }
    }
}

impl Judge {
    /// A client connects: the number of its attempt.
    pub(in crate::driver) fn client_dials(&mut self, plan: Plan, is_probe: bool) -> u32 {
        let number = self.attempts.len() as u32;
        self.note(Note::ClientDials(number));
        self.attempts.push(Attempt {
            plan,
            is_probe,
            began: self.at,
            connected_at: None,
            session: None,
            address: None,
            word: if self.is_healed && !is_probe { Word::Close } else { Word::GoOn },
            waker: None,
            client: Half::default(),
            backend: None,
            greeted_by: None,
            calm_since: self.link(Host::Clients).disturbances,
            is_over: false,
        });
        self.live_attempts.push(number);
        number
    }

    /// What the client has been told; its task is woken when that changes.
    pub(in crate::driver) fn poll_word(&mut self, attempt: u32, cx: &mut Context<'_>) -> Word {
        let attempt = &mut self.attempts[attempt as usize];
        if !attempt.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            attempt.waker = Some(cx.waker().clone());
        }
        attempt.word
    }

    /// Ready when a client that is still connecting is to leave.
    pub(in crate::driver) fn poll_told(&mut self, attempt: u32, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_word(attempt, cx) {
            Word::GoOn => Poll::Pending,
            _ => Poll::Ready(()),
        }
    }

    pub(in crate::driver) fn client_connected(&mut self, attempt: u32, name: &str) {
        self.note(Note::ClientConnected(attempt));
        let at = self.at;
        let record = &mut self.attempts[attempt as usize];
        record.connected_at = Some(at);
        record.address = name.parse().ok();
        match self.session_of.remove(name) {
            Some(serial) => self.meet(attempt, serial),
            None => drop(self.attempt_of.insert(name.into(), attempt)),
        }
    }

    /// A client has read the greeting; `None`: what it read is none.
    pub(in crate::driver) fn greeted(&mut self, attempt: u32, greeting: Option<Greeting>) {
        let Some(Greeting { place, boot }) = greeting else {
            let text = format!("attempt {attempt} got a greeting that nobody sent");
            return self.fail(Law::Bytes, text);
        };
        self.note(Note::Greeted(attempt, place, boot));
        let record = &mut self.attempts[attempt as usize];
        record.greeted_by = Some(place);
        let Some(serial) = record.session else { return };
        let expected = self.ledger.place_of(serial);
        if expected != place {
            let text =
                format!("attempt {attempt} is greeted by {place}, and is to be at {expected}");
            self.fail(Law::Crossed, text);
        }
    }

    /// An end of an attempt has sent so many bytes by now.
    pub(in crate::driver) fn sent(&mut self, attempt: u32, by: Side, bytes: u64) {
        self.attempts[attempt as usize].half(by).sent = bytes;
    }

    /// Whether an end of an attempt has ended its stream, or is gone.
    pub(in crate::driver) fn has_closed(&self, attempt: u32, by: Side) -> bool {
        let has_closed = self.attempts[attempt as usize].seen(by).has_closed;
        has_closed || self.has_given_up(attempt, by)
    }

    /// An end of an attempt ends its stream.
    pub(in crate::driver) fn closes(&mut self, attempt: u32, by: Side) {
        self.attempts[attempt as usize].half(by).has_closed = true;
    }

    /// An end of an attempt is about to reset the connection.
    pub(in crate::driver) fn gives_up(&mut self, attempt: u32, by: Side) {
        self.attempts[attempt as usize].half(by).sight = Some(Sight::GivenUp);
    }

    /// An end of an attempt has received these bytes.
    pub(in crate::driver) fn received(&mut self, attempt: u32, by: Side, bytes: &[u8]) {
        let half = self.attempts[attempt as usize].half(by);
        let offset = half.received;
        half.received += bytes.len() as u64;
        let payload = Payload::of(attempt, other(by));
        let Some(wrong) = payload.mismatch(offset, bytes) else { return };
        let owner = self.owner_of(&bytes[(wrong - offset) as usize..], wrong);
        let law = if owner.is_some() { Law::Crossed } else { Law::Bytes };
        let of = owner.map_or(String::new(), |owner| format!("; it belongs to attempt {owner}"));
        self.fail(law, format!("byte {wrong} to the {by} of attempt {attempt} is wrong{of}"));
    }

    /// Whose bytes these are, if they are another attempt's at about the same offset.
    fn owner_of(&self, bytes: &[u8], offset: u64) -> Option<u32> {
        let bytes = bytes.get(..16)?;
        (0..self.attempts.len() as u32).find(|attempt| {
            [Side::Client, Side::Backend].into_iter().any(|side| {
                (offset.saturating_sub(64)..offset + 4096)
                    .any(|offset| Payload::of(*attempt, side).mismatch(offset, bytes).is_none())
            })
        })
    }

    /// A reader sees a clean end: the writer meant it, and everything came.
    pub(in crate::driver) fn sees_end(&mut self, attempt: u32, by: Side, is_greeted: bool) {
        let record = &self.attempts[attempt as usize];
        let (reader, writer) = (record.seen(by), record.seen(other(by)));
        let (received, sent) = (reader.received, writer.sent);
        // Of a process that died the system ends the streams; a reset is none.
        let session = self.attempts[attempt as usize].session;
        let is_dead =
            by == Side::Client && session.is_some_and(|s| self.flows[s as usize].is_crashed);
        if !writer.has_closed && !is_dead {
            let text = format!("the {by} of attempt {attempt} saw an end that nobody sent");
            self.fail(Law::Bytes, text);
        } else if received != sent || !is_greeted && !is_dead {
            let text = format!("the {by} of attempt {attempt} got {received} bytes of {sent}");
            self.fail(Law::Bytes, text);
        }
    }

    /// A backend's stream ended within what a client says first.
    pub(in crate::driver) fn ends_too_early(&mut self, place: Place, bytes: usize) {
        let text = format!("{place} saw an end after {bytes} bytes, and no client ends there");
        self.fail(Law::Bytes, text);
    }

    pub(in crate::driver) fn client_over(&mut self, attempt: u32, sight: Sight) {
        let record = &mut self.attempts[attempt as usize];
        record.is_over = true;
        record.client.sight = Some(sight);
        let (sent, received) = (record.client.sent, record.client.received);
        self.live_attempts.retain(|live| *live != attempt);
        self.note(Note::ClientOver(attempt, sent, received, sight));
        if sight == Sight::Cut {
            self.count(Sometimes::ClientSawCut);
        }
        self.check_cut(attempt, Side::Client);
    }

    /// A client's header has reached a backend. `false`: there is no such attempt.
    pub(in crate::driver) fn backend_took(&mut self, place: Place, header: Option<Header>) -> bool {
        let known = header
            .and_then(|header| Some((header, self.attempts.get_mut(header.attempt as usize)?)))
            .filter(|(header, attempt)| attempt.plan == header.plan);
        let Some((Header { attempt, .. }, record)) = known else {
            self.fail(Law::Bytes, format!("{place} got a header that nobody sent"));
            return false;
        };
        if record.backend.is_some() {
            self.fail(Law::Crossed, format!("the header of attempt {attempt} came twice"));
            return false;
        }
        record.backend = Some(Half::default());
        let session = record.session;
        self.note(Note::BackendTook(place, attempt));
        if session.is_some_and(|serial| self.ledger.place_of(serial) != place) {
            self.fail(
                Law::Crossed,
                format!("attempt {attempt} is another backend's, not {place}'s"),
            );
        }
        true
    }

    pub(in crate::driver) fn backend_over(&mut self, place: Place, attempt: u32, sight: Sight) {
        let half = self.attempts[attempt as usize].half(Side::Backend);
        half.sight = Some(sight);
        let (sent, received) = (half.sent, half.received);
        self.note(Note::BackendOver(place, attempt, sent, received, sight));
        self.check_cut(attempt, Side::Backend);
    }

    /// Nobody is cut off from a session that is said to have come to its end.
    pub(in crate::driver) fn check_cut(&mut self, attempt: u32, by: Side) {
        if self.attempts[attempt as usize].seen(by).sight != Some(Sight::Cut) {
            return;
        }
        let Some(serial) = self.attempts[attempt as usize].session else { return };
        let reason = self.flows[serial as usize].ended;
        if reason == Some(EndReason::Finished) && !self.has_given_up(attempt, other(by)) {
            let text = format!("the {by} of attempt {attempt} was cut, and session {serial} ended");
            self.fail(Law::Bytes, text);
        }
    }

    /// A backend's process dies, and its connections with it: the system ends its streams.
    pub(in crate::driver) fn crashed(&mut self, place: Place) {
        self.note(Note::Crashed(place));
        for serial in 0..self.flows.len() {
            if self.ledger.is_at(serial as u64, place) {
                let flow = &mut self.flows[serial];
                flow.is_crashed = true;
                self.ledger.counts.add(Sometimes::CrashEnded, u64::from(flow.backend.is_some()));
            }
        }
    }

    /// Whether this end has reset the connection, or its process has died.
    pub(in crate::driver) fn has_given_up(&self, attempt: u32, side: Side) -> bool {
        let attempt = &self.attempts[attempt as usize];
        let is_crashed = |serial: u64| self.flows[serial as usize].is_crashed;
        attempt.seen(side).sight == Some(Sight::GivenUp)
            || side == Side::Backend && attempt.session.is_some_and(is_crashed)
    }

    /// Whether this end has finished with its connection.
    pub(in crate::driver) fn is_over(&self, attempt: u32, side: Side) -> bool {
        self.attempts[attempt as usize].seen(side).sight.is_some()
    }

    /// A quarter of those that are connected are told to leave; they have to be woken.
    pub(in crate::driver) fn leave(&mut self, word: Word) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for number in &self.live_attempts {
            let attempt = &mut self.attempts[*number as usize];
            if attempt.connected_at.is_some() && self.entropy.chance(25) {
                wakers.extend(attempt.tell(word));
            }
        }
        wakers
    }

    /// The backends that have answered probes, ascending.
    pub(in crate::driver) fn probed(&self) -> Vec<Place> {
        let probes = self.attempts.iter().filter(|attempt| attempt.is_probe);
        let mut places: Vec<_> = probes.filter_map(Attempt::answered_by).collect();
        places.sort();
        places
    }
}

pub(in crate::driver) fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}
