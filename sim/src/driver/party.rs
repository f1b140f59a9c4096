//! One end of a connection that does as its plan says.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tinylb_core::{Conn, Runtime, Side};

use super::{
    World,
    orders::ClientOrder,
    payload::{Greeting, Header, PIECE, Payload},
};
use crate::{
    scenario::{Manner, Place, Plan, SILENCE},
    trace::Sight,
};

/// A client or a backend in one attempt. It sends, reads and ends its stream as the plan says,
/// until both streams have ended, one was cut, or it gives up.
pub(super) struct Party<C, R> {
    conn: C,
    world: World,
    runtime: R,
    attempt: u32,
    side: Side,
    pace: Duration,
    /// Sent before the payload.
    head: Vec<u8>,
    /// Bytes to send, the head included.
    total: usize,
    sent: usize,
    begins: Begins,
    reads: Begins,
    /// Gives up after this many bytes.
    aborts_at: Option<usize>,
    pause: Option<BoxFuture<'static, ()>>,
    silence: Option<BoxFuture<'static, ()>>,
    has_closed: bool,
    is_closing: bool,
    /// The greeting, as far as it has come.
    heard: Vec<u8>,
    has_seen_end: bool,
}

/// When one of a party's directions begins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Begins {
    Now,
    /// When the other side's stream has ended.
    AfterTheirEnd,
    /// When it has been silent for long enough, or is to come to its end.
    AfterSilence,
}

impl<C: Conn, R: Runtime> Party<C, R> {
    pub(super) fn client(conn: C, world: World, runtime: R, attempt: u32, plan: Plan) -> Self {
        let begins = match plan.manner {
            Manner::Tell => Begins::AfterTheirEnd,
            Manner::Idle => Begins::AfterSilence,
            _ => Begins::Now,
        };
        let head = Header { attempt, plan }.encode().to_vec();
        let mut party = Self::new(conn, world, runtime, (attempt, Side::Client), plan, head);
        // A client that waits sends its header nevertheless.
        party.begins = begins;
        if plan.manner == Manner::Stall {
            party.reads = Begins::AfterSilence;
        }
        if plan.is_silent() {
            let silence = Duration::from_millis(u64::from(SILENCE));
            party.silence = Some(party.runtime.sleep(silence));
        }
        party
    }

    pub(super) fn backend(
        conn: C,
        world: World,
        runtime: R,
        header: Header,
        greeting: Greeting,
    ) -> Self {
        let Header { attempt, plan } = header;
        let head = greeting.encode().to_vec();
        let mut party = Self::new(conn, world, runtime, (attempt, Side::Backend), plan, head);
        if matches!(plan.manner, Manner::Ask | Manner::Idle) {
            party.begins = Begins::AfterTheirEnd;
        }
        party
    }

    fn new(
        conn: C,
        world: World,
        runtime: R,
        (attempt, side): (u32, Side),
        plan: Plan,
        head: Vec<u8>,
    ) -> Self {
        let (bytes, aborts) = match side {
            Side::Client => (plan.up, plan.manner == Manner::ClientAborts),
            Side::Backend => (plan.down, plan.manner == Manner::BackendAborts),
        };
        let total = head.len() + if plan.manner == Manner::Idle { 0 } else { bytes as usize };
        Self {
            conn,
            world,
            runtime,
            attempt,
            side,
            pace: Duration::from_millis(u64::from(plan.pace)),
            total,
            aborts_at: aborts.then_some(head.len().midpoint(total)),
            head,
            sent: 0,
            begins: Begins::Now,
            reads: Begins::Now,
            pause: None,
            silence: None,
            has_closed: false,
            is_closing: false,
            heard: Vec::new(),
            has_seen_end: false,
        }
    }

