//! Nothing takes longer than it may, and at the end nothing is left.

use std::{mem, task::Waker};

use tinylb_core::{Side, Snapshot};

use super::{
    Judge,
    attempt::{Attempt, Word},
    flows::Flow,
};
use crate::{
    Law, Sometimes,
    driver::payload::PIECE,
    scenario::{Place, SILENCE, backends_of},
    trace::Note,
};

impl Judge {
    /// Faults have stopped; clients are told to come to their ends, and have to be woken.
    pub(in crate::driver) fn heal(&mut self) -> Vec<Waker> {
        self.note(Note::Healed);
        self.is_healed = true;
        self.nemesis.stop();
        self.wanted.clear();
        self.panics.clear();
        let tell = |number: &u32| self.attempts[*number as usize].tell(Word::Close);
        self.live_attempts.iter().filter_map(tell).collect()
    }

    /// Whether the pool is to be looked at.
    pub(in crate::driver) fn takes_look(&mut self) -> bool {
        mem::take(&mut self.is_dirty)
    }

    /// The balancer's state is what its events say.
    pub(in crate::driver) fn look(&mut self, snapshot: &Snapshot<Place>) {
        self.ledger.check_loads(snapshot.loads.iter().cloned(), |place| Some(*place));
        self.ledger.check_counts(snapshot.accepted, snapshot.live, snapshot.ended.sum());
        let set = snapshot.set.as_ref().map(backends_of);
        if set.as_ref() != self.ledger.set() {
            self.fail(Law::Order, "the set is another one than the events say".into());
        }
    }

    /// Nothing takes longer than it may.
    pub(in crate::driver) fn check_times(&mut self) {
        let task = self.patience;
        if self.closes_at.is_some_and(|at| self.at > at + task) {
            if !self.is_shut_down {
                self.fail(Law::Shutdown, "the shutdown doesn't complete".into());
            }
            return;
        }
        self.ledger.check_times();
        if self.is_closing() {
            return;
        }
        self.check_source();
        if let Some((generation, since)) = self.unapplied.first()
            && self.at > since + task
        {
            let text = format!("replacement {generation} isn't applied");
            self.fail(Law::AppliedInTime, text);
        }
        if self.at > self.said_at + task
            && !self.may_lag()
            && let Some(text) = self.lags()
        {
            self.fail(Law::AppliedInTime, text);
        }
        let silent = (0..self.flows.len() as u64).find(|serial| {
            let flow = &self.flows[*serial as usize];
            let is_over = |max| self.at > flow.moved_at + max + self.delivery_max(flow) + task;
            self.ledger.may_move(*serial) && self.silence_max(flow).is_some_and(is_over)
        });
        if let Some(serial) = silent {
            self.fail(Law::TimeLimit, format!("session {serial} is silent for too long"));
        }
        let late = self.live_attempts.iter().find_map(|number| {
            let law = self.is_late(&self.attempts[*number as usize])?;
            Some((*number, law))
        });
        if let Some((number, law)) = late {
            let attempt = &self.attempts[number as usize];
            let text = format!(
                "attempt {number} ({}) began at {} ms and isn't {}; session {:?}",
                attempt.plan,
                attempt.began / 1000,
                if law == Law::Accept { "accepted" } else { "over" },
                attempt.session
            );
            self.fail(law, text);
        }
    }

    /// How much longer a session may last once one side has failed, in microseconds: what that side
    /// sent is delivered first.
    fn delivery_max(&self, flow: &Flow) -> u64 {
        let has_failed = flow.attempt.is_some_and(|attempt| {
            [Side::Client, Side::Backend].into_iter().any(|side| self.has_given_up(attempt, side))
        });
        if has_failed { u64::from(self.scenario.config.delivery_timeout) * 1000 } else { 0 }
    }

