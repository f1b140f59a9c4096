//! Everything that is seen of a run, in one place: it keeps the trace, asks the ledger, follows
//! the connections, and lets the scenario's rules answer.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io, mem,
    net::SocketAddr,
    sync::Arc,
    task::Waker,
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};

use super::{
    attempt::Attempt,
    flows::{Flow, LinkState},
    heard::Heard,
    orders::{Order, Visit},
    source::Source,
};
use crate::{
    Entropy, Law, Outcome, Scenario, Seeded, Sometimes, Trace,
    oracle::{Ledger, PLACES},
    scenario::{Act, Backends, Place, Trigger, sets_of},
    trace::{Host, Note},
};

/// Both ends, until the second is taken.
type Channel<T> = (UnboundedSender<T>, Option<UnboundedReceiver<T>>);

pub(super) struct Judge {
    pub(super) at: u64,
    /// What the balancer's own clock shows: more exact than `at`, which moves in steps.
    pub(super) now: u64,
    pub(super) scenario: Arc<Scenario>,
    pub(super) patience: u64,
    pub(super) ledger: Ledger,
    pub(super) trace: Trace,
    pub(super) entropy: Seeded,
    pub(super) orders: Channel<Order>,
    pub(super) visits: Channel<Visit>,

    rules_left: Vec<u32>,
    /// What rules want done, and when.
    pub(super) wanted: VecDeque<(u64, u32, Place)>,

    /// Sets that the handle was ordered to take, and that haven't taken effect.
    pub(super) said: VecDeque<Backends>,
    /// The set that was ordered last, and when.
    pub(super) newest: Backends,
    pub(super) said_at: u64,
    pub(super) source: Source,
    pub(super) heard: Heard,
    pub(super) drain: u32,
    /// Replacements that aren't applied yet, with the time that they took effect.
    pub(super) unapplied: Vec<(u64, u64)>,
    pub(super) closes_at: Option<u64>,
    pub(super) is_shut_down: bool,
    pub(super) is_healed: bool,
    /// Something has happened since the pool was looked at.
    pub(super) is_dirty: bool,

    pub(super) flows: Vec<Flow>,
    /// The session whose dial begins.
    pub(super) dialling: u64,
    /// Dials of these places are to panic.
    pub(super) panics: BTreeSet<Place>,
    pub(super) boots: [u32; PLACES],
    pub(super) attempts: Vec<Attempt>,
    /// Attempts that aren't over, in no order.
    pub(super) live_attempts: Vec<u32>,
    /// Sessions by the client's name that have no attempt yet, and attempts without a session.
    pub(super) session_of: BTreeMap<String, u64>,
    pub(super) attempt_of: BTreeMap<String, u32>,
    pub(super) accept_failures: VecDeque<io::Error>,
    pub(super) acceptor: Option<Waker>,
    /// Since when nothing but the balancer keeps clients from being accepted.
    pub(super) room_since: u64,
    pub(super) links: BTreeMap<Host, LinkState>,
    /// Ends of streams that lost a segment.
    pub(super) lossy: BTreeSet<SocketAddr>,
}

impl Judge {
    pub(super) fn new(
        scenario: Arc<Scenario>,
        patience: u64,
        keep_trace: bool,
        orders: (UnboundedSender<Order>, UnboundedReceiver<Order>),
        visits: (UnboundedSender<Visit>, UnboundedReceiver<Visit>),
    ) -> Self {
        let mut ledger = Ledger::new(&scenario.config);
        ledger.set_slack(patience);
        if scenario.config.source == 1 {
            ledger.allow_unheard();
        }
        let keep = scenario.config.source_settings().keep_absent.unwrap_or_default();
        Self {
            at: 0,
            now: 0,
            patience,
            ledger,
            trace: Trace::new(keep_trace),
            entropy: Seeded::for_purpose(scenario.seed, 2),
            orders: (orders.0, Some(orders.1)),
            visits: (visits.0, Some(visits.1)),
            rules_left: scenario.rules.iter().map(|rule| rule.times).collect(),
            wanted: VecDeque::new(),
            said: VecDeque::new(),
            newest: Vec::new(),
            said_at: 0,
            source: Source::default(),
            heard: Heard::new(keep.as_micros() as u64, patience),
            drain: scenario.config.drain,
            unapplied: Vec::new(),
            closes_at: None,
            is_shut_down: false,
            is_healed: false,
            is_dirty: true,
            flows: Vec::new(),
            dialling: 0,
            panics: BTreeSet::new(),
            boots: [0; PLACES],
            attempts: Vec::new(),
            live_attempts: Vec::new(),
            session_of: BTreeMap::new(),
            attempt_of: BTreeMap::new(),
            accept_failures: VecDeque::new(),
            acceptor: None,
            room_since: 0,
            links: BTreeMap::new(),
            lossy: BTreeSet::new(),
            scenario,
        }
    }

    // Time and records.

    pub(super) fn set_time(&mut self, at: u64) {
        self.at = self.at.max(at);
        self.ledger.set_time(self.at);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.trace.add(self.at, note);
    }

    pub(super) fn fail(&mut self, law: Law, text: String) {
        self.ledger.fail(law, text);
    }

    pub(super) fn count(&mut self, what: Sometimes) {
        self.ledger.counts.add(what, 1);
    }

    pub(super) fn outcome(&mut self, steps: u64) -> Outcome {
        let violations = self.ledger.violations().to_vec();
        for violation in &violations {
            self.trace.add(violation.at, Note::Violated(violation.law.name()));
        }
        Outcome {
            violations,
            steps,
            simulated: self.at,
            counts: mem::take(&mut self.ledger.counts),
            trace: mem::replace(&mut self.trace, Trace::new(false)),
        }
    }

    // The nemesis.

    pub(super) fn trigger(&mut self, on: Trigger, place: Place) {
        if self.is_healed {
            return;
        }
        let scenario = Arc::clone(&self.scenario);
        for (number, rule) in scenario.rules.iter().enumerate() {
            if rule.on != on || self.rules_left[number] == 0 || !self.entropy.chance(rule.chance) {
                continue;
            }
            self.rules_left[number] -= 1;
            self.count(Sometimes::RuleFired);
            if rule.after == 0 && !is_disturbance(rule.act) {
                self.act(number as u32, place);
            } else {
                let at = self.at + u64::from(rule.after) * 1000;
                self.wanted.push_back((at, number as u32, place));
            }
        }
    }

    /// A rule does something to the balancer.
    pub(super) fn act(&mut self, number: u32, place: Place) {
        self.note(Note::Act(number, place));
        let act = self.scenario.rules[number as usize].act;
        match act {
            Act::Shutdown => self.order(Order::Shutdown(0)),
            act => {
                let sets = sets_of(act, place, &self.newest, &self.scenario.config);
                self.order_sets(sets);
            }
        }
    }

    /// Does what rules want done by now, and returns what of it is about hosts and links.
    pub(super) fn due(&mut self) -> Vec<(Act, Place)> {
        let mut due = Vec::new();
        for (at, number, place) in mem::take(&mut self.wanted) {
            let act = self.scenario.rules[number as usize].act;
            if at > self.at {
                self.wanted.push_back((at, number, place));
            } else if is_disturbance(act) {
                self.note(Note::Act(number, place));
                due.push((act, place));
            } else {
                self.act(number, place);
            }
        }
        due
    }
}

/// Whether an act is about hosts and links.
fn is_disturbance(act: Act) -> bool {
    matches!(act, Act::Crash | Act::Bounce | Act::Partition | Act::Hold | Act::Release)
}
