//! The program `tinylb-sim`: runs scenarios, and looks closer at those that break a law.

// It runs simulations, and is none itself.
#![allow(clippy::disallowed_types, clippy::disallowed_methods)]

mod args;
mod catch;
mod commands;
mod scenario_arg;
mod seeds;
mod time;

use std::{
    fmt, fs,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::Parser;

use crate::{
    args::{Cli, Command},
    commands::{corpus, meta, minimize, replay, run, timeline, zoo},
};

/// Why the program ends otherwise than well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The arguments, or a file that they name, are wrong: exit code 2. With cause and remedy.
    Usage(String),
    /// A law is broken, or something can't be done: exit code 1. With what to print.
    Error(String),
    /// The same, and what there is to say has been printed.
    Told,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    catch::keep_panics_quiet();
    let result = match &cli.command {
        Command::Run(args) => run::run(args),
        Command::Replay(args) => replay::replay(args),
        Command::Minimize(args) => minimize::minimize(args),
        Command::Timeline(args) => timeline::timeline(args),
        Command::Meta(args) => meta::meta(args),
        Command::Corpus { dir } => corpus::corpus(dir),
        Command::Zoo(args) => zoo::zoo(args),
    };
    let (message, code) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Told) => return ExitCode::FAILURE,
        Err(Failure::Error(message)) => (message, ExitCode::FAILURE),
        Err(Failure::Usage(message)) => (message, ExitCode::from(2)),
    };
    tell(format_args!("tinylb-sim: {}\n", message.trim_end()));
    code
}

/// Prints to standard output. Whether anybody reads it makes no difference.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout().lock();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}

/// Prints to standard error.
pub(crate) fn tell(text: fmt::Arguments<'_>) {
    let mut out = io::stderr().lock();
    let _ = out.write_fmt(text);
}

pub(crate) fn write_file(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        Failure::Usage(format!("{} can't be written: {error}; name another file", path.display()))
    })
}
