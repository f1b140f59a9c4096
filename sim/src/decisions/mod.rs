//! The decisions alone, on a queue of events: no bytes, no packets, no tasks. What a scenario says
//! of those does nothing here.

mod health;
mod operations;
mod policy;
mod queue;
mod rotation;
mod run;
mod sessions;

use self::run::Run;
pub use self::{
    policy::{Finding, Policy, Taken, Verdict},
    rotation::Rotation,
};
use crate::{Outcome, Scenario};

/// Runs a scenario on the policy that ships.
pub fn run(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_policy(scenario, Rotation::new(&scenario.config), keep_trace)
}

/// Runs a scenario on any policy.
pub fn run_policy(scenario: &Scenario, policy: impl Policy, keep_trace: bool) -> Outcome {
    let mut run = Run::new(scenario, policy, keep_trace);
    run.begin();
    run.go();
    run.finish()
}
