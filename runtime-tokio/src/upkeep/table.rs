use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use super::peer::Peer;
use crate::{limit::Limit, tcp_info::borrow_raw};

/// The connections that are looked after: a word of 8 bytes for each descriptor, indexed by its
/// number. Parts of the table are allocated when they are first needed, and stay.
///
/// The owner of a descriptor fills its word, and empties it before closing the descriptor. A look
/// marks the word while it lasts, and the owner waits until the mark is gone (as long as a few
/// system calls take). So a descriptor that is being looked at is open, and is the one that was put
/// in.
pub(super) struct Table {
    parts: [OnceLock<Box<[Part]>>; 1 << TOP_BITS],
}

/// Words of consecutive descriptors: 16 KiB.
type Part = OnceLock<Box<[AtomicU64]>>;

/// The bits of a descriptor's number (31: it is a positive `int`), highest first.
const TOP_BITS: u32 = 9;
const MIDDLE_BITS: u32 = 11;
const LOW_BITS: u32 = 11;

/// The table's entry for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// `None`: not known yet, or none.
    pub(super) limit: Option<Limit>,
    pub(super) peer: Peer,
}

/// A word that is in use.
pub(super) struct Slot<'a> {
    word: &'a AtomicU64,
    seen: u64,
    number: RawFd,
}

/// Somebody looks at the connection.
const LOOKED_AT: u64 = 1;

impl Table {
    pub(super) const fn new() -> Self {
        Self { parts: [const { OnceLock::new() }; 1 << TOP_BITS] }
    }

    /// Adds a connection.
    pub(super) fn put(&self, socket: impl AsFd, entry: Entry) {
        let number = socket.as_fd().as_raw_fd() as usize;
        let part = self.parts[number >> (MIDDLE_BITS + LOW_BITS)]
            .get_or_init(|| (0..1 << MIDDLE_BITS).map(|_| OnceLock::new()).collect());
        let words = part[(number >> LOW_BITS) & ((1 << MIDDLE_BITS) - 1)]
            .get_or_init(|| (0..1 << LOW_BITS).map(|_| AtomicU64::new(0)).collect());
        words[number & ((1 << LOW_BITS) - 1)].store(entry.encode(), Ordering::Release);
    }

    /// Takes a connection out, if it is in; waits while it is being looked at.
    pub(super) fn take(&self, socket: impl AsFd) {
        let number = socket.as_fd().as_raw_fd() as usize;
        let part = self.parts[number >> (MIDDLE_BITS + LOW_BITS)].get();
        let words = part.and_then(|p| p[(number >> LOW_BITS) & ((1 << MIDDLE_BITS) - 1)].get());
        let Some(words) = words else { return };
        let word = &words[number & ((1 << LOW_BITS) - 1)];
        let mut seen = word.load(Ordering::Relaxed);
        while seen != 0 {
            if seen & LOOKED_AT != 0 {
                thread::yield_now();
                seen = word.load(Ordering::Relaxed);
                continue;
            }
            // Acquire: closing must come after the last look.
            match word.compare_exchange_weak(seen, 0, Ordering::Acquire, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => seen = now,
            }
        }
    }

    /// Visits the connections in the order of their descriptors.
    pub(super) fn each(&self, mut visit: impl FnMut(Slot<'_>)) {
        for (high, part) in self.parts.iter().enumerate() {
            for (middle, words) in part.get().into_iter().flatten().enumerate() {
                for (low, word) in words.get().into_iter().flatten().enumerate() {
                    let seen = word.load(Ordering::Relaxed);
                    if seen != 0 {
                        let number = (((high << MIDDLE_BITS) | middle) << LOW_BITS) | low;
                        visit(Slot { word, seen, number: number as RawFd });
                    }
                }
            }
        }
    }
}

impl Slot<'_> {
    pub(super) fn entry(&self) -> Entry {
        Entry::decode(self.seen)
    }

    pub(super) fn number(&self) -> RawFd {
        self.number
    }

    /// Looks at the connection, unless it has been taken out meanwhile. `None` takes it out.
    pub(super) fn look(self, look: impl FnOnce(BorrowedFd<'_>, Entry) -> Option<Entry>) {
        let marked = self.seen | LOOKED_AT;
        let Ok(_) =
            self.word.compare_exchange(self.seen, marked, Ordering::Acquire, Ordering::Relaxed)
        else {
            return;
        };
        // A panic must not leave the mark behind: the owner would wait for ever.
        let mut look_at = LookAt { word: self.word, next: 0 };
        // The descriptor is open: its owner waits for the mark to go before closing it.
        let entry = borrow_raw(self.number, |socket| look(socket, Entry::decode(self.seen)));
        look_at.next = entry.map_or(0, Entry::encode);
    }
}

/// Removes the mark when dropped.
struct LookAt<'a> {
    word: &'a AtomicU64,
    next: u64,
}

impl Drop for LookAt<'_> {
    fn drop(&mut self) {
        self.word.store(self.next, Ordering::Release);
    }
}

impl Entry {
    pub(super) fn new(limit: Option<Limit>, now: u32) -> Self {
        Self { limit, peer: Peer::New { began: now } }
    }

