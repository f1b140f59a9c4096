mod copy;
mod flow;
mod pipes;
mod socket;
mod socket_relay;
mod stream;

use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use thiserror::Error as ThisError;

pub use self::{
    copy::CopyRelay,
    socket::{Pipe, Readiness, Sizes, Socket, SocketConn, SocketKind},
    socket_relay::{SocketRelay, Splice},
    stream::SocketStream,
};
use crate::Side;

/// Moves bytes between the two ends of a session. [`CopyRelay`](crate::CopyRelay) serves any pair;
/// an adapter may bring one that knows its own types. One relay serves all sessions of a listener.
#[async_trait]
pub trait Relay<C, B>: Send + Sync + 'static {
    /// Moves bytes both ways until both directions have ended, and counts in `progress` each byte
    /// written and each end passed on. The end of one direction closes the write side it leads to,
    /// and the other direction goes on. It holds a bounded amount of data, waits for a reader that
    /// is slow, and has no timers: those are the caller's.
    ///
    /// # Errors
    /// The first failure of either side. A relay reports it by [`Progress::fail`] as soon as it
    /// happens. It then writes and flushes to the other side all that the failed side sent before,
    /// and returns the failure when that is done or the other side fails too. It waits for a slow
    /// side, moves nothing in the other direction and no longer passes on an end of stream. It
    /// delivers at most what the system received from the failed side. The caller limits the time,
    /// and aborts both sides.
    ///
    /// # Cancellation
    /// Dropping the future stops at once; the ends are the caller's to abort.
    async fn relay(
        &self,
        client: &mut C,
        backend: &mut B,
        progress: &Progress,
    ) -> Result<(), RelayError>;
}

/// One of the two streams of bytes in a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the client to the backend.
    ToBackend,
    /// From the backend to the client.
    ToClient,
}

impl Direction {
    /// The side that the bytes come from.
    pub fn from(self) -> Side {
        match self {
            Self::ToBackend => Side::Client,
            Self::ToClient => Side::Backend,
        }
    }

    /// The direction of the bytes that a side sends.
    pub fn of(side: Side) -> Self {
        match side {
            Side::Client => Self::ToBackend,
            Side::Backend => Self::ToClient,
        }
    }

    /// The other one.
    pub fn reverse(self) -> Self {
        match self {
            Self::ToBackend => Self::ToClient,
            Self::ToClient => Self::ToBackend,
        }
    }
}

/// How far a relay has come; outlives it, so that what was moved is known however it ended. One
/// relay writes, anyone may read.
#[derive(Debug, Default)]
pub struct Progress {
    /// By direction.
    bytes: [AtomicU64; 2],
    ended: [AtomicBool; 2],
    /// By side; at most one.
    failed: [AtomicBool; 2],
}

impl Progress {
    /// Counts bytes that were written.
    pub fn add(&self, direction: Direction, bytes: usize) {
        let counter = &self.bytes[direction as usize];
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Subtracts bytes that were written but lost. The caller of a finished relay uses it: an abort
    /// discards what the other end's system has not confirmed.
    pub fn take_back(&self, direction: Direction, bytes: usize) {
        let counter = &self.bytes[direction as usize];
        let left = counter.load(Ordering::Relaxed).saturating_sub(bytes as u64);
        counter.store(left, Ordering::Relaxed);
    }

    /// Reports that a side has failed; only the first report counts. From then on, only what that
    /// side sent before is delivered to the other.
    pub fn fail(&self, side: Side) {
        if self.failed().is_none() {
            self.failed[side as usize].store(true, Ordering::Relaxed);
        }
    }

    /// The side that has failed.
    pub fn failed(&self) -> Option<Side> {
        let has_failed = |side: &Side| self.failed[*side as usize].load(Ordering::Relaxed);
        [Side::Client, Side::Backend].into_iter().find(has_failed)
    }

    /// Notes that a direction's end was passed on.
    pub fn end(&self, direction: Direction) {
        self.ended[direction as usize].store(true, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.bytes[direction as usize].load(Ordering::Relaxed)
    }

    /// Whether a direction's end was passed on.
    pub fn has_ended(&self, direction: Direction) -> bool {
        self.ended[direction as usize].load(Ordering::Relaxed)
    }
}

/// One side of a session failed.
#[derive(Debug, ThisError)]
#[error("the {side} failed")]
pub struct RelayError {
    /// The side that failed.
    pub side: Side,
    /// The cause.
    #[source]
    pub error: io::Error,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_stays_and_a_count_never_goes_below_nothing() {
        let progress = Progress::default();
        assert_eq!(progress.failed(), None);
        progress.fail(Side::Backend);
        progress.fail(Side::Client);
        assert_eq!(progress.failed(), Some(Side::Backend));
        progress.add(Direction::ToClient, 5);
        progress.take_back(Direction::ToClient, 2);
        progress.take_back(Direction::ToBackend, 2);
        let bytes = [Direction::ToBackend, Direction::ToClient].map(|to| progress.bytes(to));
        assert_eq!(bytes, [0, 3]);
    }
}
