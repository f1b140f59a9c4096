//! Everything that is seen of a run, in one place: it keeps the trace, asks the ledger, follows
//! the connections, and lets the scenario's rules answer.

mod attempt;
mod events;
mod flows;
mod heard;
mod lateness;
mod orders;
mod source;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io, mem,
    net::SocketAddr,
    sync::Arc,
    task::Waker,
};

use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender};

use self::{
    attempt::Attempt,
    flows::{Flow, LinkState},
    heard::Heard,
    source::Source,
};
pub(super) use self::{attempt::Word, flows::LinkFault};
use crate::{
    Law, Outcome, Scenario, Seeded, Sometimes, Trace,
    driver::orders::{Order, Visit},
    nemesis::{Deed, Nemesis},
    oracle::{Ledger, PLACES},
    scenario::{Backends, Operation, Place, Trigger},
    trace::{Host, Note},
};

/// Both ends, until the second is taken.
type Channel<T> = (UnboundedSender<T>, Option<UnboundedReceiver<T>>);

pub(in crate::driver) struct Judge {
    pub(in crate::driver) at: u64,
    /// What the balancer's own clock shows: more exact than `at`, which moves in steps.
    pub(in crate::driver) now: u64,
    pub(in crate::driver) scenario: Arc<Scenario>,
    pub(in crate::driver) patience: u64,
    pub(in crate::driver) ledger: Ledger,
    pub(in crate::driver) trace: Trace,
    pub(in crate::driver) entropy: Seeded,
    pub(in crate::driver) orders: Channel<Order>,
    pub(in crate::driver) visits: Channel<Visit>,

    nemesis: Nemesis,
    /// What rules want done, and when.
    pub(in crate::driver) wanted: VecDeque<(u64, u32, Place)>,

    /// Sets that the handle was ordered to take, and that haven't taken effect.
    pub(in crate::driver) said: VecDeque<Backends>,
    /// The set that was ordered last, and when.
    pub(in crate::driver) newest: Backends,
    pub(in crate::driver) said_at: u64,
    pub(in crate::driver) source: Source,
    pub(in crate::driver) heard: Heard,
    pub(in crate::driver) drain: u32,
    /// Replacements that aren't applied yet, with the time that they took effect.
    pub(in crate::driver) unapplied: Vec<(u64, u64)>,
    pub(in crate::driver) closes_at: Option<u64>,
    pub(in crate::driver) is_shut_down: bool,
    pub(in crate::driver) is_healed: bool,
    /// Something has happened since the pool was looked at.
    pub(in crate::driver) is_dirty: bool,

    pub(in crate::driver) flows: Vec<Flow>,
    /// The session whose dial begins.
    pub(in crate::driver) dialling: u64,
    /// Dials of these places are to panic.
    pub(in crate::driver) panics: BTreeSet<Place>,
    pub(in crate::driver) boots: [u32; PLACES],
    pub(in crate::driver) attempts: Vec<Attempt>,
    /// Attempts that aren't over, in no order.
    pub(in crate::driver) live_attempts: Vec<u32>,
    /// Sessions by the client's name that have no attempt yet, and attempts without a session.
    pub(in crate::driver) session_of: BTreeMap<String, u64>,
    pub(in crate::driver) attempt_of: BTreeMap<String, u32>,
    pub(in crate::driver) accept_failures: VecDeque<io::Error>,
    pub(in crate::driver) acceptor: Option<Waker>,
    /// Since when nothing but the balancer keeps clients from being accepted.
    pub(in crate::driver) room_since: u64,
    pub(in crate::driver) links: BTreeMap<Host, LinkState>,
    /// Ends of streams that lost a segment.
    pub(in crate::driver) lossy: BTreeSet<SocketAddr>,
}

impl Judge {
    pub(in crate::driver) fn new(
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
            nemesis: Nemesis::new(&scenario),
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

    pub(in crate::driver) fn set_time(&mut self, at: u64) {
        self.at = self.at.max(at);
        self.ledger.set_time(self.at);
    }

    pub(in crate::driver) fn note(&mut self, note: Note) {
        self.trace.add(self.at, note);
    }

    pub(in crate::driver) fn fail(&mut self, law: Law, text: String) {
        self.ledger.fail(law, text);
    }

    pub(in crate::driver) fn count(&mut self, what: Sometimes) {
        self.ledger.counts.add(what, 1);
    }

    pub(in crate::driver) fn outcome(&mut self, steps: u64) -> Outcome {
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

    pub(in crate::driver) fn trigger(&mut self, on: Trigger, place: Place) {
        let mut last = None;
        while let Some(answer) = self.nemesis.answer(on, last, &mut self.entropy) {
            last = Some(answer);
            self.count(Sometimes::RuleFired);
            if answer.after == 0 && !answer.disturbs {
                self.act(answer.rule, place);
            } else {
                self.wanted.push_back((self.at + answer.after, answer.rule, place));
            }
        }
    }

    /// A rule acts. Returns what it does to a host or a link, which is left to the caller.
    fn act(&mut self, rule: u32, place: Place) -> Option<Operation> {
        self.note(Note::Act(rule, place));
        match self.nemesis.deed(rule, place, &self.newest, &self.scenario.config) {
            Deed::Replace(sets) => self.order_sets(sets),
            Deed::ShutDown => self.order(Order::Shutdown(0)),
            Deed::Disturb(operation) => return Some(operation),
        }
        None
    }

    /// Does what rules want done by now. Returns what they do to hosts and links.
    pub(in crate::driver) fn due(&mut self) -> Vec<Operation> {
        let mut due = Vec::new();
        for (at, rule, place) in mem::take(&mut self.wanted) {
            if at > self.at {
                self.wanted.push_back((at, rule, place));
            } else {
                due.extend(self.act(rule, place));
            }
        }
        due
    }
}
