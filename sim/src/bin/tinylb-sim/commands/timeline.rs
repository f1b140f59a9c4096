//! `tinylb-sim timeline`: one scenario as a page to look at.

use tinylb_sim::{AnyScenario, timeline};

use crate::{
    args, catch,
    output::{Failure, print, write_file},
    scenario_arg,
};

pub(crate) fn timeline(args: &args::Timeline) -> Result<(), Failure> {
    let scenario = scenario_arg::read(&args.what)?;
    let outcome = catch::run(args.what.way.level, &scenario, true);
    let AnyScenario::Balancer(scenario) = &scenario else {
        let remedy = "replay shows it record by record";
        return Err(Failure::Usage(format!("level relay has no timeline; {remedy}")));
    };
    let page = timeline::page(&scenario_arg::name(&args.what), scenario, &outcome);
    write_file(&args.output, &page)?;
    let seen = match outcome.violations.first() {
        Some(violation) => violation.to_string(),
        None => "no law is broken".into(),
    };
    print(format_args!("{}: {seen}\n", args.output.display()));
    Ok(())
}
