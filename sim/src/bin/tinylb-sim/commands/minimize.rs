//! `tinylb-sim minimize`: a smaller scenario that breaks the same law.

use tinylb_sim::{AnyScenario, Level, Violation, minimize, relay};

use crate::{
    args, catch,
    output::{Failure, print, write_file},
    scenario_arg,
};

pub(crate) fn minimize(args: &args::Minimize) -> Result<(), Failure> {
    let level = args.what.way.level;
    let scenario = scenario_arg::read(&args.what)?;
    let outcome = catch::run(level, &scenario, false);
    let Some(violation) = outcome.violations.first() else {
        let what = &args.what.what;
        return Err(Failure::Error(format!("{what} breaks no law: there is nothing to look for")));
    };
    let (smaller, runs) = smaller(level, &scenario, violation);
    let path = args.output.display();
    write_file(&args.output, &text(&scenario_arg::name(&args.what), &smaller, violation))?;
    let size = |scenario: &AnyScenario| {
        format!("{} steps and {} rules", scenario.steps(), scenario.rules())
    };
    print(format_args!(
        "from {} to {} in {runs} runs; the law that is broken is {}: {}\n{}\n",
        size(&scenario),
        size(&smaller),
        violation.law,
        violation.law.sentence(),
        scenario_arg::replay_file_command(&path.to_string(), level),
    ));
    Ok(())
}

/// The smallest scenario that is found for this violation, and in how many runs.
pub(crate) fn smaller(
    level: Level,
    scenario: &AnyScenario,
    violation: &Violation,
) -> (AnyScenario, u32) {
    let run = |scenario: AnyScenario| catch::run(level, &scenario, false);
    let found = match scenario {
        AnyScenario::Balancer(scenario) => {
            let run = |scenario: &_| run(AnyScenario::Balancer(Clone::clone(scenario)));
            minimize::minimize(scenario, violation.law, run)
                .map(|found| (AnyScenario::Balancer(found.scenario), found.runs))
        }
        AnyScenario::Relay(scenario) => {
            let run = |scenario: &_| run(AnyScenario::Relay(Clone::clone(scenario)));
            relay::minimize(scenario, violation.law, run)
                .map(|found| (AnyScenario::Relay(found.scenario), found.runs))
        }
    };
    found.unwrap_or_else(|| (scenario.clone(), 1))
}

/// A file that says what it is for.
pub(crate) fn text(name: &str, scenario: &AnyScenario, violation: &Violation) -> String {
    let law = violation.law;
    format!("# Breaks the law {law}: {}.\n# Made smaller from {name}.\n{scenario}", law.sentence())
}
