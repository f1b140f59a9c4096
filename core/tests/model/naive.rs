//! A balancer that is obviously right, and slow: ordered maps and linear scans, no index of any
//! kind, and the word "next" is looked up anew each time.

use std::collections::BTreeMap;

/// A backend's key; the balancer's is the letter with this place in the alphabet.
pub type Key = u8;
/// Where a backend is.
pub type Place = u8;
/// A set of backends.
pub type Assignment = BTreeMap<Key, Place>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Waiting,
    Dialling,
    Connected,
    /// Since the replacement of this number.
    Draining(u64),
    /// Refused, or taken out.
    Out,
}

/// What admission or a retry came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    Dial(Key, Place),
    Wait,
    NoBackends,
    WaitingFull,
    Closed,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub state: State,
    /// The kill handle that the balancer holds.
    pub kill: Option<u32>,
    pub pick: Option<(Key, Place)>,
    pub tried: Vec<Place>,
    /// The replacement or deadline that took the newest attempt out.
    pub owes: Option<u64>,
}

/// What a replacement does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub is_change: bool,
    pub added: Vec<Key>,
    pub removed: Vec<Key>,
    pub retargeted: Vec<Key>,
    /// Kill handles, ascending.
    pub cut: Vec<u32>,
    /// Kill handles, ascending.
    pub revoked: Vec<u32>,
    pub draining: usize,
    /// Serial numbers and picks, in the order of acceptance.
    pub admitted: Vec<(u64, Key, Place)>,
    /// Kill handles, in the order of acceptance.
    pub refused: Vec<u32>,
}

pub struct Naive {
    pub set: Option<Assignment>,
    pub start: usize,
    pub waiting_max: usize,
    /// The key served last.
    pub anchor: Option<Key>,
    pub generation: u64,
    /// Live sessions, by serial number.
    pub sessions: BTreeMap<u64, Session>,
    pub accepted: u64,
    pub is_closed: bool,
}

impl Naive {
    pub fn new(start: usize, waiting_max: usize) -> Self {
        Self {
            set: None,
            start,
            waiting_max,
            anchor: None,
            generation: 0,
            sessions: BTreeMap::new(),
            accepted: 0,
            is_closed: false,
        }
    }

    pub fn places(&self) -> Vec<Place> {
        self.set.iter().flat_map(|set| set.values().copied()).collect()
    }

    pub fn waiting(&self) -> usize {
        self.sessions.values().filter(|session| session.state == State::Waiting).count()
    }

    /// The backend whose turn it is.
    fn due(&self) -> Option<(Key, Place)> {
        let set: Vec<_> = self.set.iter().flatten().map(|(key, place)| (*key, *place)).collect();
        match self.anchor {
            _ if set.is_empty() => None,
            None => Some(set[self.start % set.len()]),
            Some(anchor) => {
                Some(set.iter().copied().find(|(key, _)| *key > anchor).unwrap_or(set[0]))
            }
        }
    }

    fn turn(&mut self) -> Option<(Key, Place)> {
        let due = self.due();
        self.anchor = due.map(|(key, _)| key).or(self.anchor);
        due
    }

    pub fn admit(&mut self, kill: u32) -> Given {
        let serial = self.accepted;
        self.accepted += 1;
        let mut session =
            Session { state: State::Out, kill: None, pick: None, tried: Vec::new(), owes: None };
        let given = if self.is_closed {
            Given::Closed
        } else if self.set.is_none() {
            if self.waiting() < self.waiting_max { Given::Wait } else { Given::WaitingFull }
        } else {
            match self.turn() {
                Some((key, place)) => Given::Dial(key, place),
                None => Given::NoBackends,
            }
        };
        match given {
            Given::Dial(key, place) => session.dial(key, place, kill),
            Given::Wait => (session.state, session.kill) = (State::Waiting, Some(kill)),
            _ => {}
        }
        self.sessions.insert(serial, session);
        given
    }

