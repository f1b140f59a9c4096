use std::{
    io,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use async_trait::async_trait;
use thiserror::Error as ThisError;

use crate::Side;

/// Moves bytes between the two ends of a session. [`CopyRelay`](crate::CopyRelay) serves any pair;
/// an adapter may bring one that knows its own types. One relay serves all sessions of a listener.
#[async_trait]
pub trait Relay<C, B>: Send + Sync + 'static {
    /// Moves bytes both ways until both directions have ended, and tells `progress` of each byte
    /// written and each end passed on. The end of one direction closes the write side it leads to,
    /// and the other direction goes on. It holds a bounded amount of data, waits for a reader that
    /// is slow, and has no timers: those are the caller's.
    ///
    /// # Errors
    /// The first failure of either side. What could be read until then has been offered once to
    /// the other side, without waiting and without closing it; the caller aborts both.
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
    to_backend: Stream,
    to_client: Stream,
}

#[derive(Debug, Default)]
struct Stream {
    bytes: AtomicU64,
    ended: AtomicBool,
}

impl Progress {
    /// Tells that so many bytes were written.
    pub fn add(&self, direction: Direction, bytes: usize) {
        let counter = &self.stream(direction).bytes;
        counter.store(counter.load(Ordering::Relaxed) + bytes as u64, Ordering::Relaxed);
    }

    /// Tells that a direction's end was passed on.
    pub fn end(&self, direction: Direction) {
        self.stream(direction).ended.store(true, Ordering::Relaxed);
    }

    /// Bytes written so far.
    pub fn bytes(&self, direction: Direction) -> u64 {
        self.stream(direction).bytes.load(Ordering::Relaxed)
    }

    /// Whether a direction's end was passed on.
    pub fn has_ended(&self, direction: Direction) -> bool {
        self.stream(direction).ended.load(Ordering::Relaxed)
    }

    fn stream(&self, direction: Direction) -> &Stream {
        match direction {
            Direction::ToBackend => &self.to_backend,
            Direction::ToClient => &self.to_client,
        }
    }
}

/// One side of a session failed.
#[derive(Debug, ThisError)]
#[error("the {side} failed")]
pub struct RelayError {
    /// Which.
    pub side: Side,
    /// How.
    #[source]
    pub error: io::Error,
}
