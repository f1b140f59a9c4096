//! The judge: everything that is seen of a run comes here.
//!
//! The judge knows nothing itself. Each checker owns what it knows, and no checker knows another.
//! The judge informs them, always in the same order, since the trace's records come in that order.
//! If one checker needs a fact that another owns, the judge passes it on.
//!
//! This file has what the judge is made of, and what it does to the run: orders, and the nemesis.
//! Each of these has what the judge is informed of by one source: [`events`] by the balancer,
//! [`door`] at the door of the balancer's adapter and on the network, [`ends`] by clients and
//! backends, and [`looks`] by whatever moves time.

mod case;
mod checks;
mod deadlines;
mod door;
mod ends;
mod events;
mod heard;
mod links;
mod looks;
mod pairs;
mod sessions;
mod sets;
mod source;
mod streams;
mod verdict;

use std::{collections::VecDeque, mem, sync::Arc, task::Waker};

use tinylb_core::Side;

pub(super) use self::links::LinkFault;
use self::{
    case::Case, checks::Checks, deadlines::Deadlines, links::Links, pairs::Pairs,
    sessions::Sessions, sets::Sets, source::Source, streams::Streams,
};
use crate::{
    Entropy, Law, Outcome, Scenario, Seeded, Sometimes,
    driver::{
        cues::Cues,
        orders::{ClientOrder, Order},
    },
    nemesis::{Deed, Nemesis},
    scenario::{Backends, Operation, Place, Trigger},
    trace::{Note, Sight},
};

pub(super) struct Judge {
    case: Case,
    // The checkers.
    sets: Sets,
    source: Source,
    checks: Checks,
    sessions: Sessions,
    streams: Streams,
    deadlines: Deadlines,
    // What lies between a session and an attempt.
    pairs: Pairs,
    links: Links,
    /// How many probes have begun.
    probes: u32,
    // What acts on the run.
    cues: Cues,
    nemesis: Nemesis,
    /// What rules want done: when, which rule, and to which target.
    wanted: VecDeque<(u64, u32, Place)>,
    entropy: Seeded,
    is_healed: bool,
    /// Something has happened since the pool was looked at.
    is_dirty: bool,
}

impl Judge {
    /// `patience`: how long a task that can go on may take to do so, in microseconds.
    pub(super) fn new(scenario: Arc<Scenario>, patience: u64, keep_trace: bool) -> Self {
        let nemesis = Nemesis::new(&scenario);
        let entropy = Seeded::for_purpose(scenario.seed, 2);
        let case = Case::new(scenario, patience, keep_trace);
        Self {
            sets: Sets::new(&case),
            source: Source::new(&case),
            checks: Checks::new(&case),
            sessions: Sessions::default(),
            streams: Streams::default(),
            deadlines: Deadlines::default(),
            pairs: Pairs::default(),
            links: Links::default(),
            probes: 0,
            cues: Cues::new(),
            nemesis,
            wanted: VecDeque::new(),
            entropy,
            is_healed: false,
            is_dirty: true,
            case,
        }
    }

    pub(super) fn scenario(&self) -> &Arc<Scenario> {
        self.case.scenario()
    }

    pub(super) fn cues(&mut self) -> &mut Cues {
        &mut self.cues
    }

    /// Microseconds since the beginning.
    pub(super) fn at(&self) -> u64 {
        self.case.at()
    }

    pub(super) fn set_time(&mut self, at: u64) {
        self.case.set_time(at);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.case.note(note);
    }

    pub(super) fn fail(&mut self, law: Law, text: String) {
        self.case.fail(law, text);
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.case.ledger.violations().is_empty()
    }

    /// Whether faults have stopped.
    pub(super) fn is_healed(&self) -> bool {
        self.is_healed
    }

    pub(super) fn is_closing(&self) -> bool {
        self.deadlines.is_closing()
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.deadlines.is_shut_down()
    }

    pub(super) fn outcome(&mut self, steps: u64) -> Outcome {
        self.case.outcome(steps)
    }

    /// Whether settings aren't what they were in the beginning.
    pub(super) fn have_settings_changed(&self) -> bool {
        let (mut now, before) = (self.case.settings().clone(), self.case.settings());
        now.set_all(self.case.config());
        now != *before
    }

    // Orders.

    /// The set that was ordered last.
    pub(super) fn newest(&self) -> &Backends {
        self.sets.newest()
    }

    /// Orders these sets, one right after the other.
    pub(super) fn order_sets(&mut self, sets: Vec<Backends>) {
        let config = self.case.config();
        let sets: Vec<_> = sets.into_iter().map(|set| source::as_ordered(config, set)).collect();
        self.ordered(&sets);
        self.cues.order(Order::Replace(sets));
    }

