//! `tinylb-sim replay`: one scenario, record by record.

use std::fmt::Write;

use tinylb_sim::{AnyScenario, Outcome, Violation};

use crate::{
    args, catch,
    output::{Failure, print},
    scenario_arg,
};

pub(crate) fn replay(args: &args::Replay) -> Result<(), Failure> {
    let scenario = scenario_arg::read(&args.what)?;
    let outcome = catch::run(args.what.way.level, &scenario, !args.hash_only);
    if args.hash_only {
        print(format_args!("{:016x}\n", outcome.trace.hash()));
    } else {
        let mut text = String::new();
        if !args.records_only {
            let _ = writeln!(text, "{scenario}");
        }
        write_records(&mut text, args, &scenario, &outcome);
        if !args.records_only {
            write_end(&mut text, &outcome);
        }
        print(format_args!("{text}"));
    }
    if outcome.violations.is_empty() { Ok(()) } else { Err(Failure::Reported) }
}

fn write_records(
    text: &mut String,
    args: &args::Replay,
    scenario: &AnyScenario,
    outcome: &Outcome,
) {
    let until = args.until.map_or(u128::MAX, |until| until.as_micros());
    let records = outcome.trace.records();
    let shown = records.partition_point(|record| u128::from(record.at) <= until);
    for record in &records[..shown] {
        let _ = writeln!(text, "{}", scenario.describe(record));
    }
    if shown < records.len() {
        let _ = writeln!(text, "… and {} records more", records.len() - shown);
    }
}

fn write_end(text: &mut String, outcome: &Outcome) {
    let Outcome { violations, steps, simulated, trace, .. } = outcome;
    let _ = writeln!(text);
    for violation in violations {
        let Violation { law, .. } = violation;
        let _ = writeln!(text, "{violation}\n    the law {law}: {}", law.sentence());
    }
    if violations.is_empty() {
        let _ = writeln!(text, "no law is broken");
    }
    let (length, hash) = (trace.length(), trace.hash());
    let seconds = *simulated as f64 / 1e6;
    let _ =
        writeln!(text, "{seconds:.3} s simulated, {steps} steps, {length} records, {hash:016x}");
}
