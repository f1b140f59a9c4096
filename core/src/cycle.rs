use crate::{BackendKey, BackendSet, Target, bitmap::Bitmap};

/// Round-robin over a [`BackendSet`] in key order, anchored to the *key* served last: the next
/// turn is the first key above it, wrapping. So a replacement neither skips nor repeats a backend
/// that stays, wherever others come and go (an index would do both).
///
/// A turn costs the same in any set; the anchor is found again, in O(log n), when the set is
/// replaced. A changed target under a kept key is seen when that key's turn comes.
pub struct Cycle<T> {
    set: BackendSet<T>,
    start: u64,
    served: Served,
    /// The first place above the last turn, wrapping; below `set.len()` unless the set is empty.
    next: usize,
    /// The places of the current set that have no turns, unless none would be left.
    skipped: Bitmap,
}

enum Served {
    /// No turn yet: the cycle begins at `start`, modulo the set's length.
    Nothing,
    /// The last turn, at this place of the current set.
    Here(usize),
    /// The last turn was before the set was replaced.
    Before(BackendKey),
}

impl<T: Target> Cycle<T> {
    /// A cycle over the empty set, which will begin with the backend at `start` in key order,
    /// modulo the length of the first set. Give each of many instances a start of its own, or they
    /// all begin with the same backend.
    pub fn new(start: u64) -> Self {
        Self {
            set: BackendSet::empty(),
            start,
            served: Served::Nothing,
            next: 0,
            skipped: Bitmap::EMPTY,
        }
    }

    /// The set that turns are taken from.
    pub fn set(&self) -> &BackendSet<T> {
        &self.set
    }

    /// Takes turns from another set from now on, and returns the one before. Nothing is skipped.
    pub fn replace(&mut self, set: BackendSet<T>) -> BackendSet<T> {
        let before = std::mem::replace(&mut self.set, set);
        if let Served::Here(place) = self.served {
            self.served = Served::Before(before.key_at(place).clone());
        }
        self.skipped = Bitmap::EMPTY;
        self.find_next();
        before
    }

    /// Forgets the key served last: the next turn is the first one again, at the start.
    pub fn reset(&mut self) {
        self.served = Served::Nothing;
        self.find_next();
    }

    /// Takes a turn, as [`Iterator::next`] does, and clones nothing.
    pub fn next_ref(&mut self) -> Option<(&BackendKey, &T)> {
        let place = self.turn()?;
        Some((self.set.key_at(place), self.set.target_at(place)))
    }

    /// The place of the next turn, without taking it. `None` in an empty set.
    pub(crate) fn peek(&self) -> Option<usize> {
        if self.skipped.count() == 0 {
            return (!self.set.is_empty()).then_some(self.next);
        }
        self.in_rotation().next()
    }

    /// Skips the keys of a target from now on, or no longer. It is at this index of the set, and is
    /// skipped, or not, so far. A key that is skipped neither uses up a turn nor moves the anchor. If
    /// all are, none is. O(keys of the target).
    pub(crate) fn set_skipped(&mut self, target: u32, is_skipped: bool) {
        for place in self.set.places_of(target) {
            match is_skipped {
                true => self.skipped.insert(*place as usize, self.set.len()),
                false => self.skipped.remove(*place as usize),
            }
        }
    }

    /// Every place, in the order of their turns, those that are skipped among them.
    pub(crate) fn all(&self) -> impl Iterator<Item = usize> {
        (self.next..self.set.len()).chain(0..self.next)
    }

    /// The places that have turns, in the order of these. O(set / 64) besides, at most.
    pub(crate) fn in_rotation(&self) -> impl Iterator<Item = usize> {
        static NOTHING: Bitmap = Bitmap::EMPTY;
        let skipped = if self.skips_all() { &NOTHING } else { &self.skipped };
        skipped.absent(self.next..self.set.len()).chain(skipped.absent(0..self.next))
    }

