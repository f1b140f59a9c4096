use std::{
    io,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};

/// One connection: a byte stream each way, ended each for itself. An adapter implements it.
///
/// What the balancer relies on beyond the usual contract of [`AsyncRead`] and [`AsyncWrite`]:
/// - `poll_close` ends the write side only: what was written before arrives, then an end of
///   stream, and reads go on;
/// - a read returns 0 only at such an end; a connection that was cut reads as an error;
/// - once a write has failed, or [`Self::poll_cut`] has reported a cut, what the system received
///   before can still be read, without waiting: such a read asks the system, and doesn't rely on
///   what the reactor last reported. After that comes an error or an end of stream (a system may
///   report a reset once, and an end of stream from then on). The balancer treats neither as an
///   end;
/// - a connection that is dropped without [`Self::finish`] looks cut to the other end, and so does
///   one whose process is killed, as far as the transport allows: half a stream never passes for a
///   whole one. (TCP: `SO_LINGER` with a time of 0, from the beginning.) An adapter whose transport
///   can't do this says so in its docs.
pub trait Conn: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// The other end's address, for people to read.
    fn peer(&self) -> String;

    /// Ready once the other end has cut the connection (TCP: reset), without reading from it; an
    /// end of stream doesn't count. By default never, which costs promptness only: a client that
    /// goes away during a dial is noticed after it.
    ///
    /// Pending means that the waker of the latest call is woken at a cut. The balancer has no read
    /// and no write of this connection pending meanwhile.
    fn poll_cut(&mut self, _cx: &mut Context<'_>) -> Poll<io::Error> {
        Poll::Pending
    }

    /// Marks the connection as complete: both directions have ended, and the drop that follows is
    /// no cut. What was written before still arrives, and then an end of stream, however slowly the
    /// other end reads. Called at most once, right before the drop. Does nothing by default, which
    /// is right if a drop never looks like a cut.
    fn finish(&mut self) {}

    /// Bytes that were written but not confirmed by the other end's system: what an abort would
    /// discard (TCP: the send queue, including what is in flight). When one side of a session has
    /// failed, the balancer waits until this is 0 before it aborts the other side. What an abort
    /// discards doesn't count as passed on. By default 0: none, or unknown.
    fn unacknowledged(&self) -> usize {
        0
    }

    /// Gives the connection up now, without waiting, in the way that lets the other end know that
    /// the stream was cut (TCP: reset). Nothing is read or written afterwards; the connection is
    /// dropped right after. An adapter whose transport can't do this says so in its docs.
    fn abort(&mut self);
}
