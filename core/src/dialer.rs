use std::{io, time::Duration};

use async_trait::async_trait;

use crate::{Conn, Fault, Target};

/// Connects to targets. An adapter implements it; one dialer serves all sessions of a server, at
/// the same time.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Where a backend is.
    type Target: Target;
    /// What a connection to it is.
    type Conn: Conn;

    /// Connects to a target. The caller gives up after `within`; a dialer that has several
    /// addresses to try shares it among them, and needs no timer otherwise.
    ///
    /// # Errors
    /// Anything: the session then goes to another target.
    ///
    /// # Cancellation
    /// Once the future is dropped, no connect starts, and one that is under way is given up.
    async fn dial(&self, target: &Self::Target, within: Duration) -> io::Result<Self::Conn>;

    /// Dials a target that is ejected, to find out whether it accepts connections again, and aborts
    /// the connection at once. Override this if the transport can ask in a way that disturbs the
    /// target less.
    ///
    /// # Errors
    /// As [`Self::dial`].
    ///
    /// # Cancellation
    /// As [`Self::dial`].
    async fn probe(&self, target: &Self::Target, within: Duration) -> io::Result<()> {
        let mut conn = self.dial(target, within).await?;
        conn.abort();
        Ok(())
    }

    /// Whose fault it is that a dial or a probe failed. Only a fault of the target ejects it, so in
    /// doubt an error is ours. The default blames the target for three kinds of errors: refused,
    /// reset, and host unreachable.
    fn classify(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            io::ErrorKind::ConnectionReset => Fault::Reset,
            io::ErrorKind::HostUnreachable => Fault::Unreachable,
            _ => Fault::Ours,
        }
    }

    /// Whether a target may be in a set at all; called for each target of each new set. Only the
    /// adapter can know that it is, say, the server's own address.
    ///
    /// # Errors
    /// What is wrong with the target, for people to read, without the target itself.
    fn validate(&self, _target: &Self::Target) -> Result<(), String> {
        Ok(())
    }
}
