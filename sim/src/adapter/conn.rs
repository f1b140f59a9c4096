use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker, ready},
};

use futures::{
    FutureExt,
    future::poll_fn,
    io::{AsyncRead, AsyncWrite},
    task::AtomicWaker,
};
use tinylb_core::Conn;
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    runtime::Handle,
    task::coop::unconstrained,
};
use turmoil::net::TcpStream;

use super::{
    Network, PacketKind,
    packets::Sending,
    wire::{Direction, END_MARK, End, Wire},
};
use crate::{Entropy, Seeded};

/// A connection on the simulated network; usable in the host that made it only.
///
/// It ends like a kernel's TCP socket with a linger time of 0 until [`Conn::finish`]:
/// - [`Conn::abort`], a drop without [`Conn::finish`] (also by a host's crash), or a drop with
///   unread bytes: the other end sees a reset.
/// - A close, or a drop after [`Conn::finish`]: an end of stream.
/// - Bytes sent to an end that is gone: a reset.
///
/// The other end learns of it when the network has carried it there. Bytes on their way are not
/// overtaken by an abort, unless the end that aborts has bytes left to read.
pub struct TurmoilConn {
    /// `None` once it was aborted.
    stream: Option<TcpStream>,
    local: SocketAddr,
    remote: SocketAddr,
    wire: Arc<Wire>,
    end: End,
    inbound: Inbound,
    /// The user has seen the end of stream, which stays one then.
    has_reported_end: bool,
    /// Whether a drop ends it instead of cutting it.
    is_finished: bool,
    /// Bytes that came from turmoil, without the mark of the end.
    received: u64,
    ahead: Ahead,
    lengths: Lengths,
    waits: Arc<Waits>,
    /// Wakes all that wait for something to come from the network.
    waker: Waker,
    network: Network,
}

/// What was heard from the other end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inbound {
    /// Bytes may come; goes to any other.
    Open,
    /// No byte comes any more, a reset may; goes to any below.
    Ended,
    /// The other end has let go of the connection, without a reset; what is sent there now is
    /// answered by one.
    Gone,
    /// Reset.
    Cut,
}

impl TurmoilConn {
    pub(crate) fn new(
        network: &Network,
        stream: TcpStream,
        wire: Arc<Wire>,
        end: End,
    ) -> io::Result<Self> {
        let (local, remote) = (stream.local_addr()?, stream.peer_addr()?);
        let waits = Arc::new(Waits::default());
        let waker = Waker::from(Arc::clone(&waits));
        network.add_end();
        Ok(Self {
            stream: Some(stream),
            local,
            remote,
            wire,
            end,
            inbound: Inbound::Open,
            has_reported_end: false,
            is_finished: false,
            received: 0,
            ahead: Ahead::default(),
            lengths: Lengths::new(network.random(), network.options().chunk_max),
            waits,
            waker,
            network: network.clone(),
        })
    }

    /// This end's address.
    pub fn local_address(&self) -> SocketAddr {
        self.local
    }

    /// The other end's address.
    pub fn remote_address(&self) -> SocketAddr {
        self.remote
    }

    fn outgoing(&self) -> &Direction {
        self.wire.outgoing(self.end)
    }

    fn incoming(&self) -> &Direction {
        self.wire.incoming(self.end)
    }

    fn sending(&self, bytes: &[u8]) -> Sending {
        Sending { from: self.local, to: self.remote, kind: PacketKind::of_bytes(bytes) }
    }

