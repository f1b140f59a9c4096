//! Which session serves which client.

use std::collections::BTreeMap;

/// Pairs the attempts of clients with the balancer's sessions. Both are known by the name of the
/// client's end; whichever comes first waits for the other.
#[derive(Default)]
pub(super) struct Pairs {
    waiting_sessions: BTreeMap<String, u64>,
    waiting_attempts: BTreeMap<String, u32>,
    /// By attempt.
    sessions: Vec<Option<u64>>,
    /// By session.
    attempts: Vec<Option<u32>>,
}

impl Pairs {
    /// The balancer has accepted a client of this name.
    pub(super) fn accepted(&mut self, serial: u64, name: &str) {
        match self.waiting_attempts.remove(name) {
            Some(attempt) => self.meet(attempt, serial),
            None => drop(self.waiting_sessions.insert(name.into(), serial)),
        }
    }

    /// A client of this name is connected.
    pub(super) fn connected(&mut self, attempt: u32, name: &str) {
        match self.waiting_sessions.remove(name) {
            Some(serial) => self.meet(attempt, serial),
            None => drop(self.waiting_attempts.insert(name.into(), attempt)),
        }
    }

    /// The session that serves an attempt, once it is known.
    pub(super) fn session_of(&self, attempt: u32) -> Option<u64> {
        self.sessions.get(attempt as usize).copied().flatten()
    }

    /// The attempt that a session serves, once it is known.
    pub(super) fn attempt_of(&self, serial: u64) -> Option<u32> {
        self.attempts.get(serial as usize).copied().flatten()
    }

    fn meet(&mut self, attempt: u32, serial: u64) {
        put(&mut self.sessions, attempt as usize, serial);
        put(&mut self.attempts, serial as usize, attempt);
    }
}

fn put<T: Clone>(values: &mut Vec<Option<T>>, place: usize, value: T) {
    if values.len() <= place {
        values.resize(place + 1, None);
    }
    values[place] = Some(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_and_an_attempt_of_one_name_meet_whichever_comes_first() {
        let mut pairs = Pairs::default();
        pairs.accepted(3, "a");
        pairs.connected(7, "b");
        assert_eq!((pairs.session_of(7), pairs.attempt_of(3)), (None, None));
        pairs.connected(5, "a");
        pairs.accepted(4, "b");
        assert_eq!((pairs.session_of(5), pairs.attempt_of(3)), (Some(3), Some(5)));
        assert_eq!((pairs.session_of(7), pairs.attempt_of(4)), (Some(4), Some(7)));
        // A port may be used again.
        pairs.accepted(8, "a");
        assert_eq!((pairs.session_of(5), pairs.attempt_of(8)), (Some(3), None));
    }
}
