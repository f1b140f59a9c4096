//! The decisions alone, on a queue of events: no bytes, no packets, no tasks. What a scenario says
//! of those does nothing here.

use std::{
    cmp::Ordering,
    collections::{BinaryHeap, VecDeque},
    mem,
};

use tinylb_core::{
    Admission, BackendKey, BackendSet, Balancer, Change, EndReason, Generation, Load, Refusal,
    Removal, SessionId,
};

use crate::{
    Entropy, Outcome, Seeded, Sometimes,
    oracle::{Law, Ledger, PLACES, Said},
    scenario::{
        Act, Backends, Config, Key, Leaving, Link, Manner, Operation, Place, Plan, SILENCE,
        Scenario, Trigger, all, removal, sets_of,
    },
    trace::{Failure, Note, Trace},
};

/// The decisions of a balancer, as a run asks for them. [`Rotation`] is the one that ships; bring
/// your own to have it judged by the same scenarios.
///
/// Sessions are numbered from 0 by the caller; a session's number is its kill handle too.
pub trait Policy {
    /// A client has come, the next in number.
    fn admit(&mut self, session: u32) -> Verdict;
    /// Its dial has come through; may it be used?
    fn connected(&mut self, session: u32) -> bool;
    /// Its dial has failed or was revoked, and has let go of its connection: where next?
    fn retry(&mut self, session: u32) -> Verdict;
    /// It has ended, and has let go of both its connections.
    fn finish(&mut self, session: u32, reason: EndReason);
    /// The set is this now.
    fn replace(&mut self, set: &Backends, removal: Removal) -> Taken;
    /// The time that the sessions had to drain which a replacement left is over: which are cut.
    fn drain_expired(&mut self, generation: u64) -> Vec<u32>;
    /// Everything is over: whom to kill.
    fn abort_all(&mut self) -> Vec<u32>;
    /// Whether a replacement, and all before it, have been let go of.
    fn is_applied(&self, generation: u64) -> bool;
    /// The rotation begins anew.
    fn reset_cycle(&mut self);
    /// The sessions of each target that has any.
    fn loads(&self) -> impl Iterator<Item = Load<Place>>;
    /// Sessions accepted, live and ended.
    fn counts(&self) -> (u64, usize, u64);
    /// Whether turns are to go round in key order, and a cycle of clients to reach all backends.
    fn is_round_robin(&self) -> bool {
        true
    }
}

/// What a [`Policy`] says to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Dial this backend.
    Dial(Key, Place),
    /// Wait for the first set.
    Wait,
    /// End, for this reason.
    End(EndReason),
}

/// What a [`Policy`] did in a replacement.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// The replacement's number, from 1.
    pub generation: u64,
    /// Whether the set says anything new.
    pub is_change: bool,
    /// Connected sessions that are to be cut.
    pub cut: Vec<u32>,
    /// Dials that are to be given up.
    pub revoked: Vec<u32>,
    /// How many sessions began to drain.
    pub draining: usize,
    /// Sessions that waited and may dial, in the order of their acceptance.
    pub admitted: Vec<(u32, Key, Place)>,
    /// Sessions that waited and are to be ended.
    pub refused: Vec<u32>,
}

/// The policy that ships: [`tinylb_core::Balancer`].
pub struct Rotation {
    balancer: Balancer<Place, u32>,
    ids: Vec<SessionId>,
    keys: Vec<BackendKey>,
    /// By number, from 1.
    generations: Vec<Generation>,
}

impl Rotation {
    /// The balancer that a configuration asks for.
    pub fn new(config: &Config) -> Self {
        Self {
            balancer: Balancer::new(u64::from(config.start), config.waiting as usize),
            ids: Vec::new(),
            keys: (0..=u8::MAX).map(|number| backend_key(Key(number))).collect(),
            generations: Vec::new(),
        }
    }
}

/// Keys of three digits, so that their order as text is that of their numbers.
pub(crate) fn backend_key(key: Key) -> BackendKey {
    format!("k{:03}", key.0).into()
}

