use std::{sync::Arc, time::Duration};

use super::failure::Failure;
use crate::source::backoff::{Backoff, random, spread};

/// Whose turn it is among the members, and how long to wait. Plain state: it is told what became of
/// each.
///
/// One that fails costs an attempt at the next at once. Between rounds, in which all have failed,
/// pauses grow.
pub(super) struct Rounds {
    /// The endpoints, in the order in which they are tried.
    urls: Vec<String>,
    turn: usize,
    /// Of this round so far.
    failures: Vec<String>,
    has_leader: bool,
    backoff: Backoff,
    pause: Duration,
}

/// A session that has lasted for so long is no sign of a member that ends each at once.
const SESSION_LONG: Duration = Duration::from_secs(10);

/// The pause before a new connection when such a session has ended: a member that dies ends those
/// of all balancers at once.
const FIRST_PAUSE_MAX: Duration = Duration::from_millis(300);

/// The pause before the next round while a member says that it has no leader is the double of this
/// at most.
const NO_LEADER_PAUSE: Duration = Duration::from_secs(1);

impl Rounds {
    /// These endpoints, in an order that is drawn: a thousand balancers spread over the members.
    pub(super) fn new(mut urls: Vec<String>) -> Self {
        urls.sort_by_cached_key(|_| random());
        Self {
            urls,
            turn: 0,
            failures: Vec::new(),
            has_leader: true,
            backoff: Backoff::new(),
            pause: Duration::ZERO,
        }
    }

    /// How long to wait before a round begins.
    pub(super) fn pause(&self) -> Duration {
        self.pause
    }

    /// Begins a round.
    pub(super) fn begin(&mut self) {
        self.failures.clear();
        self.has_leader = true;
    }

    /// Whose turn it is, until all have failed in this round.
    pub(super) fn next(&self) -> Option<&str> {
        let is_over = self.failures.len() == self.urls.len();
        (!is_over).then(|| &*self.urls[self.turn % self.urls.len()])
    }

    /// The one whose turn it is has failed.
    pub(super) fn failed(&mut self, failure: &Failure) {
        self.has_leader &= !failure.is_no_leader();
        let url = &self.urls[self.turn % self.urls.len()];
        self.failures.push(format!("{url}: {failure}"));
        self.turn += 1;
    }

    /// All have failed: says why.
    pub(super) fn lost(&mut self) -> Arc<str> {
        self.pause = self.backoff.pause(random());
        if !self.has_leader {
            self.pause = self.pause.min(NO_LEADER_PAUSE + spread(NO_LEADER_PAUSE));
        }
        // The same failures give the same reason, whoever was tried first.
        self.failures.sort();
        self.failures.join("; ").into()
    }

    /// A session has ended that had lasted for so long: the next one is with another member.
    pub(super) fn ended(&mut self, age: Duration) {
        self.turn += 1;
        if age >= SESSION_LONG {
            self.backoff.reset();
            self.pause = spread(FIRST_PAUSE_MAX);
        } else {
            self.pause = self.backoff.pause(random());
        }
    }
}
