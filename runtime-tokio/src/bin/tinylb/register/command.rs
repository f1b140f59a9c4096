use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::ExitStatusExt,
    process::{ExitCode, ExitStatus},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tracing::error;

use crate::stop::Stop;

/// The command whose backend is registered.
pub(super) struct Command {
    child: Child,
}

impl Command {
    /// Starts it, with this program's standard input, output and error.
    ///
    /// # Errors
    /// It can't be run.
    pub(super) fn start(program: &OsStr, arguments: &[OsString]) -> io::Result<Self> {
        Ok(Self { child: tokio::process::Command::new(program).args(arguments).spawn()? })
    }

    /// Waits for its end. Dropping this loses nothing.
    pub(super) async fn ended(&mut self) -> ExitCode {
        match self.child.wait().await {
            Ok(status) => ExitCode::from(code(status)),
            Err(error) => {
                error!("can't wait for the command: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Terminates it, and waits for its end. Each further signal is passed on to it.
    pub(super) async fn finish(mut self, stop: &mut Stop) -> ExitCode {
        loop {
            self.terminate();
            tokio::select! {
                biased;
                code = self.ended() => return code,
                () = stop.requested() => {}
            }
        }
    }

    fn terminate(&self) {
        // Once it has ended, it has no id.
        let id = self.child.id().and_then(|id| Pid::from_raw(id as i32));
        if let Some(id) = id
            && let Err(error) = kill_process(id, Signal::TERM)
        {
            error!("can't terminate the command: {error}");
        }
    }
}

/// A command's exit code; for one that a signal has ended, the code that shells report.
fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => code as u8,
        (None, signal) => 128 | signal.unwrap_or_default() as u8,
    }
}