/// The number of a key that [`backend_key`] made.
pub(crate) fn key_number(key: &BackendKey) -> Key {
    Key(key.as_str().bytes().skip(1).fold(0, |number, digit| number * 10 + (digit - b'0')))
}

fn reason_of(refusal: Refusal) -> EndReason {
    match refusal {
        Refusal::NoBackends => EndReason::NoBackends,
        Refusal::WaitingFull => EndReason::WaitingFull,
        _ => EndReason::Shutdown,
    }
}

impl Policy for Rotation {
    fn admit(&mut self, session: u32) -> Verdict {
        let (id, admission) = self.balancer.admit(session);
        self.ids.push(id);
        match admission {
            Admission::Dial(pick) => Verdict::Dial(key_number(&pick.key), pick.target),
            Admission::Wait => Verdict::Wait,
            Admission::Refused(refusal) => Verdict::End(reason_of(refusal)),
        }
    }

    fn connected(&mut self, session: u32) -> bool {
        self.balancer.connected(self.ids[session as usize])
    }

    fn retry(&mut self, session: u32) -> Verdict {
        let (pick, owed) = self.balancer.retry(self.ids[session as usize], session);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
        match pick {
            Ok(pick) => Verdict::Dial(key_number(&pick.key), pick.target),
            Err(refusal) => Verdict::End(reason_of(refusal)),
        }
    }

    fn finish(&mut self, session: u32, reason: EndReason) {
        let owed = self.balancer.finish(self.ids[session as usize], reason);
        owed.into_iter().for_each(|owed| self.balancer.acknowledge(owed));
    }

    fn replace(&mut self, set: &Backends, removal: Removal) -> Taken {
        let backends = set.iter().map(|(key, at)| (self.keys[usize::from(key.0)].clone(), *at));
        let Ok(set) = BackendSet::new(backends) else { return Taken::default() };
        let change = Change::between(self.balancer.set().cloned(), set);
        let Ok(replaced) = self.balancer.replace(change, removal) else { return Taken::default() };
        self.generations.push(replaced.generation);
        Taken {
            generation: replaced.generation.number(),
            is_change: replaced.is_change,
            cut: replaced.cut,
            revoked: replaced.revoked,
            draining: replaced.draining,
            admitted: replaced
                .admitted
                .iter()
                .map(|(id, pick)| (id.serial() as u32, key_number(&pick.key), pick.target))
                .collect(),
            refused: replaced.refused,
        }
    }

    fn drain_expired(&mut self, generation: u64) -> Vec<u32> {
        self.balancer.drain_expired(self.generations[generation as usize - 1])
    }

    fn abort_all(&mut self) -> Vec<u32> {
        self.balancer.abort_all()
    }

    fn is_applied(&self, generation: u64) -> bool {
        self.balancer.is_applied(self.generations[generation as usize - 1])
    }

    fn reset_cycle(&mut self) {
        self.balancer.reset_cycle();
    }

    fn loads(&self) -> impl Iterator<Item = Load<Place>> {
        self.balancer.loads()
    }

    fn counts(&self) -> (u64, usize, u64) {
        let ended = self.balancer.totals().sum();
        (self.balancer.accepted(), self.balancer.live(), ended)
    }
}

/// Runs a scenario on the policy that ships.
pub fn run(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_policy(scenario, Rotation::new(&scenario.config), keep_trace)
}

/// Runs a scenario on any policy.
pub fn run_policy(scenario: &Scenario, policy: impl Policy, keep_trace: bool) -> Outcome {
    let mut run = Run::new(scenario, policy, keep_trace);
    run.begin();
    run.go();
    run.finish()
}

/// Microseconds before targets that have failed are dialled again.
const ROUND_PAUSE: u64 = 250_000;