    pub fn connected(&mut self, serial: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&serial) else { return false };
        if session.state != State::Dialling {
            return false;
        }
        session.state = State::Connected;
        session.tried.clear();
        true
    }

    /// What the session gets, and which replacement its attempt before owes.
    pub fn retry(&mut self, serial: u64, kill: u32) -> (Given, Option<u64>) {
        let due = self.due();
        let Some(session) = self.sessions.get_mut(&serial) else { return (Given::Closed, None) };
        let owes = session.owes.take();
        if let State::Dialling | State::Connected | State::Draining(_) = session.state {
            session.tried.extend(session.pick.map(|(_, place)| place));
        }
        (session.state, session.kill) = (State::Out, None);
        if self.is_closed {
            return (Given::Closed, owes);
        }
        let Some(due) = due else { return (Given::NoBackends, owes) };
        let keys: Vec<_> = self.set.iter().flatten().map(|(key, place)| (*key, *place)).collect();
        let from_due = keys.iter().filter(|(key, _)| *key >= due.0);
        let mut round = from_due.chain(keys.iter().filter(|(key, _)| *key < due.0));
        let untried = round.find(|(_, place)| !session.tried.contains(place)).copied();
        let (key, place) = untried.unwrap_or_else(|| {
            // All may be tried again.
            session.tried.clear();
            due
        });
        session.dial(key, place, kill);
        if key == due.0 {
            self.anchor = Some(key);
        }
        (Given::Dial(key, place), owes)
    }

    /// Which replacement the session owes.
    pub fn finish(&mut self, serial: u64) -> Option<u64> {
        self.sessions.remove(&serial)?.owes
    }

    pub fn replace(&mut self, next: &Assignment, drains: bool) -> Done {
        self.generation += 1;
        let mut done = Done::default();
        if self.set.as_ref() == Some(next) {
            return done;
        }
        let before = self.set.clone().unwrap_or_default();
        let keys = |of: &Assignment, which: &dyn Fn(&Key) -> bool| {
            of.keys().copied().filter(which).collect::<Vec<_>>()
        };
        done.is_change = true;
        done.added = keys(next, &|key| !before.contains_key(key));
        done.removed = keys(&before, &|key| !next.contains_key(key));
        done.retargeted = keys(next, &|key| before.contains_key(key) && before[key] != next[key]);
        self.set = Some(next.clone());

        let generation = self.generation;
        for session in self.sessions.values_mut() {
            let stays = session.pick.is_some_and(|(_, at)| next.values().any(|place| *place == at));
            match session.state {
                State::Draining(_) if stays => session.state = State::Connected,
                State::Dialling if !stays => done.revoked.extend(session.take_out(generation)),
                State::Connected if !stays && drains => {
                    session.state = State::Draining(generation);
                    done.draining += 1;
                }
                State::Connected if !stays => done.cut.extend(session.take_out(generation)),
                _ => {}
            }
        }
        done.cut.sort_unstable();
        done.revoked.sort_unstable();
        self.serve_waiting(&mut done);
        done
    }

    fn serve_waiting(&mut self, done: &mut Done) {
        let serials: Vec<u64> = self.sessions.keys().copied().collect();
        for serial in serials {
            if self.sessions[&serial].state != State::Waiting {
                continue;
            }
            let turn = self.turn();
            let Some(session) = self.sessions.get_mut(&serial) else { continue };
            let Some(kill) = session.kill.take() else { continue };
            match turn {
                Some((key, place)) => {
                    session.dial(key, place, kill);
                    done.admitted.push((serial, key, place));
                }
                None => {
                    session.state = State::Out;
                    done.refused.push(kill);
                }
            }
        }
    }

    /// The kill handles, ascending.
    pub fn drain_expired(&mut self, generation: u64) -> Vec<u32> {
        let mut kills = Vec::new();
        for session in self.sessions.values_mut() {
            if session.state == State::Draining(generation) {
                kills.extend(session.take_out(generation));
            }
        }
        kills.sort_unstable();
        kills
    }

    /// The kill handles, ascending.
    pub fn abort_all(&mut self) -> Vec<u32> {
        self.is_closed = true;
        let mut kills = Vec::new();
        for session in self.sessions.values_mut() {
            match session.state {
                State::Out => {}
                State::Waiting => {
                    session.state = State::Out;
                    kills.extend(session.kill.take());
                }
                // A set that comes later mustn't count as applied while these hold connections.
                _ => kills.extend(session.take_out(self.generation)),
            }
        }
        kills.sort_unstable();
        kills
    }

    pub fn reset(&mut self) {
        self.anchor = None;
    }
}

impl Session {
    fn dial(&mut self, key: Key, place: Place, kill: u32) {
        (self.state, self.pick, self.kill) = (State::Dialling, Some((key, place)), Some(kill));
    }

    fn take_out(&mut self, generation: u64) -> Option<u32> {
        (self.state, self.owes) = (State::Out, Some(generation));
        self.kill.take()
    }
}
