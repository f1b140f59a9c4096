use std::{
    io,
    task::{Context, Poll, ready},
};

use super::{Readiness, Socket, SocketKind};

/// A connected socket, and what is known of it beyond what its reactor reports. An adapter makes
/// its [`Conn`](crate::Conn) of it.
pub struct SocketStream<S: Socket> {
    /// Gone once the connection was aborted.
    socket: Option<S>,
    kind: SocketKind,
    /// The reactor's note that the socket can be written to was taken back, though it may be so:
    /// nothing will say it again before a write has failed.
    may_be_writable: bool,
    /// A write or the end of the write side has failed, or the peer was found to have cut the
    /// connection: there may be bytes left to read that the reactor hasn't reported yet.
    may_be_readable: bool,
    /// A call has reported that the connection failed. The system reports that once.
    has_failed: bool,
    /// The write side was closed.
    has_ended: bool,
    /// Whether the system resets the connection when it is closed.
    resets: bool,
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

impl<S: Socket> SocketStream<S> {
    /// A socket; `resets`: closing it resets the connection, as things are now.
    pub fn new(socket: S, kind: SocketKind, resets: bool) -> Self {
        Self {
            socket: Some(socket),
            kind,
            may_be_writable: false,
            may_be_readable: false,
            has_failed: false,
            has_ended: false,
            resets,
            is_at_end: false,
            nagle: Nagle::Off,
        }
    }

    /// Has `TCP_NODELAY` set before the second write: before there is one, it makes no difference on
    /// Linux, which holds back what is small only while something else that was small is on its way
    /// (tcp(7)).
    pub fn set_nodelay_when_due(&mut self) {
        self.nagle = Nagle::Unused;
    }

    /// The socket.
    ///
    /// # Errors
    /// The connection was aborted.
    pub fn socket(&self) -> io::Result<&S> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    /// Closes the socket.
    pub fn close(&mut self) {
        if let Some(socket) = self.socket.take() {
            socket.close(self.kind);
        }
    }

    /// Gives a TCP connection up: closing it without lingering sends a reset.
    pub fn reset(&mut self) {
        if let Some(socket) = &self.socket
            && !self.resets
        {
            let _ = socket.set_resets(true);
        }
        self.close();
    }

    /// Makes closing it send what was written, and then an end of stream, instead of a reset. If
    /// the system doesn't allow that, closing still resets it, which doesn't look like an end.
    pub fn finish(&mut self) {
        if let Some(socket) = &self.socket
            && self.resets
        {
            self.resets = socket.set_resets(false).is_err();
        }
    }

    /// Reads: see [`AsyncRead`](futures::io::AsyncRead).
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_at_end {
            return Poll::Ready(Ok(0));
        }
        loop {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let mut readiness = match socket.poll_read_ready(cx)? {
                Poll::Ready(readiness) => Some(readiness),
                Poll::Pending if self.may_be_readable => None,
                Poll::Pending => return Poll::Pending,
            };
            let is_over = readiness.as_ref().is_some_and(Readiness::is_read_closed);
            match socket.receive(buffer) {
                Ok(length) => {
                    if let Some(readiness) = &mut readiness
                        && 0 < length
                        && length < buffer.len()
                    {
                        if !self.may_stop_short() {
                            readiness.take_back();
                        } else if is_over {
                            self.is_at_end = self.ends_there();
                        }
                    }
                    return Poll::Ready(Ok(length));
                }
                Err(error) => {
                    self.may_be_readable &= error.kind() != io::ErrorKind::WouldBlock;
                    self.has_failed |= is_failure(&error);
                    try_again(error, readiness.as_mut())?;
                }
            }
        }
    }

    /// Whether a read that gives less than was asked for may leave something behind: it also stops
    /// at urgent data (tcp(7)), which the reactor reports before a read can meet it or right after,
    /// and at descriptors that were passed (unix(7)).
    pub(super) fn may_stop_short(&self) -> bool {
        if S::REPORTS_URGENT_AND_FAILED && self.kind == SocketKind::Tcp {
            return self.socket.as_ref().is_some_and(S::may_stop_short);
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
        if S::REPORTS_URGENT_AND_FAILED && self.kind == SocketKind::Tcp {
            return self.socket.as_ref().is_some_and(S::has_ended_well);
        }
        false
    }

    /// Whether the next read gives the end, as is known without asking the system.
    pub fn is_at_end(&self) -> bool {
        self.is_at_end
    }

    /// Writes what [`Self::poll_close`] is to follow at once: the system may hold it back until
    /// then, so that both go in one packet.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_write_last(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let given = self.poll_give(cx, bytes.len(), |socket| socket.send_last(bytes));
        self.note_failure(&given);
        given
    }

