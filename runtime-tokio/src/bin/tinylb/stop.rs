use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::Failure;

/// Signals that say that somebody wants the program to end.
pub(crate) struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    pub(crate) fn new() -> Result<Self, Failure> {
        Ok(Self {
            terminate: hear(SignalKind::terminate())?,
            interrupt: hear(SignalKind::interrupt())?,
        })
    }

    /// The next one. If it is dropped, nothing is lost.
    pub(crate) async fn said(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Signals of this kind: from now on they don't end the program by themselves.
pub(crate) fn hear(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::Error(format!("can't listen to signals: {error}")))
}
