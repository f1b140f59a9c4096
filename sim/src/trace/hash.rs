//! The records of a run, as a hash over all of them.

use std::hash::{Hash, Hasher};

use super::record::{Note, Record};

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
    use tinylb_core::EndReason;

    use super::*;
    use crate::{
        PacketFate, PacketKind,
        scenario::{Key, Place},
        trace::Host,
    };

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