    /// Writes: see [`AsyncWrite`](futures::io::AsyncWrite).
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let given = self.poll_give(cx, bytes.len(), |socket| socket.send(bytes));
        self.note_failure(&given);
        given
    }

    /// Notes that a write has failed. (If a splice fails, it may be the pipe's fault.)
    fn note_failure(&mut self, given: &Poll<io::Result<usize>>) {
        self.has_failed |= matches!(given, Poll::Ready(Err(_)));
    }

    /// Moves what a pipe holds, `length` bytes, to the socket, as far as it takes them.
    pub(super) fn poll_drain(
        &mut self,
        pipe: &S::Pipe,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Nothing promises that a short splice means a full socket, so the next one has to tell.
        self.poll_give(cx, 0, |socket| socket.drain(pipe, length))
    }

    /// Writes by `give`. If it gives less than `length`, the socket is full.
    fn poll_give(
        &mut self,
        cx: &mut Context<'_>,
        length: usize,
        give: impl Fn(&S) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        if self.nagle == Nagle::On {
            self.socket()?.set_nodelay()?;
            self.nagle = Nagle::Off;
        }
        loop {
            let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
            let mut readiness = match socket.poll_write_ready(cx)? {
                Poll::Ready(readiness) => Some(readiness),
                Poll::Pending if self.may_be_writable => None,
                Poll::Pending => return Poll::Pending,
            };
            let given = give(socket);
            if self.nagle == Nagle::Unused && given.is_ok() {
                self.nagle = Nagle::On;
            }
            match given {
                Ok(given) if given < length && given > 0 => {
                    // This saves the next poll a call that would find no room.
                    self.may_be_writable = false;
                    if let Some(readiness) = &mut readiness {
                        readiness.take_back();
                    }
                    return Poll::Ready(Ok(given));
                }
                Ok(given) => return Poll::Ready(Ok(given)),
                Err(error) => {
                    self.may_be_writable &= error.kind() != io::ErrorKind::WouldBlock;
                    self.may_be_readable |= is_failure(&error);
                    try_again(error, readiness.as_mut())?;
                }
            }
        }
    }

    /// Fills a pipe, which is empty, with at most `length` bytes. So what it takes to mean "try
    /// again" is an empty socket, and not a full pipe. 0 is the end of the stream, or there may be
    /// urgent data in the way.
    pub(super) fn poll_fill(
        &mut self,
        pipe: &S::Pipe,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.is_at_end {
            return Poll::Ready(Ok(0));
        }
        loop {
            let socket = self.socket()?;
            let mut readiness = ready!(socket.poll_read_ready(cx))?;
            match socket.fill(pipe, length) {
                Ok(taken) => return Poll::Ready(Ok(taken)),
                // Urgent data may have been reported meanwhile, and then the socket isn't empty.
                Err(error) if !is_failure(&error) && self.may_stop_short() => {
                    return Poll::Ready(Ok(0));
                }
                Err(error) => try_again(error, Some(&mut readiness))?,
            }
        }
    }

    /// Ends the write side. Ready at once.
    ///
    /// # Errors
    /// The socket's.
    pub fn poll_close(&mut self) -> Poll<io::Result<()>> {
        if let Err(error) = self.socket()?.shut_down() {
            // The peer has reset the connection, and the reactor may not have reported that yet.
            self.may_be_readable = true;
            self.has_failed = true;
            return Poll::Ready(Err(error));
        }
        self.has_ended = true;
        Poll::Ready(Ok(()))
    }

    /// Bytes that were written over TCP and that the peer's system has not acknowledged; 0 if that
    /// is unknown.
    pub fn unacknowledged(&self) -> usize {
        let bytes = self.socket.as_ref().map_or(0, S::unacknowledged);
        // The end of the stream takes a sequence number too, after every byte.
        bytes.saturating_sub(usize::from(self.has_ended))
    }

    /// Whether a TCP connection has not failed. This doesn't consume the socket's error.
    pub(super) fn is_connected(&self) -> bool {
        self.socket.as_ref().is_some_and(S::is_connected)
    }

    /// Ready once the peer has reset a TCP connection. Such a socket can be written to no more, and
    /// the reactor reports that to a task that waits to write. It does the same when both directions
    /// have ended, but then there is no error, which the reactor would have reported as well.
    /// A failure that a call has reported before is reported again.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.has_failed {
            return Poll::Ready(io::ErrorKind::NotConnected.into());
        }
        if !S::REPORTS_URGENT_AND_FAILED {
            return Poll::Pending;
        }
        while let Some(socket) = &self.socket {
            let Ok(mut readiness) = ready!(socket.poll_write_ready(cx)) else { break };
            if readiness.is_write_closed() {
                let error = socket.reported_error();
                self.may_be_readable |= error.is_some();
                self.has_failed |= error.is_some();
                return error.map_or(Poll::Pending, Poll::Ready);
            }
            readiness.take_back();
            self.may_be_writable = true;
        }
        Poll::Pending
    }
}

impl<S: Socket> Drop for SocketStream<S> {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whether an operation failed for good.
fn is_failure(error: &io::Error) -> bool {
    ![io::ErrorKind::WouldBlock, io::ErrorKind::Interrupted].contains(&error.kind())
}

/// An operation has failed: whether it is to be tried again, and if so, whether the socket has to
/// be waited for first.
fn try_again(error: io::Error, readiness: Option<&mut impl Readiness>) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::Interrupted => Ok(()),
        io::ErrorKind::WouldBlock => {
            if let Some(readiness) = readiness {
                readiness.take_back();
            }
            Ok(())
        }
        _ => Err(error),
    }
}
