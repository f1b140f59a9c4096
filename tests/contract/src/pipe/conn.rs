use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use futures::io::{AsyncRead, AsyncWrite};
use tinylb_core::Conn;

use super::{EndStats, PipeNetwork, lock};

/// One end of a connection.
///
/// As with TCP, what has been received can be read before a cut shows; and an end that is dropped
/// lets the other see a cut, or once it has been finished an end of stream, unless it had bytes left
/// to read.
pub struct Pipe {
    wire: Arc<Mutex<Wire>>,
    /// Which of the wire's ends this is.
    side: usize,
    peer: String,
    is_aborted: bool,
    is_finished: bool,
    account: Account,
}

/// Where an end's deeds are counted.
pub(super) struct Account {
    pub(super) network: PipeNetwork,
    pub(super) name: Arc<str>,
    pub(super) role: Role,
}

#[derive(Clone, Copy)]
pub(super) enum Role {
    Dialled,
    Accepted,
}

struct Wire {
    capacity: usize,
    chunk_max: usize,
    /// An abort discards what the other end has not read.
    is_lossy: bool,
    ends: [End; 2],
}

/// What one end is to see, and the task that waits there.
#[derive(Default)]
struct End {
    /// Bytes that it hasn't read yet.
    inbox: VecDeque<u8>,
    /// Nothing comes after them.
    has_ended: bool,
    /// The other end has cut the connection.
    is_cut: bool,
    /// It has been let go.
    is_gone: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
    cut: Option<Waker>,
}

impl End {
    fn wakers(&mut self) -> impl Iterator<Item = Waker> {
        [self.reader.take(), self.writer.take(), self.cut.take()].into_iter().flatten()
    }
}

impl Account {
    fn note(&self, note: impl FnOnce(&mut EndStats)) {
        self.network.change(|world| {
            let stats = &mut world.host(&self.name).stats;
            note(match self.role {
                Role::Dialled => &mut stats.dialled,
                Role::Accepted => &mut stats.accepted,
            });
        });
    }

    fn note_written(&self, bytes: usize, buffered: usize) {
        self.note(|stats| stats.bytes_written += bytes as u64);
        self.network.change(|world| world.buffered_max = world.buffered_max.max(buffered));
    }
}

impl Pipe {
    /// Both ends of a new connection, the one that dialled first.
    pub(super) fn pair(
        (capacity, chunk_max, is_lossy): (usize, usize, bool),
        peers: [String; 2],
        accounts: [Account; 2],
    ) -> [Self; 2] {
        let wire =
            Arc::new(Mutex::new(Wire { capacity, chunk_max, is_lossy, ends: Default::default() }));
        let [first, second] = [0, 1].map(|side| (Arc::clone(&wire), side));
        let ([peer, other_peer], [account, other_account]) = (peers, accounts);
        let (is_aborted, is_finished) = (false, false);
        let end = |(wire, side), peer, account| Self {
            wire,
            side,
            peer,
            is_aborted,
            is_finished,
            account,
        };
        [end(first, peer, account), end(second, other_peer, other_account)]
    }

    /// Bytes that this end has received and not read yet.
    pub fn unread(&self) -> usize {
        lock(&self.wire).ends[self.side].inbox.len()
    }

    /// Lets the connection go, and signals that to the other end: by a cut, or by an end of stream.
    fn let_go(&self, by_cut: bool) {
        let mut wire = lock(&self.wire);
        let is_lossy = wire.is_lossy;
        let (me, other) = both(&mut wire.ends, self.side);
        me.is_gone = true;
        if by_cut || !me.inbox.is_empty() {
            other.is_cut = true;
            if is_lossy {
                other.inbox.clear();
            }
        } else {
            other.has_ended = true;
        }
        me.inbox.clear();
        let wakers: Vec<Waker> = other.wakers().collect();
        drop(wire);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Conn for Pipe {
    fn peer(&self) -> String {
        self.peer.clone()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let me = &mut lock(&self.wire).ends[self.side];
        if me.is_cut {
            return Poll::Ready(io::ErrorKind::ConnectionReset.into());
        }
        me.cut = Some(cx.waker().clone());
        Poll::Pending
    }

    fn finish(&mut self) {
        self.is_finished = true;
    }

    fn unacknowledged(&self) -> usize {
        self.account.note(|stats| stats.queries += 1);
        let wire = lock(&self.wire);
        if wire.is_lossy { wire.ends[1 - self.side].inbox.len() } else { 0 }
    }

    fn abort(&mut self) {
        if !self.is_aborted {
            self.is_aborted = true;
            self.let_go(true);
            self.account.note(|stats| {
                stats.open -= 1;
                stats.aborted += 1;
            });
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if !self.is_aborted {
            self.let_go(!self.is_finished);
            self.account.note(|stats| {
                stats.open -= 1;
                stats.dropped += 1;
            });
        }
    }
}

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.wire);
        let read = buffer.len().min(wire.chunk_max);
        let (me, other) = both(&mut wire.ends, self.side);
        if self.is_aborted {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if me.inbox.is_empty() {
            if me.is_cut {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            if me.has_ended {
                return Poll::Ready(Ok(0));
            }
            me.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let read = read.min(me.inbox.len());
        for (to, from) in buffer.iter_mut().zip(me.inbox.drain(..read)) {
            *to = from;
        }
        let waker = other.writer.take();
        drop(wire);
        waker.into_iter().for_each(Waker::wake);
        self.account.network.change(|_| {});
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut wire = lock(&self.wire);
        let (capacity, chunk_max) = (wire.capacity, wire.chunk_max);
        let (me, other) = both(&mut wire.ends, self.side);
        if self.is_aborted {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if me.is_cut {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if other.has_ended || other.is_gone {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = buffer.len().min(chunk_max).min(capacity - other.inbox.len());
        if written == 0 && !buffer.is_empty() {
            me.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        other.inbox.extend(&buffer[..written]);
        let buffered = other.inbox.len();
        let waker = other.reader.take();
        drop(wire);
        waker.into_iter().for_each(Waker::wake);
        self.account.note_written(written, buffered);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut wire = lock(&self.wire);
        let (me, other) = both(&mut wire.ends, self.side);
        if self.is_aborted || me.is_cut {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        other.has_ended = true;
        let waker = other.reader.take();
        drop(wire);
        waker.into_iter().for_each(Waker::wake);
        self.account.network.change(|_| {});
        Poll::Ready(Ok(()))
    }
}

/// This end and the other.
fn both(ends: &mut [End; 2], side: usize) -> (&mut End, &mut End) {
    let [first, second] = ends;
    if side == 0 { (first, second) } else { (second, first) }
}
