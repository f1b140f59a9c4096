//! One TCP connection between the balancer and a peer, as plain state: what each system holds, what
//! is on its way, and how each end stands. Modelled on Linux (net/ipv4/tcp.c, tcp_input.c).
//!
//! Bytes are counted, not kept: each is a function of its place in its stream.

use std::io;

/// A connection. The balancer's socket is *ours*; the other end is the *peer*.
#[derive(Debug)]
pub(super) struct Connection {
    /// From the peer to us.
    pub(super) inbound: Inbound,
    /// From us to the peer.
    pub(super) outbound: Outbound,
    pub(super) ours: Ours,
    pub(super) peer: Peer,
    /// Nothing passes in either direction while it is held.
    pub(super) is_held: bool,
}

/// Places in the stream from the peer: `read <= arrived <= sent`.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// What the peer wrote, as far as its system didn't discard it.
    pub(super) sent: u64,
    pub(super) arrived: u64,
    /// What we have read.
    pub(super) read: u64,
    /// Our receive buffer.
    pub(super) buffer: u64,
    /// The peer's end of stream is on its way, or has arrived.
    pub(super) has_end: bool,
    pub(super) end_arrived: bool,
    /// The last byte that the peer sent as urgent, until it has arrived.
    pub(super) urgent_sent: Option<u64>,
    /// The place of an urgent byte that has arrived and that we haven't read.
    pub(super) urgent: Option<u64>,
    /// A reset is on its way, behind all that was sent.
    pub(super) has_reset: bool,
}

/// Places in the stream to the peer: `confirmed <= arrived <= written` and `read <= arrived`.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    pub(super) written: u64,
    /// Our send buffer, which holds what isn't confirmed.
    pub(super) buffer: u64,
    /// From here on, bytes are held back until more is written or the stream ends (`MSG_MORE`).
    pub(super) corked: Option<u64>,
    /// What can still arrive, once our system has discarded the rest.
    pub(super) limit: Option<u64>,
    pub(super) arrived: u64,
    pub(super) confirmed: u64,
    /// What the peer's program has read.
    pub(super) read: u64,
    /// The peer's receive buffer.
    pub(super) window: u64,
    /// Our end of stream is on its way, or has arrived.
    pub(super) has_end: bool,
    pub(super) end_arrived: bool,
    pub(super) end_confirmed: bool,
    /// A reset is on its way, behind all that can still arrive.
    pub(super) has_reset: bool,
}

/// Our socket.
#[derive(Debug)]
pub(super) struct Ours {
    /// The descriptor hasn't been closed.
    pub(super) is_open: bool,
    /// Closing it resets the connection (`SO_LINGER`).
    pub(super) resets: bool,
    /// Reported by the next call, once.
    pub(super) error: Option<Failure>,
    /// The peer has reset the connection.
    pub(super) was_reset: bool,
    /// The connection is over for the system (`TCP_CLOSE`).
    pub(super) is_closed: bool,
    /// Nothing can be written any more.
    pub(super) write_is_shut: bool,
    /// A write found too little room: that there is room again is worth an event.
    pub(super) lacks_room: bool,
}

/// The peer's program and its system.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// It has closed its socket: what arrives is answered by a reset.
    pub(super) is_closed: bool,
    /// It doesn't read.
    pub(super) is_stopped: bool,
    /// It has seen a reset.
    pub(super) was_reset: bool,
}

/// What a socket's error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Reset,
    BrokenPipe,
}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Reset => io::ErrorKind::ConnectionReset.into(),
            Failure::BrokenPipe => io::ErrorKind::BrokenPipe.into(),
        }
    }
}

/// What comes of a read that takes no byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nothing {
    End,
    Failed(Failure),
    Empty,
}

impl Connection {
    pub(super) fn new(receive: u64, send: u64, window: u64) -> Self {
        Self {
            inbound: Inbound { buffer: receive, ..Inbound::default() },
            outbound: Outbound { buffer: send, window, ..Outbound::default() },
            ours: Ours {
                is_open: true,
                resets: true,
                error: None,
                was_reset: false,
                is_closed: false,
                write_is_shut: false,
                lacks_room: false,
            },
            peer: Peer::default(),
            is_held: false,
        }
    }

    /// How much a read takes: it stops before urgent data, and a read that begins there goes on
    /// (tcp_recvmsg_locked with `SO_OOBINLINE`).
    pub(super) fn readable(&self) -> u64 {
        let Inbound { arrived, read, urgent, .. } = self.inbound;
        match urgent {
            Some(urgent) if read < urgent => (arrived - read).min(urgent - read),
            _ => arrived - read,
        }
    }

    /// How much a splice takes: it doesn't pass urgent data (__tcp_read_sock).
    pub(super) fn spliceable(&self) -> u64 {
        match self.inbound.urgent {
            Some(urgent) if self.inbound.read == urgent => 0,
            _ => self.readable(),
        }
    }

