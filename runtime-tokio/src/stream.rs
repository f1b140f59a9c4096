use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::FutureExt;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};
use socket2::SockRef;
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::upkeep;
use crate::{limit::Limit, nonblocking::watch, options::RESETS_ON_CLOSE};

/// A connected socket that doesn't block, on tokio's reactor.
pub struct Stream {
    /// Gone once the connection was aborted.
    socket: Option<AsyncFd<OwnedFd>>,
    pub(crate) kind: Kind,
    /// The reactor's note that the socket can be written to was taken back, though it may be so:
    /// nothing will say it again before a write has failed.
    may_be_writable: bool,
    /// A write has failed, or the peer was found to have cut the connection: there may be bytes
    /// left to read that the reactor hasn't reported yet.
    may_be_readable: bool,
    /// The write side was closed.
    has_ended: bool,
    /// Whether the system resets the connection when it is closed.
    pub(crate) resets: bool,
    /// All that the peer sent before its end has been read.
    is_at_end: bool,
    nagle: Nagle,
}

/// Whether the system holds a small write back while another is unacknowledged (Nagle's algorithm,
/// RFC 9293, section 3.7.4).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Nagle {
    Off,
    /// It would, but nothing has been written yet. On to `On` with the first write.
    Unused,
    /// It may. To be switched off before the next write.
    On,
}

/// What kind of socket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Tcp,
    Unix,
}

/// Where there is no such flag, SIGPIPE is ignored all the same: Rust's start-up sees to that.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

type Guard<'a> = AsyncFdReadyGuard<'a, OwnedFd>;