    /// Whether it is this connection's turn.
    pub(super) fn is_due(&self, number: RawFd, now: u32) -> bool {
        match self.peer {
            // It may have begun at the end of a turn.
            Peer::New { began } => now.wrapping_sub(began) >= 2,
            Peer::Heard => {
                // Connections that began together are not all looked at together.
                let turn = now.wrapping_add(number as u32);
                self.limit.is_none_or(|limit| turn.is_multiple_of(limit.look_every()))
            }
            Peer::Silent { .. } | Peer::Condemned { .. } | Peer::Dead => true,
        }
    }

    /// Bit 0 is [`LOOKED_AT`]; then 3 for the kind of peer, 28 for the limit, 32 for the turn.
    fn encode(self) -> u64 {
        let (kind, turn) = match self.peer {
            Peer::New { began } => (1, began),
            Peer::Heard => (2, 0),
            Peer::Silent { since } => (3, since),
            Peer::Condemned { since } => (4, since),
            Peer::Dead => (5, 0),
        };
        let limit = self.limit.map_or(0, Limit::seconds);
        u64::from(turn) << 32 | u64::from(limit) << 4 | kind << 1
    }

    fn decode(word: u64) -> Self {
        let turn = (word >> 32) as u32;
        let peer = match (word >> 1) & 7 {
            1 => Peer::New { began: turn },
            2 => Peer::Heard,
            3 => Peer::Silent { since: turn },
            4 => Peer::Condemned { since: turn },
            _ => Peer::Dead,
        };
        Self { limit: Limit::from_seconds((word as u32) >> 4), peer }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        net::UdpSocket,
        sync::atomic::{AtomicBool, AtomicUsize},
        time::Duration,
    };

    use super::*;

    #[test]
    fn an_entry_is_what_was_put_in() {
        let turns = [0, 1, u32::MAX];
        let peers = turns.into_iter().flat_map(|turn| {
            let (began, since) = (turn, turn);
            [Peer::New { began }, Peer::Heard, Peer::Silent { since }, Peer::Condemned { since }]
        });
        for peer in peers {
            for limit in [None, Some(Limit::new(Limit::MIN)), Some(Limit::new(Limit::MAX))] {
                let entry = Entry { limit, peer };
                assert_eq!(Entry::decode(entry.encode()), entry);
                assert_ne!(entry.encode(), 0);
                assert_eq!(entry.encode() & LOOKED_AT, 0);
            }
        }
    }

    #[test]
    fn a_connection_is_first_looked_at_after_a_second_and_then_each_quarter_of_its_limit() {
        let entry = Entry::new(Some(Limit::new(Duration::from_secs(60))), 7);
        let due = |entry: Entry| (7..30).filter(|now| entry.is_due(3, *now)).collect::<Vec<_>>();
        assert_eq!(due(entry)[0], 9);
        assert_eq!(due(Entry { peer: Peer::Heard, ..entry }), [12, 27]);
        assert_eq!(due(Entry { peer: Peer::Silent { since: 7 }, ..entry }).len(), 23);
    }

    fn numbers(table: &Table) -> BTreeSet<RawFd> {
        let mut numbers = BTreeSet::new();
        table.each(|slot| assert!(numbers.insert(slot.number())));
        numbers
    }

    #[test]
    fn only_what_was_put_in_and_not_taken_out_is_visited() {
        let table = Table::new();
        let sockets: Vec<_> = (0..100).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
        for socket in &sockets {
            table.put(socket, Entry::new(None, 0));
        }
        for socket in sockets.iter().step_by(2) {
            table.take(socket);
            table.take(socket);
        }
        let left = sockets.iter().skip(1).step_by(2).map(AsRawFd::as_raw_fd).collect();
        assert_eq!(numbers(&table), left);
        table.each(|slot| slot.look(|_, _| None));
        assert_eq!(numbers(&table), BTreeSet::new());
    }

    #[test]
    fn no_other_socket_that_has_the_number_next_is_ever_touched() {
        // Each socket that is put in has a time to live of its own kind; one that follows under its
        // number hasn't. A look that came late would find that one.
        const OURS: u32 = 17;
        const ROUNDS: usize = 20_000;
        let (table, is_over, looks) = (Table::new(), AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            let owners: Vec<_> = (0..3)
                .map(|_| {
                    scope.spawn(|| {
                        for _ in 0..ROUNDS {
                            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                            socket.set_ttl(OURS).unwrap();
                            table.put(&socket, Entry::new(None, 0));
                            thread::yield_now();
                            table.take(&socket);
                            drop(socket);
                            drop(UdpSocket::bind("127.0.0.1:0").unwrap());
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    table.each(|slot| {
                        slot.look(|socket, entry| {
                            let socket = socket2::SockRef::from(&socket);
                            assert_eq!(socket.ttl_v4().unwrap(), OURS);
                            looks.fetch_add(1, Ordering::Relaxed);
                            Some(entry)
                        });
                    });
                }
            });
            let ended: Vec<_> = owners.into_iter().map(|owner| owner.join()).collect();
            is_over.store(true, Ordering::Relaxed);
            assert!(ended.iter().all(Result::is_ok));
        });
        assert!(looks.into_inner() > 100);
    }

    #[test]
    fn an_owner_does_not_wait_for_a_look_that_panicked() {
        let table = Table::new();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        table.put(&socket, Entry::new(None, 0));
        let look = || table.each(|slot| slot.look(|_, _| panic!("on purpose")));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(look)).unwrap_err();
        table.take(&socket);
        assert_eq!(numbers(&table), BTreeSet::new());
    }
}
