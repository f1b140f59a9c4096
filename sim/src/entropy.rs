/// A source of choices. One generator of scenarios serves every source: a seed, the bytes of a
/// fuzzer, or the bytes that proptest shrinks.
pub trait Entropy {
    /// The next 64 bits.
    fn next(&mut self) -> u64;

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: u64) -> u64 {
        // The bias is below 2^-32 for the small bounds that scenarios need.
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// A number from `least` to `most`, both included.
    fn between(&mut self, least: u32, most: u32) -> u32 {
        least + self.below(u64::from(most - least) + 1) as u32
    }

    /// True in this many of a hundred cases.
    fn chance(&mut self, percent: u32) -> bool {
        self.below(100) < u64::from(percent)
    }

    /// One of these.
    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        of.get(self.below(of.len() as u64) as usize)
    }
}

/// Choices from a seed (SplitMix64, <https://doi.org/10.1145/2714064.2660195>): the same on every
/// machine and in every version, so that a saved seed stays what it was.
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The source that belongs to this seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A source of its own for one purpose, independent of how much others draw.
    pub fn for_purpose(seed: u64, purpose: u64) -> Self {
        let mut parent = Self(seed ^ purpose.wrapping_mul(0xA24B_AED4_963E_E407));
        Self(parent.next())
    }
}

impl Entropy for Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }
}

/// Choices from bytes, two for each: what a fuzzer mutates and proptest shrinks. Zeros follow when
/// they are used up, so fewer and smaller bytes make a simpler scenario.
#[derive(Clone, Debug)]
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The source that reads these bytes in order.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl Entropy for Bytes<'_> {
    fn next(&mut self) -> u64 {
        let (taken, left) = self.0.split_at(self.0.len().min(2));
        self.0 = left;
        taken.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_sequence() {
        // The reference implementation's first values for this seed.
        let mut source = Seeded::new(1_234_567);
        let drawn = [source.next(), source.next(), source.next()];
        assert_eq!(drawn, [6457827717110365317, 3203168211198807973, 9817491932198370423]);
    }

    #[test]
    fn bytes_are_used_in_order_and_zeros_follow() {
        let mut source = Bytes::new(&[1, 2, 3]);
        assert_eq!([source.next(), source.next(), source.next()], [0x0102, 3, 0]);
        assert_eq!(Bytes::new(&[0, 7]).below(5), 2);
    }

    #[test]
    fn bounds_are_kept() {
        let mut source = Seeded::new(1);
        assert_eq!(source.below(0), 0);
        for _ in 0..1000 {
            assert!((3..=5).contains(&source.between(3, 5)));
        }
        assert!(!source.chance(0) && source.chance(100));
        assert_eq!(source.pick::<u8>(&[]), None);
    }
}
