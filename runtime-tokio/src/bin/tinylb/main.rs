//! The program `tinylb`: services from a file or from arguments, each a balancer of connections.

mod admin;
mod allocator;
mod args;
mod checks;
mod circle;
mod config;
mod demo;
mod descriptors;
mod flapping;
mod last_known;
mod log;
mod metrics;
mod program;
mod record;
#[cfg(feature = "etcd")]
mod register;
mod run;
mod service;
mod socket;
mod source;
mod stop;
mod watch;
mod workers;

use std::{
    fmt,
    io::{self, Write},
    os::unix::net::UnixStream,
    path::Path,
    process::ExitCode,
};

use clap::{CommandFactory, Parser, error::ErrorKind};
use tracing::Level;

use crate::{
    args::{Cli, Command},
    config::LoadError,
};

/// Why the program fails, with the message to print.
pub(crate) enum Failure {
    /// The arguments are wrong: exit code 2.
    Usage(String),
    /// Something went wrong at run time or in a file: exit code 1.
    Error(String),
    /// The same, with an exit code of its own.
    #[cfg_attr(not(feature = "etcd"), allow(dead_code))]
    Code(u8, String),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let name = cli.command.name();
    let is_json = cli.command.log().is_some_and(|log| !log::is_human(log));
    let result = match cli.command {
        Command::Run(args) => run::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Check { config } => check(&config).map(|()| ExitCode::SUCCESS),
        #[cfg(feature = "etcd")]
        Command::Register(args) => register::register(&args),
        #[cfg(not(feature = "etcd"))]
        Command::Register(_) => Err(Failure::Usage(config::WITHOUT_ETCD.into())),
        Command::Demo => demo::demo().map(|()| ExitCode::SUCCESS),
    };
    match result {
        Ok(code) => code,
        Err(Failure::Usage(message)) => {
            let mut cli = Cli::command();
            cli.build();
            let error = match cli.find_subcommand_mut(name) {
                Some(command) => command.error(ErrorKind::ValueValidation, message),
                None => cli.error(ErrorKind::ValueValidation, message),
            };
            let _ = error.print();
            ExitCode::from(2)
        }
        Err(Failure::Error(message)) => failed(1, &message, is_json),
        Err(Failure::Code(code, message)) => failed(code, &message, is_json),
    }
}

/// Prints in the format of the log, a line for each of the message's lines.
fn failed(code: u8, message: &str, is_json: bool) -> ExitCode {
    let message = message.trim_end();
    let text = match is_json {
        true => message.lines().map(|line| log::json_line(Level::ERROR, line)).collect(),
        false => format!("tinylb: {message}\n"),
    };
    let _ = io::stderr().write_all(text.as_bytes());
    ExitCode::from(code)
}

/// Runs a future that mostly waits, on this thread.
fn block_on<T>(main: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    // Checks that descriptors are left for the runtime: tokio panics if there are none for its
    // signals.
    let room: io::Result<Vec<_>> = (0..3).map(|_| UnixStream::pair()).collect();
    let runtime = room
        .map(drop)
        .and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build())
        .map_err(|error| {
            let remedy = "raise the limit on descriptors (`ulimit -n`)";
            Failure::Error(format!("can't start the runtime: {error}: {remedy}"))
        })?;
    let result = runtime.block_on(main);
    // Otherwise a name lookup that hangs would hold the program up.
    runtime.shutdown_background();
    result
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
    let count: usize = problems.iter().map(|problem| problem.count).sum();
    let noun = if count == 1 { "problem" } else { "problems" };
    Err(Failure::Error(format!("{}: {count} {noun}", path.display())))
}

/// Prints to standard output. It is no error if nobody reads it.
pub(crate) fn print(text: fmt::Arguments<'_>) {
    let mut out = io::stdout();
    let _ = out.write_fmt(text).and_then(|()| out.flush());
}
