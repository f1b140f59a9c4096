//! How many clients there may be, and how long they may take, while the settings change.

use std::time::Duration;

use tinylb_core::{EndReason, Settings};

use super::{Account, Ledger};
use crate::{Law, Sometimes};

/// The limits of clients that are in force.
pub(super) struct Limits {
    pub(super) connections_max: usize,
    pub(super) waiting_max: usize,
    /// How long a client may wait, and since when that is so, ascending.
    waiting_timeouts: Vec<(u64, u64)>,
    pub(super) dial: DialLimits,
}

/// The limits of one client's dials. It keeps those that were in force when it began to dial.
#[derive(Clone, Copy, Debug)]
pub(super) struct DialLimits {
    pub(super) timeout: u64,
    pub(super) time_max: u64,
    pub(super) attempts_max: u32,
}

impl Limits {
    pub(super) fn new(settings: &Settings) -> Self {
        let us = |time: Duration| time.as_micros() as u64;
        Self {
            connections_max: settings.max_connections,
            waiting_max: settings.waiting_max,
            waiting_timeouts: vec![(0, us(settings.waiting_timeout))],
            dial: DialLimits {
                timeout: us(settings.dial_timeout),
                time_max: us(settings.dial_time_max),
                attempts_max: settings.dial_attempts_max as u32,
            },
        }
    }

    fn change(&mut self, at: u64, settings: &Settings) {
        let mut changed = Self::new(settings);
        let (_, timeout) = changed.waiting_timeouts[0];
        changed.waiting_timeouts = std::mem::take(&mut self.waiting_timeouts);
        if changed.waiting_timeouts.last().is_none_or(|(_, newest)| *newest != timeout) {
            changed.waiting_timeouts.push((at, timeout));
        }
        *self = changed;
    }

    /// How long a client that began to wait between these times may wait: at least and at most.
    fn waiting_timeout(&self, from: u64, until: u64) -> (u64, u64) {
        let ends = self.waiting_timeouts.iter().skip(1).map(|(since, _)| *since).chain([u64::MAX]);
        let in_force = self.waiting_timeouts.iter().zip(ends);
        let in_force = in_force.filter(|((since, _), end)| *since <= until && from <= *end);
        in_force.fold((u64::MAX, 0), |(least, most), ((_, time), _)| {
            (least.min(*time), most.max(*time))
        })
    }
}

impl Account {
    pub(super) fn dial_limits(&self, limits: &Limits) -> DialLimits {
        self.dial_limits.unwrap_or(limits.dial)
    }
}

impl Ledger {
    /// The settings are these from now on, apart from whether targets are ejected and how long
    /// sessions drain.
    pub(crate) fn configure(&mut self, settings: &Settings) {
        // Sessions of silent targets may have been cut just before.
        self.places().for_each(|place| self.note_silenced(place));
        let live = self.live.len();
        let was_over = live > self.limits.connections_max;
        self.limits.change(self.at, settings);
        if live > self.limits.connections_max && !was_over {
            self.counts.add(Sometimes::LimitUndercut, 1);
        }
        self.health.configure(self.now, settings);
        self.counts.add(Sometimes::SettingsChanged, 1);
    }

    /// Whether there are as many sessions as there may be, or more.
    pub(crate) fn is_full(&self) -> bool {
        self.live.len() >= self.limits.connections_max
    }

    /// A client is about to be accepted.
    pub(super) fn check_room(&mut self, serial: u64) {
        if self.is_full() {
            let (live, max) = (self.live.len(), self.limits.connections_max);
            let text = format!("session {serial} was accepted beside {live} others, of {max}");
            self.fail(Law::Limit, text);
        }
    }

    /// How long a session that waits, or is about to, may do so: at least and at most.
    pub(super) fn waiting_timeout(&self, session: &Account) -> (u64, u64) {
        // Its task may begin a little later.
        let since = session.waits_since.unwrap_or(session.began);
        self.limits.waiting_timeout(since, since + self.slack)
    }

    /// Whether a session has dialled for as long, or as often, as the limits say that were in force
    /// when it began.
    pub(super) fn has_used_up(&self, session: &Account, reason: EndReason, dialled: u64) -> bool {
        let limits = session.dial_limits(&self.limits);
        match reason {
            EndReason::DialFailed => session.failures >= limits.attempts_max,
            _ => dialled + self.slack >= limits.time_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        scenario::{Config, Key, Place},
        trace::Failure,
    };

    fn ledger(config: &Config) -> Ledger {
        let mut ledger = Ledger::new(config);
        let reported = super::super::Reported { generation: 1, cut: 0, revoked: 0, draining: 0 };
        ledger.replaced(&vec![(Key(0), Place(0))], reported, None);
        ledger
    }

    fn laws(ledger: &Ledger) -> Vec<Law> {
        ledger.violations().iter().map(|violation| violation.law).collect()
    }

    #[test]
    fn below_the_limit_clients_are_accepted_and_at_it_or_above_it_none() {
        let mut config = Config { connections: 3, ..Config::default() };
        let mut ledger = ledger(&config);
        (0..2).for_each(|serial| ledger.accepted_one(serial));
        assert!(!ledger.is_full());
        config.connections = 1;
        ledger.configure(&config.settings());
        assert!(ledger.is_full());
        assert_eq!(ledger.counts.of(Sometimes::LimitUndercut), 1);
        assert_eq!(laws(&ledger), []);
        ledger.accepted_one(2);
        assert_eq!(laws(&ledger), [Law::Limit], "with three sessions, one is allowed");
        config.connections = 4;
        ledger.configure(&config.settings());
        ledger.accepted_one(3);
        ledger.accepted_one(4);
        assert_eq!(laws(&ledger), [Law::Limit; 2]);
    }

    #[test]
    fn a_client_keeps_the_limits_with_which_it_began_to_dial() {
        let mut config = Config { dial_attempts: 2, dial_timeout: 300, ..Config::default() };
        let mut ledger = ledger(&config);
        for serial in 0..2 {
            ledger.accepted_one(serial);
            ledger.admitted(serial, Key(0), Place(0));
        }
        ledger.dial_started(0, Place(0));
        (config.dial_attempts, config.dial_timeout) = (1, 1_000);
        ledger.configure(&config.settings());
        ledger.dial_started(1, Place(0));
        ledger.set_time(301_000);
        ledger.dial_failed(0, Failure::TimedOut);
        assert_eq!(laws(&ledger), [], "the first had 300 ms");
        ledger.dial_failed(1, Failure::TimedOut);
        assert_eq!(laws(&ledger), [Law::TimeLimit], "the second has a second");
        ledger.ended(1, EndReason::DialFailed);
        assert_eq!(laws(&ledger), [Law::TimeLimit], "and one attempt");
        ledger.ended(0, EndReason::DialFailed);
        assert_eq!(laws(&ledger), [Law::TimeLimit, Law::OneEnd], "the first has two");
    }

    #[test]
    fn a_client_waits_for_as_long_as_was_said_when_it_began() {
        let mut config = Config { waiting_timeout: 500, ..Config::default() };
        let mut limits = Limits::new(&config.settings());
        config.waiting_timeout = 100;
        limits.change(200_000, &config.settings());
        assert_eq!(limits.waiting_timeout(0, 100_000), (500_000, 500_000));
        assert_eq!(limits.waiting_timeout(190_000, 220_000), (100_000, 500_000));
        assert_eq!(limits.waiting_timeout(200_001, 230_001), (100_000, 100_000));
    }
}
