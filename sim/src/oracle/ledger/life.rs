//! The server's life, and looks at its whole state.

use std::fmt::Display;

use tinylb_core::Load;

use super::{Ledger, Phase, PlaceLoad};
use crate::{Law, scenario::Place};

impl Ledger {
    /// The server shuts down and lets sessions finish until this time.
    pub(crate) fn closing(&mut self, closes_at: u64) {
        self.is_closing = true;
        self.closes_at = Some(self.closes_at.unwrap_or(closes_at).min(closes_at));
    }

    /// Whether the server has aborted what was left, or may have.
    pub(super) fn has_closed(&self) -> bool {
        self.closes_at.is_some_and(|at| self.at + self.slack >= at)
    }

    /// The server aborts what is left. `reported`: how many sessions that is by its report.
    pub(crate) fn closed(&mut self, reported: usize) {
        self.closing(self.at);
        let waiting = std::mem::take(&mut self.waiting);
        let mut taken = 0;
        for serial in &self.live {
            let session = &mut self.sessions[*serial as usize];
            let load = &mut self.loads[usize::from(session.place.0)];
            match session.phase {
                Phase::Dialling | Phase::Failed => {
                    load.dialling -= 1;
                    session.phase = Phase::Revoked(self.generation);
                }
                Phase::Connected | Phase::Draining(..) => {
                    load.connected -= 1;
                    session.phase = Phase::Cut(self.generation);
                }
                Phase::Waiting => {
                    session.phase = Phase::Refused;
                    continue;
                }
                _ => continue,
            }
            taken += 1;
        }
        self.owe(self.generation, taken);
        if reported != waiting + taken as usize {
            let text =
                format!("{reported} sessions were aborted, not {}", waiting + taken as usize);
            self.fail(Law::Shutdown, text);
        }
    }

    /// The server says that its shutdown is complete.
    pub(crate) fn shut_down(&mut self) {
        if !self.live.is_empty() {
            let text = format!("the shutdown is complete, and {} sessions live", self.live.len());
            self.fail(Law::Shutdown, text);
        }
    }

    /// The pool holds what it should.
    pub(crate) fn check_loads<T: Display>(
        &mut self,
        loads: impl Iterator<Item = Load<T>>,
        place_of: impl Fn(&T) -> Option<Place>,
    ) {
        let mut seen = vec![PlaceLoad::default(); self.loads.len()];
        let may_close = self.closes_at.is_some_and(|at| self.at < at) && self.has_closed();
        let may_cut = self.places().any(|place| self.may_be_silenced(place));
        if may_close || may_cut || self.is_in_doubt() {
            // In these moments it may be either way.
            return;
        }
        for load in loads {
            if load.dialling + load.connected == 0 {
                self.fail(Law::Pool, format!("an entry of {} has no session", load.target));
            }
            if let Some(place) = place_of(&load.target) {
                if load.is_draining == (self.keys_of[usize::from(place.0)] > 0) {
                    let text = format!("{place} is reported to drain: {}", load.is_draining);
                    self.fail(Law::Pool, text);
                }
                let seen = &mut seen[usize::from(place.0)];
                seen.dialling += load.dialling as u32;
                seen.connected += load.connected as u32;
            }
        }
        if seen != self.loads {
            let place = seen.iter().zip(&self.loads).position(|(a, b)| a != b).unwrap_or_default();
            let (seen, due) = (seen[place], self.loads[place]);
            let text = format!(
                "of b{place} the pool has {} dialling and {} connected, and there are {} and {}",
                seen.dialling, seen.connected, due.dialling, due.connected
            );
            self.fail(Law::Pool, text);
        }
    }

    /// accepted = live + ended, as the balancer counts.
    pub(crate) fn check_counts(&mut self, accepted: u64, live: usize, ended: u64) {
        if accepted != live as u64 + ended || live != self.live.len() {
            let text = format!(
                "accepted {accepted}, live {live}, ended {ended}; and {} sessions live",
                self.live.len()
            );
            self.fail(Law::OneEnd, text);
        }
    }

    /// No session is in a state for longer than it may be.
    pub(crate) fn check_times(&mut self) {
        let at = self.at;
        let late = self.live.iter().find_map(|serial| {
            let session = &self.sessions[*serial as usize];
            let over = |since: u64, limit: u64| at > since + limit + self.slack;
            let limits = session.dial_limits(&self.limits);
            let late = match session.phase {
                Phase::Dialling if session.dial_began > 0 => {
                    over(session.dial_began, limits.timeout)
                        || over(session.began + session.unpaid, limits.time_max)
                }
                Phase::Dialling | Phase::New | Phase::Failed => {
                    over(session.began + session.unpaid, limits.time_max)
                }
                Phase::Waiting | Phase::Refused => {
                    let most = self.waiting_timeout(session).1;
                    over(session.waits_since.unwrap_or(session.began), most)
                }
                Phase::Draining(_, until) => over(until, 0),
                _ => false,
            };
            late.then_some((*serial, session.phase))
        });
        if let Some((serial, phase)) = late {
            self.fail(Law::TimeLimit, format!("session {serial} is {phase:?} for too long"));
        }
        // What is over probes nobody.
        let is_over = self.has_closed() || self.is_closing && self.live.is_empty();
        if !is_over {
            self.check_health();
        }
    }
}
