//! The balancer beside a naive model of it: each [`Step`] is done to both, and after every step
//! all that they promise is compared.

// Each test crate uses its own part of this.
#![allow(dead_code)]

pub mod naive;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use tinylb_core::{
    Admission, BackendSet, Balancer, Change, EndReason, Generation, Load, Owed, Pick, Refusal,
    Removal, SessionId,
};

use self::{
    naive::{Assignment, Done, Given, Key, Naive, Place, State},
    turns::Turns,
};

/// One thing that is done to a balancer. A `usize` selects a live session (in the order of
/// acceptance) or whatever the step needs, modulo how many there are, so that a sequence still
/// means something when steps are taken out of it.
#[derive(Clone, Debug)]
pub enum Step {
    Admit,
    Connected(usize),
    Retry(usize),
    Finish(usize, EndReason),
    /// Of a session that has finished.
    FinishAgain(usize),
    Replace(Assignment, Policy),
    /// A change to the set that there is.
    ReplaceSame(Policy),
    /// A change whose base isn't the current set.
    ReplaceStale(Assignment),
    /// Of a replacement, the oldest first.
    DrainExpired(usize),
    Reset,
    /// Of an attempt that has let go.
    Acknowledge(usize),
    AbortAll,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Abort,
    Drain,
}

/// How often a world has seen what makes a sequence worth trying.
#[derive(Clone, Debug, Default)]
pub struct Seen(pub BTreeMap<&'static str, u64>);

impl Seen {
    /// All that a test which means something has seen.
    pub const ALL: [&str; 19] = [
        "admitted by the first set",
        "all targets tried",
        "closed with sessions",
        "cut",
        "drained target came back",
        "draining",
        "drain expired",
        "drain expired too late",
        "finished twice",
        "key with a new target",
        "late acknowledgement",
        "refused by an empty first set",
        "renamed",
        "retried after a revocation",
        "retry without a turn",
        "revoked",
        "same set again",
        "shared target kept",
        "waiting room full",
    ];

    fn note(&mut self, what: &'static str, happened: bool) {
        if happened {
            debug_assert!(Self::ALL.contains(&what), "{what} isn't listed");
            *self.0.entry(what).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }

    pub fn missing(&self) -> Vec<&'static str> {
        Self::ALL.into_iter().filter(|what| !self.0.contains_key(what)).collect()
    }
}

pub type Check = Result<(), String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}

fn same<V: PartialEq + Debug>(what: &str, real: V, naive: V) -> Check {
    ensure!(real == naive, "{what}: {real:?}, and the model says {naive:?}");
    Ok(())
}

/// A balancer and its model.
pub struct World {
    real: Balancer<Place, u32>,
    naive: Naive,
    turns: Turns,
    /// Each replacement's number, from 0 ("no set yet").
    generations: Vec<Generation>,
    /// What attempts owe and nobody has acknowledged, with the model's number for it.
    owed: Vec<(Owed, u64)>,
    /// Live sessions by serial number, and those that have finished.
    ids: BTreeMap<u64, SessionId>,
    finished: Vec<SessionId>,
    every_id: BTreeSet<SessionId>,
    next_kill: u32,
    kills_back: BTreeSet<u32>,
    ended: BTreeMap<EndReason, u64>,
    pub seen: Seen,
}

/// A sequence may end before all has been acknowledged.
impl Drop for World {
    fn drop(&mut self) {
        for (owed, _) in self.owed.drain(..) {
            self.real.acknowledge(owed);
        }
    }
}

impl World {
    pub fn new(start: usize, waiting_max: usize) -> Self {
        Self {
            real: Balancer::new(start as u64, waiting_max),
            naive: Naive::new(start, waiting_max),
            turns: Turns::default(),
            generations: vec![Generation::default()],
            owed: Vec::new(),
            ids: BTreeMap::new(),
            finished: Vec::new(),
            every_id: BTreeSet::new(),
            next_kill: 0,
            kills_back: BTreeSet::new(),
            ended: BTreeMap::new(),
            seen: Seen::default(),
        }
    }

