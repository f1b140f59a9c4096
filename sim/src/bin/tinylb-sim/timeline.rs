//! `tinylb-sim timeline`: one scenario as a page to look at.

use tinylb_sim::timeline;

use crate::{Failure, args, judge, print, source, write_file};

pub(crate) fn timeline(args: &args::Timeline) -> Result<(), Failure> {
    let scenario = source::read(&args.what)?;
    let outcome = judge::run(args.what.way.level, &scenario, true);
    let page = timeline::page(&source::name(&args.what), &scenario, &outcome);
    write_file(&args.output, &page)?;
    let seen = match outcome.violations.first() {
        Some(violation) => violation.to_string(),
        None => "no law is broken".into(),
    };
    print(format_args!("{}: {seen}\n", args.output.display()));
    Ok(())
}
