use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// The pauses between attempts that fail: from 100 ms to 10 s, growing by half from one to the
/// next on average, and spread so that a thousand balancers don't come back in the same moment.
///
/// Decorrelated jitter, after [Exponential Backoff and Jitter]: a pause is drawn evenly from the
/// shortest one up to three times the one before. Unlike there, the limit bounds what is drawn from
/// and not what was drawn: most pauses would be just the limit otherwise, and spread no more.
///
/// [Exponential Backoff and Jitter]: https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
pub(crate) struct Backoff {
    last: Duration,
}

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(10);

impl Backoff {
    /// Before the first failure.
    pub(crate) fn new() -> Self {
        Self { last: PAUSE_MIN }
    }

    /// An attempt failed: how long to wait before the next. `random` is even over all of `u64`.
    pub(crate) fn pause(&mut self, random: u64) -> Duration {
        let spread = (self.last * 3).min(PAUSE_MAX) - PAUSE_MIN;
        let drawn = (spread.as_nanos() * u128::from(random)) >> u64::BITS;
        self.last = PAUSE_MIN + Duration::from_nanos(drawn as u64);
        self.last
    }

    /// An attempt succeeded: the next failure is a first one.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// A random number for [`Backoff::pause`] and [`spread`], from the system's randomness.
pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(())
}

/// A time up to this one. `random` is even over all of `u64`.
#[cfg(feature = "etcd")]
pub(crate) fn spread(max: Duration, random: u64) -> Duration {
    let nanos = (max.as_nanos() * u128::from(random)) >> u64::BITS;
    Duration::from_nanos(nanos as u64)
}

#[cfg(test)]
mod tests {
    use std::hash::{BuildHasherDefault, DefaultHasher};

    use super::*;

    /// The pauses of a balancer that never succeeds, by a seed of its own.
    fn pauses(seed: u64) -> impl Iterator<Item = Duration> {
        let mut backoff = Backoff::new();
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        (0_u64..).map(move |place| backoff.pause(hasher.hash_one((seed, place))))
    }

    #[test]
    fn a_source_that_stays_away_is_asked_every_10_s_at_least_and_never_in_a_hot_loop() {
        for seed in 0..1000 {
            for (place, pause) in pauses(seed).take(50).enumerate() {
                let fits = (PAUSE_MIN..=PAUSE_MAX).contains(&pause);
                assert!(fits, "seed {seed}, pause {place}: {pause:?}");
            }
        }
        let bounds = |random| {
            let mut backoff = Backoff::new();
            std::array::from_fn::<_, 6, _>(|_| backoff.pause(random).as_millis())
        };
        assert_eq!(bounds(0), [100; 6]);
        assert_eq!(bounds(u64::MAX), [299, 899, 2699, 8099, 9999, 9999]);
    }

    #[test]
    fn a_thousand_balancers_that_lost_their_source_together_come_back_one_by_one() {
        for attempt in [1, 3, 10, 30] {
            let mut returns: Vec<Duration> =
                (0..1000).map(|seed| pauses(seed).take(attempt).sum()).collect();
            returns.sort();
            // As many as come within any 10 ms. Evenly over the first 200 ms it would be 50.
            let crowd = (0..returns.len())
                .map(|first| {
                    let end = returns[first] + Duration::from_millis(10);
                    returns.partition_point(|&other| other < end) - first
                })
                .max();
            assert!(crowd < Some(100), "attempt {attempt}: {crowd:?} within 10 ms");
        }
    }

    #[test]
    fn a_source_that_came_back_is_asked_soon_after_its_next_failure() {
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.pause(u64::MAX);
        }
        backoff.reset();
        assert!(backoff.pause(u64::MAX) <= PAUSE_MIN * 3);
    }
}
