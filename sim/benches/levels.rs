//! How many scenarios a second each level runs on one core, and where the time goes: CPU time of
//! this thread, all checks on, in rounds that alternate.
#![allow(clippy::print_stdout)]

use rustix::time::{ClockId, clock_gettime};
use tinylb_sim::{Outcome, Profile, Scenario, decisions, driver};

const ROUNDS: u64 = 5;

/// CPU seconds that this thread has used.
fn cpu() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

/// One way to run scenarios, and what it took in each round.
struct Case {
    name: &'static str,
    run: fn(&Scenario) -> Outcome,
    /// What is taken away from a scenario.
    without: fn(&mut Scenario),
    scenarios: u64,
    /// Of each round: seconds, steps, simulated seconds.
    rounds: Vec<(f64, f64, f64)>,
}

impl Case {
    fn new(
        name: &'static str,
        run: fn(&Scenario) -> Outcome,
        without: fn(&mut Scenario),
        scenarios: u64,
    ) -> Self {
        Self { name, run, without, scenarios, rounds: Vec::new() }
    }

    fn round(&mut self, round: u64) {
        let first = round * self.scenarios;
        let scenarios: Vec<_> = (first..first + self.scenarios)
            .map(|seed| {
                let mut scenario = Scenario::from_seed(&Profile::FAST, seed);
                (self.without)(&mut scenario);
                scenario
            })
            .collect();
        let (mut steps, mut simulated) = (0.0, 0.0);
        let began = cpu();
        for scenario in &scenarios {
            let outcome = (self.run)(scenario);
            assert_eq!(outcome.violations, [], "{scenario}");
            steps += outcome.steps as f64;
            simulated += outcome.simulated as f64 / 1e6;
        }
        self.rounds.push((cpu() - began, steps, simulated));
    }

    fn print(&self) {
        let median = |value: fn(&(f64, f64, f64)) -> f64| {
            let mut values: Vec<f64> = self.rounds.iter().map(value).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let scenarios = self.scenarios as f64;
        let seconds = median(|round| round.0);
        let (steps, simulated) = (median(|round| round.1), median(|round| round.2));
        println!(
            "{:<44} {:>9.2} ms  {:>8.1} a second  {:>6.2} M steps a second  {:>5.1} s simulated",
            self.name,
            seconds / scenarios * 1e3,
            scenarios / seconds,
            steps / seconds / 1e6,
            simulated / scenarios,
        );
    }
}

fn main() {
    let decisions = |scenario: &Scenario| decisions::run(scenario, false);
    let driver = |scenario: &Scenario| driver::run(scenario, false);
    let mut cases = [
        Case::new("decisions", decisions, |_| {}, 1_000),
        Case::new("driver", driver, |_| {}, 40),
        Case::new("driver, nothing but clients and backends", driver, no_steps, 40),
        Case::new(
            "driver, nothing but hosts",
            driver,
            |scenario| {
                no_steps(scenario);
                scenario.config.clients = 0;
            },
            40,
        ),
    ];
    for round in 0..ROUNDS {
        cases.iter_mut().for_each(|case| case.round(round));
    }
    println!("a scenario of the profile fast, median of {ROUNDS} rounds:");
    cases.iter().for_each(Case::print);
}

/// Only the first set is left.
fn no_steps(scenario: &mut Scenario) {
    scenario.steps.truncate(1);
    scenario.rules.clear();
}