    /// Gives turmoil bytes, if it has room. Call this while there is a stream.
    fn poll_send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sending = self.sending(bytes);
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        self.network.send(sending, || Pin::new(stream).poll_write(cx, bytes))
    }

    /// Takes what turmoil has next: bytes, or 0 if what was heard has changed `inbound`. To be
    /// called while that is open or ended; wakes all of `waits`.
    fn poll_receive(&mut self, buffer: &mut [u8]) -> Poll<usize> {
        let Some(stream) = &mut self.stream else { return Poll::Pending };
        let mut mark = END_MARK;
        let is_mark = self.wire.incoming(self.end).ends_at(self.received);
        let mut buffer = ReadBuf::new(if is_mark { &mut mark } else { buffer });
        let mut cx = Context::from_waker(&self.waker);
        self.inbound = match ready!(Pin::new(stream).poll_read(&mut cx, &mut buffer)) {
            Ok(()) if buffer.filled().is_empty() => self.finished(),
            Ok(()) if is_mark => Inbound::Ended,
            Ok(()) => {
                self.received += buffer.filled().len() as u64;
                return Poll::Ready(buffer.filled().len());
            }
            Err(_) => Inbound::Cut,
        };
        Poll::Ready(0)
    }

    /// turmoil's FIN came: the other end has dropped its socket.
    fn finished(&self) -> Inbound {
        // TCP resets a sender whose bytes are not read any more, whether they had arrived or not.
        let is_cut = self.incoming().is_reset() || self.outgoing().unread() > 0;
        if is_cut { Inbound::Cut } else { Inbound::Gone }
    }

    /// Takes all that has come, up to a reset or the last end; the window bounds it.
    fn read_ahead(&mut self) {
        let mut buffer = [0; 1024];
        while matches!(self.inbound, Inbound::Open | Inbound::Ended) {
            match self.poll_receive(&mut buffer) {
                Poll::Ready(length) => self.ahead.push(&buffer[..length]),
                Poll::Pending => return,
            }
        }
    }

    /// A write can't go on: waits for a reset, besides whatever else it waits for.
    fn poll_stuck(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.waits.write.register(cx.waker());
        self.read_ahead();
        match self.inbound {
            Inbound::Open | Inbound::Ended => Poll::Pending,
            Inbound::Gone | Inbound::Cut => Poll::Ready(reset()),
        }
    }

    /// Lets go of a connection as a kernel does when a process drops it.
    fn release(&mut self) {
        // turmoil would reset the other end because of a mark that isn't read. A kernel doesn't ask
        // how much a task has done already, so neither does this.
        let drain = poll_fn(|_| {
            self.read_ahead();
            Poll::Ready(())
        });
        let _ = unconstrained(drain).now_or_never();
        let Some(mut stream) = self.stream.take() else { return };
        if self.inbound == Inbound::Open
            && self.ahead.is_empty()
            && turmoil::in_simulation()
            && let Ok(handle) = Handle::try_current()
        {
            let sending = self.sending(&END_MARK);
            if !self.outgoing().is_closed()
                && self.network.send(sending, || stream.try_write(&END_MARK)).is_ok()
            {
                self.outgoing().close();
            }
            // turmoil resets whatever sends to a socket that is gone, be it an end of stream,
            // and the reset may overtake what was sent before. So the socket stays until something
            // comes: an end, or bytes that nobody reads.
            handle.spawn(async move {
                let mut next = END_MARK;
                let mut next = ReadBuf::new(&mut next);
                let _ = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut next)).await;
            });
        }
    }
}

impl Conn for TurmoilConn {
    fn peer(&self) -> String {
        self.remote.to_string()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.stream.is_none() {
            return Poll::Pending;
        }
        self.waits.cut.register(cx.waker());
        self.read_ahead();
        if self.inbound == Inbound::Cut { Poll::Ready(reset()) } else { Poll::Pending }
    }

    fn finish(&mut self) {
        self.is_finished = true;
    }

    /// Bytes that the other end's user hasn't read, whether or not they have arrived there.
    fn unacknowledged(&self) -> usize {
        self.stream.as_ref().map_or(0, |_| self.outgoing().unread())
    }

    fn abort(&mut self) {
        if self.stream.is_some() {
            self.outgoing().reset();
            self.stream = None;
            self.ahead = Ahead::default();
        }
    }
}

