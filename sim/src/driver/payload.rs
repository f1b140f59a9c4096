//! What connections carry: bytes that are a function of connection, direction and offset, so that
//! one that is lost, doubled, swapped or gone the wrong way shows.

use tinylb_core::Side;

use crate::scenario::{Manner, Place, Plan};

/// The most bytes that an end writes at once.
pub(super) const PIECE: usize = 1_500;

/// One direction of one client's attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    attempt: u32,
    is_up: bool,
}

impl Payload {
    /// What this side of an attempt sends.
    pub(super) fn of(attempt: u32, sender: Side) -> Self {
        Self { attempt, is_up: sender == Side::Client }
    }

    fn word(self, number: u64) -> [u8; 8] {
        let name = u64::from(self.attempt) << 1 | u64::from(self.is_up);
        let mixed = (number ^ name.rotate_left(40)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (mixed ^ (mixed >> 29)).to_le_bytes()
    }

    /// Writes the bytes from this offset on.
    pub(super) fn fill(self, offset: u64, buffer: &mut [u8]) {
        let skipped = (offset % 8) as usize;
        let begun = buffer.len().min((8 - skipped) % 8);
        let (first, rest) = buffer.split_at_mut(begun);
        first.copy_from_slice(&self.word(offset / 8)[skipped..skipped + begun]);
        for (number, bytes) in (offset.div_ceil(8)..).zip(rest.chunks_mut(8)) {
            bytes.copy_from_slice(&self.word(number)[..bytes.len()]);
        }
    }

    /// The offset of the first byte that isn't right, if there is one.
    pub(super) fn mismatch(self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let mut expected = [0; PIECE];
        (offset..).step_by(PIECE).zip(bytes.chunks(PIECE)).find_map(|(offset, bytes)| {
            let expected = &mut expected[..bytes.len()];
            self.fill(offset, expected);
            if bytes == expected {
                return None;
            }
            let mut pairs = (offset..).zip(bytes.iter().zip(&*expected));
            pairs.find_map(|(at, (byte, expected))| (byte != expected).then_some(at))
        })
    }
}

/// What a client sends first: the number of its attempt, and its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) attempt: u32,
    pub(super) plan: Plan,
}

/// What a backend sends first: its place, and how often it has booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Greeting {
    pub(super) place: Place,
    pub(super) boot: u32,
}

const HEADER_MARK: u8 = 0xC3;
const GREETING_MARK: u8 = 0xB7;

impl Header {
    pub(super) const LENGTH: usize = 16;

    pub(super) fn encode(self) -> [u8; Self::LENGTH] {
        let Plan { up, down, pace, manner } = self.plan;
        let mut bytes = [0; Self::LENGTH];
        bytes[0..4].copy_from_slice(&self.attempt.to_le_bytes());
        bytes[4..8].copy_from_slice(&up.to_le_bytes());
        bytes[8..12].copy_from_slice(&down.to_le_bytes());
        bytes[12..14].copy_from_slice(&(pace as u16).to_le_bytes());
        bytes[14] = manner as u8;
        bytes[15] = HEADER_MARK;
        bytes
    }

    /// `None`: no client says this.
    pub(super) fn decode(bytes: &[u8; Self::LENGTH]) -> Option<Self> {
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let manner = *Manner::ALL.get(usize::from(bytes[14]))?;
        let pace = u32::from(bytes[12]) | u32::from(bytes[13]) << 8;
        let plan = Plan { up: number(4), down: number(8), pace, manner };
        (bytes[15] == HEADER_MARK).then_some(Self { attempt: number(0), plan })
    }
}

impl Greeting {
    pub(super) const LENGTH: usize = 8;

    pub(super) fn encode(self) -> [u8; Self::LENGTH] {
        let boot = self.boot.to_le_bytes();
        // A scenario has few places.
        let place = self.place.0 as u8;
        let check = place.wrapping_mul(31) ^ 0x5A;
        [place, boot[0], boot[1], boot[2], boot[3], check, 0, GREETING_MARK]
    }

    /// `None`: no backend says this.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let place = Place(u16::from(*bytes.first()?));
        let boot = u32::from_le_bytes(bytes.get(1..5)?.try_into().ok()?);
        let greeting = Self { place, boot };
        (greeting.encode() == bytes).then_some(greeting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_says_where_it_belongs() {
        let mut bytes = [0; 40];
        Payload::of(7, Side::Client).fill(3, &mut bytes);
        assert_eq!(Payload::of(7, Side::Client).mismatch(3, &bytes), None);
        assert_eq!(Payload::of(7, Side::Client).mismatch(13, &bytes[10..]), None);
        assert!(Payload::of(7, Side::Client).mismatch(4, &bytes).is_some());
        assert!(Payload::of(8, Side::Client).mismatch(3, &bytes).is_some());
        assert!(Payload::of(7, Side::Backend).mismatch(3, &bytes).is_some());
        bytes[21] ^= 1;
        assert_eq!(Payload::of(7, Side::Client).mismatch(3, &bytes), Some(24));
    }

    #[test]
    fn a_byte_is_the_same_wherever_one_begins_and_ends() {
        let payload = Payload::of(7, Side::Client);
        let mut all = [0; 3 * PIECE];
        payload.fill(0, &mut all);
        for offset in 0..20 {
            for length in 0..20 {
                let mut bytes = vec![0; length];
                payload.fill(offset as u64, &mut bytes);
                assert_eq!(bytes, all[offset..offset + length], "{length} from {offset}");
            }
        }
        assert_eq!(payload.mismatch(5, &all[5..]), None);
        all[2 * PIECE + 9] ^= 1;
        assert_eq!(payload.mismatch(5, &all[5..]), Some(2 * PIECE as u64 + 9));
    }

    #[test]
    fn what_is_sent_first_is_understood_and_nothing_else() {
        let plan = Plan { up: 1, down: 70_000, pace: 300, manner: Manner::Stall };
        let header = Header { attempt: 9, plan };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        let greeting = Greeting { place: Place(3), boot: 2 };
        assert_eq!(Greeting::decode(&greeting.encode()), Some(greeting));
        let mut wrong = greeting.encode();
        wrong[0] = 4;
        assert_eq!(Greeting::decode(&wrong), None);
    }
}
