//! What happened in a run, hashed as it runs.

mod text;

use std::{
    fmt,
    hash::{Hash, Hasher},
};

use tinylb_core::{EndReason, Side};

pub use self::text::RecordOf;
use crate::{
    PacketFate, PacketKind,
    scenario::{Backends, Key, Place},
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Microseconds since the beginning.
    pub at: u64,
    /// What it was.
    pub note: Note,
}

/// What can happen. Sessions are named by their serial, connections of clients by the number of
/// the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The scenario's step of this number was done.
    Step(u32),
    /// The scenario's rule of this number did something to this backend.
    Act(u32, Place),
    /// Faults have stopped and the set is fixed.
    Healed,

    /// See [`tinylb_core::Event`] for this and the following.
    Accepted(u64),
    /// A backend was picked for a session.
    Admitted(u64, Key, Place),
    /// A session's dial began.
    DialStarted(u64, Place),
    /// A session's dial came to nothing.
    DialFailed(u64, Failure),
    /// A session is connected.
    Connected(u64, Place),
    /// One side has ended its stream.
    HalfClosed(u64, By),
    /// A session is over.
    Ended(u64, EndReason),
    /// It has moved so many bytes to the backend and to the client.
    Moved(u64, u64, u64),
    /// The set was replaced by this one: generation, sessions cut, dials revoked, draining.
    Replaced(u64, Backends, u32, u32, u32),
    /// The same set was said again.
    SaidAgain(u64),
    /// A replacement is applied.
    Applied(u64),
    /// The deadline of a replacement's drain has come.
    DrainExpired(u64),
    /// The source of sets is lost.
    SourceLost,
    /// It is back.
    SourceBack,
    /// It was lost for too long.
    SourceStale,
    /// A set is held: how many targets it removes, and how many there are.
    SetHeld(u32, u32),
    /// Sets lack so many entries from now on, which are no backends.
    LeftOut(u32),
    /// An accept failed.
    AcceptFailed,
    /// The shutdown has begun.
    Closing,
    /// What was left is aborted.
    Closed,
    /// The shutdown is complete.
    ShutDown,

    /// A client's attempt has begun to connect.
    ClientDials(u32),
    /// It is connected.
    ClientConnected(u32),
    /// It has read the greeting of this backend, in its so manieth boot.
    Greeted(u32, Place, u32),
    /// It is over, after so many bytes sent and received, in this way.
    ClientOver(u32, u64, u64, Sight),
    /// A backend has taken this connection's header.
    BackendTook(Place, u32),
    /// A backend's end is over, after so many bytes sent and received, in this way.
    BackendOver(Place, u32, u64, u64, Sight),
    /// A backend's process has died, and its connections with it.
    Crashed(Place),
    /// A packet: from host and port, to host and port, what, and what became of it.
    Packet(Host, u16, Host, u16, PacketKind, PacketFate),
    /// A law was broken.
    Violated(&'static str),
}

/// Why a dial came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The dialer said so.
    Failed,
    /// It took too long.
    TimedOut,
    /// A replacement removed the target.
    Revoked,
}

/// Which side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Client,
    /// The backend.
    Backend,
}

/// How a stream was over for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// It ended.
    End,
    /// It was cut.
    Cut,
    /// Its reader gave it up first.
    GivenUp,
    /// There was no connection: the dial failed.
    Refused,
}

/// A host of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The balancer's.
    Balancer,
    /// That of all clients.
    Clients,
    /// A backend's.
    Backend(Place),
}

impl From<Side> for By {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Backend => Self::Backend,
        }
    }
}

/// The records of a run as a hash, and the records themselves if they are to be looked at.
#[derive(Clone, Debug)]
pub struct Trace {
    hash: Mix,
    length: u64,
    kept: Option<Vec<Record>>,
}

impl Trace {
    /// An empty trace; `keep`: with the records.
    pub fn new(keep: bool) -> Self {
        Self { hash: Mix(SEED), length: 0, kept: keep.then(Vec::new) }
    }

    /// Adds what happens at this time.
    #[inline]
    pub fn add(&mut self, at: u64, note: Note) {
        let record = Record { at, note };
        record.hash(&mut self.hash);
        self.length += 1;
        if let Some(kept) = &mut self.kept {
            kept.push(record);
        }
    }

    /// A hash over every record so far, in order: the same on each machine of 64 bits.
    pub fn hash(&self) -> u64 {
        self.hash.finish()
    }

    /// How many records there are.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The records, if they were kept.
    pub fn records(&self) -> &[Record] {
        self.kept.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6}.{:03} {}", self.at / 1000, self.at % 1000, self.note)
    }
}

const SEED: u64 = 0x243F_6A88_85A3_08D3;
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// A word at a time through multiply and rotate: not for foes, but each bit of each record counts.
#[derive(Clone, Copy, Debug)]
struct Mix(u64);

impl Mix {
    #[inline]
    fn word(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(FACTOR);
    }
}

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(bytes.len() as u64);
    }

    fn write_u8(&mut self, value: u8) {
        self.word(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.word(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.word(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(value as u64);
    }

    fn write_isize(&mut self, value: isize) {
        self.word(value as u64);
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(FACTOR);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trace(notes: &[(u64, Note)]) -> u64 {
        let mut trace = Trace::new(false);
        notes.iter().for_each(|(at, note)| trace.add(*at, note.clone()));
        trace.hash()
    }

    #[test]
    fn a_trace_that_differs_anywhere_has_another_hash() {
        let packet = |port| {
            let to = Host::Backend(Place(1));
            Note::Packet(Host::Balancer, port, to, 80, PacketKind::Data, PacketFate::Sent)
        };
        let base = vec![
            (1, Note::Accepted(0)),
            (1, Note::Admitted(0, Key(1), Place(1))),
            (5, packet(1000)),
            (9, Note::Ended(0, EndReason::Finished)),
        ];
        let mut others = vec![
            base[..3].to_vec(),
            base.iter().rev().cloned().collect(),
            [base.clone(), vec![(9, Note::Closed)]].concat(),
        ];
        for (place, note) in [
            (0, (2, Note::Accepted(0))),
            (0, (1, Note::Accepted(1))),
            (1, (1, Note::Admitted(0, Key(1), Place(2)))),
            (1, (1, Note::Admitted(0, Key(2), Place(1)))),
            (2, (5, packet(1001))),
            (3, (9, Note::Ended(0, EndReason::Shutdown))),
            (3, (9, Note::Moved(0, 10, 21))),
        ] {
            let mut other = base.clone();
            other[place] = note;
            others.push(other);
        }
        let hash = trace(&base);
        assert_eq!(hash, trace(&base));
        for other in others {
            assert_ne!(hash, trace(&other), "{other:?}");
        }
    }
}