    /// Orders the source to be lost.
    pub(super) fn lose_source(&mut self) {
        self.source.loses(&self.case);
        self.cues.order(Order::LoseSource);
    }

    /// Orders the source to say its set with an entry that is no backend.
    pub(super) fn spoil(&mut self) {
        if !self.case.has_source() {
            return;
        }
        let set = self.sets.newest().clone();
        if source::is_lost_by_bad_entry(self.case.config(), &set) {
            self.source.loses(&self.case);
        } else {
            self.ordered(std::slice::from_ref(&set));
        }
        self.cues.order(Order::Spoil(set));
    }

    fn ordered(&mut self, sets: &[Backends]) {
        self.sets.ordered(&self.case, sets);
        if self.case.has_source() && !sets.is_empty() {
            self.source.says();
        }
    }

    /// Gives this order to a quarter of the clients that are connected; they have to be woken.
    pub(super) fn leave(&mut self, order: ClientOrder) -> Vec<Waker> {
        let mut wakers = Vec::new();
        for attempt in self.streams.live() {
            if self.deadlines.is_connected(*attempt) && self.entropy.chance(25) {
                wakers.extend(self.cues.order_client(*attempt, order));
            }
        }
        wakers
    }

    /// Faults have stopped. Clients are to come to their ends, and have to be woken.
    pub(super) fn heal(&mut self) -> Vec<Waker> {
        self.case.note(Note::Healed);
        self.is_healed = true;
        self.case.ledger.healed();
        self.checks.healed(&self.case);
        self.nemesis.stop();
        self.wanted.clear();
        self.cues.let_dials_be();
        self.cues.let_checks_pass();
        let close = |attempt: &u32| self.cues.order_client(*attempt, ClientOrder::Close);
        self.streams.live().iter().filter_map(close).collect()
    }

    // The nemesis.

    fn trigger(&mut self, on: Trigger, place: Place) {
        let mut last = None;
        while let Some(answer) = self.nemesis.answer(on, last, &mut self.entropy) {
            last = Some(answer);
            self.case.count(Sometimes::RuleFired);
            if answer.after == 0 && !answer.disturbs {
                self.act(answer.rule, place);
            } else {
                self.wanted.push_back((self.case.at() + answer.after, answer.rule, place));
            }
        }
    }

    /// A rule acts. Returns what it does to a host or a link, which is left to the caller.
    fn act(&mut self, rule: u32, place: Place) -> Option<Operation> {
        self.case.note(Note::Act(rule, place));
        match self.nemesis.deed(rule, place, self.sets.newest(), self.case.config()) {
            Deed::Replace(sets) => self.order_sets(sets),
            Deed::ShutDown => self.cues.order(Order::Shutdown(0)),
            Deed::Disturb(operation) => return Some(operation),
        }
        None
    }

    /// Does what rules want done by now. Returns what they do to hosts and links.
    pub(super) fn due(&mut self) -> Vec<Operation> {
        let mut due = Vec::new();
        for (at, rule, place) in mem::take(&mut self.wanted) {
            if at > self.case.at() {
                self.wanted.push_back((at, rule, place));
            } else {
                due.extend(self.act(rule, place));
            }
        }
        due
    }

    // What only two checkers know together.

    /// The backend that an attempt has to reach, once the session that serves it is known.
    fn place_of(&self, attempt: u32) -> Option<Place> {
        let serial = self.pairs.session_of(attempt)?;
        Some(self.case.ledger.place_of(serial))
    }

    /// Whether neither link of an attempt was disturbed while it lasted.
    fn is_calm(&self, attempt: u32) -> bool {
        let session = self.pairs.session_of(attempt);
        let session = session.map(|serial| (serial, self.case.ledger.place_of(serial)));
        self.links.is_calm(attempt, session)
    }

    /// Whether a stream of an attempt has lost a segment.
    fn is_lossy(&self, attempt: u32) -> bool {
        self.links.is_lossy(attempt, self.pairs.session_of(attempt))
    }

    /// Whether the backend that serves an attempt has died.
    fn is_crashed(&self, attempt: u32) -> bool {
        let session = self.pairs.session_of(attempt);
        session.is_some_and(|serial| self.sessions.is_crashed(serial))
    }

    /// Whether an end of an attempt has reset the connection, or its process has died.
    fn has_given_up(&self, attempt: u32, side: Side) -> bool {
        self.streams.sight(attempt, side) == Some(Sight::GivenUp)
            || side == Side::Backend && self.is_crashed(attempt)
    }
}
