//! The program `tinylb`: services from a file or from arguments, each a balancer of connections.

mod admin;
mod allocator;
mod args;
mod config;
mod demo;
mod descriptors;
mod log;
mod metrics;
mod program;
mod run;
mod service;
mod socket;
mod source;
mod watch;
mod workers;

use std::{
    fmt,
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};

use crate::{
    args::{Cli, Command},
    config::LoadError,
};

/// Why the program ends otherwise than well.
pub(crate) enum Failure {
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// Something went wrong at run time or in a file: exit code 1. With what to print.
    Error(String),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Run(args) => run::run(&args),
        Command::Check { config } => check(&config),
        Command::Demo => demo::demo(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(message)) => {
            let _ = Cli::command().error(ErrorKind::ValueValidation, message).print();
            ExitCode::from(2)
        }
        Err(Failure::Error(message)) => {
            let _ = writeln!(io::stderr(), "tinylb: {}", message.trim_end());
            ExitCode::FAILURE
        }
    }
}

/// `tinylb check`: prints every problem of a file.
fn check(path: &Path) -> Result<(), Failure> {
    let problems = match config::load(path) {
        Ok(config) => {
            print(format_args!(
                "{}: {} services, no problem\n",
                path.display(),
                config.services.len()
            ));
            return Ok(());
        }
        Err(LoadError::Problems { problems, .. }) => problems,
        Err(error) => return Err(Failure::Error(error.to_string())),
    };
    for problem in &problems {
        print(format_args!("{}\n", problem.show(path)));
    }
    let count = problems.len();
    let noun = if count == 1 { "problem" } else { "problems" };
    Err(Failure::Error(format!("{}: {count} {noun}", path.display())))
}

/// Prints to standard output. Whether anybody reads it makes no difference.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}
