//! The balancer beside a naive model of it: each [`Step`] is done to both, and after every step
//! all that they promise is compared.

// Each test crate uses its own part of this.
#![allow(dead_code)]

pub mod health;
pub mod naive;
mod turns;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Debug,
    time::Duration,
};

use tinylb_core::{
    Admission, BackendSet, Balancer, Change, EmptySet, EndReason, Fault, Generation, Load, Notice,
    Owed, Pick, ProbeEnd, ProbeId, Refusal, Removal, SessionId, Settings,
};

use self::{
    health::{CUT_SILENT, DIAL_TIMEOUT, End, PROBES_MAX},
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
    /// It took this long, in milliseconds.
    ConnectedAfter(usize, u64),
    /// A dial has outlived its patience.
    Overdue(usize),
    /// Its dials go unanswered, one after the other, until it has no moves left.
    Wander(usize),
    /// Its target's silence lasts, while the dial after it in order of acceptance is answered.
    Hush(usize),
    DialFailed(usize, Fault),
    /// After less time than its patience.
    DialTimedOutEarly(usize),
    /// Time passes, in milliseconds.
    Pass(u64),
    StartProbe,
    EndProbe(usize, End),
    CutSilent,
    Configure {
        may_wait: bool,
        ejects: bool,
    },
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
    pub const ALL: [&str; 34] = [
        "a late dial says nothing of a target that has accepted another",
        "admitted by a set after an empty one",
        "admitted by the first set",
        "all ejected",
        "all targets tried",
        "closed with sessions",
        "cut",
        "cut for silence",
        "drained target came back",
        "draining",
        "drain expired",
        "drain expired too late",
        "ejected",
        "ejected again",
        "finished twice",
        "key with a new target",
        "kept ejected by a replacement",
        "late acknowledgement",
        "moved",
        "moves used up",
        "overdue without another target",
        "probe cancelled",
        "probe revoked",
        "refused by an empty first set",
        "renamed",
        "retried after a revocation",
        "retry without a turn",
        "returned by a dial",
        "returned by a probe",
        "revoked",
        "same set again",
        "shared target kept",
        "waiting again",
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
    /// Probes that are under way, as the model has them, and those that were cancelled.
    probes: Vec<ProbeId>,
    cancelled: BTreeSet<u32>,
    settings: Settings,
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
        let mut settings = Settings::default();
        (settings.start, settings.waiting_max) = (start as u64, waiting_max);
        settings.probes_max = PROBES_MAX;
        settings.cut_silent = Some(millis(CUT_SILENT));
        Self {
            real: Balancer::new(settings.clone()),
            settings,
            probes: Vec::new(),
            cancelled: BTreeSet::new(),
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
            Step::Connected(at)
            | Step::ConnectedAfter(at, _)
            | Step::Overdue(at)
            | Step::Wander(at)
            | Step::Hush(at)
            | Step::DialFailed(at, _)
            | Step::DialTimedOutEarly(at) => state(*at) == Some(State::Dialling),
            Step::Pass(_) | Step::CutSilent => true,
            Step::StartProbe => self.real.due().is_some(),
            Step::EndProbe(..) => !self.probes.is_empty(),
            Step::Configure { may_wait, ejects } => {
                (self.naive.may_wait, self.naive.ejects) != (*may_wait, *ejects)
            }
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
        self.step(step)?;
        self.compare_notices(matches!(step, Step::EndProbe(..)))?;
        self.turns.rotation(&self.naive.in_rotation());
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Check {
        match step {
            Step::Admit => self.admit(),
            Step::Connected(at) => self.connected(*at, 1),
            Step::ConnectedAfter(at, took) => self.connected(*at, *took),
            Step::Overdue(at) => self.overdue(*at),
            Step::Wander(at) => (0..=health::MOVES_MAX).try_for_each(|_| {
                self.apply(&Step::Overdue(*at))?;
                self.apply(&Step::Retry(*at))
            }),
            Step::Hush(at) => {
                self.apply(&Step::DialFailed(*at, Fault::TimedOut))?;
                self.apply(&Step::Connected(*at + 1))?;
                self.apply(&Step::Pass(CUT_SILENT))?;
                self.apply(&Step::CutSilent)
            }
            Step::DialFailed(at, fault) => self.dial_failed(*at, *fault, DIAL_TIMEOUT),
            Step::DialTimedOutEarly(at) => self.dial_failed(*at, Fault::TimedOut, 20),
            Step::Pass(time) => {
                self.naive.now += time;
                Ok(())
            }
            Step::StartProbe => self.start_probe(),
            Step::EndProbe(at, end) => self.end_probe(*at, *end),
            Step::CutSilent => self.cut_silent(),
            Step::Configure { may_wait, ejects } => self.configure(*may_wait, *ejects),
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
                self.turns.reset();
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
        while !self.probes.is_empty() {
            self.end_probe(0, End::Cancelled)?;
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

    fn now(&self) -> Duration {
        millis(self.naive.now)
    }

    fn connected(&mut self, at: usize, took: u64) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let real = self.real.connected(id, millis(took), self.now());
        same("connected", real, self.naive.connected(serial, took))
    }

    fn overdue(&mut self, at: usize) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let (real, naive) = (self.real.overdue(id, self.now()), self.naive.overdue(serial));
        if let Some(moves) = naive {
            let session = &self.naive.sessions[&serial];
            let are_used_up = session.moves == health::MOVES_MAX;
            self.seen.note("moved", moves);
            self.seen.note("moves used up", are_used_up && !moves);
            self.seen.note("overdue without another target", !are_used_up && !moves);
        }
        same("overdue", real, naive.unwrap_or(false))
    }

    fn dial_failed(&mut self, at: usize, fault: Fault, lasted: u64) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let has_rival = self.naive.sessions[&serial].has_rival;
        self.seen.note("a late dial says nothing of a target that has accepted another", has_rival);
        self.real.dial_failed(id, fault, millis(lasted), self.now());
        self.naive.dial_failed(serial, fault, lasted);
        Ok(())
    }

    fn start_probe(&mut self) -> Check {
        let (kill, now) = (self.new_kill(), self.naive.now);
        let Some(probe) = self.real.start_probe(self.now(), || kill) else {
            let has_room = self.naive.probes.len() < PROBES_MAX && !self.naive.is_closed;
            let late = self.naive.known.iter().find(|(place, known)| {
                let is_due = known.ejection.as_ref().is_some_and(|it| it.due.1 <= now);
                is_due && !self.naive.is_probed(**place)
            });
            ensure!(!has_room || late.is_none(), "no probe, and {late:?} is due at {now}");
            return Ok(());
        };
        let place = probe.target;
        let known = self.naive.known.get(&place).and_then(|known| known.ejection.as_ref());
        let is_due = known.is_some_and(|ejection| ejection.due.0 <= now);
        ensure!(is_due, "a probe of {place} at {now}, which is {known:?}");
        ensure!(!self.naive.is_probed(place), "a second probe of {place}");
        ensure!(self.naive.probes.len() < PROBES_MAX, "a probe too many");
        ensure!(!self.naive.is_closed, "a probe after the end");
        same("kill handle of the probe", self.real.probe_handle(probe.id), Some(&kill))?;
        self.probes.push(probe.id);
        self.naive.start_probe(place, kill);
        Ok(())
    }

    fn end_probe(&mut self, at: usize, end: End) -> Check {
        let Some(at) = at.checked_rem(self.probes.len()) else { return Ok(()) };
        let id = self.probes.remove(at);
        self.cancelled.remove(&self.naive.probes[at].kill);
        let real = match end {
            End::Succeeded(took) => ProbeEnd::Succeeded(millis(took)),
            End::Failed(fault) => ProbeEnd::Failed(fault),
            End::Cancelled => ProbeEnd::Cancelled,
        };
        let owed = self.real.probe_ended(id, real, self.now());
        let again = self.real.probe_ended(id, real, self.now());
        ensure!(again.is_none(), "a probe that has ended owes");
        let owes = self.naive.end_probe(at, end);
        self.owe("the end of a probe", owed, owes)
    }

    fn cut_silent(&mut self) -> Check {
        let mut kills = self.real.cut_silent(self.now());
        kills.sort_unstable();
        self.take_back("cut for silence", &kills)?;
        self.seen.note("cut for silence", !kills.is_empty());
        same("cut for silence", kills, self.naive.cut_silent())
    }

    fn configure(&mut self, may_wait: bool, ejects: bool) -> Check {
        self.settings.empty = if may_wait { EmptySet::Wait } else { EmptySet::Reset };
        self.settings.ejection = ejects;
        let kills = self.real.configure(self.settings.clone(), self.now());
        self.take_back("configure", &kills)?;
        same("refused by the settings", kills, self.naive.configure(may_wait, ejects))
    }

    /// What the step has found out about targets, and what it wants of the driver.
    fn compare_notices(&mut self, by_probe: bool) -> Check {
        let (mut ejected, mut returned, mut reconsider) = (Vec::new(), Vec::new(), BTreeSet::new());
        for notice in self.real.take_notices() {
            match notice {
                Notice::Ejected { target, fault } => ejected.push((target, fault)),
                Notice::Returned { target, ejected_for } => {
                    returned.push((target, ejected_for.as_millis() as u64));
                }
                Notice::Reconsider(id) => drop(reconsider.insert(id.serial())),
                Notice::Cancel(id) => {
                    let kill = self.real.probe_handle(id);
                    ensure!(kill.is_some(), "{id:?} is cancelled after its end");
                    self.cancelled.extend(kill);
                }
            }
        }
        let again =
            |place: &Place| self.naive.known.get(place).is_some_and(|it| it.returned.is_some());
        let is_again = ejected.iter().any(|(place, _)| again(place));
        self.seen.note("ejected", !ejected.is_empty());
        self.seen.note("ejected again", is_again);
        let are_all = !ejected.is_empty() && self.naive.are_all_ejected();
        self.seen.note("all ejected", are_all && self.naive.places().len() > 1);
        self.seen.note("returned by a probe", by_probe && !returned.is_empty());
        self.seen.note("returned by a dial", !by_probe && !returned.is_empty());
        same("ejected", ejected, std::mem::take(&mut self.naive.ejected))?;
        same("returned", returned, std::mem::take(&mut self.naive.returned))?;
        let sessions = self.naive.sessions.iter();
        let overdue = sessions.filter(|(_, it)| it.is_overdue && it.state == State::Dialling);
        let missed = overdue.map(|(serial, _)| *serial).find(|serial| !reconsider.contains(serial));
        let may_reconsider = std::mem::take(&mut self.naive.reconsider);
        ensure!(!may_reconsider || missed.is_none(), "{missed:?} isn't asked to look again");
        ensure!(may_reconsider || reconsider.is_empty(), "{reconsider:?} look again for nothing");
        let probes = self.naive.probes.iter();
        let cancelled = probes.filter(|probe| probe.is_cancelled).map(|probe| probe.kill).collect();
        self.seen.note("probe cancelled", !self.cancelled.is_empty());
        same("cancelled probes", &self.cancelled, &cancelled)
    }

    fn retry(&mut self, at: usize) -> Check {
        let Some((serial, id)) = self.live(at) else { return Ok(()) };
        let kill = self.new_kill();
        let session = &self.naive.sessions[&serial];
        let was_revoked = session.owes.is_some();
        let mut tried = session.tried.clone();
        let is_moving = session.is_moving;
        if let State::Dialling | State::Connected | State::Draining(_) = session.state
            && !is_moving
        {
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
            Admission::Dial(pick) => {
                let (key, place) = plain(&pick);
                ensure!(!tried.contains(&place), "the target {place} had been tried");
                let due = self.turns.due(&set, self.naive.start);
                if due.is_some_and(|due| due != key) {
                    self.seen.note("retry without a turn", !is_moving);
                } else {
                    self.turns.turn(key)?;
                }
                self.seen.note("retried after a revocation", was_revoked);
                Given::Dial(key, place)
            }
            Admission::Wait => Given::Wait,
            Admission::Refused(refusal) => refused(refusal),
        };
        self.seen.note("waiting again", given == Given::Wait && was_revoked);
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

    /// No step of a session that has finished changes anything.
    fn finish_again(&mut self, at: usize) -> Check {
        let Some(at) = at.checked_rem(self.finished.len()) else { return Ok(()) };
        let id = self.finished[at];
        self.seen.note("finished twice", true);
        let kill = self.new_kill();
        ensure!(self.real.finish(id, EndReason::Shutdown).is_none(), "{id} owes after its end");
        let now = self.now();
        ensure!(!self.real.connected(id, millis(1), now), "{id} connected after its end");
        ensure!(!self.real.overdue(id, now), "{id} moves after its end");
        self.real.dial_failed(id, Fault::Refused, millis(1), now);
        let (next, owed) = self.real.retry(id, kill);
        same("retry after the end", next, Admission::Refused(Refusal::Closed))?;
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
        let were_ejected = self.real.ejected(self.now()).len();
        let was_empty = before.as_ref().is_some_and(BTreeMap::is_empty);
        let Ok(replaced) = self.real.replace(change, removal, self.now()) else {
            return Err("a change from the current set was handed back".into());
        };
        let expected = self.naive.replace(next, policy == Policy::Drain);
        if expected.is_change {
            self.turns.rotation(&self.naive.in_rotation());
        }
        let are_ejected = self.real.ejected(self.now()).len();
        self.seen.note("kept ejected by a replacement", expected.is_change && are_ejected > 0);
        ensure!(are_ejected <= were_ejected, "a replacement has ejected a target");
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
            probes: sorted(
                replaced
                    .probes
                    .iter()
                    .filter_map(|id| self.real.probe_handle(*id))
                    .copied()
                    .collect(),
            ),
        };
        self.seen.note("probe revoked", !done.probes.is_empty());
        for kills in [&done.cut, &done.revoked, &done.refused] {
            self.take_back("replace", kills)?;
        }
        let now_draining = self.count(|state| matches!(state, State::Draining(_)));
        self.note_replacement(&before.clone().unwrap_or_default(), was_empty, next, &expected);
        self.seen.note("drained target came back", now_draining < was_draining + expected.draining);
        self.generations.push(replaced.generation);
        same("generation", replaced.generation.number(), self.naive.generation)?;
        same("the set before", assignment(&replaced.before), before.unwrap_or_default())?;
        same("replacement", done, expected)
    }

    fn note_replacement(
        &mut self,
        before: &Assignment,
        was_empty: bool,
        next: &Assignment,
        done: &Done,
    ) {
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
            ("admitted by a set after an empty one", was_empty && !done.admitted.is_empty()),
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
            let Err(change) = self.real.replace(change, Removal::Abort, self.now()) else {
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
        self.check_health()?;
        self.check_counts()?;
        self.check_sessions()?;
        self.check_pool()?;
        let owing = self.naive.sessions.values().filter_map(|session| session.owes);
        let owing = owing.chain(self.naive.probes.iter().filter_map(|probe| probe.owes));
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

    fn check_health(&self) -> Check {
        let now = self.naive.now;
        let ejected = self.real.ejected(self.now());
        let naive = self.naive.known.iter().filter(|(_, known)| known.ejection.is_some());
        same("ejected targets", ejected.len(), naive.clone().count())?;
        for (real, (place, known)) in ejected.iter().zip(naive) {
            let Some(ejection) = &known.ejection else { continue };
            let is_same = real.target == *place
                && real.fault == ejection.fault
                && real.ejected_for == millis(now - ejection.since)
                && self.real.is_ejected(place);
            ensure!(is_same, "{real:?}, and the model says that {place} is {known:?}");
            let (from, to) = ejection.due;
            let range = millis(from.saturating_sub(now))..=millis(to.saturating_sub(now));
            match real.next_probe {
                None => ensure!(self.naive.is_probed(*place), "nobody probes {place}"),
                Some(next) => ensure!(range.contains(&next), "{real:?}, due {range:?}"),
            }
        }
        for (serial, session) in &self.naive.sessions {
            if let (State::Dialling, Some((_, place))) = (session.state, session.pick) {
                let patience = self.real.patience(self.ids[serial]);
                same("patience", patience, Some(millis(self.naive.patience(place))))?;
            }
        }
        same("probes", self.real.probes(), self.naive.probes.len())?;
        let has_room = self.naive.probes.len() < PROBES_MAX && !self.naive.is_closed;
        let may_probe = |place: &Place| has_room && !self.naive.is_probed(*place);
        let mut dues =
            ejected.iter().filter(|it| may_probe(&it.target)).filter_map(|it| it.next_probe);
        let due = self.real.due();
        ensure!(due.is_some() || dues.next().is_none(), "nothing is due, of {ejected:?}");
        Ok(())
    }

    /// Apart from who waits, without the model: the pool by target says what the sessions say, and names no target
    /// outside the set but those that drain.
    fn check_pool(&self) -> Check {
        let in_set =
            |place: &Place| self.real.set().is_some_and(|set| set.targets().contains(place));
        let mut by_session: BTreeMap<Place, (usize, usize, bool)> = BTreeMap::new();
        for (serial, id) in &self.ids {
            if self.naive.sessions[serial].state == State::Waiting {
                continue;
            }
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

fn millis(time: u64) -> Duration {
    Duration::from_millis(time)
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
