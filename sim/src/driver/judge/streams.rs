//! Clients' attempts, from both their ends: what is sent must arrive, in order, and end as it was
//! ended.

use tinylb_core::Side;

use super::case::{Case, Written};
use crate::{
    Law, Sometimes,
    driver::payload::{Greeting, Header, Payload},
    scenario::{Place, Plan},
    trace::{Note, Sight},
};

/// Follows the bytes of each attempt as its client and its backend see them.
#[derive(Default)]
pub(super) struct Streams {
    /// By number.
    attempts: Vec<Attempt>,
    /// Attempts that aren't over, ascending.
    live: Vec<u32>,
}

struct Attempt {
    plan: Plan,
    is_probe: bool,
    client: Half,
    backend: Option<Half>,
    greeted_by: Option<Place>,
}

/// One end of an attempt's connection.
#[derive(Clone, Copy, Default)]
struct Half {
    sent: u64,
    received: u64,
    has_closed: bool,
    sight: Option<Sight>,
}

impl Attempt {
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

    /// Whether an end has read what comes before the other's payload.
    fn has_read_head(&self, side: Side) -> bool {
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

impl Streams {
    /// A client connects. Returns the number of its attempt.
    pub(super) fn client_dials(&mut self, case: &mut Case, plan: Plan, is_probe: bool) -> u32 {
        let number = self.attempts.len() as u32;
        case.note(Note::ClientDials(number));
        let client = Half::default();
        self.attempts.push(Attempt { plan, is_probe, client, backend: None, greeted_by: None });
        self.live.push(number);
        number
    }

    /// A client has read the greeting; `None`: what it read is none. `expected`: its session's
    /// backend.
    pub(super) fn greeted(
        &mut self,
        case: &mut Case,
        attempt: u32,
        greeting: Option<Greeting>,
        expected: Option<Place>,
    ) {
        let Some(Greeting { place, boot }) = greeting else {
            let text = format!("attempt {attempt} got a greeting that nobody sent");
            return case.fail(Law::Bytes, text);
        };
        case.note(Note::Greeted(attempt, place, boot));
        self.attempts[attempt as usize].greeted_by = Some(place);
        if let Some(expected) = expected.filter(|expected| *expected != place) {
            let text =
                format!("attempt {attempt} is greeted by {place}, and is to be at {expected}");
            case.fail(Law::Crossed, text);
        }
    }

    /// A client's header has reached a backend. `expected`: the backend of the session that serves
    /// the client. Returns whether there is such an attempt.
    pub(super) fn backend_took(
        &mut self,
        case: &mut Case,
        place: Place,
        header: Option<Header>,
        expected: Option<Place>,
    ) -> bool {
        let known = header
            .and_then(|header| Some((header, self.attempts.get_mut(header.attempt as usize)?)))
            .filter(|(header, attempt)| attempt.plan == header.plan);
        let Some((Header { attempt, .. }, record)) = known else {
            case.fail(Law::Bytes, format!("{place} got a header that nobody sent"));
            return false;
        };
        if record.backend.is_some() {
            case.fail(Law::Crossed, format!("the header of attempt {attempt} came twice"));
            return false;
        }
        record.backend = Some(Half::default());
        case.note(Note::BackendTook(place, attempt));
        if expected.is_some_and(|expected| expected != place) {
            let text = format!("attempt {attempt} is another backend's, not {place}'s");
            case.fail(Law::Crossed, text);
        }
        true
    }

    /// An end of an attempt has sent this many bytes by now.
    pub(super) fn sent(&mut self, attempt: u32, by: Side, bytes: u64) {
        self.half(attempt, by).sent = bytes;
    }

    /// An end of an attempt ends its stream.
    pub(super) fn closes(&mut self, attempt: u32, by: Side) {
        self.half(attempt, by).has_closed = true;
    }

    /// An end of an attempt is about to reset the connection.
    pub(super) fn gives_up(&mut self, attempt: u32, by: Side) {
        self.half(attempt, by).sight = Some(Sight::GivenUp);
    }

    /// An end of an attempt has received these bytes.
    pub(super) fn received(&mut self, case: &mut Case, attempt: u32, by: Side, bytes: &[u8]) {
        let half = self.half(attempt, by);
        let offset = half.received;
        half.received += bytes.len() as u64;
        let payload = Payload::of(attempt, other(by));
        let Some(wrong) = payload.mismatch(offset, bytes) else { return };
        let owner = self.owner_of(&bytes[(wrong - offset) as usize..], wrong);
        let law = if owner.is_some() { Law::Crossed } else { Law::Bytes };
        let of = owner.map_or(String::new(), |owner| format!("; it belongs to attempt {owner}"));
        case.fail(law, format!("byte {wrong} to the {by} of attempt {attempt} is wrong{of}"));
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

    /// A reader sees a clean end: the writer meant it, and everything came. Of a process that died
    /// (`is_dead`) the system ends the streams; a reset is none.
    pub(super) fn sees_end(
        &self,
        case: &mut Case,
        attempt: u32,
        by: Side,
        is_greeted: bool,
        is_dead: bool,
    ) {
        let record = &self.attempts[attempt as usize];
        let (reader, writer) = (record.seen(by), record.seen(other(by)));
        let (received, sent) = (reader.received, writer.sent);
        if !writer.has_closed && !is_dead {
            let text = format!("the {by} of attempt {attempt} saw an end that nobody sent");
            case.fail(Law::Bytes, text);
        } else if received != sent || !is_greeted && !is_dead {
            let text = format!("the {by} of attempt {attempt} got {received} bytes of {sent}");
            case.fail(Law::Bytes, text);
        }
    }

    /// A backend's stream ended within what a client says first.
    pub(super) fn ends_too_early(&self, case: &mut Case, place: Place, bytes: usize) {
        let text = format!("{place} saw an end after {bytes} bytes, and no client ends there");
        case.fail(Law::Bytes, text);
    }

    pub(super) fn client_over(&mut self, case: &mut Case, attempt: u32, sight: Sight) {
        let client = self.half(attempt, Side::Client);
        client.sight = Some(sight);
        let (sent, received) = (client.sent, client.received);
        self.live.retain(|live| *live != attempt);
        case.note(Note::ClientOver(attempt, sent, received, sight));
        if sight == Sight::Cut {
            case.count(Sometimes::ClientSawCut);
        }
    }

    pub(super) fn backend_over(
        &mut self,
        case: &mut Case,
        place: Place,
        attempt: u32,
        sight: Sight,
    ) {
        let half = self.half(attempt, Side::Backend);
        half.sight = Some(sight);
        let (sent, received) = (half.sent, half.received);
        case.note(Note::BackendOver(place, attempt, sent, received, sight));
    }

    /// All that a side sent before it failed was delivered to the other, if the failed side had
    /// read all that was written to it: otherwise its reset may overtake what it sent.
    pub(super) fn check_delivered(
        &self,
        case: &mut Case,
        attempt: u32,
        failed: Side,
        Written { to_other, to_failed }: Written,
    ) {
        let record = &self.attempts[attempt as usize];
        let Half { sent, received, .. } = record.seen(failed);
        let (head, their_head) = match failed {
            Side::Client => (Header::LENGTH, Greeting::LENGTH),
            Side::Backend => (Greeting::LENGTH, Header::LENGTH),
        };
        let has_read_all = to_failed == 0
            || record.has_read_head(failed) && to_failed == received + their_head as u64;
        if sent == 0 || !has_read_all {
            return;
        }
        let sent = sent + head as u64;
        if to_other < sent {
            let text = format!(
                "of attempt {attempt}, {to_other} bytes reached the other side of {sent} that the \
                 {failed} sent before it failed"
            );
            return case.fail(Law::Bytes, text);
        }
        case.count(Sometimes::Delivered);
    }

    /// What an attempt is to do.
    pub(super) fn plan(&self, attempt: u32) -> Plan {
        self.attempts[attempt as usize].plan
    }

    /// Attempts that aren't over, ascending.
    pub(super) fn live(&self) -> &[u32] {
        &self.live
    }

    /// Whether an end has ended its stream.
    pub(super) fn has_closed(&self, attempt: u32, by: Side) -> bool {
        self.seen(attempt, by).has_closed
    }

    /// How the stream was over for an end, if it was.
    pub(super) fn sight(&self, attempt: u32, of: Side) -> Option<Sight> {
        self.seen(attempt, of).sight
    }

    /// One cycle of probes has reached each of these, and no other.
    pub(super) fn check_probes(&self, case: &mut Case, all: &[Place]) {
        let probes = self.attempts.iter().filter(|attempt| attempt.is_probe);
        let mut reached: Vec<_> = probes.filter_map(Attempt::answered_by).collect();
        reached.sort();
        if reached != all {
            case.fail(Law::Echo, format!("one cycle of new connections reached {reached:?}"));
        }
    }

    fn seen(&self, attempt: u32, side: Side) -> Half {
        self.attempts[attempt as usize].seen(side)
    }

    fn half(&mut self, attempt: u32, side: Side) -> &mut Half {
        self.attempts[attempt as usize].half(side)
    }
}

pub(super) fn other(side: Side) -> Side {
    match side {
        Side::Client => Side::Backend,
        Side::Backend => Side::Client,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An attempt whose client has ended its stream after this many bytes, all of which have come.
    fn after(bytes: usize) -> (Case, Streams) {
        let (mut case, mut streams) = (Case::of(""), Streams::default());
        let attempt = streams.client_dials(&mut case, Plan::default(), false);
        let header = Header { attempt, plan: Plan::default() };
        assert!(streams.backend_took(&mut case, Place(1), Some(header), Some(Place(1))));
        let mut payload = vec![0; bytes];
        Payload::of(attempt, Side::Client).fill(0, &mut payload);
        streams.sent(attempt, Side::Client, bytes as u64);
        streams.closes(attempt, Side::Client);
        streams.received(&mut case, attempt, Side::Backend, &payload);
        (case, streams)
    }

    #[test]
    fn a_clean_end_comes_after_all_that_was_sent_and_was_meant() {
        let (mut case, streams) = after(50);
        streams.sees_end(&mut case, 0, Side::Backend, true, false);
        assert_eq!(case.laws(), []);
        streams.sees_end(&mut case, 0, Side::Client, true, true);
        assert_eq!(case.laws(), [], "a dead backend's system ends its streams");
        streams.sees_end(&mut case, 0, Side::Client, true, false);
        assert_eq!(case.laws(), [Law::Bytes], "nobody ended this one");
        let (mut case, mut streams) = after(50);
        streams.sent(0, Side::Client, 51);
        streams.sees_end(&mut case, 0, Side::Backend, true, false);
        assert_eq!(case.laws(), [Law::Bytes], "a byte is missing");
    }

    #[test]
    fn a_byte_belongs_to_one_attempt() {
        let (mut case, mut streams) = after(50);
        let other = streams.client_dials(&mut case, Plan::default(), false);
        let mut payload = [0; 50];
        Payload::of(other, Side::Client).fill(50, &mut payload);
        streams.received(&mut case, 0, Side::Backend, &payload);
        assert_eq!(case.laws(), [Law::Crossed]);
        let (mut case, mut streams) = after(50);
        streams.received(&mut case, 0, Side::Backend, &[7; 50]);
        assert_eq!(case.laws(), [Law::Bytes]);
    }
}
