//! Looks at everything now and then: nothing takes longer than it may, and at the end nothing is
//! left.

use std::mem;

use tinylb_core::{Side, Snapshot};

use super::Judge;
use crate::{
    Law, Sometimes,
    scenario::{Place, all, backends_of},
};

impl Judge {
    /// Whether the pool is to be looked at.
    pub(in crate::driver) fn takes_look(&mut self) -> bool {
        mem::take(&mut self.is_dirty)
    }

    /// The balancer's state is what its events say.
    pub(in crate::driver) fn look(&mut self, snapshot: &Snapshot<Place>) {
        let ledger = &mut self.case.ledger;
        ledger.check_loads(snapshot.loads.iter().cloned(), |place| Some(*place));
        ledger.check_counts(snapshot.accepted, snapshot.live, snapshot.ended.sum());
        let ejected: Vec<_> = snapshot.ejected.iter().map(|ejected| ejected.target).collect();
        ledger.check_ejected(&ejected, None);
        let moved = (snapshot.bytes_to_backends, snapshot.bytes_to_clients);
        self.sessions.check_sums(&mut self.case, &snapshot.ended, moved);
        let ledger = &self.case.ledger;
        let set = snapshot.set.as_ref().map(backends_of);
        if set.as_ref() != ledger.set() {
            self.case.fail(Law::Order, "the set is another one than the events say".into());
        }
    }

    /// Nothing takes longer than it may.
    pub(in crate::driver) fn check_times(&mut self) {
        if self.deadlines.check_shutdown(&mut self.case) {
            return;
        }
        self.case.ledger.settle_health(false);
        self.case.ledger.check_times();
        if self.deadlines.is_closing() {
            return;
        }
        self.source.check_times(&mut self.case);
        self.checks.check_times(&mut self.case);
        self.sets.check_times(&mut self.case);
        self.check_newest();
        self.check_silences();
        self.check_attempts();
    }

    /// The set that was ordered last is in force in time, unless the source keeps it from that.
    fn check_newest(&mut self) {
        if self.checks.are_made() {
            return self.check_narrowed();
        }
        if !self.sets.is_due(&self.case) || self.source.may_lag(&self.case) {
            return;
        }
        let Some(set) = self.case.ledger.set() else { return };
        let wrong = match self.case.has_source() {
            true => self.source.is_late(&self.case, self.sets.newest(), set),
            false => self.sets.is_late(set),
        };
        if let Some(text) = wrong {
            self.case.fail(Law::AppliedInTime, text);
        }
    }

    /// What the checks leave of the source's newest set is in force in time.
    fn check_narrowed(&mut self) {
        if self.source.may_lag(&self.case) || self.source.may_be_stale(&self.case) {
            return;
        }
        let newest = self.sets.is_due(&self.case).then(|| self.sets.newest().as_slice());
        let in_force = self.case.in_force();
        if let Some(text) = self.checks.is_late(&self.case, newest, &in_force) {
            self.case.fail(Law::Verdict, text);
        }
    }

    /// Whether backends are to pass their checks first before all is well.
    pub(in crate::driver) fn awaits_checks(&self) -> bool {
        let is_all = || self.case.in_force() == all(self.case.config());
        self.checks.are_awaited() || self.checks.are_made() && !is_all()
    }

    /// No session is silent for too long. Once one side has failed, what it sent is delivered
    /// first.
    fn check_silences(&mut self) {
        let grace = |serial| {
            let attempt = self.pairs.attempt_of(serial);
            let has_failed = attempt.is_some_and(|attempt| {
                let mut sides = [Side::Client, Side::Backend].into_iter();
                sides.any(|side| self.has_given_up(attempt, side))
            });
            if has_failed { self.sessions.delivery_timeout(serial) } else { 0 }
        };
        if let Some(serial) = self.sessions.first_silent(&self.case, grace) {
            let text = format!("session {serial} is silent for too long");
            self.case.fail(Law::TimeLimit, text);
        }
    }

    /// No client waits for too long.
    fn check_attempts(&mut self) {
        let late = self.streams.live().iter().find_map(|attempt| {
            let (plan, session) = (self.streams.plan(*attempt), self.pairs.session_of(*attempt));
            let is_excused = || self.is_lossy(*attempt) || !self.is_calm(*attempt);
            let law = self.deadlines.is_late(&self.case, *attempt, plan, session, is_excused)?;
            Some((*attempt, plan, session, law))
        });
        if let Some((attempt, plan, session, law)) = late {
            self.deadlines.fail(&mut self.case, attempt, plan, session, law);
        }
    }

    /// Attempts that aren't over and are not excused: by a lost segment, or because others that
    /// are excused leave them no room.
    pub(in crate::driver) fn unfinished(&self) -> Vec<u32> {
        let has_room = |attempt| self.pairs.session_of(attempt).is_some() || !self.case.is_full();
        let live = self.streams.live().iter().copied();
        live.filter(|attempt| !self.is_lossy(*attempt) && has_room(*attempt)).collect()
    }

    /// Whether a target is still ejected.
    pub(in crate::driver) fn has_ejected(&self) -> bool {
        self.case.ledger.has_ejected()
    }

    /// All is quiet: nothing is left but what was excused.
    pub(in crate::driver) fn check_quiet(&mut self) {
        let unfinished = self.unfinished();
        let excused = self.streams.live().len() - unfinished.len();
        self.case.count_times(Sometimes::Excused, excused);
        for attempt in unfinished {
            let plan = self.streams.plan(attempt);
            self.case.fail(Law::Quiet, format!("attempt {attempt} ({plan}) isn't over"));
        }
        let mut left = self.sessions.left(&self.case);
        left.retain(|serial| {
            let attempt = self.pairs.attempt_of(*serial);
            !attempt.is_some_and(|attempt| self.is_lossy(attempt))
        });
        if !left.is_empty() {
            self.case.fail(Law::Quiet, format!("sessions {left:?} are left"));
        }
    }

    /// One cycle of probes has reached every backend, if all had room.
    pub(in crate::driver) fn check_probes(&mut self) {
        let config = self.case.settings();
        let has_room =
            self.case.ledger.live() + config.backends as usize <= config.connections as usize;
        // Otherwise a probe may go elsewhere although all is well.
        let answered_within = u64::from(config.latency_max) * 2000 + self.case.patience();
        let is_patient =
            config.patience == 0 || u64::from(config.patience) * 1000 > answered_within;
        if has_room && is_patient {
            let all: Vec<_> = (0..config.backends as u16).map(Place).collect();
            self.streams.check_probes(&mut self.case, &all);
        }
    }

    /// Everything has ended.
    pub(in crate::driver) fn check_empty(&mut self) {
        self.sessions.check_empty(&mut self.case);
        self.case.ledger.check_no_probes();
    }
}
