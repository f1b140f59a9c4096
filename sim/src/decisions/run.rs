//! A run: what is due is handled in order, and the ledger looks at all of it.

use std::{
    collections::{BinaryHeap, VecDeque},
    mem,
};

use tinylb_core::{EndReason, Fault};

use super::{
    Policy,
    health::Attendance,
    queue::{Due, Entry, Word},
};
use crate::{
    Entropy, Outcome, Seeded,
    nemesis::Nemesis,
    oracle::{Law, Ledger, PLACES},
    scenario::{Backends, Config, Manner, Scenario},
    trace::{Note, Trace},
};

/// The task that serves an accepted client.
pub(super) struct SessionTask {
    /// Counts what the session's task does, so that what is due for the past is known as such.
    pub(super) epoch: u32,
    /// When its first dial began.
    pub(super) began: u64,
    /// When its newest dial began.
    pub(super) dial_began: u64,
    /// Since when it waits for a set.
    pub(super) waits_since: u64,
    /// How long it has dialled and waited without that this counts as time to dial.
    pub(super) unpaid: u64,
    pub(super) failures: u32,
    /// The limits of its dials, from when it began to dial.
    pub(super) limits: Option<DialLimits>,
    /// The looping client that connects again after it.
    pub(super) client: Option<u32>,
    pub(super) manner: Manner,
    pub(super) length: u32,
    pub(super) is_probe: bool,
    pub(super) has_ended: bool,
}

/// The limits of one client's dials, in microseconds.
#[derive(Clone, Copy)]
pub(super) struct DialLimits {
    pub(super) timeout: u64,
    pub(super) time_max: u64,
    pub(super) attempts_max: u32,
}

/// What is wrong with a backend's host or link.
#[derive(Clone, Copy, Default)]
pub(super) struct PlaceState {
    pub(super) is_down: bool,
    pub(super) is_cut: bool,
    pub(super) panics: bool,
    /// How many dials and probes fail, and through which fault.
    pub(super) failing: Option<(u32, Fault)>,
    pub(super) latency: Option<u32>,
}

/// A scenario on a policy, with the ledger beside it.
pub(super) struct Run<'a, P> {
    pub(super) scenario: &'a Scenario,
    /// The scenario's configuration, with the settings as they are now.
    pub(super) config: Config,
    /// The same, with the longest limits that there have been.
    pub(super) slackest: Config,
    pub(super) policy: P,
    pub(super) ledger: Ledger,
    pub(super) trace: Trace,
    pub(super) entropy: Seeded,
    pub(super) queue: BinaryHeap<Entry>,
    pub(super) now: u64,
    pub(super) steps: u64,
    pub(super) sessions: Vec<SessionTask>,
    pub(super) places: [PlaceState; PLACES],
    /// No client gets through.
    pub(super) is_client_link_cut: bool,
    /// Clients that wait because of the limit, or until the link to them is whole.
    pub(super) parked: Vec<Due>,
    /// The newest set.
    pub(super) set: Backends,
    pub(super) drain: u32,
    /// Replacements whose drain deadline hasn't passed, ascending.
    pub(super) draining: Vec<u64>,
    pub(super) nemesis: Nemesis,
    pub(super) attendance: Attendance,
    /// Replacements that the policy hasn't reported as applied, ascending.
    pub(super) unapplied: VecDeque<u64>,
    pub(super) is_healed: bool,
    pub(super) is_closing: bool,
    /// A bit for each backend that a probe was given.
    pub(super) probed: u64,
}

impl<'a, P: Policy> Run<'a, P> {
    pub(super) fn new(scenario: &'a Scenario, policy: P, keep_trace: bool) -> Self {
        let mut ledger = Ledger::new(&scenario.config);
        if !policy.is_round_robin() {
            ledger.allow_any_order();
        }
        if !policy.ejects() {
            ledger.allow_no_ejection();
        }
        Self {
            scenario,
            config: scenario.config.clone(),
            slackest: scenario.config.clone(),
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
            nemesis: Nemesis::new(scenario),
            attendance: Attendance::default(),
            unapplied: VecDeque::new(),
            is_healed: false,
            is_closing: false,
            probed: 0,
        }
    }

    pub(super) fn begin(&mut self) {
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

    pub(super) fn go(&mut self) {
        while let Some(entry) = self.queue.pop() {
            self.now = entry.at;
            self.ledger.set_time(self.now);
            self.steps += 1;
            self.handle(entry.due);
            self.see_findings();
            self.ledger.settle_health(true);
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
        let (ejected, probes) = self.policy.ejected();
        self.ledger.check_ejected(&ejected, Some(probes));
        self.ledger.check_times();
    }

    pub(super) fn finish(mut self) -> Outcome {
        self.look();
        if self.ledger.violations().is_empty() && self.ledger.live() > 0 {
            let text = format!("{} sessions are left when nothing is due", self.ledger.live());
            self.ledger.fail(Law::Quiet, text);
        }
        if self.ledger.violations().is_empty() && !self.is_closing && self.ledger.has_ejected() {
            self.ledger.fail(Law::Return, "targets are ejected when nothing is due".into());
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

    pub(super) fn due(&mut self, at: u64, due: Due) {
        let tie = self.entropy.next();
        self.queue.push(Entry { at, tie, due });
    }

    pub(super) fn after(&mut self, least: u64, most: u64, due: Due) {
        let at = self.now + least + self.entropy.below(most - least + 1);
        self.due(at, due);
    }

    pub(super) fn note(&mut self, note: Note) {
        self.trace.add(self.now, note);
    }

    fn handle(&mut self, due: Due) {
        match due {
            Due::Loop(_) | Due::Once(..) | Due::Probe => self.arrive(due),
            Due::Dialled(session, epoch, failed) if self.is_now(session, epoch) => {
                self.dialled(session, failed);
            }
            Due::Over(session, epoch, reason) if self.is_now(session, epoch) => {
                // What the two sides still have to say doesn't get through.
                let place = self.ledger.place_of(u64::from(session));
                if self.places[usize::from(place.0)].is_cut {
                    return self.after(20_000, 60_000, due);
                }
                self.end(session, reason);
            }
            Due::Signalled(session, epoch, word) if self.is_now(session, epoch) => {
                self.signalled(session, word);
            }
            Due::Again(session, epoch) if self.is_now(session, epoch) => self.retry(session),
            Due::Overdue(session, epoch) if self.is_now(session, epoch) => self.overdue(session),
            Due::WaitOver(session, epoch) if self.is_now(session, epoch) => {
                self.end(session, EndReason::WaitingTimedOut);
            }
            Due::Dialled(..)
            | Due::Over(..)
            | Due::Signalled(..)
            | Due::Again(..)
            | Due::Overdue(..)
            | Due::WaitOver(..) => {}
            Due::Attend => self.attend(),
            Due::Probed(probe, failed) => self.probed(probe, failed),
            Due::ProbeGivenUp(probe) => self.probe_given_up(probe),
            // The time to drain has changed, and so has the deadline.
            Due::Deadline(generation) if !self.is_over(generation) => {}
            Due::Deadline(generation) => {
                let cut = self.policy.drain_expired(generation);
                self.note(Note::DrainExpired(generation));
                self.ledger.drain_expired(generation, cut.len());
                self.signal(cut, Word::Expired);
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

    pub(super) fn is_now(&self, session: u32, epoch: u32) -> bool {
        let session = &self.sessions[session as usize];
        session.epoch == epoch && !session.has_ended
    }
}