    /// Takes bytes out of the receive buffer.
    pub(super) fn take(&mut self, bytes: u64) {
        let inbound = &mut self.inbound;
        inbound.read += bytes;
        if inbound.urgent.is_some_and(|urgent| inbound.read > urgent) {
            inbound.urgent = None;
        }
    }

    /// What a read reports that finds no byte. An end that has arrived is reported again and again,
    /// and hides an error; after an error, there is an end of stream.
    pub(super) fn nothing(&mut self) -> Nothing {
        if self.inbound.end_arrived {
            return Nothing::End;
        }
        if let Some(failure) = self.ours.error.take() {
            return Nothing::Failed(failure);
        }
        if self.ours.is_closed { Nothing::End } else { Nothing::Empty }
    }

    /// Why nothing can be written.
    pub(super) fn refusal(&mut self) -> Option<Failure> {
        let Ours { error, write_is_shut, .. } = &mut self.ours;
        match error.take() {
            Some(failure) => Some(failure),
            None => write_is_shut.then_some(Failure::BrokenPipe),
        }
    }

    /// How much our send buffer takes.
    pub(super) fn room(&self) -> u64 {
        let Outbound { written, confirmed, buffer, .. } = self.outbound;
        buffer.saturating_sub(written - confirmed)
    }

    /// Whether there is room enough to report (sk_stream_is_writeable): a third of the buffer.
    pub(super) fn is_writable(&self) -> bool {
        let queued = self.outbound.written - self.outbound.confirmed;
        self.room() > 0 && self.room() >= queued / 2
    }

    pub(super) fn write(&mut self, bytes: u64, is_last: bool) {
        let outbound = &mut self.outbound;
        outbound.corked = is_last.then_some(outbound.corked.unwrap_or(outbound.written));
        outbound.written += bytes;
    }

    /// Ends our write side. `false`: the connection is over.
    pub(super) fn shut_down(&mut self) -> bool {
        if self.ours.is_closed {
            return false;
        }
        self.ours.write_is_shut = true;
        self.outbound.has_end = true;
        self.outbound.corked = None;
        true
    }

    /// Bytes that aren't confirmed, and one for an end that isn't (SIOCOUTQ).
    pub(super) fn unacknowledged(&self) -> u64 {
        let Outbound { written, confirmed, has_end, end_confirmed, .. } = self.outbound;
        written - confirmed + u64::from(has_end && !end_confirmed)
    }

    /// Closes our socket. What isn't read, like `SO_LINGER`, makes that a reset, which discards what
    /// hasn't left our system; `on_wire` says how much of it has. Returns whether the close sends an
    /// end of stream.
    pub(super) fn close(&mut self, on_wire: impl FnOnce(u64) -> u64) -> bool {
        self.ours.is_open = false;
        if self.ours.is_closed {
            return false;
        }
        self.ours.is_closed = true;
        let Inbound { read, arrived, .. } = self.inbound;
        if self.ours.resets || read < arrived {
            let most = self.deliverable();
            self.outbound.limit = Some(self.outbound.arrived + on_wire(most));
            self.outbound.has_end &= self.outbound.end_arrived;
            self.outbound.has_reset = !self.peer.is_closed;
            return false;
        }
        let ends = !self.outbound.has_end;
        self.outbound.has_end = true;
        self.outbound.corked = None;
        ends
    }

    // The network.

    /// How many bytes of the peer's can arrive: nothing beyond our window, and nothing at a socket
    /// that is gone.
    pub(super) fn arrivable(&self) -> u64 {
        let Inbound { sent, arrived, read, buffer, .. } = self.inbound;
        if self.ours.is_closed && !self.ours.is_open {
            return sent - arrived;
        }
        (sent - arrived).min(buffer.saturating_sub(arrived - read))
    }

    /// Bytes of the peer's arrive. Returns whether our program may notice.
    pub(super) fn arrive(&mut self, bytes: u64) -> bool {
        self.inbound.arrived += bytes;
        if !self.ours.is_open {
            // Nobody is there any more.
            self.inbound.read = self.inbound.arrived;
            self.outbound.has_reset |= !self.peer.is_closed && !self.outbound.end_confirmed;
            return false;
        }
        if let Some(urgent) = self.inbound.urgent_sent.take_if(|at| *at < self.inbound.arrived) {
            self.inbound.urgent = Some(urgent);
        }
        true
    }

    pub(super) fn end_can_arrive(&self) -> bool {
        let Inbound { has_end, end_arrived, sent, arrived, .. } = self.inbound;
        has_end && !end_arrived && sent == arrived
    }

    pub(super) fn arrive_end(&mut self) {
        self.inbound.end_arrived = true;
        self.settle();
    }

    pub(super) fn reset_can_arrive(&self) -> bool {
        let Inbound { has_reset, has_end, end_arrived, sent, arrived, .. } = self.inbound;
        has_reset && sent == arrived && (!has_end || end_arrived)
    }

