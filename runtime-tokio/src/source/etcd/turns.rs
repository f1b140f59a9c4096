use std::{sync::Arc, time::Duration};

use super::failure::Failure;
use crate::source::backoff::{Backoff, random, spread};

/// Whose turn it is among the members, and how long to wait. Plain state: it gets the outcome
/// of each attempt.
///
/// One that fails costs an attempt at the next at once. Between rounds, in which all have failed,
/// pauses grow.
pub(super) struct Turns {
    /// The endpoints, in the order in which they are tried.
    urls: Vec<String>,
    turn: usize,
    /// Of this round so far.
    failures: Vec<String>,
    /// One of them may be over soon.
    is_passing: bool,
    backoff: Backoff,
    /// The random numbers that spread the pauses.
    random: fn() -> u64,
    pause: Duration,
    pause_max: Duration,
}

/// A connection that has lasted for this long is no sign of a member that ends each at once.
const CONNECTION_LONG: Duration = Duration::from_secs(10);

/// The pause before a new connection when such a connection has ended: a member that dies ends those
/// of all balancers at once.
const FIRST_PAUSE_MAX: Duration = Duration::from_millis(300);

/// The pause before the next round while a member is there, and has no leader or doesn't answer, is
/// the double of this at most.
const PASSING_PAUSE: Duration = Duration::from_secs(1);

impl Turns {
    /// These endpoints, in an order that is drawn: a thousand balancers spread over the members. No
    /// pause is longer than this one, nor than 10 s.
    pub(super) fn new(mut urls: Vec<String>, pause_max: Duration) -> Self {
        urls.sort_by_cached_key(|_| random());
        Self {
            urls,
            turn: 0,
            failures: Vec::new(),
            is_passing: false,
            backoff: Backoff::new(),
            random,
            pause: Duration::ZERO,
            pause_max,
        }
    }

    /// How long to wait before a round begins.
    pub(super) fn pause(&self) -> Duration {
        self.pause.min(self.pause_max)
    }

    /// Begins a round.
    pub(super) fn begin(&mut self) {
        self.failures.clear();
        self.is_passing = false;
    }

    /// Whose turn it is, until all have failed in this round.
    pub(super) fn next(&self) -> Option<&str> {
        let is_over = self.failures.len() == self.urls.len();
        (!is_over).then(|| &*self.urls[self.turn % self.urls.len()])
    }

    /// The one whose turn it is has failed.
    pub(super) fn failed(&mut self, failure: &Failure) {
        self.is_passing |= failure.is_passing();
        let url = &self.urls[self.turn % self.urls.len()];
        self.failures.push(format!("{url}: {failure}"));
        self.turn += 1;
    }

    /// All have failed: says why.
    pub(super) fn lost(&mut self) -> Arc<str> {
        self.pause = self.backoff.pause((self.random)());
        if self.is_passing {
            self.pause = self.pause.min(PASSING_PAUSE + spread(PASSING_PAUSE, (self.random)()));
        }
        // The same failures give the same reason, in whatever order they came.
        self.failures.sort();
        self.failures.join("; ").into()
    }

    /// A connection of this age has ended. The next one is with another member.
    pub(super) fn ended(&mut self, age: Duration) {
        self.turn += 1;
        if age >= CONNECTION_LONG {
            self.backoff.reset();
            self.pause = spread(FIRST_PAUSE_MAX, (self.random)());
        } else {
            self.pause = self.backoff.pause((self.random)());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two members, with the longest pause each time.
    fn slow_turns(pause_max: Duration) -> Turns {
        let urls = vec!["a".into(), "b".into()];
        Turns { random: || u64::MAX, ..Turns::new(urls, pause_max) }
    }

    /// The longest pauses after rounds that all failed in this way, in milliseconds.
    fn pauses(pause_max: Duration, failure: &Failure) -> [u128; 6] {
        let mut turns = slow_turns(pause_max);
        let mut lost = || {
            turns.begin();
            while turns.next().is_some() {
                turns.failed(failure);
            }
            turns.lost();
            turns.pause().as_millis()
        };
        std::array::from_fn(|_| lost())
    }

    #[test]
    fn a_lease_does_not_run_out_in_a_pause() {
        let max = Duration::from_millis(700);
        assert_eq!(pauses(max, &Failure::Ended), [299, 700, 700, 700, 700, 700]);
        let unbounded = [299, 899, 2699, 8099, 9999, 9999];
        assert_eq!(pauses(Duration::MAX, &Failure::Ended), unbounded);
    }

    #[test]
    fn a_member_that_is_there_is_asked_again_soon() {
        let late = Failure::Late(Duration::from_secs(3));
        assert_eq!(pauses(Duration::MAX, &late), [299, 899, 1999, 1999, 1999, 1999]);
    }

    #[test]
    fn a_member_that_ends_each_connection_at_once_is_asked_ever_more_rarely() {
        let mut turns = slow_turns(Duration::MAX);
        let mut ended = |age| {
            turns.ended(age);
            turns.pause().as_millis()
        };
        let (short, long) = (CONNECTION_LONG - Duration::from_millis(1), CONNECTION_LONG);
        let pauses = [short, short, short, long, short].map(&mut ended);
        assert_eq!(pauses, [299, 899, 2699, 299, 299]);
    }

    #[test]
    fn each_member_has_one_turn_in_a_round_and_the_reason_names_all() {
        let mut turns = Turns::new(vec!["b".into(), "a".into()], Duration::MAX);
        let mut tried = Vec::new();
        turns.begin();
        while let Some(url) = turns.next() {
            tried.push(url.to_string());
            turns.failed(&Failure::Ended);
        }
        tried.sort();
        assert_eq!(tried, ["a", "b"]);
        assert_eq!(
            &*turns.lost(),
            "a: it has ended the connection; b: it has ended the connection"
        );
    }
}
