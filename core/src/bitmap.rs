use std::ops::Range;

/// A set of places, one bit for each, so that a long row of them is passed over 64 at a time. Takes
/// no memory while it is empty.
pub(crate) struct Bitmap {
    words: Vec<u64>,
    count: usize,
}

impl Bitmap {
    pub(crate) const EMPTY: Self = Self { words: Vec::new(), count: 0 };

    /// How many places are in it.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Puts in a place that isn't in it; `length` is beyond all of them.
    pub(crate) fn insert(&mut self, place: usize, length: usize) {
        if self.count == 0 {
            self.words = vec![0; length.div_ceil(64)];
        }
        debug_assert!(self.words[place / 64] & bit(place) == 0, "place {place} is in it");
        self.words[place / 64] |= bit(place);
        self.count += 1;
    }

    /// Takes out a place that is in it.
    pub(crate) fn remove(&mut self, place: usize) {
        debug_assert!(self.words[place / 64] & bit(place) != 0, "place {place} isn't in it");
        self.words[place / 64] &= !bit(place);
        self.count -= 1;
        if self.count == 0 {
            self.words = Vec::new();
        }
    }

    /// The places of a range that aren't in it, ascending. O(range / 64) besides.
    pub(crate) fn absent(&self, range: Range<usize>) -> impl Iterator<Item = usize> {
        let Range { mut start, end } = range;
        std::iter::from_fn(move || {
            while start < end {
                let word = self.words.get(start / 64).copied().unwrap_or(0);
                // The places before the start count as present.
                let clear = !word & (u64::MAX << (start % 64));
                if clear == 0 {
                    start = (start / 64 + 1) * 64;
                    continue;
                }
                let place = start / 64 * 64 + clear.trailing_zeros() as usize;
                start = place + 1;
                return (place < end).then_some(place);
            }
            None
        })
    }
}

fn bit(place: usize) -> u64 {
    1 << (place % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_every_place_that_is_absent_across_words() {
        let length = 200;
        for step in [1, 2, 63, 64, 65, 199] {
            let mut bitmap = Bitmap::EMPTY;
            let is_in = |place: usize| place.is_multiple_of(step);
            (0..length)
                .filter(|place| is_in(*place))
                .for_each(|place| bitmap.insert(place, length));
            for (start, end) in [(0, 200), (1, 199), (63, 65), (64, 128), (127, 128), (50, 50)] {
                let expected: Vec<usize> = (start..end).filter(|place| !is_in(*place)).collect();
                assert_eq!(bitmap.absent(start..end).collect::<Vec<_>>(), expected, "{step}");
            }
            (0..length).filter(|place| is_in(*place)).for_each(|place| bitmap.remove(place));
            assert_eq!(bitmap.count(), 0);
            assert_eq!(bitmap.absent(0..length).count(), length);
        }
    }
}