/// Something that comes due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Due {
    /// A looping client connects.
    Loop(u32),
    /// A client connects once, for so many milliseconds.
    Once(u32, Manner),
    /// The dial of a session's attempt is over.
    Dialled(u32, u32, Failed),
    /// A session comes to its own end.
    Over(u32, u32, EndReason),
    /// A session's task notices what it was told.
    Told(u32, u32, Told),
    /// The pause is over before targets that have failed are dialled again.
    Again(u32, u32),
    /// A session has waited for long enough.
    WaitOver(u32),
    /// The time to drain since a replacement is over.
    Deadline(u64),
    /// The scenario's step of this number.
    Step(u32),
    /// The act of the rule of this number.
    Act(u32, Place),
    /// The grace of the shutdown is over.
    GraceOver,
    /// Faults stop, and all is to come right.
    Heal,
    /// A client comes to see whether all is right.
    Probe,
}

/// How a dial ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Failed {
    No,
    Refused,
    TimedOut,
}

/// What a session's task is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Removed,
    Expired,
    Revoked,
    Refused,
    Closed,
    Panicked,
}

struct Entry {
    at: u64,
    /// Decides what comes first at the same time.
    tie: u64,
    due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.tie).cmp(&(self.at, self.tie))
    }
}

struct Session {
    /// Counts what the session's task does, so that what is due for the past is known as such.
    epoch: u32,
    /// When its first dial began.
    began: u64,
    failures: u32,
    /// Who connects again after it.
    client: Option<u32>,
    manner: Manner,
    length: u32,
    is_probe: bool,
    has_ended: bool,
}

#[derive(Clone, Copy, Default)]
struct PlaceState {
    is_down: bool,
    is_cut: bool,
    panics: bool,
    latency: Option<u32>,
}

struct Run<'a, P> {
    scenario: &'a Scenario,
    policy: P,
    ledger: Ledger,
    trace: Trace,
    entropy: Seeded,
    queue: BinaryHeap<Entry>,
    now: u64,
    steps: u64,
    sessions: Vec<Session>,
    places: [PlaceState; PLACES],
    /// No client gets through.
    is_client_link_cut: bool,
    /// Clients that wait because of the limit, or until the link to them is whole.
    parked: Vec<Due>,
    /// What was said last, which is the set.
    set: Backends,
    drain: u32,
    /// Replacements whose drain deadline hasn't passed, ascending.
    draining: Vec<u64>,
    rules_left: Vec<u32>,
    /// Replacements that the policy hasn't said to be applied, ascending.
    unapplied: VecDeque<u64>,
    is_healed: bool,
    is_closing: bool,
    /// A bit for each backend that a probe was given.
    probed: u64,
}

impl<'a, P: Policy> Run<'a, P> {
    fn new(scenario: &'a Scenario, policy: P, keep_trace: bool) -> Self {
        let mut ledger = Ledger::new(&scenario.config);
        if !policy.is_round_robin() {
            ledger.allow_any_order();
        }
        Self {
            scenario,
            policy,
            ledger,
            trace: Trace::new(keep_trace),
            entropy: Seeded::for_purpose(scenario.seed, 1),
            queue: BinaryHeap::with_capacity(256),
            now: 0,
            steps: 0,
            sessions: Vec::with_capacity(1024),
            places: [PlaceState::default(); PLACES],
            is_client_link_cut: false,
            parked: Vec::new(),
            set: Vec::new(),
            drain: scenario.config.drain,
            draining: Vec::new(),
            rules_left: scenario.rules.iter().map(|rule| rule.times).collect(),
            unapplied: VecDeque::new(),
            is_healed: false,
            is_closing: false,
            probed: 0,
        }
    }

    fn begin(&mut self) {
        let config = &self.scenario.config;
        for (number, step) in self.scenario.steps.iter().enumerate() {
            let at = u64::from(step.at.min(config.duration)) * 1000;
            self.due(at, Due::Step(number as u32));
        }
        for client in 0..config.clients {
            let at = self.entropy.below(u64::from(config.pause) * 1000);
            self.due(at, Due::Loop(client));
        }
        self.due(u64::from(config.duration) * 1000, Due::Heal);
    }

