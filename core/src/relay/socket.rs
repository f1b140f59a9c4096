//! What a [`SocketRelay`](super::SocketRelay) asks of a system: the calls on a socket and a pipe,
//! and what a reactor reports of a socket and takes back.

use std::{
    io,
    task::{Context, Poll},
};

use super::SocketStream;
use crate::Conn;

/// A connected socket that doesn't block, watched by a reactor. An adapter implements it with one
/// system call for each method; every decision about the results is made here, in
/// [`SocketStream`] and [`SocketRelay`](super::SocketRelay).
///
/// A call that would have to wait fails with [`io::ErrorKind::WouldBlock`], and one that was
/// interrupted with [`io::ErrorKind::Interrupted`].
pub trait Socket: Sized {
    /// What bytes go through from one socket to another within the system.
    type Pipe: Pipe;
    /// What the reactor has reported of the socket.
    type Readiness<'a>: Readiness
    where
        Self: 'a;

    /// How much is moved at once.
    const SIZES: Sizes = Sizes::DEFAULT;

    /// Whether the reactor reports urgent data ([`Self::may_stop_short`]) and whether the socket has
    /// failed ([`Self::has_ended_well`], [`Self::reported_error`]), as epoll does. Without, a relay
    /// makes more calls, and notices a reset when it reads or writes.
    const REPORTS_URGENT_AND_FAILED: bool;

    /// Ready while the reactor has reported that there is something to read, or that no more ever
    /// will be. Pending means that the task is woken at the next such report.
    ///
    /// # Errors
    /// The reactor is gone.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Readiness<'_>>>;

    /// The same for writing.
    ///
    /// # Errors
    /// The reactor is gone.
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Self::Readiness<'_>>>;

    /// Whether the reactor has reported urgent data, or that no more is to be read. Asks no system.
    /// Of a TCP socket, and only with [`Self::REPORTS_URGENT_AND_FAILED`].
    fn may_stop_short(&self) -> bool;

    /// Whether the reactor has reported that no more is to be read, and neither urgent data nor a
    /// failure. Asks no system. Of a TCP socket, and only with [`Self::REPORTS_URGENT_AND_FAILED`].
    fn has_ended_well(&self) -> bool;

    /// Takes the socket's error, if the reactor has reported that there is one. Only with
    /// [`Self::REPORTS_URGENT_AND_FAILED`].
    fn reported_error(&self) -> Option<io::Error>;

    /// Reads (recv(2)). 0 is the end of the stream, or follows an error that was already reported.
    ///
    /// # Errors
    /// The system's. A socket's error is reported by one call.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes (send(2)), as much as the socket takes.
    ///
    /// # Errors
    /// The system's.
    fn send(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Writes what [`Self::shut_down`] follows at once: the system may hold it back until then
    /// (`MSG_MORE`).
    ///
    /// # Errors
    /// The system's.
    fn send_last(&self, bytes: &[u8]) -> io::Result<usize>;

    /// An empty pipe of this size, and the size that it has got. `None`: there is none to be had.
    fn make_pipe(&self, size: usize) -> Option<(Self::Pipe, usize)>;

    /// Moves at most `length` bytes from the socket to a pipe (splice(2)). 0 as for
    /// [`Self::receive`], or there is urgent data in the way.
    ///
    /// # Errors
    /// The system's. [`io::ErrorKind::WouldBlock`]: the socket is empty, or the pipe is full.
    fn fill(&self, pipe: &Self::Pipe, length: usize) -> io::Result<usize>;

    /// Moves at most `length` bytes from a pipe to the socket (splice(2)).
    ///
    /// # Errors
    /// The system's. [`io::ErrorKind::WouldBlock`]: the socket is full, or the pipe is empty.
    fn drain(&self, pipe: &Self::Pipe, length: usize) -> io::Result<usize>;

    /// Ends the write side (shutdown(2)).
    ///
    /// # Errors
    /// The system's.
    fn shut_down(&self) -> io::Result<()>;

    /// Whether the socket has not failed (getpeername(2)). This takes no error from it.
    fn is_connected(&self) -> bool;

    /// Bytes that were written and that the peer's system has not confirmed, and one for an end of
    /// stream that it has not confirmed (SIOCOUTQ). 0 if that is unknown.
    fn unacknowledged(&self) -> usize;

    /// Has the system send small writes at once (`TCP_NODELAY`).
    ///
    /// # Errors
    /// The system's.
    fn set_nodelay(&self) -> io::Result<()>;

    /// Whether closing the socket resets the connection (`SO_LINGER` with a time of 0).
    ///
    /// # Errors
    /// The system's.
    fn set_resets(&self, resets: bool) -> io::Result<()>;

    /// Closes the socket.
    fn close(self, kind: SocketKind);

    /// Wakes the task once other tasks have had their turn, and the reactor has looked for what has
    /// come. By default at once.
    fn yield_turn(cx: &mut Context<'_>) {
        cx.waker().wake_by_ref();
    }
}

/// What a reactor has reported of a socket, until it is taken back.
pub trait Readiness {
    /// Whether it includes that no more is ever to be read. Such a report isn't taken back.
    fn is_read_closed(&self) -> bool;

    /// Whether it includes that no more can ever be written. Such a report isn't taken back.
    fn is_write_closed(&self) -> bool;

    /// Takes the report back, unless the reactor has reported something new since.
    fn take_back(&mut self);
}

/// A pipe within the system (pipe(2)).
pub trait Pipe {
    /// Takes out what the pipe holds, as far as it fits into the buffer.
    ///
    /// # Errors
    /// The system's.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether an error of [`Socket::fill`] says that it never works here.
    fn is_unsupported(error: &io::Error) -> bool;
}

/// What kind of socket it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketKind {
    /// TCP. A read that gives less than was asked for has emptied the socket, unless urgent data
    /// is in the way.
    Tcp,
    /// A Unix socket. A short read says nothing (descriptors may be passed in between, unix(7)).
    Unix,
}

/// How much a [`SocketRelay`](super::SocketRelay) moves at once, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A read.
    pub read: usize,
    /// What one direction moves before others get their turn.
    pub turn: usize,
    /// A hot direction that moves less at a time cools.
    pub small: usize,
    /// What a pipe should hold.
    pub pipe: usize,
    /// A pipe that holds less isn't worth its calls.
    pub pipe_min: usize,
    /// A count, not a size: after a pipe could not be made, this many requests get none before the
    /// relay tries to make one again.
    pub pipe_pause: usize,
}

impl Sizes {
    /// For a system. Linux lets an unprivileged user have pipes of up to 1 MiB by default
    /// (`/proc/sys/fs/pipe-max-size`), and smaller ones if the user has many
    /// (`/proc/sys/fs/pipe-user-pages-soft`).
    pub const DEFAULT: Self = Self {
        read: 64 << 10,
        turn: 1 << 20,
        small: 16 << 10,
        pipe: 1 << 20,
        pipe_min: 64 << 10,
        pipe_pause: 10_000,
    };
}

/// A connection that is a socket: what [`SocketRelay`](super::SocketRelay) relays.
pub trait SocketConn: Conn {
    /// The socket.
    type Socket: Socket;

    /// The socket, and what is known of it.
    fn stream(&mut self) -> &mut SocketStream<Self::Socket>;
}