    /// Whether every key is skipped, and so none.
    pub(crate) fn skips_all(&self) -> bool {
        self.skipped.count() == self.set.len()
    }

    /// Takes a turn: its place in the set. `None` in an empty set.
    pub(crate) fn turn(&mut self) -> Option<usize> {
        let place = self.peek()?;
        self.served = Served::Here(place);
        self.next = if place + 1 == self.set.len() { 0 } else { place + 1 };
        Some(place)
    }

    fn find_next(&mut self) {
        let length = self.set.len();
        self.next = match &self.served {
            _ if length == 0 => 0,
            Served::Nothing => (self.start % length as u64) as usize,
            // Known since that turn.
            Served::Here(_) => self.next,
            Served::Before(key) => self.set.first_above(key) % length,
        };
    }
}

impl<T: Target> Iterator for Cycle<T> {
    type Item = (BackendKey, T);

    /// Takes a turn. `None` in an empty set; turns go on when the set has backends again.
    fn next(&mut self) -> Option<Self::Item> {
        self.next_ref().map(|(key, target)| (key.clone(), target.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &str) -> BackendSet<u32> {
        BackendSet::new(keys.chars().map(|key| (key.to_string(), key as u32))).unwrap()
    }

    fn cycle(keys: &str, start: u64) -> Cycle<u32> {
        let mut cycle = Cycle::new(start);
        cycle.replace(set(keys));
        cycle
    }

    fn turns(cycle: &mut Cycle<u32>, count: usize) -> String {
        cycle.take(count).map(|(key, _)| key.to_string()).collect()
    }

    #[test]
    fn turns_go_in_key_order_and_wrap() {
        assert_eq!(turns(&mut cycle("cab", 0), 7), "abcabca");
        assert_eq!(turns(&mut cycle("a", 0), 3), "aaa");
    }

    #[test]
    fn the_start_is_given_from_outside() {
        assert_eq!(turns(&mut cycle("abc", 2), 4), "cabc");
        assert_eq!(turns(&mut cycle("abc", u64::MAX), 1), "a");
    }

    #[test]
    fn the_place_in_the_rotation_survives_what_comes_and_goes() {
        // Served last is b; b leaves and c comes.
        let mut served_b = cycle("abdf", 0);
        assert_eq!(turns(&mut served_b, 2), "ab");
        served_b.replace(set("acdf"));
        assert_eq!(turns(&mut served_b, 4), "cdfa");

        // The anchor outlives several replacements, and an empty set.
        let mut served_b = cycle("abd", 0);
        turns(&mut served_b, 2);
        for keys in ["ad", "", "acd"] {
            served_b.replace(set(keys));
        }
        assert_eq!(turns(&mut served_b, 3), "cda");

        // Above the last key it wraps.
        let mut served_d = cycle("abd", 2);
        turns(&mut served_d, 1);
        served_d.replace(set("bc"));
        assert_eq!(turns(&mut served_d, 2), "bc");
    }

    #[test]
    fn an_empty_set_has_no_turn_and_a_reset_begins_again() {
        let mut cycle = cycle("abc", 1);
        assert_eq!(turns(&mut cycle, 1), "b");
        cycle.reset();
        assert_eq!(turns(&mut cycle, 2), "bc");
        cycle.replace(BackendSet::empty());
        assert_eq!(cycle.turn(), None);
        cycle.reset();
        cycle.replace(set("abc"));
        assert_eq!(turns(&mut cycle, 1), "b");
    }

    #[test]
    fn a_changed_target_is_seen_at_its_keys_next_turn() {
        let mut cycle = cycle("ab", 0);
        turns(&mut cycle, 1);
        cycle.replace(BackendSet::new([("a", 1), ("b", 2)]).unwrap());
        let targets: Vec<_> = cycle.take(2).map(|(_, target)| target).collect();
        assert_eq!(targets, [2, 1]);
    }
}
