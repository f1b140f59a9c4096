use std::{io, time::Duration};

use async_trait::async_trait;

use crate::{Conn, Target};

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

    /// Whether a target may be in a set at all; called for each target of each new set. Only the
    /// adapter can know that it is, say, the server's own address.
    ///
    /// # Errors
    /// What is wrong with the target, for people to read, without the target itself.
    fn validate(&self, _target: &Self::Target) -> Result<(), String> {
        Ok(())
    }
}
