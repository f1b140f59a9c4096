//! A balancer that is obviously right, and slow: ordered maps and linear scans, no index of any
//! kind, and the word "next" is looked up anew each time.

use std::collections::BTreeMap;

use tinylb_core::Fault;

use super::health::{Known, Probing};

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
    pub moves: u32,
    /// It has been found to be overdue, and dials on or is to move.
    pub is_overdue: bool,
    pub is_moving: bool,
    /// Another dial or a probe of its target has succeeded since it began to dial.
    pub has_rival: bool,
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
    /// Kill handles of probes, ascending.
    pub probes: Vec<u32>,
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
    pub may_wait: bool,
    pub ejects: bool,
    pub now: u64,
    /// By target of the current set.
    pub known: BTreeMap<Place, Known>,
    pub probes: Vec<Probing>,
    /// Who was ejected or returned in this step, and which sessions are to look again.
    pub ejected: Vec<(Place, Fault)>,
    pub returned: Vec<(Place, u64)>,
    pub reconsider: bool,
}

impl Naive {
    pub fn new(start: usize, waiting_max: usize) -> Self {
        Self {
            may_wait: false,
            ejects: true,
            now: 0,
            known: BTreeMap::new(),
            probes: Vec::new(),
            ejected: Vec::new(),
            returned: Vec::new(),
            reconsider: false,
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

    pub fn is_ejected(&self, place: Place) -> bool {
        self.known.get(&place).is_some_and(|known| known.ejection.is_some())
    }

    /// The part of the set that is in rotation: all of it if that would be none.
    pub fn in_rotation(&self) -> Assignment {
        let set = self.set.clone().unwrap_or_default();
        let eligible: Assignment =
            set.iter().filter(|(_, at)| !self.is_ejected(**at)).map(|(k, at)| (*k, *at)).collect();
        if eligible.is_empty() { set } else { eligible }
    }

    pub fn are_all_ejected(&self) -> bool {
        self.set.iter().flatten().all(|(_, place)| self.is_ejected(*place))
    }

    /// All keys in the order of their turns, if none were skipped.
    pub fn round(&self) -> Vec<(Key, Place)> {
        let mut set: Vec<_> = self.set.iter().flatten().map(|(k, at)| (*k, *at)).collect();
        let first = match self.anchor {
            _ if set.is_empty() => 0,
            None => self.start % set.len(),
            Some(anchor) => set.iter().position(|(key, _)| *key > anchor).unwrap_or(0),
        };
        set.rotate_left(first);
        set
    }

    /// The keys that have turns, in their order.
    pub fn turns(&self) -> Vec<(Key, Place)> {
        let eligible = self.in_rotation();
        self.round().into_iter().filter(|(key, _)| eligible.contains_key(key)).collect()
    }

    /// The backend whose turn it is.
    fn due(&self) -> Option<(Key, Place)> {
        self.turns().first().copied()
    }

    fn turn(&mut self) -> Option<(Key, Place)> {
        let due = self.due();
        self.anchor = due.map(|(key, _)| key).or(self.anchor);
        due
    }

    pub fn admit(&mut self, kill: u32) -> Given {
        let serial = self.accepted;
        self.accepted += 1;
        let mut session = Session {
            state: State::Out,
            kill: None,
            pick: None,
            tried: Vec::new(),
            moves: 0,
            is_overdue: false,
            is_moving: false,
            has_rival: false,
            owes: None,
        };
        let given = if self.is_closed {
            Given::Closed
        } else {
            match self.turn() {
                Some((key, place)) => Given::Dial(key, place),
                None => self.without_backends(),
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

    /// What becomes of a client for which there is no backend.
    fn without_backends(&self) -> Given {
        match self.set.is_none() || self.may_wait {
            false => Given::NoBackends,
            true if self.waiting() < self.waiting_max => Given::Wait,
            true => Given::WaitingFull,
        }
    }

    pub fn connected(&mut self, serial: u64, took: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&serial) else { return false };
        if session.state != State::Dialling {
            return false;
        }
        session.state = State::Connected;
        session.tried.clear();
        session.is_overdue = false;
        let place = session.pick.map_or(0, |(_, place)| place);
        self.succeeded(place, took);
        true
    }

    /// What the session gets, and which replacement its attempt before owes.
    pub fn retry(&mut self, serial: u64, kill: u32) -> (Given, Option<u64>) {
        let (turns, round) = (self.turns(), self.round());
        let without = self.without_backends();
        let Some(session) = self.sessions.get_mut(&serial) else { return (Given::Closed, None) };
        let owes = session.owes.take();
        let is_moving = std::mem::take(&mut session.is_moving);
        let before = session.pick.map(|(_, place)| place);
        if let State::Dialling | State::Connected | State::Draining(_) = session.state
            && !is_moving
        {
            session.tried.extend(before);
        }
        // Its place among those that wait is free for it.
        let was_waiting = session.state == State::Waiting;
        (session.state, session.kill, session.is_overdue) = (State::Out, None, false);
        if self.is_closed {
            return (Given::Closed, owes);
        }
        if round.is_empty() {
            let given = match without {
                Given::WaitingFull if was_waiting => Given::Wait,
                given => given,
            };
            if given == Given::Wait {
                (session.state, session.kill) = (State::Waiting, Some(kill));
                session.tried.clear();
            }
            return (given, owes);
        }
        if round.iter().all(|(_, place)| session.tried.contains(place)) {
            // All may be tried again.
            session.tried.clear();
        }
        let avoid = before.filter(|_| is_moving);
        let is_untried = |(_, place): &&(Key, Place)| !session.tried.contains(place);
        let is_wanted = |it: &&(Key, Place)| is_untried(it) && Some(it.1) != avoid;
        let next = turns.iter().find(is_wanted);
        let next = next.or_else(|| turns.iter().find(is_untried));
        let next = next.or_else(|| round.iter().find(is_wanted));
        let next = next.or_else(|| round.iter().find(is_untried));
        let (key, place) = *next.expect("not all have been tried");
        session.dial(key, place, kill);
        if Some(key) == turns.first().map(|(key, _)| *key) {
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
        self.reconsider = true;

        let generation = self.generation;
        self.known.retain(|place, _| next.values().any(|at| at == place));
        for probe in &mut self.probes {
            if probe.owes.is_none() && !next.values().any(|at| *at == probe.place) {
                probe.owes = Some(generation);
                done.probes.push(probe.kill);
            }
        }
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

    pub fn serve_waiting(&mut self, done: &mut Done) {
        if self.set.as_ref().is_some_and(BTreeMap::is_empty) && self.may_wait {
            return;
        }
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
        self.has_rival = false;
    }

    pub fn take_out(&mut self, generation: u64) -> Option<u32> {
        (self.state, self.owes) = (State::Out, Some(generation));
        self.is_overdue = false;
        self.kill.take()
    }
}