    /// Whether the step does anything that a sequence without it doesn't.
    pub fn is_worth(&self, step: &Step) -> bool {
        let state = |selector| Some(self.naive.sessions[&self.live(selector)?.0].state);
        match step {
            Step::Admit | Step::Reset | Step::ReplaceStale(_) => true,
            Step::Connected(at) => state(*at) == Some(State::Dialling),
            Step::Retry(at) | Step::Finish(at, _) => state(*at).is_some(),
            Step::FinishAgain(_) => !self.finished.is_empty(),
            Step::Replace(set, _) => self.naive.set.as_ref() != Some(set),
            Step::ReplaceSame(_) => self.naive.set.is_some(),
            Step::DrainExpired(_) => self.naive.generation > 0,
            Step::Acknowledge(_) => !self.owed.is_empty(),
            Step::AbortAll => !self.naive.is_closed,
        }
    }

    /// Does a step to both, and compares what they return.
    pub fn apply(&mut self, step: &Step) -> Check {
        match step {
            Step::Admit => self.admit(),
            Step::Connected(at) => self.connected(*at),
            Step::Retry(at) => self.retry(*at),
            Step::Finish(at, reason) => self.finish(*at, *reason),
            Step::FinishAgain(at) => self.finish_again(*at),
            Step::Replace(set, policy) => self.replace(set, *policy),
            Step::ReplaceSame(policy) => match self.naive.set.clone() {
                Some(set) => self.replace(&set, *policy),
                None => Ok(()),
            },
            Step::ReplaceStale(set) => self.replace_stale(set),
            Step::DrainExpired(at) => self.drain_expired(*at),
            Step::Reset => {
                self.real.reset_cycle();
                self.naive.reset();
                self.turns.reset(self.naive.set.as_ref());
                Ok(())
            }
            Step::Acknowledge(at) => {
                if !self.owed.is_empty() {
                    let (owed, since) = self.owed.remove(at % self.owed.len());
                    self.seen.note("late acknowledgement", since < self.naive.generation);
                    self.real.acknowledge(owed);
                }
                Ok(())
            }
            Step::AbortAll => self.abort_all(),
        }
    }

    /// Ends and acknowledges everything; nothing may be left.
    pub fn wind_up(&mut self) -> Check {
        while !self.ids.is_empty() {
            self.finish(0, EndReason::Finished)?;
        }
        self.check()?;
        for (owed, _) in self.owed.drain(..) {
            self.real.acknowledge(owed);
        }
        self.check()?;
        let newest = self.real.generation();
        ensure!(self.real.is_applied(newest), "all has let go, and {newest} isn't applied");
        same("loads in the end", self.real.loads().count(), 0)
    }

    // Steps.

    fn live(&self, selector: usize) -> Option<(u64, SessionId)> {
        let at = selector.checked_rem(self.ids.len())?;
        self.ids.iter().nth(at).map(|(serial, id)| (*serial, *id))
    }

    fn new_kill(&mut self) -> u32 {
        self.next_kill += 1;
        self.next_kill
    }

    /// Kill handles that came back: each for the first time.
    fn take_back(&mut self, what: &str, kills: &[u32]) -> Check {
        for kill in kills {
            ensure!(self.kills_back.insert(*kill), "{what}: kill handle {kill} came back twice");
        }
        Ok(())
    }

    fn admit(&mut self) -> Check {
        let kill = self.new_kill();
        let (id, admission) = self.real.admit(kill);
        ensure!(self.every_id.insert(id), "the id {id} was used before");
        same("serial number", id.serial(), self.naive.accepted)?;
        self.ids.insert(id.serial(), id);
        let given = match admission {
            Admission::Dial(pick) => {
                let (key, place) = plain(&pick);
                self.turns.turn(key)?;
                Given::Dial(key, place)
            }
            Admission::Wait => Given::Wait,
            Admission::Refused(refusal) => refused(refusal),
        };
        self.seen.note("waiting room full", given == Given::WaitingFull);
        same("admission", given, self.naive.admit(kill))
    }