    /// How long a connected session may be silent, in microseconds.
    pub(in crate::driver) fn silence_max(&self, flow: &Flow) -> Option<u64> {
        let config = &self.scenario.config;
        let half_close = flow.is_half_closed.then_some(config.half_close_timeout);
        let limits = [half_close, Some(config.idle_timeout)].into_iter().flatten();
        limits.filter(|limit| *limit > 0).min().map(|limit| u64::from(limit) * 1000)
    }

    /// The law that is broken if an attempt takes any longer.
    fn is_late(&self, attempt: &Attempt) -> Option<Law> {
        let connected_at = attempt.connected_at?;
        if attempt.session.is_none() {
            let since = connected_at.max(self.room_since);
            let is_late = !self.is_full() && self.at > since + self.patience;
            return is_late.then_some(Law::Accept);
        }
        if self.is_lossy(attempt) || !self.is_calm(attempt) {
            return None;
        }
        let config = &self.scenario.config;
        let since = connected_at.max(self.room_since);
        let plan = attempt.plan;
        let silence = if plan.is_silent() { u64::from(SILENCE) * 1000 } else { 0 };
        let round_trip = u64::from(config.latency_max) * 4000 + self.patience;
        let window = u64::from(config.window.min(config.buffer)).max(1);
        let rounds = u64::from(plan.up.max(plan.down)) / window + 4;
        let pieces = u64::from(plan.up + plan.down) / PIECE as u64 + 2;
        let dial = u64::from(config.dial_time + config.waiting_timeout) * 1000;
        let pace = u64::from(plan.pace) * 1000 + self.patience;
        let limit = dial + silence + pieces * pace + 2 * rounds * round_trip;
        (self.at > since + limit).then_some(Law::Progress)
    }

    /// Attempts that aren't over and are not excused: by a lost segment, or because others that
    /// are excused leave them no room.
    pub(in crate::driver) fn unfinished(&self) -> Vec<u32> {
        let is_excused = |attempt: &Attempt| {
            self.is_lossy(attempt) || attempt.session.is_none() && self.is_full()
        };
        let live = self.live_attempts.iter().copied();
        live.filter(|number| !is_excused(&self.attempts[*number as usize])).collect()
    }

    /// All is quiet: nothing is left but what was excused.
    pub(in crate::driver) fn check_quiet(&mut self) {
        let unfinished = self.unfinished();
        let excused = self.live_attempts.len() - unfinished.len();
        self.ledger.counts.add(Sometimes::Excused, excused as u64);
        for number in unfinished {
            let plan = self.attempts[number as usize].plan;
            self.fail(Law::Quiet, format!("attempt {number} ({plan}) isn't over"));
        }
        let left: Vec<u64> = (0..self.flows.len() as u64)
            .filter(|serial| !self.ledger.has_ended(*serial))
            .filter(|serial| {
                let attempt = self.flows[*serial as usize].attempt;
                !attempt.is_some_and(|number| self.is_lossy(&self.attempts[number as usize]))
            })
            .collect();
        if !left.is_empty() {
            self.fail(Law::Quiet, format!("sessions {left:?} are left"));
        }
    }

    /// One cycle of probes has reached every backend, if all had room.
    pub(in crate::driver) fn check_probes(&mut self) {
        let config = &self.scenario.config;
        if self.ledger.live() + config.backends as usize > config.connections as usize {
            return;
        }
        let all: Vec<Place> = (0..config.backends as u8).map(Place).collect();
        let reached = self.probed();
        if reached != all {
            self.fail(Law::Echo, format!("one cycle of new connections reached {reached:?}"));
        }
    }

    /// Everything has ended.
    pub(in crate::driver) fn check_empty(&mut self) {
        let open: u32 = self.flows.iter().map(|flow| flow.open).sum();
        if open != 0 || self.ledger.live() != 0 {
            let live = self.ledger.live();
            let text =
                format!("{open} connections and {live} sessions are left after the shutdown");
            self.fail(Law::Shutdown, text);
        }
    }
}
