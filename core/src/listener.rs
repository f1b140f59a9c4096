use std::io;

use async_trait::async_trait;

use crate::Conn;

/// Accepts clients' connections. An adapter implements it.
#[async_trait]
pub trait Listener: Send + 'static {
    /// What a client's connection is.
    type Conn: Conn;

    /// The next connection. Called one at a time.
    ///
    /// # Errors
    /// Anything; [`Self::classify`] says what it means. The server calls again unless the error is
    /// fatal.
    ///
    /// # Cancellation
    /// Dropping the future loses no connection: one that isn't returned stays in the backlog.
    async fn accept(&mut self) -> io::Result<Self::Conn>;

    /// What an error of [`Self::accept`] means for the listener. The default knows what
    /// [`io::ErrorKind`] can tell; an adapter that has error numbers should look at them.
    fn classify(&self, error: &io::Error) -> AcceptFailure {
        match error.kind() {
            io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
            | io::ErrorKind::WouldBlock => AcceptFailure::Skip,
            io::ErrorKind::InvalidInput
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Unsupported
            | io::ErrorKind::UnexpectedEof => AcceptFailure::Fatal,
            _ => AcceptFailure::BackOff,
        }
    }
}

/// What an accept's error means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFailure {
    /// It was that one connection's: the next may be accepted at once.
    Skip,
    /// Something has run out, such as descriptors or memory: a pause (5 ms, doubled each time up
    /// to 1 s) lets others give some back.
    BackOff,
    /// The listener itself is dead.
    Fatal,
}
