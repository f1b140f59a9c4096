use std::{fmt, str::FromStr};

use crate::{
    Level, Outcome, Profile, RecordOf, Scenario, relay,
    scenario::ScenarioError,
    trace::{Note, Record},
};

/// A scenario of any level. Those of the relay are of their own kind, and their text begins with
/// the line `level relay`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyScenario {
    /// Of the balancer: for the decisions and the driver.
    Balancer(Scenario),
    /// Of the relay alone.
    Relay(relay::Scenario),
}

impl AnyScenario {
    /// The scenario that belongs to this seed. The relay's don't depend on the profile.
    pub fn from_seed(level: Level, profile: &Profile, seed: u64) -> Self {
        match level {
            Level::Relay => Self::Relay(relay::Scenario::from_seed(seed)),
            Level::Decisions | Level::Driver => Self::Balancer(Scenario::from_seed(profile, seed)),
        }
    }

    /// Whether it can be run on this level.
    pub fn is_for(&self, level: Level) -> bool {
        matches!(self, Self::Relay(_)) == (level == Level::Relay)
    }

    /// How many steps it has.
    pub fn steps(&self) -> usize {
        match self {
            Self::Balancer(scenario) => scenario.steps.len(),
            Self::Relay(scenario) => scenario.steps.len(),
        }
    }

    /// How many rules it has.
    pub fn rules(&self) -> usize {
        match self {
            Self::Balancer(scenario) => scenario.rules.len(),
            Self::Relay(_) => 0,
        }
    }

    /// A record of its run, in words.
    pub fn describe(&self, record: &Record) -> String {
        match self {
            Self::Balancer(scenario) => RecordOf(record, scenario).to_string(),
            Self::Relay(scenario) => match record.note {
                Note::Step(number) => {
                    let step = scenario.steps.get(number as usize);
                    let what = step.map(|step| format!(": {}", step.operation));
                    format!("{record}{}", what.unwrap_or_default())
                }
                _ => record.to_string(),
            },
        }
    }
}

impl Level {
    /// Runs a scenario; `keep_trace`: with the records of what happened.
    ///
    /// # Panics
    /// If the scenario isn't for this level ([`AnyScenario::is_for`]).
    pub fn run_any(self, scenario: &AnyScenario, keep_trace: bool) -> Outcome {
        assert!(scenario.is_for(self), "the scenario is for another level than {}", self.name());
        match scenario {
            AnyScenario::Balancer(scenario) => self.run(scenario, keep_trace),
            AnyScenario::Relay(scenario) => relay::run(scenario, keep_trace),
        }
    }
}

impl fmt::Display for AnyScenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balancer(scenario) => scenario.fmt(f),
            Self::Relay(scenario) => scenario.fmt(f),
        }
    }
}

impl FromStr for AnyScenario {
    type Err = ScenarioError;

    fn from_str(text: &str) -> Result<Self, ScenarioError> {
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
        match lines.filter(|line| !line.is_empty()).any(|line| line == relay::FIRST_LINE) {
            true => text.parse().map(Self::Relay),
            false => text.parse().map(Self::Balancer),
        }
    }
}