    /// The peer's reset arrives. Returns whether it says anything to a connection that is over.
    pub(super) fn arrive_reset(&mut self) -> bool {
        self.inbound.has_reset = false;
        if self.ours.is_closed {
            return false;
        }
        let is_half_closed = self.inbound.end_arrived && !self.outbound.has_end;
        let failure = if is_half_closed { Failure::BrokenPipe } else { Failure::Reset };
        self.ours.error = Some(failure);
        self.ours.was_reset = true;
        self.ours.is_closed = true;
        self.ours.write_is_shut = true;
        self.outbound.limit = Some(self.outbound.arrived);
        true
    }

    /// How many bytes of ours can arrive at the peer.
    pub(super) fn deliverable(&self) -> u64 {
        let Outbound { written, corked, limit, arrived, read, window, .. } = self.outbound;
        let most = limit.unwrap_or_else(|| corked.unwrap_or(written));
        let room =
            if self.peer.is_closed { u64::MAX } else { window.saturating_sub(arrived - read) };
        most.saturating_sub(arrived).min(room)
    }

    /// Bytes of ours arrive at the peer's system. At a peer that is gone, they call for a reset.
    pub(super) fn deliver(&mut self, bytes: u64) {
        if self.peer.is_closed {
            self.outbound.limit = Some(self.outbound.arrived);
            self.discard_inbound();
            self.inbound.has_reset = true;
        } else {
            self.outbound.arrived += bytes;
        }
    }

    pub(super) fn end_can_be_delivered(&self) -> bool {
        let Outbound { has_end, end_arrived, written, arrived, limit, has_reset, .. } =
            self.outbound;
        has_end && !end_arrived && written == arrived && limit.is_none() && !has_reset
    }

    pub(super) fn deliver_end(&mut self) {
        self.outbound.end_arrived = true;
    }

    pub(super) fn reset_can_be_delivered(&self) -> bool {
        let Outbound { has_reset, limit, arrived, .. } = self.outbound;
        has_reset && limit.is_none_or(|limit| limit == arrived)
    }

    pub(super) fn deliver_reset(&mut self) {
        self.outbound.has_reset = false;
        self.peer.was_reset = true;
        self.discard_inbound();
        self.inbound.has_reset = false;
    }

    /// The peer's system discards what hasn't arrived.
    fn discard_inbound(&mut self) {
        let inbound = &mut self.inbound;
        inbound.sent = inbound.arrived;
        inbound.has_end &= inbound.end_arrived;
        inbound.urgent_sent = None;
    }

    pub(super) fn can_be_confirmed(&self) -> bool {
        let Outbound { arrived, confirmed, end_arrived, end_confirmed, .. } = self.outbound;
        !self.ours.was_reset && (confirmed < arrived || end_arrived && !end_confirmed)
    }

    /// The peer's system confirms what has arrived. Returns whether our program may notice.
    pub(super) fn confirm(&mut self) -> bool {
        let outbound = &mut self.outbound;
        outbound.confirmed = outbound.arrived;
        outbound.end_confirmed = outbound.end_arrived;
        let is_over = self.settle();
        let has_room = self.ours.lacks_room && self.is_writable();
        self.ours.lacks_room &= !has_room;
        is_over || has_room
    }

    /// Both directions have ended: the connection is over for our system. Returns whether that is
    /// new.
    fn settle(&mut self) -> bool {
        let is_over = self.inbound.end_arrived && self.outbound.end_confirmed;
        let is_new = is_over && !self.ours.is_closed;
        self.ours.is_closed |= is_over;
        self.ours.write_is_shut |= is_over;
        is_new
    }

    // The peer's program.

    pub(super) fn peer_reads(&mut self, bytes: u64) {
        self.outbound.read += bytes;
    }

    /// What the peer's program can still do.
    pub(super) fn peer_can_send(&self) -> bool {
        !self.peer.is_closed && !self.peer.was_reset && !self.inbound.has_end
    }

    /// The peer resets the connection (`SO_LINGER`). Its system discards what hasn't left it;
    /// `on_wire` says how much has.
    pub(super) fn peer_aborts(&mut self, on_wire: impl FnOnce(u64) -> u64) {
        if self.peer.is_closed || self.peer.was_reset {
            return;
        }
        self.peer.is_closed = true;
        let left = on_wire(self.arrivable());
        let inbound = &mut self.inbound;
        if !inbound.end_arrived && inbound.arrived + left < inbound.sent {
            inbound.sent = inbound.arrived + left;
            inbound.has_end = false;
            inbound.urgent_sent.take_if(|at| *at >= inbound.sent);
        }
        inbound.has_reset = true;
    }

    /// The peer closes its socket: a reset if it hasn't read all that has arrived, and else an end.
    pub(super) fn peer_closes(&mut self, on_wire: impl FnOnce(u64) -> u64) {
        if self.outbound.read < self.outbound.arrived {
            return self.peer_aborts(on_wire);
        }
        if !self.peer.is_closed && !self.peer.was_reset {
            self.peer.is_closed = true;
            self.inbound.has_end = true;
        }
    }
}
