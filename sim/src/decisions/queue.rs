//! What comes due in a run, and when.

use std::cmp::Ordering;

use tinylb_core::{EndReason, Fault};

use crate::scenario::{Manner, Place};

/// Something that comes due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// A looping client connects.
    Loop(u32),
    /// A client connects once, for this many milliseconds.
    Once(u32, Manner),
    /// The dial of a session's attempt is over.
    Dialled(u32, u32, Failed),
    /// A session comes to its own end.
    Over(u32, u32, EndReason),
    /// A session's task notices a signal.
    Signalled(u32, u32, Word),
    /// The dial of a session's attempt has gone unanswered for long enough, or is to be looked at
    /// again.
    Overdue(u32, u32),
    /// The pause is over before targets that have failed are dialled again.
    Again(u32, u32),
    /// A session has waited for long enough.
    WaitOver(u32, u32),
    /// Something is due about ejected targets.
    Attend,
    /// A probe is over.
    Probed(u32, Failed),
    /// A probe notices that it is to be given up.
    ProbeGivenUp(u32),
    /// The time to drain since a replacement is over.
    Deadline(u64),
    /// The scenario's step of this number.
    Step(u32),
    /// The act of the rule of this number.
    Act(u32, Place),
    /// The grace of the shutdown is over.
    GraceOver,
    /// Faults stop, and all is to come right.
    Heal,
    /// A client comes to see whether all is right.
    Probe,
}

/// How a dial ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Failed {
    No,
    Through(Fault),
}

/// What a signal asks a session's task to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Word {
    Removed,
    Expired,
    Silent,
    Revoked,
    Refused,
    Closed,
    Panicked,
}

pub(super) struct Entry {
    pub(super) at: u64,
    /// Decides what comes first at the same time.
    pub(super) tie: u64,
    pub(super) due: Due,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    /// The earliest is the greatest, as the heap wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.tie).cmp(&(self.at, self.tie))
    }
}
