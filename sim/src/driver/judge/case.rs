//! What every checker sees and writes to.

use std::{mem, sync::Arc};

use crate::{
    Law, Outcome, Scenario, Sometimes, Trace,
    oracle::{Ledger, SLACK},
    scenario::{Backends, Config},
    trace::Note,
};

/// A run as its checkers see it: the scenario, the time, the trace, and the ledger, which also
/// keeps what was violated. Times are microseconds since the beginning.
pub(super) struct Case {
    scenario: Arc<Scenario>,
    /// The configuration with the settings as they are now.
    settings: Config,
    /// The same, with the longest limits that there have been.
    slackest: Config,
    at: u64,
    now: u64,
    patience: u64,
    trace: Trace,
    pub(super) ledger: Ledger,
}

/// Bytes that the balancer has written for a session of which one side failed: to the other side,
/// and to the one that failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) to_other: u64,
    pub(super) to_failed: u64,
}

/// How exactly times on the balancer's clock are known in a simulation, in microseconds.
const GRAIN: u64 = 1_000;

impl Case {
    pub(super) fn new(scenario: Arc<Scenario>, patience: u64, keep_trace: bool) -> Self {
        let mut ledger = Ledger::new(&scenario.config);
        ledger.set_slack(patience);
        // In real time, a task may be kept waiting between any two looks at the clock.
        ledger.set_grain(if patience > SLACK { patience } else { GRAIN });
        if scenario.config.source == 1 {
            ledger.allow_unheard();
        }
        Self {
            settings: scenario.config.clone(),
            slackest: scenario.config.clone(),
            scenario,
            at: 0,
            now: 0,
            patience,
            trace: Trace::new(keep_trace),
            ledger,
        }
    }

    pub(super) fn scenario(&self) -> &Arc<Scenario> {
        &self.scenario
    }

    /// The scenario's configuration. Of what steps can change, see [`Self::settings`] too.
    pub(super) fn config(&self) -> &Config {
        &self.scenario.config
    }

    /// The configuration with the settings as they are now.
    pub(super) fn settings(&self) -> &Config {
        &self.settings
    }

    /// The configuration with the longest limits of clients' waits and dials that there have been.
    pub(super) fn slackest(&self) -> &Config {
        &self.slackest
    }

    /// The settings are these from now on.
    pub(super) fn configure(&mut self, config: &Config) {
        self.settings.clone_from(config);
        self.slackest.slacken(config);
        self.ledger.configure(&config.settings());
    }

    /// Whether sets come from a source.
    pub(super) fn has_source(&self) -> bool {
        self.scenario.config.source == 1
    }

    /// The time, which moves in steps.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// The time of the newest event, by the balancer's own clock: more exact than [`Self::at`].
    pub(super) fn now(&self) -> u64 {
        self.now
    }

    /// How long a task that can go on may take to do so.
    pub(super) fn patience(&self) -> u64 {
        self.patience
    }

    pub(super) fn set_time(&mut self, at: u64) {
        self.at = self.at.max(at);
        self.ledger.set_time(self.at);
    }

    pub(super) fn set_now(&mut self, now: u64) {
        self.now = now;
        self.ledger.set_now(now);
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

    pub(super) fn count_times(&mut self, what: Sometimes, times: usize) {
        self.ledger.counts.add(what, times as u64);
    }

    /// Whether the balancer has as many sessions as it may have.
    pub(super) fn is_full(&self) -> bool {
        self.ledger.is_full()
    }

    /// The set in force; the empty one before the first.
    pub(super) fn in_force(&self) -> Backends {
        self.ledger.set().cloned().unwrap_or_default()
    }

    /// Closes the case, after this many steps of the simulation.
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
}

#[cfg(test)]
impl Case {
    /// A case of a scenario's text, with a patience of 30 ms.
    pub(super) fn of(text: &str) -> Self {
        let scenario: Scenario = text.parse().unwrap();
        Self::new(Arc::new(scenario), 30_000, false)
    }

    /// The laws that were broken.
    pub(super) fn laws(&self) -> Vec<Law> {
        self.ledger.violations().iter().map(|violation| violation.law).collect()
    }
}