impl Drop for TurmoilConn {
    fn drop(&mut self) {
        if self.is_finished {
            self.release();
        } else {
            self.abort();
        }
        self.network.remove_end();
    }
}

impl AsyncRead for TurmoilConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.stream.is_none() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let length = buffer.len().min(self.lengths.read);
        let mut read = self.ahead.pop(&mut buffer[..length]);
        while read == 0 {
            match self.inbound {
                Inbound::Open => {
                    self.waits.read.register(cx.waker());
                    read = ready!(self.poll_receive(&mut buffer[..length]));
                }
                Inbound::Cut if !self.has_reported_end => return Poll::Ready(Err(reset())),
                Inbound::Ended | Inbound::Gone | Inbound::Cut => {
                    self.has_reported_end = true;
                    return Poll::Ready(Ok(0));
                }
            }
        }
        self.lengths.draw_read();
        self.incoming().read(read);
        Poll::Ready(Ok(read))
    }
}

impl AsyncWrite for TurmoilConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = self.network.options().window.saturating_sub(self.outgoing().unread());
        let length = buffer.len().min(self.lengths.write).min(room);
        let (inbound, is_closed) = (self.inbound, self.outgoing().is_closed());
        if self.stream.is_none() {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if is_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if inbound == Inbound::Cut {
            return Poll::Ready(Err(reset()));
        }
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if room == 0 {
            self.outgoing().room().register(cx.waker());
            return self.poll_stuck(cx).map(Err);
        }
        match self.poll_send(cx, &buffer[..length]) {
            Poll::Pending => self.poll_stuck(cx).map(Err),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Ready(Ok(length)) => {
                self.outgoing().write(length);
                self.lengths.draw_write();
                if inbound == Inbound::Gone {
                    self.inbound = Inbound::Cut;
                    self.waits.cut.wake();
                }
                Poll::Ready(Ok(length))
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.stream.is_none() || self.inbound == Inbound::Cut {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        if self.outgoing().is_closed() {
            return Poll::Ready(Ok(()));
        }
        // turmoil has no room only if its capacity is smaller than it should be; a FIN that met
        // no room would be lost, the mark waits.
        match self.poll_send(cx, &END_MARK) {
            Poll::Pending => self.poll_stuck(cx).map(Err),
            Poll::Ready(Err(_)) => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            Poll::Ready(Ok(_)) => {
                self.outgoing().close();
                Poll::Ready(Ok(()))
            }
        }
    }
}

fn reset() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// The tasks that wait for something from the network. A read, a write and a watch for a cut may
/// each be another task's.
#[derive(Default)]
struct Waits {
    read: AtomicWaker,
    write: AtomicWaker,
    cut: AtomicWaker,
}

impl Wake for Waits {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.read.wake();
        self.write.wake();
        self.cut.wake();
    }
}

/// How long the next read and the next write are at most.
struct Lengths {
    random: Seeded,
    max: usize,
    read: usize,
    write: usize,
}

impl Lengths {
    fn new(random: Seeded, max: usize) -> Self {
        let mut lengths = Self { random, max, read: 0, write: 0 };
        lengths.draw_read();
        lengths.draw_write();
        lengths
    }

    fn draw(&mut self) -> usize {
        1 + self.random.below(self.max as u64) as usize
    }

    fn draw_read(&mut self) {
        self.read = self.draw();
    }

    fn draw_write(&mut self) {
        self.write = self.draw();
    }
}

/// Bytes that were taken from turmoil before the user asked for them.
#[derive(Default)]
struct Ahead {
    bytes: Vec<u8>,
    start: usize,
}

impl Ahead {
    fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn pop(&mut self, buffer: &mut [u8]) -> usize {
        let length = buffer.len().min(self.bytes.len() - self.start);
        buffer[..length].copy_from_slice(&self.bytes[self.start..self.start + length]);
        self.start += length;
        if self.is_empty() {
            self.bytes.clear();
            self.start = 0;
        }
        length
    }
}
