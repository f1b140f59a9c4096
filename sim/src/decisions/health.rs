//! What is done about targets that don't accept connections.

use std::time::Duration;

use tinylb_core::{Fault, ProbeEnd};

use super::{
    Finding, Policy,
    queue::{Due, Failed, Word},
    run::Run,
};
use crate::{
    Entropy,
    oracle::Law,
    scenario::{Place, Trigger},
    trace::{Failure, Note},
};

/// The probes of a run, and when the next ones are looked for.
#[derive(Default)]
pub(super) struct Attendance {
    /// By number.
    probes: Vec<Probe>,
    at: Option<u64>,
}

struct Probe {
    place: Place,
    began: u64,
    is_over: bool,
}

impl<P: Policy> Run<'_, P> {
    /// The time since the run began.
    pub(super) fn time(&self) -> Duration {
        Duration::from_micros(self.now)
    }

    /// How long a dial or a probe that begins now takes, and how it ends.
    pub(super) fn connect(&mut self, place: Place, timeout: u64) -> (u64, Failed) {
        let config = &self.scenario.config;
        let state = &mut self.places[usize::from(place.0)];
        let (least, most) = state
            .latency
            .map_or((config.latency_min, config.latency_max), |latency| (latency, latency));
        let (least, most) = (u64::from(least) * 2000, u64::from(most.max(least)) * 2000);
        let failing = state.failing.take();
        state.failing = failing.filter(|(left, _)| *left > 1).map(|(left, by)| (left - 1, by));
        let failed = match (failing, state.is_cut, state.is_down) {
            (Some((_, fault)), ..) => Failed::Through(fault),
            (None, true, _) => Failed::Through(Fault::TimedOut),
            (None, false, true) => Failed::Through(Fault::Refused),
            (None, false, false) => Failed::No,
        };
        let takes = least + self.entropy.below(most - least + 1);
        if failed == Failed::Through(Fault::TimedOut) || takes >= timeout {
            return (timeout, Failed::Through(Fault::TimedOut));
        }
        (takes, failed)
    }

    /// How a dial or a probe ends that was to end so: the host may have gone down since it began.
    pub(super) fn by_now(&self, place: Place, failed: Failed) -> Failed {
        let is_down = self.places[usize::from(place.0)].is_down;
        match failed {
            Failed::No if is_down => Failed::Through(Fault::Refused),
            failed => failed,
        }
    }

    /// A dial has gone unanswered for as long as it may.
    pub(super) fn overdue(&mut self, session: u32) {
        let serial = u64::from(session);
        if !self.ledger.is_dialling(serial) {
            return;
        }
        let is_given_up = self.policy.overdue(session, self.time());
        self.ledger.overdue(serial);
        self.see_findings();
        let place = self.ledger.place_of(serial);
        if is_given_up {
            self.dial_failed(session, place, Failure::GivenUp);
        } else if self.ledger.has_elsewhere(serial) {
            let text = format!("session {session} waits for {place}, and may go elsewhere");
            self.ledger.fail(Law::Wait, text);
        }
    }

    // What the policy has found out.

    /// Hears what the last steps have found out. To be called after each of them, once the ledger
    /// knows of the step: what follows depends on it.
    pub(super) fn see_findings(&mut self) {
        for finding in self.policy.findings() {
            match finding {
                Finding::Ejected(place, fault) => {
                    self.note(Note::Ejected(place, fault));
                    self.ledger.ejected(place, fault);
                    self.trigger(Trigger::Ejected, place);
                }
                Finding::Returned(place, after) => {
                    let after = after.as_micros() as u64;
                    self.note(Note::Returned(place, after));
                    self.ledger.returned(place, after);
                    self.trigger(Trigger::Returned, place);
                }
                Finding::Reconsider(session) => {
                    let epoch = self.sessions[session as usize].epoch;
                    self.after(0, 3000, Due::Overdue(session, epoch));
                }
                Finding::Cancel(probe) => self.give_probes_up(&[probe]),
            }
        }
        let due = self.policy.due().map(|due| (due.as_nanos().div_ceil(1000) as u64).max(self.now));
        if let Some(due) = due.filter(|due| self.attendance.at.is_none_or(|at| *due < at)) {
            self.attendance.at = Some(due);
            self.due(due, Due::Attend);
        }
    }

    // Probes.

    /// Does what is due about ejected targets.
    pub(super) fn attend(&mut self) {
        if self.attendance.at.is_none_or(|at| at > self.now) {
            return;
        }
        self.attendance.at = None;
        let cut = self.policy.cut_silent(self.time());
        self.ledger.cut_silent(&cut);
        self.signal(cut, Word::Silent);
        loop {
            let probe = self.attendance.probes.len() as u32;
            let Some(place) = self.policy.start_probe(probe, self.time()) else { break };
            self.attendance.probes.push(Probe { place, began: self.now, is_over: false });
            self.note(Note::ProbeStarted(place));
            self.ledger.probe_started(probe, place);
            let timeout = u64::from(self.config.dial_timeout) * 1000;
            let (takes, failed) = self.connect(place, timeout);
            self.after(takes, takes, Due::Probed(probe, failed));
            self.trigger(Trigger::ProbeStarted, place);
        }
        if self.policy.due().is_some_and(|due| due <= self.time()) {
            self.ledger.fail(Law::Probes, "what is due isn't done".into());
        }
    }

    /// A probe is over, unless it was given up before.
    pub(super) fn probed(&mut self, probe: u32, failed: Failed) {
        let Probe { place, began, .. } = self.attendance.probes[probe as usize];
        let (end, fault) = match self.by_now(place, failed) {
            Failed::No => (ProbeEnd::Succeeded(Duration::from_micros(self.now - began)), None),
            Failed::Through(fault) => (ProbeEnd::Failed(fault), Some(fault)),
        };
        let Some(was_revoked) = self.end_probe(probe, end) else { return };
        self.note(Note::Probed(place, fault));
        if !was_revoked {
            self.ledger.probed(place, fault);
        }
    }

    /// A probe notices that it is to be given up.
    pub(super) fn probe_given_up(&mut self, probe: u32) {
        if self.end_probe(probe, ProbeEnd::Cancelled).is_some() {
            self.note(Note::ProbeGivenUp(self.attendance.probes[probe as usize].place));
        }
    }

    /// Whether its target had left the set; `None` if it was over already.
    fn end_probe(&mut self, probe: u32, end: ProbeEnd) -> Option<bool> {
        let is_over = &mut self.attendance.probes[probe as usize].is_over;
        if std::mem::replace(is_over, true) {
            return None;
        }
        self.policy.probe_ended(probe, end, self.time());
        Some(self.ledger.probe_let_go(probe))
    }

    pub(super) fn give_probes_up(&mut self, probes: &[u32]) {
        for probe in probes {
            self.after(0, 3000, Due::ProbeGivenUp(*probe));
        }
    }

    pub(super) fn give_all_probes_up(&mut self) {
        let probes = 0..self.attendance.probes.len() as u32;
        let left = probes.filter(|probe| !self.attendance.probes[*probe as usize].is_over);
        self.give_probes_up(&left.collect::<Vec<_>>());
    }
}
