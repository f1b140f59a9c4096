//! The program `tinylb-sim`: runs scenarios, and looks closer at those that break a law.

// It runs simulations, and is none itself.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod args;
mod catch;
mod commands;
mod output;
mod scenario_arg;
mod seeds;
mod time;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    args::{Cli, Command},
    commands::{corpus, judge, meta, minimize, replay, run, timeline, zoo},
    output::{Failure, print_error},
};

fn main() -> ExitCode {
    let cli = Cli::parse();
    catch::keep_panics_quiet();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Replay(args) => replay::replay(args),
        Command::Minimize(args) => minimize::minimize(args),
        Command::Timeline(args) => timeline::timeline(args),
        Command::Judge(args) => judge::judge(args),
        Command::Meta(args) => meta::meta(args),
        Command::Corpus { dir } => corpus::corpus(dir),
        Command::Zoo(args) => zoo::zoo(args),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Reported) => return ExitCode::FAILURE,
        Err(Failure::Error(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Usage(message)) => (message, ExitCode::from(2)),
    };
    print_error(format_args!("tinylb-sim: {}\n", message.trim_end()));
    code
}