    /// Does as planned, and says how the stream it read was over.
    pub(super) async fn converse(mut self) -> Sight {
        let sight = poll_fn(|cx| self.poll(cx)).await;
        if sight == Sight::GivenUp {
            self.world.judge().gives_up(self.attempt, self.side);
            self.conn.abort();
        }
        sight
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Sight> {
        loop {
            match self.poll_order(cx) {
                ClientOrder::Abort => return Poll::Ready(Sight::GivenUp),
                ClientOrder::Close => {
                    self.total = self.total.min(self.sent.max(self.head.len()));
                    (self.begins, self.reads) = (Begins::Now, Begins::Now);
                }
                ClientOrder::GoOn => {}
            }
            if self.silence.as_mut().is_some_and(|silence| silence.poll_unpin(cx).is_ready()) {
                self.break_silence();
            }
            let wrote = match self.poll_write(cx) {
                Poll::Ready(Ok(wrote)) => wrote,
                Poll::Ready(Err(_)) => return Poll::Ready(Sight::Cut),
                Poll::Pending => false,
            };
            if self.aborts_at.is_some_and(|at| self.sent >= at) {
                return Poll::Ready(Sight::GivenUp);
            }
            let read = match self.poll_read(cx) {
                Poll::Ready(Ok(read)) => read,
                Poll::Ready(Err(_)) => return Poll::Ready(Sight::Cut),
                Poll::Pending => false,
            };
            if self.has_seen_end && self.has_closed {
                return Poll::Ready(Sight::End);
            }
            if !wrote && !read {
                return Poll::Pending;
            }
        }
    }

    fn poll_order(&self, cx: &mut Context<'_>) -> ClientOrder {
        match self.side {
            Side::Client => self.world.judge().cues().poll_order(self.attempt, cx),
            Side::Backend => ClientOrder::GoOn,
        }
    }

    fn break_silence(&mut self) {
        self.silence = None;
        for begins in [&mut self.begins, &mut self.reads] {
            if *begins == Begins::AfterSilence {
                *begins = Begins::Now;
            }
        }
    }

    fn may(&self, begins: Begins) -> bool {
        match begins {
            Begins::Now => true,
            Begins::AfterTheirEnd => self.has_seen_end,
            Begins::AfterSilence => false,
        }
    }

    /// Whether something was written, or the stream ended.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.has_closed {
            return Poll::Ready(Ok(false));
        }
        let is_head = self.sent < self.head.len();
        if !is_head && !self.may(self.begins) {
            return Poll::Ready(Ok(false));
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.poll_unpin(cx));
            self.pause = None;
        }
        if self.sent < self.total {
            let mut piece = [0; PIECE];
            let length = self.fill(&mut piece);
            let conn = Pin::new(&mut self.conn);
            let bytes = std::task::ready!(conn.poll_write(cx, &piece[..length]))?;
            self.sent += bytes;
            let payload = self.sent.saturating_sub(self.head.len());
            self.world.judge().sent(self.attempt, self.side, payload as u64);
            if bytes == length && !is_head && !self.pace.is_zero() && self.sent < self.total {
                self.pause = Some(self.runtime.sleep(self.pace));
            }
            return Poll::Ready(Ok(true));
        }
        if !self.is_closing {
            self.is_closing = true;
            self.world.judge().closes(self.attempt, self.side);
        }
        std::task::ready!(Pin::new(&mut self.conn).poll_close(cx))?;
        self.has_closed = true;
        Poll::Ready(Ok(true))
    }

    /// The bytes that come next, and how many they are.
    fn fill(&self, piece: &mut [u8; PIECE]) -> usize {
        if let Some(head) = self.head.get(self.sent..).filter(|head| !head.is_empty()) {
            piece[..head.len()].copy_from_slice(head);
            return head.len();
        }
        let length = (self.total - self.sent).min(PIECE);
        let offset = (self.sent - self.head.len()) as u64;
        Payload::of(self.attempt, self.side).fill(offset, &mut piece[..length]);
        length
    }

    /// Whether something was read, or the stream has ended.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.has_seen_end || !self.may(self.reads) {
            return Poll::Ready(Ok(false));
        }
        let mut buffer = [0; PIECE];
        let bytes = std::task::ready!(Pin::new(&mut self.conn).poll_read(cx, &mut buffer))?;
        if bytes == 0 {
            self.has_seen_end = true;
            self.world.judge().sees_end(self.attempt, self.side, self.is_greeted());
            return Poll::Ready(Ok(true));
        }
        let mut bytes = &buffer[..bytes];
        if !self.is_greeted() {
            let (greeting, rest) =
                bytes.split_at(bytes.len().min(Greeting::LENGTH - self.heard.len()));
            self.heard.extend_from_slice(greeting);
            bytes = rest;
            if self.is_greeted() {
                let greeting = Greeting::decode(&self.heard);
                self.world.judge().greeted(self.attempt, greeting);
            }
        }
        if !bytes.is_empty() {
            self.world.judge().received(self.attempt, self.side, bytes);
        }
        Poll::Ready(Ok(true))
    }

    fn is_greeted(&self) -> bool {
        self.side == Side::Backend || self.heard.len() == Greeting::LENGTH
    }
}

/// Reads what a client says first. `None`: the stream was over before that.
pub(super) async fn read_header(
    conn: &mut impl Conn,
    world: &World,
    place: Place,
) -> Option<Header> {
    let mut header = [0; Header::LENGTH];
    let mut length = 0;
    while length < header.len() {
        match poll_fn(|cx| Pin::new(&mut *conn).poll_read(cx, &mut header[length..])).await {
            Ok(0) => {
                world.judge().ends_too_early(place, length);
                return None;
            }
            Ok(bytes) => length += bytes,
            Err(_) => return None,
        }
    }
    let header = Header::decode(&header);
    world.judge().backend_took(place, header).then_some(header).flatten()
}
