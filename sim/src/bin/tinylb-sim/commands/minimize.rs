//! `tinylb-sim minimize`: a smaller scenario that breaks the same law.

use tinylb_sim::{Level, Scenario, Violation, minimize};

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
    let size = |scenario: &Scenario| {
        format!("{} steps and {} rules", scenario.steps.len(), scenario.rules.len())
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
pub(crate) fn smaller(level: Level, scenario: &Scenario, violation: &Violation) -> (Scenario, u32) {
    let run = |scenario: &Scenario| catch::run(level, scenario, false);
    match minimize::minimize(scenario, violation.law, run) {
        Some(found) => (found.scenario, found.runs),
        None => (scenario.clone(), 1),
    }
}

/// A file that says what it is for.
pub(crate) fn text(name: &str, scenario: &Scenario, violation: &Violation) -> String {
    let law = violation.law;
    format!("# Breaks the law {law}: {}.\n# Made smaller from {name}.\n{scenario}", law.sentence())
}
