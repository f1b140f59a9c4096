use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use futures::task::AtomicWaker;

/// What the two ends of a connection both see: the part of TCP that turmoil doesn't carry. Each
/// end holds it, and it goes away with them, so that a port may be used again.
///
/// One thread runs all hosts of a simulation, so the order of the atomics means nothing.
#[derive(Default)]
pub(crate) struct Wire {
    from_dialer: Direction,
    from_acceptor: Direction,
}

/// What a close sends. Its place in the stream distinguishes it from data; its bytes are for
/// those that watch the network.
pub(crate) const END_MARK: [u8; 8] = [0xE4, 0xD1, 0x9A, 0xC7, 0x8E, 0xB5, 0xF3, 0xA6];

/// Which end of a connection one is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Dialer,
    Acceptor,
}

impl Wire {
    /// What this end writes.
    pub(crate) fn outgoing(&self, end: End) -> &Direction {
        match end {
            End::Dialer => &self.from_dialer,
            End::Acceptor => &self.from_acceptor,
        }
    }

    /// What this end reads.
    pub(crate) fn incoming(&self, end: End) -> &Direction {
        match end {
            End::Dialer => &self.from_acceptor,
            End::Acceptor => &self.from_dialer,
        }
    }
}

/// One direction of a connection.
pub(crate) struct Direction {
    /// Bytes that were written and that the reader's user has not taken: under way or buffered.
    unread: AtomicUsize,
    written: AtomicU64,
    /// Where the stream ends, once the writer has closed it.
    end: AtomicU64,
    /// The writer has aborted: turmoil's FIN in this direction stands for a reset.
    is_reset: AtomicBool,
    /// Wakes a writer that waits for room.
    room: AtomicWaker,
}

/// A stream that isn't closed ends where none gets to.
const OPEN: u64 = u64::MAX;

impl Default for Direction {
    fn default() -> Self {
        Self {
            unread: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            end: AtomicU64::new(OPEN),
            is_reset: AtomicBool::new(false),
            room: AtomicWaker::new(),
        }
    }
}

impl Direction {
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn write(&self, bytes: usize) {
        self.unread.fetch_add(bytes, Ordering::Relaxed);
        self.written.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// The reader's user took bytes.
    pub(crate) fn read(&self, bytes: usize) {
        self.unread.fetch_sub(bytes, Ordering::Relaxed);
        self.room.wake();
    }

    /// The waker of the next read.
    pub(crate) fn room(&self) -> &AtomicWaker {
        &self.room
    }

    pub(crate) fn close(&self) {
        self.end.store(self.written.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.end.load(Ordering::Relaxed) != OPEN
    }

    /// Whether what comes after this many bytes is the mark of the end. True before the mark
    /// arrives, and never before a byte of the stream.
    pub(crate) fn ends_at(&self, bytes: u64) -> bool {
        self.end.load(Ordering::Relaxed) == bytes
    }

    pub(crate) fn reset(&self) {
        self.is_reset.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_reset(&self) -> bool {
        self.is_reset.load(Ordering::Relaxed)
    }
}
