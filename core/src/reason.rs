use std::fmt;

/// Why a session ended. Each session has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum EndReason {
    /// Both directions came to their end, and each end was passed on.
    Finished,
    /// A replacement removed the session's target.
    BackendRemoved,
    /// The session's target had been removed, and the time to drain was over.
    DrainExpired,
    /// The session's target had answered no dial and no probe for
    /// [`Settings::cut_silent`](crate::Settings::cut_silent), while another did.
    BackendSilent,
    /// The set was empty.
    NoBackends,
    /// Too many sessions waited for a set.
    WaitingFull,
    /// No set to dial from came in time.
    WaitingTimedOut,
    /// Every attempt to dial a backend failed.
    DialFailed,
    /// The time for all attempts to dial together was over.
    DialTimedOut,
    /// The client's connection failed: reset, or dead.
    ClientFailed,
    /// The backend's connection failed: reset, or dead.
    BackendFailed,
    /// One direction had ended, and the other moved no byte for too long.
    HalfCloseTimedOut,
    /// Neither direction moved a byte for too long.
    IdleTimedOut,
    /// The server shut down.
    Shutdown,
    /// The dialer or the relay panicked: a bug in one of them.
    Panicked,
    /// The runtime dropped the session's task.
    TaskDropped,
}

impl EndReason {
    /// Every reason, in the order of declaration.
    pub const ALL: [Self; 16] = [
        Self::Finished,
        Self::BackendRemoved,
        Self::DrainExpired,
        Self::BackendSilent,
        Self::NoBackends,
        Self::WaitingFull,
        Self::WaitingTimedOut,
        Self::DialFailed,
        Self::DialTimedOut,
        Self::ClientFailed,
        Self::BackendFailed,
        Self::HalfCloseTimedOut,
        Self::IdleTimedOut,
        Self::Shutdown,
        Self::Panicked,
        Self::TaskDropped,
    ];

    /// The reason in snake case, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::BackendRemoved => "backend_removed",
            Self::DrainExpired => "drain_expired",
            Self::BackendSilent => "backend_silent",
            Self::NoBackends => "no_backends",
            Self::WaitingFull => "waiting_full",
            Self::WaitingTimedOut => "waiting_timed_out",
            Self::DialFailed => "dial_failed",
            Self::DialTimedOut => "dial_timed_out",
            Self::ClientFailed => "client_failed",
            Self::BackendFailed => "backend_failed",
            Self::HalfCloseTimedOut => "half_close_timed_out",
            Self::IdleTimedOut => "idle_timed_out",
            Self::Shutdown => "shutdown",
            Self::Panicked => "panicked",
            Self::TaskDropped => "task_dropped",
        }
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many sessions ended for each reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals([u64; EndReason::ALL.len()]);

impl Totals {
    /// The sessions that ended for this reason.
    pub fn of(&self, reason: EndReason) -> u64 {
        self.0[reason as usize]
    }

    /// The sessions that ended.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn add(&mut self, reason: EndReason) {
        self.0[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_listed_once_in_its_place() {
        for (place, reason) in EndReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason}");
        }
    }
}