impl Stream {
    /// Watches a socket. Closing a TCP connection resets it, unless `resets` is cleared first. Call
    /// this in a tokio runtime.
    pub(crate) fn new(socket: OwnedFd, kind: Kind) -> io::Result<Self> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let interest = interest | Interest::PRIORITY;
        let socket = watch(socket, interest)?;
        let resets = kind == Kind::Tcp && RESETS_ON_CLOSE;
        Ok(Self {
            socket: Some(socket),
            kind,
            may_be_writable: false,
            may_be_readable: false,
            has_ended: false,
            resets,
            is_at_end: false,
            nagle: Nagle::Off,
        })
    }

    /// Has `TCP_NODELAY` set before the second write: before there is one, it makes no difference on
    /// Linux, which holds back what is small only while something else that was small is on its way
    /// (tcp(7)).
    pub(crate) fn set_nodelay_when_due(&mut self) {
        self.nagle = Nagle::Unused;
    }

    pub(crate) fn fd(&self) -> io::Result<BorrowedFd<'_>> {
        Ok(self.socket()?.get_ref().as_fd())
    }

    /// Ready once the socket is connected.
    ///
    /// # Errors
    /// Why it could not be.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        let guard = self.socket()?.writable().await?;
        // A connect that failed has shut the socket; elsewhere than on Linux it has to be asked.
        if !cfg!(target_os = "linux") || guard.ready().is_write_closed() {
            SockRef::from(guard.get_inner()).take_error()?.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// A TCP connection's own address, once it is connected.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let local = SockRef::from(&self.fd()?).local_addr()?;
        local.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Registers a TCP connection for upkeep, once it is connected. `None`: with the limit of its
    /// listener.
    pub(crate) fn look_after(&self, limit: Option<Limit>) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Ok(socket) = self.fd() {
            upkeep::look_after(socket, limit);
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = limit;
    }

    pub(crate) fn close(&mut self) {
        drop(self.take());
    }

    /// Gives a TCP connection up: closing it without lingering sends a reset.
    pub(crate) fn reset(&mut self) {
        if let Some(socket) = self.take()
            && !self.resets
        {
            let _ = SockRef::from(socket.get_ref()).set_linger(Some(Duration::ZERO));
        }
    }

    /// Makes closing it send what was written, and then an end of stream, instead of a reset. If
    /// the system doesn't allow that, closing still resets it, which doesn't look like an end.
    pub(crate) fn finish(&mut self) {
        if let Some(socket) = &self.socket
            && self.resets
        {
            self.resets = SockRef::from(socket.get_ref()).set_linger(None).is_err();
        }
    }

    /// Takes the socket out before it is closed.
    fn take(&mut self) -> Option<AsyncFd<OwnedFd>> {
        let socket = self.socket.take()?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.kind == Kind::Tcp {
            upkeep::leave(socket.get_ref());
        }
        Some(socket)
    }

    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_at_end {
            return Poll::Ready(Ok(0));
        }
        loop {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let mut guard = match socket.poll_read_ready(cx)? {
                Poll::Ready(guard) => Some(guard),
                Poll::Pending if self.may_be_readable => None,
                Poll::Pending => return Poll::Pending,
            };
            let is_over = guard.as_ref().is_some_and(|guard| guard.ready().is_read_closed());
            match rustix::net::recv(socket.get_ref(), &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, length)) => {
                    if let Some(guard) = &mut guard
                        && 0 < length
                        && length < buffer.len()
                    {
                        if !self.may_stop_short() {
                            guard.clear_ready();
                        } else if is_over {
                            self.is_at_end = self.ends_there();
                        }
                    }
                    return Poll::Ready(Ok(length));
                }
                Err(error) => {
                    self.may_be_readable &= error != Errno::AGAIN;
                    try_again(error, guard.as_mut())?;
                }
            }
        }
    }

    /// Whether a read that gives less than was asked for may leave something behind: it also stops
    /// at urgent data (tcp(7)), which the reactor reports before a read can meet it or right after,
    /// and at descriptors that were passed (unix(7)).
    pub(crate) fn may_stop_short(&self) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.kind == Kind::Tcp {
            let Some(socket) = &self.socket else { return false };
            return socket.try_io(Interest::PRIORITY, |_| Ok(())).is_ok();
        }
        true
    }

    /// Whether a read that gave less than was asked for, after the reactor had reported that no more
    /// is to be read, has read all there will ever be.
    ///
    /// What has that reported is the peer's end of stream, or a failure: a reset, a time-out.
    /// - Linux processes an end of stream in its order: once it is reported, everything before it has
    ///   arrived. So a read has it all, unless it was stopped by urgent data; and there the reactor
    ///   has reported that at the latest with the end, since a sender marks each segment up to the
    ///   urgent byte (RFC 9293, section 3.8.5).
    /// - A failure is reported as an error along with it: Linux sets that first, and epoll looks at
    ///   it last. (A call that takes it from the socket in between fails with it, and the session too.)
    ///
    /// A failure that comes after the end changes nothing: the system still reads the end.
    fn ends_there(&self) -> bool {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let (Kind::Tcp, Some(socket)) = (self.kind, &self.socket) {
            let reported = socket.ready(Interest::PRIORITY | Interest::ERROR).now_or_never();
            return reported.and_then(Result::ok).is_some_and(|guard| {
                let ready = guard.ready();
                ready.is_read_closed() && !ready.is_priority() && !ready.is_error()
            });
        }
        false
    }

    /// Whether the next read gives the end, as is known without asking the system.
    pub(crate) fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Writes what [`Self::poll_close`] is to follow at once: Linux may hold it back until then, so
    /// that both go in one packet (`MSG_MORE`, send(2)).
    pub(crate) fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        const FLAGS: SendFlags = SEND_FLAGS.union(SendFlags::MORE);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        const FLAGS: SendFlags = SEND_FLAGS;
        let send = |socket: &OwnedFd| rustix::net::send(socket, buffer, FLAGS);
        self.poll_give(cx, buffer.len(), send)
    }

    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let send = |socket: &OwnedFd| rustix::net::send(socket, buffer, SEND_FLAGS);
        self.poll_give(cx, buffer.len(), send)
    }

    /// Writes by `give`. If it gives less than `length`, the socket is full.
    pub(crate) fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        give: impl Fn(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.nagle == Nagle::On {
            SockRef::from(&self.fd()?).set_tcp_nodelay(true)?;
            self.nagle = Nagle::Off;
        }
        loop {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let mut guard = match socket.poll_write_ready(cx)? {
                Poll::Ready(guard) => Some(guard),
                Poll::Pending if self.may_be_writable => None,
                Poll::Pending => return Poll::Pending,
            };
            let given = give(socket.get_ref());
            if self.nagle == Nagle::Unused && given.is_ok() {
                self.nagle = Nagle::On;
            }
            match given {
                Ok(given) if given < length && given > 0 => {
                    // So the next poll saves a call in vain.
                    self.may_be_writable = false;
                    if let Some(guard) = &mut guard {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(given));
                }
                Ok(given) => return Poll::Ready(Ok(given)),
                Err(error) => {
                    self.may_be_writable &= error != Errno::AGAIN;
                    self.may_be_readable |= ![Errno::AGAIN, Errno::INTR].contains(&error);
                    try_again(error, guard.as_mut())?;
                }
            }
        }
    }

    /// Reads by `take` until it takes something. When it has nothing to take, the socket is empty.
    pub(crate) fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        take: impl Fn(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.is_at_end {
            return Poll::Ready(Ok(0));
        }
        loop {
            let socket = self.socket()?;
            let mut guard = ready!(socket.poll_read_ready(cx))?;
            match take(socket.get_ref()) {
                Ok(taken) => return Poll::Ready(Ok(taken)),
                Err(error) => try_again(error, Some(&mut guard))?,
            }
        }
    }

    pub(crate) fn poll_close(&mut self) -> Poll<io::Result<()>> {
        rustix::net::shutdown(self.fd()?, Shutdown::Write)?;
        self.has_ended = true;
        Poll::Ready(Ok(()))
    }

    /// Bytes that were written over TCP and that the peer's system has not acknowledged. (Linux; 0
    /// on other systems.)
    pub(crate) fn unacknowledged(&self) -> usize {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Some(socket) = &self.socket {
            let bytes = crate::tcp_info::unacknowledged(socket.get_ref().as_fd()).unwrap_or(0);
            // The end of the stream takes a sequence number too, after every byte.
            return bytes.saturating_sub(usize::from(self.has_ended));
        }
        0
    }

    /// Whether a TCP connection has not failed. This doesn't consume the socket's error.
    pub(crate) fn is_connected(&self) -> bool {
        self.fd().is_ok_and(|socket| rustix::net::getpeername(socket).is_ok())
    }

    /// Ready once the peer has reset a TCP connection. Such a socket can be written to no more, and
    /// the reactor reports that to a task that waits to write. It does the same when both directions
    /// have ended, but then there is no error, which the reactor would have reported as well.
    pub(crate) fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !cfg!(any(target_os = "linux", target_os = "android")) {
            return Poll::Pending;
        }
        while let Some(socket) = &self.socket {
            let Ok(mut guard) = ready!(socket.poll_write_ready(cx)) else { break };
            if guard.ready().is_write_closed() {
                let error = socket.try_io(Interest::ERROR, |fd| SockRef::from(fd).take_error());
                let error = error.ok().flatten();
                self.may_be_readable |= error.is_some();
                return error.map_or(Poll::Pending, Poll::Ready);
            }
            guard.clear_ready();
            self.may_be_writable = true;
        }
        Poll::Pending
    }

    fn socket(&self) -> io::Result<&AsyncFd<OwnedFd>> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.close();
    }
}

/// An operation has failed: whether it is to be tried again, and if so, whether the socket has to
/// be waited for first.
fn try_again(error: Errno, guard: Option<&mut Guard<'_>>) -> io::Result<()> {
    match error {
        Errno::INTR => Ok(()),
        Errno::AGAIN => {
            if let Some(guard) = guard {
                guard.clear_ready();
            }
            Ok(())
        }
        error => Err(error.into()),
    }
}

/// Lets other tasks have their turn, and the reactor look for what has come, before this one goes
/// on.
pub(crate) fn yield_turn(cx: &mut Context<'_>) {
    let _ = pin!(tokio::task::yield_now()).poll(cx);
}