    fn go(&mut self) {
        while let Some(entry) = self.queue.pop() {
            self.now = entry.at;
            self.ledger.set_time(self.now);
            self.steps += 1;
            self.handle(entry.due);
            self.see_applied();
            if self.steps.is_multiple_of(8) {
                self.look();
            }
            if !self.ledger.violations().is_empty() {
                return;
            }
        }
    }

    /// A replacement is applied when all that it took out has let go, and not before.
    fn see_applied(&mut self) {
        for generation in &self.unapplied {
            if self.policy.is_applied(*generation) {
                self.ledger.applied(*generation);
            } else if self.ledger.is_applied(*generation) {
                let text = format!("replacement {generation} isn't applied, and could be");
                self.ledger.fail(Law::AppliedInTime, text);
            }
        }
        while let Some(generation) = self.unapplied.front().copied()
            && self.policy.is_applied(generation)
        {
            self.unapplied.pop_front();
            self.note(Note::Applied(generation));
        }
    }

    /// Looks at the whole state.
    fn look(&mut self) {
        self.ledger.check_loads(self.policy.loads(), |place| Some(*place));
        let (accepted, live, ended) = self.policy.counts();
        self.ledger.check_counts(accepted, live, ended);
        self.ledger.check_times();
    }

    fn finish(mut self) -> Outcome {
        self.look();
        if self.ledger.violations().is_empty() && self.ledger.live() > 0 {
            let text = format!("{} sessions are left when nothing is due", self.ledger.live());
            self.ledger.fail(Law::Quiet, text);
        }
        let all = (1u64 << self.scenario.config.backends) - 1;
        let is_to_reach_all = !self.is_closing && self.policy.is_round_robin();
        if self.ledger.violations().is_empty() && is_to_reach_all && self.probed != all {
            let text = format!("of the backends, as bits, {:b} were reached", self.probed);
            self.ledger.fail(Law::Echo, text);
        }
        for violation in self.ledger.violations() {
            self.trace.add(violation.at, Note::Violated(violation.law.name()));
        }
        Outcome {
            violations: self.ledger.violations().to_vec(),
            steps: self.steps,
            simulated: self.now,
            counts: mem::take(&mut self.ledger.counts),
            trace: self.trace,
        }
    }

    fn due(&mut self, at: u64, due: Due) {
        let tie = self.entropy.next();
        self.queue.push(Entry { at, tie, due });
    }

    fn after(&mut self, least: u64, most: u64, due: Due) {
        let at = self.now + least + self.entropy.below(most - least + 1);
        self.due(at, due);
    }