    fn connected(&mut self, at: usize) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        same("connected", self.real.connected(id), self.naive.connected(serial))
    }

    fn retry(&mut self, at: usize) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let kill = self.new_kill();
        let session = &self.naive.sessions[&serial];
        let was_revoked = session.owes.is_some();
        let mut tried = session.tried.clone();
        if let State::Dialling | State::Connected | State::Draining(_) = session.state {
            tried.extend(session.pick.map(|(_, place)| place));
        }
        let set = self.naive.set.clone().unwrap_or_default();
        let has_tried_all = !set.is_empty() && set.values().all(|place| tried.contains(place));
        same("has_tried_all", self.real.has_tried_all(id), has_tried_all)?;
        if has_tried_all {
            tried.clear();
        }
        let (next, owed) = self.real.retry(id, kill);
        let given = match next {
            Ok(pick) => {
                let (key, place) = plain(&pick);
                ensure!(!tried.contains(&place), "the target {place} had been tried");
                let due = self.turns.due(&set, self.naive.start);
                if due.is_some_and(|(_, place)| tried.contains(&place)) {
                    self.seen.note("retry without a turn", true);
                } else {
                    self.turns.turn(key)?;
                }
                self.seen.note("retried after a revocation", was_revoked);
                Given::Dial(key, place)
            }
            Err(refusal) => refused(refusal),
        };
        self.seen.note("all targets tried", has_tried_all && matches!(given, Given::Dial(..)));
        let (naive, owes) = self.naive.retry(serial, kill);
        same("retry", given, naive)?;
        self.owe("retry", owed, owes)
    }

    fn finish(&mut self, at: usize, reason: EndReason) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let owed = self.real.finish(id, reason);
        self.ids.remove(&serial);
        self.finished.push(id);
        *self.ended.entry(reason).or_default() += 1;
        let owes = self.naive.finish(serial);
        self.owe("finish", owed, owes)
    }

    /// Whatever is said of a session that has finished changes nothing.
    fn finish_again(&mut self, at: usize) -> Check {
        let Some(at) = at.checked_rem(self.finished.len()) else { return Ok(()) };
        let id = self.finished[at];
        self.seen.note("finished twice", true);
        let kill = self.new_kill();
        ensure!(self.real.finish(id, EndReason::Shutdown).is_none(), "{id} owes after its end");
        ensure!(!self.real.connected(id), "{id} connected after its end");
        let (next, owed) = self.real.retry(id, kill);
        same("retry after the end", next.map(|pick| plain(&pick)), Err(Refusal::Closed))?;
        ensure!(owed.is_none(), "{id} owes after its end");
        Ok(())
    }

    fn owe(&mut self, what: &str, owed: Option<Owed>, owes: Option<u64>) -> Check {
        same(&format!("what is owed at {what}"), owed.is_some(), owes.is_some())?;
        self.owed.extend(owed.zip(owes));
        Ok(())
    }

    fn replace(&mut self, next: &Assignment, policy: Policy) -> Check {
        let before = self.naive.set.clone();
        let removal = match policy {
            Policy::Abort => Removal::Abort,
            Policy::Drain => Removal::Drain(Duration::from_secs(1)),
        };
        let was_draining = self.count(|state| matches!(state, State::Draining(_)));
        let change = Change::between(self.real.set().cloned(), backends(next));
        let Ok(replaced) = self.real.replace(change, removal) else {
            return Err("a change from the current set was handed back".into());
        };
        let expected = self.naive.replace(next, policy == Policy::Drain);
        if expected.is_change {
            self.turns.set(next);
        }
        for (id, pick, kill) in &replaced.admitted {
            let held = self.real.kill_handle(*id).copied();
            same("kill handle of the admitted", Some(*kill), held)?;
            self.turns.turn(plain(pick).0)?;
        }
        let sorted = |mut kills: Vec<u32>| {
            kills.sort_unstable();
            kills
        };
        let keys = |keys: &[_]| keys.iter().map(letter).collect();
        let done = Done {
            is_change: replaced.is_change,
            added: keys(&replaced.added),
            removed: keys(&replaced.removed),
            retargeted: keys(&replaced.retargeted),
            cut: sorted(replaced.cut),
            revoked: sorted(replaced.revoked),
            draining: replaced.draining,
            admitted: replaced
                .admitted
                .iter()
                .map(|(id, pick, _)| (id.serial(), plain(pick).0, plain(pick).1))
                .collect(),
            refused: replaced.refused,
        };
        for kills in [&done.cut, &done.revoked, &done.refused] {
            self.take_back("replace", kills)?;
        }
        let now_draining = self.count(|state| matches!(state, State::Draining(_)));
        self.note_replacement(&before.clone().unwrap_or_default(), next, &expected);
        self.seen.note("drained target came back", now_draining < was_draining + expected.draining);
        self.generations.push(replaced.generation);
        same("generation", replaced.generation.number(), self.naive.generation)?;
        same("the set before", assignment(&replaced.before), before.unwrap_or_default())?;
        same("replacement", done, expected)
    }

    fn note_replacement(&mut self, before: &Assignment, next: &Assignment, done: &Done) {
        let in_use: Vec<(Key, Place)> = (self.naive.sessions.values())
            .filter(|session| session.state == State::Connected)
            .filter_map(|session| session.pick)
            .collect();
        let left = |key: &Key, place: &Place| {
            before.get(key) == Some(place) && next.get(key) != Some(place)
        };
        let stayed = |place: &Place| {
            before.iter().any(|(key, at)| at == place && next.get(key) == Some(place))
        };
        for (what, happened) in [
            ("cut", !done.cut.is_empty()),
            ("revoked", !done.revoked.is_empty()),
            ("draining", done.draining > 0),
            ("same set again", !done.is_change),
            ("key with a new target", !done.retargeted.is_empty()),
            ("admitted by the first set", !done.admitted.is_empty()),
            ("refused by an empty first set", !done.refused.is_empty()),
            ("shared target kept", in_use.iter().any(|(k, p)| left(k, p) && stayed(p))),
            ("renamed", in_use.iter().any(|(k, p)| left(k, p) && !stayed(p))),
        ] {
            self.seen.note(what, happened);
        }
    }

    /// A change from another set than the current one, even an equal one, is handed back.
    fn replace_stale(&mut self, next: &Assignment) -> Check {
        let bases = match &self.naive.set {
            Some(set) => [None, Some(backends(set))],
            None => [Some(BackendSet::empty()), Some(backends(next))],
        };
        for base in bases {
            let change = Change::between(base, backends(next));
            let was_none = change.is_none();
            let Err(change) = self.real.replace(change, Removal::Abort) else {
                return Err("a stale change was taken".into());
            };
            same("the stale change", change.is_none(), was_none)?;
        }
        Ok(())
    }

    fn drain_expired(&mut self, at: usize) -> Check {
        let generation = self.generations[at % self.generations.len()];
        let mut kills = self.real.drain_expired(generation);
        kills.sort_unstable();
        self.take_back("drain", &kills)?;
        let still = self.count(|state| matches!(state, State::Draining(_)));
        let expected = self.naive.drain_expired(generation.number());
        self.seen.note("drain expired", !expected.is_empty());
        self.seen.note("drain expired too late", expected.is_empty() && still > 0);
        same("drain expired", kills, expected)
    }

    fn abort_all(&mut self) -> Check {
        let mut kills = self.real.abort_all();
        kills.sort_unstable();
        self.take_back("abort", &kills)?;
        self.seen.note("closed with sessions", !kills.is_empty());
        same("abort", kills, self.naive.abort_all())
    }

    fn count(&self, which: impl Fn(State) -> bool) -> usize {
        self.naive.sessions.values().filter(|session| which(session.state)).count()
    }

    // What must hold after every step.

    pub fn check(&self) -> Check {
        self.check_counts()?;
        self.check_sessions()?;
        self.check_pool()?;
        let owing = self.naive.sessions.values().filter_map(|session| session.owes);
        let oldest = owing.chain(self.owed.iter().map(|(_, since)| *since)).min();
        for generation in &self.generations {
            let is_applied = oldest.is_none_or(|oldest| oldest > generation.number());
            let what = "a replacement is applied";
            same(what, (generation, self.real.is_applied(*generation)), (generation, is_applied))?;
        }
        Ok(())
    }

    fn check_counts(&self) -> Check {
        let real = &self.real;
        same("accepted", real.accepted(), self.naive.accepted)?;
        same("live", real.live(), self.naive.sessions.len())?;
        let ended = real.totals().sum();
        ensure!(real.accepted() == real.live() as u64 + ended, "accepted isn't live + ended");
        for (reason, count) in &self.ended {
            same("ended", real.totals().of(*reason), *count)?;
        }
        same("waiting", real.waiting(), self.naive.waiting())?;
        ensure!(real.waiting() <= self.naive.waiting_max, "too many wait");
        same("generation", real.generation().number(), self.naive.generation)?;
        same("the set", real.set().map(assignment), self.naive.set.clone())
    }

    fn check_sessions(&self) -> Check {
        for (serial, id) in &self.ids {
            let session = &self.naive.sessions[serial];
            let is_draining = matches!(session.state, State::Draining(_));
            same("pick", self.real.pick(*id).map(plain), session.pick)?;
            same("kill handle", self.real.kill_handle(*id).copied(), session.kill)?;
            same("dialling", self.real.is_dialling(*id), session.state == State::Dialling)?;
            same("draining", self.real.is_draining(*id), is_draining)?;
        }
        for id in &self.finished {
            let is_known = self.real.pick(*id).is_some() || self.real.kill_handle(*id).is_some();
            ensure!(!is_known && !self.real.is_dialling(*id), "{id} is known after its end");
        }
        Ok(())
    }

    /// Without the model: the pool by target says what the sessions say, and names no target
    /// outside the set but those that drain.
    fn check_pool(&self) -> Check {
        let in_set =
            |place: &Place| self.real.set().is_some_and(|set| set.targets().contains(place));
        let mut by_session: BTreeMap<Place, (usize, usize, bool)> = BTreeMap::new();
        for id in self.ids.values() {
            let held = self.real.kill_handle(*id).and_then(|_| self.real.pick(*id));
            let Some(place) = held.map(|pick| pick.target) else { continue };
            let is_draining = self.real.is_draining(*id);
            ensure!(is_draining != in_set(&place), "{id} is at {place}, which isn't in the set");
            let load = by_session.entry(place).or_insert((0, 0, is_draining));
            let is_dialling = self.real.is_dialling(*id);
            ensure!(!(is_dialling && is_draining), "{id} dials a target that drains");
            load.0 += usize::from(is_dialling);
            load.1 += usize::from(!is_dialling);
        }
        let mut by_target = BTreeMap::new();
        for Load { target, dialling, connected, is_draining } in self.real.loads() {
            let load = (dialling, connected, is_draining);
            ensure!(by_target.insert(target, load).is_none(), "{target} is there twice");
        }
        ensure!(by_target == by_session, "by target: {by_target:?}, by session: {by_session:?}");
        Ok(())
    }
}

/// The balancer's set for a model's.
pub fn backends(set: &Assignment) -> BackendSet<Place> {
    let keys = set.iter().map(|(key, place)| (char::from(b'a' + key).to_string(), *place));
    BackendSet::new(keys).expect("letters are valid keys")
}

fn assignment(set: &BackendSet<Place>) -> Assignment {
    set.iter().map(|(key, place)| (letter(key), *place)).collect()
}

fn letter(key: &tinylb_core::BackendKey) -> Key {
    key.as_str().as_bytes()[0] - b'a'
}

fn plain(pick: &Pick<Place>) -> (Key, Place) {
    (letter(&pick.key), pick.target)
}

fn refused(refusal: Refusal) -> Given {
    match refusal {
        Refusal::NoBackends => Given::NoBackends,
        Refusal::WaitingFull => Given::WaitingFull,
        _ => Given::Closed,
    }
}
