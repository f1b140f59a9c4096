//! What the balancer and the clients are ordered to do.

use crate::scenario::{Backends, Plan, Setting};

/// How the reason of every loss ends.
pub(super) const LOST: &str = "as ordered";

/// What the balancer is to do.
#[derive(Debug)]
pub(super) enum Order {
    /// To take these sets, one right after the other.
    Replace(Vec<Backends>),
    /// To wait until what it has taken is applied.
    Confirm,
    LoseSource,
    /// To take this set with an entry that is no backend.
    Spoil(Backends),
    /// In milliseconds.
    Drain(u32),
    /// To eject targets that don't accept connections, or not.
    Ejection(bool),
    /// To change a setting.
    Set(Setting, u32),
    /// To set all that can be changed so back to what it was in the beginning.
    SetBack,
    ResetCycle,
    /// With this many milliseconds of grace.
    Shutdown(u32),
}

/// What clients are to do.
#[derive(Debug)]
pub(super) enum Visit {
    Connect(u32, Plan),
    Probe(u32),
}

/// What one client is to do with its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ClientOrder {
    GoOn,
    /// To send no more and to come to its end.
    Close,
    /// To reset the connection.
    Abort,
}