    fn note(&mut self, note: Note) {
        self.trace.add(self.now, note);
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Loop(_) | Due::Once(..) | Due::Probe => self.arrive(due),
            Due::Dialled(session, epoch, failed) if self.is_now(session, epoch) => {
                self.dialled(session, failed);
            }
            Due::Over(session, epoch, reason) if self.is_now(session, epoch) => {
                self.end(session, reason);
            }
            Due::Told(session, epoch, told) if self.is_now(session, epoch) => {
                self.told(session, told);
            }
            Due::Again(session, epoch) if self.is_now(session, epoch) => self.retry(session),
            Due::Dialled(..) | Due::Over(..) | Due::Told(..) | Due::Again(..) => {}
            Due::WaitOver(session) if self.is_now(session, 0) => {
                self.end(session, EndReason::WaitingTimedOut);
            }
            Due::WaitOver(_) => {}
            // The time to drain has changed, and so has the deadline.
            Due::Deadline(generation) if !self.is_over(generation) => {}
            Due::Deadline(generation) => {
                let cut = self.policy.drain_expired(generation);
                self.note(Note::DrainExpired(generation));
                self.ledger.drain_expired(generation, cut.len());
                self.tell(cut, Told::Expired);
            }
            Due::Step(_) | Due::Act(..) if self.is_healed => {}
            Due::Step(number) => {
                self.note(Note::Step(number));
                let scenario = self.scenario;
                self.operate(&scenario.steps[number as usize].operation);
            }
            Due::Act(rule, place) => self.act(rule, place),
            Due::GraceOver => self.close(),
            Due::Heal => self.heal(),
        }
    }

    fn is_now(&self, session: u32, epoch: u32) -> bool {
        let session = &self.sessions[session as usize];
        session.epoch == epoch && !session.has_ended
    }

    // Sessions.

    fn arrive(&mut self, due: Due) {
        if self.is_healed && matches!(due, Due::Loop(_)) {
            return;
        }
        if self.is_closing {
            return;
        }
        let is_full = self.ledger.live() >= self.scenario.config.connections as usize;
        if is_full || self.is_client_link_cut {
            self.ledger.counts.add(Sometimes::LimitReached, u64::from(is_full));
            return self.parked.push(due);
        }
        let (client, manner, length) = match due {
            Due::Loop(client) => {
                let plan = Plan::draw(&self.scenario.config, &mut self.entropy);
                (Some(client), plan.manner, length_of(&plan))
            }
            Due::Once(length, manner) => (None, manner, length),
            _ => (None, Manner::Ask, 1),
        };
        let session = self.sessions.len() as u32;
        self.sessions.push(Session {
            epoch: 0,
            began: self.now,
            failures: 0,
            client,
            manner,
            length,
            is_probe: due == Due::Probe,
            has_ended: false,
        });
        let verdict = self.policy.admit(session);
        self.note(Note::Accepted(u64::from(session)));
        self.ledger.accepted_one(u64::from(session));
        match verdict {
            Verdict::Dial(key, place) => self.dial(session, key, place),
            Verdict::Wait => {
                let timeout = u64::from(self.scenario.config.waiting_timeout) * 1000;
                self.after(timeout, timeout, Due::WaitOver(session));
            }
            Verdict::End(reason) => self.end(session, reason),
        }
    }

    /// A session was given a backend.
    fn dial(&mut self, session: u32, key: Key, place: Place) {
        let serial = u64::from(session);
        self.note(Note::Admitted(serial, key, place));
        self.ledger.admitted(serial, key, place);
        self.note(Note::DialStarted(serial, place));
        self.ledger.dial_started(serial, place);
        let config = &self.scenario.config;
        let state = &mut self.places[usize::from(place.0)];
        let record = &mut self.sessions[session as usize];
        self.probed |= u64::from(record.is_probe) << place.0;
        record.epoch += 1;
        let epoch = record.epoch;
        if mem::take(&mut state.panics) {
            self.ledger.may_panic(serial);
            return self.after(0, 0, Due::Told(session, epoch, Told::Panicked));
        }
        let (least, most) = state
            .latency
            .map_or((config.latency_min, config.latency_max), |latency| (latency, latency));
        let (least, most) = (u64::from(least) * 2000, u64::from(most.max(least)) * 2000);
        let used = self.now - record.began;
        let left = (u64::from(config.dial_time) * 1000).saturating_sub(used);
        let timeout = left.min(u64::from(config.dial_timeout) * 1000);
        let due = match (state.is_cut, state.is_down) {
            (true, _) => Failed::TimedOut,
            (false, true) => Failed::Refused,
            (false, false) => Failed::No,
        };
        let takes = least + self.entropy.below(most - least + 1);
        if due == Failed::TimedOut || takes >= timeout {
            self.after(timeout, timeout, Due::Dialled(session, epoch, Failed::TimedOut));
        } else {
            self.after(takes, takes, Due::Dialled(session, epoch, due));
        }
        self.trigger(Trigger::DialStarted, place);
    }

    fn dialled(&mut self, session: u32, failed: Failed) {
        let serial = u64::from(session);
        let place = self.ledger.place_of(serial);
        // The host may have gone down since the dial began.
        let is_up = !self.places[usize::from(place.0)].is_down;
        if failed == Failed::No && is_up {
            if self.policy.connected(session) {
                self.note(Note::Connected(serial, place));
                self.ledger.connected(serial, place);
                self.relay(session);
                self.trigger(Trigger::Connected, place);
            } else {
                self.ledger.counts.add(Sometimes::LateConnect, 1);
                self.dial_failed(session, place, Failure::Revoked);
            }
            return;
        }
        let failure = match failed {
            Failed::TimedOut => Failure::TimedOut,
            _ => Failure::Failed,
        };
        let what = match failed {
            Failed::TimedOut => Sometimes::DialTimedOut,
            _ => Sometimes::DialRefused,
        };
        self.ledger.counts.add(what, 1);
        self.dial_failed(session, place, failure);
    }

    fn dial_failed(&mut self, session: u32, place: Place, failure: Failure) {
        let serial = u64::from(session);
        self.note(Note::DialFailed(serial, failure));
        self.ledger.dial_failed(serial, failure);
        let record = &mut self.sessions[session as usize];
        record.failures += u32::from(failure != Failure::Revoked);
        let (failures, began) = (record.failures, record.began);
        let config = &self.scenario.config;
        if failures >= config.dial_attempts {
            self.end(session, EndReason::DialFailed);
        } else if self.now - began >= u64::from(config.dial_time) * 1000 {
            self.end(session, EndReason::DialTimedOut);
        } else if failure != Failure::Revoked && self.ledger.has_tried_all(serial) {
            // A signal to the session meanwhile still counts, and ends the pause.
            let epoch = self.sessions[session as usize].epoch;
            let left = began + u64::from(config.dial_time) * 1000 - self.now;
            let pause = ROUND_PAUSE.min(left);
            self.after(pause, pause, Due::Again(session, epoch));
        } else {
            self.retry(session);
        }
        self.trigger(Trigger::DialFailed, place);
    }

    fn retry(&mut self, session: u32) {
        let time = u64::from(self.scenario.config.dial_time) * 1000;
        if self.now - self.sessions[session as usize].began >= time {
            return self.end(session, EndReason::DialTimedOut);
        }
        match self.policy.retry(session) {
            Verdict::Dial(key, place) => self.dial(session, key, place),
            Verdict::Wait => self.ledger.fail(Law::Pool, format!("{session} is to wait again")),
            Verdict::End(reason) => self.end(session, reason),
        }
    }

    fn relay(&mut self, session: u32) {
        let record = &mut self.sessions[session as usize];
        record.epoch += 1;
        let (epoch, length) = (record.epoch, u64::from(record.length) * 1000);
        let reason = match record.manner {
            Manner::ClientAborts => EndReason::ClientFailed,
            Manner::BackendAborts => EndReason::BackendFailed,
            _ => EndReason::Finished,
        };
        self.after(length / 2, length, Due::Over(session, epoch, reason));
    }

    fn end(&mut self, session: u32, reason: EndReason) {
        let serial = u64::from(session);
        let place = self.ledger.place_of(serial);
        self.policy.finish(session, reason);
        self.note(Note::Ended(serial, reason));
        self.ledger.ended(serial, reason);
        let record = &mut self.sessions[session as usize];
        record.has_ended = true;
        let client = record.client;
        if let Some(client) = client {
            let pause = u64::from(self.scenario.config.pause) * 1000;
            self.after(1, pause, Due::Loop(client));
        }
        if !self.is_client_link_cut
            && let Some(due) = self.parked.pop()
        {
            self.after(0, 1000, due);
        }
        self.trigger(Trigger::Ended, place);
    }

    fn tell(&mut self, sessions: Vec<u32>, told: Told) {
        for session in sessions {
            let epoch = self.sessions[session as usize].epoch;
            self.after(0, 3000, Due::Told(session, epoch, told));
        }
    }

    fn told(&mut self, session: u32, told: Told) {
        let reason = match told {
            Told::Removed => EndReason::BackendRemoved,
            Told::Expired => EndReason::DrainExpired,
            Told::Refused => EndReason::NoBackends,
            Told::Closed => EndReason::Shutdown,
            Told::Panicked => EndReason::Panicked,
            Told::Revoked => {
                let place = self.ledger.place_of(u64::from(session));
                return self.dial_failed(session, place, Failure::Revoked);
            }
        };
        self.end(session, reason);
    }

    // What is done to it.

    fn operate(&mut self, operation: &Operation) {
        match operation {
            Operation::Replace(set) => self.replace(set),
            Operation::Flap(set) => {
                let before = self.set.clone();
                self.replace(set);
                self.replace(&before);
            }
            Operation::Again => {
                let set = self.set.clone();
                self.replace(&set);
            }
            Operation::Connect(count, plan) => {
                for _ in 0..*count {
                    self.after(0, 2000, Due::Once(length_of(plan), plan.manner));
                }
            }
            Operation::Leave(how) => self.leave(*how),
            Operation::Partition(link)
            | Operation::CutTo(link)
            | Operation::CutFrom(link)
            | Operation::Hold(link) => match link {
                Link::Clients => self.is_client_link_cut = true,
                Link::Backend(place) => self.place(*place).is_cut = true,
            },
            Operation::Release(Link::Clients) => self.let_clients_in(),
            Operation::Release(Link::Backend(place)) => self.place(*place).is_cut = false,
            Operation::Latency(Link::Backend(place), time) => {
                self.place(*place).latency = Some(*time);
            }
            Operation::Crash(place) => self.place(*place).is_down = true,
            Operation::PowerLoss(place) => {
                *self.place(*place) =
                    PlaceState { is_down: true, is_cut: true, ..Default::default() };
            }
            Operation::Bounce(place) => *self.place(*place) = PlaceState::default(),
            Operation::PanicDial(place) => self.place(*place).panics = true,
            Operation::Drain(time) => self.drains_change(*time),
            Operation::ResetCycle => {
                self.policy.reset_cycle();
                self.ledger.reset_cycle();
            }
            Operation::Shutdown(grace) => self.shut_down(*grace),
            // There is nothing of the kind here.
            Operation::LoseSource
            | Operation::Spoil
            | Operation::FailAccept(..)
            | Operation::Latency(Link::Clients, _) => {}
        }
    }

    fn place(&mut self, place: Place) -> &mut PlaceState {
        &mut self.places[usize::from(place.0)]
    }

    fn let_clients_in(&mut self) {
        self.is_client_link_cut = false;
        for due in mem::take(&mut self.parked) {
            self.after(0, 2000, due);
        }
    }

    fn leave(&mut self, how: Leaving) {
        let reason = match how {
            Leaving::Close => EndReason::Finished,
            Leaving::Abort => EndReason::ClientFailed,
        };
        for session in 0..self.sessions.len() as u32 {
            let epoch = self.sessions[session as usize].epoch;
            let is_connected = self.ledger.connected_place(u64::from(session)).is_some();
            if is_connected && self.entropy.chance(25) {
                self.after(0, 1000, Due::Over(session, epoch, reason));
            }
        }
    }

    fn replace(&mut self, set: &Backends) {
        let removal = removal(self.drain);
        let before = mem::replace(&mut self.set, set.clone());
        let taken = self.policy.replace(set, removal);
        let generation = taken.generation;
        if !taken.is_change {
            self.note(Note::SaidAgain(generation));
            self.ledger.said_again(generation);
            if before != *set {
                let text = format!("replacement {generation} was taken for the same set again");
                self.ledger.fail(Law::Order, text);
            }
            return;
        }
        let said = Said {
            generation,
            cut: taken.cut.len(),
            revoked: taken.revoked.len(),
            draining: taken.draining,
        };
        let (cut, revoked, draining) = (said.cut as u32, said.revoked as u32, said.draining as u32);
        self.note(Note::Replaced(generation, set.clone(), cut, revoked, draining));
        let drain_until = (self.drain > 0).then(|| self.now + u64::from(self.drain) * 1000);
        self.ledger.replaced(set, said, drain_until);
        self.ledger.check_taken(generation, taken.cut.iter().chain(&taken.revoked).copied());
        self.unapplied.push_back(generation);
        self.tell(taken.cut, Told::Removed);
        self.tell(taken.revoked, Told::Revoked);
        for session in &taken.refused {
            self.sessions[*session as usize].epoch += 1;
        }
        self.tell(taken.refused, Told::Refused);
        for (session, key, place) in taken.admitted {
            self.sessions[session as usize].began = self.now;
            self.dial(session, key, place);
        }
        if taken.draining > 0 {
            self.draining.push(generation);
            let time = u64::from(self.drain) * 1000;
            self.after(time, time, Due::Deadline(generation));
            self.trigger(Trigger::DrainBegan, Place(0));
        }
        let place = set.first().map_or(Place(0), |(_, place)| *place);
        self.trigger(Trigger::Replaced, place);
    }

    fn drains_change(&mut self, time: u32) {
        self.drain = time;
        self.ledger.drains_change(u64::from(time) * 1000);
        for generation in self.draining.clone() {
            let until = self.ledger.drain_until(generation, u64::from(time) * 1000);
            let at = until.unwrap_or_default().max(self.now);
            self.due(at, Due::Deadline(generation));
        }
    }

    /// Whether a drain that has begun is over, given its present time.
    fn is_over(&mut self, generation: u64) -> bool {
        let until = self.ledger.drain_until(generation, u64::from(self.drain) * 1000);
        let is_over = until.is_some_and(|until| until <= self.now);
        self.draining.retain(|draining| !is_over || *draining != generation);
        is_over
    }

    fn shut_down(&mut self, grace: u32) {
        if self.is_closing {
            return self.close();
        }
        self.is_closing = true;
        self.note(Note::Closing);
        let grace = u64::from(grace) * 1000;
        self.ledger.closing(self.now + grace);
        self.after(grace, grace, Due::GraceOver);
    }

    fn close(&mut self) {
        let killed = self.policy.abort_all();
        self.note(Note::Closed);
        if !killed.is_empty() {
            self.ledger.counts.add(Sometimes::GraceOver, 1);
        }
        self.ledger.closed(killed.len());
        self.tell(killed, Told::Closed);
    }

    // The nemesis.

    fn trigger(&mut self, on: Trigger, place: Place) {
        if self.is_healed {
            return;
        }
        for (number, rule) in self.scenario.rules.iter().enumerate() {
            if rule.on == on && self.rules_left[number] > 0 && self.entropy.chance(rule.chance) {
                self.rules_left[number] -= 1;
                let after = u64::from(rule.after) * 1000;
                self.after(after, after, Due::Act(number as u32, place));
            }
        }
    }

    fn act(&mut self, rule: u32, place: Place) {
        let config = &self.scenario.config;
        let act = self.scenario.rules[rule as usize].act;
        self.note(Note::Act(rule, place));
        self.ledger.counts.add(Sometimes::RuleFired, 1);
        match act {
            Act::Crash => self.place(place).is_down = true,
            Act::Bounce => *self.place(place) = PlaceState::default(),
            Act::Partition | Act::Hold => self.place(place).is_cut = true,
            Act::Release => self.place(place).is_cut = false,
            Act::Shutdown => self.shut_down(0),
            act => {
                for set in sets_of(act, place, &self.set, config) {
                    self.replace(&set);
                }
            }
        }
    }

    // The end.

    fn heal(&mut self) {
        self.note(Note::Healed);
        self.is_healed = true;
        self.places = [PlaceState::default(); PLACES];
        self.let_clients_in();
        let config = &self.scenario.config;
        self.replace(&all(config));
        let settled = u64::from(config.dial_time + config.waiting_timeout) * 1000;
        for _ in 0..config.backends {
            self.after(settled, settled, Due::Probe);
        }
    }
}

/// How long a connection lasts, in milliseconds.
fn length_of(plan: &Plan) -> u32 {
    let pieces = (plan.up + plan.down) / 1500 + 1;
    match plan.manner {
        Manner::Idle | Manner::Stall => SILENCE,
        _ => 5 + pieces * plan.pace,
    }
}
