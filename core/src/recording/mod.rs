//! Recordings: what servers did, in the order in which they decided it, as text.
//!
//! A recording is a header and then a line for each event. A line has the microseconds since the line
//! before, the number of a service, a word that says what happened, and its particulars:
//!
//! ```text
//! tinylb-recording 1
//! service 0 web
//! 0 0 settings dial_timeout=3000000 dial_patience=250000 …
//! key 0 a
//! target 0 127.0.0.1:8001
//! 913 0 set 1 0 0 0 0:0
//! 40122 0 accept 0
//! 1 0 pick 0 0 0
//! 0 0 dial 0 0
//! 211 0 connect 0 0
//! 51930 0 end 0 finished 18 4096
//! ```
//!
//! Services, keys and targets are named once, before the line that first needs their number. A
//! recording may break off anywhere: what comes before its last line break counts.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::time::Duration;

pub use self::{
    read::{Recording, RecordingError},
    write::RecordingWriter,
};
use crate::{EndReason, Fault, Settings, Side};

/// The first line.
const HEADER: &str = "tinylb-recording 1";

/// One line of a [`Recording`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// When it was written, since the recording began. Never before what it is about.
    pub at: Duration,
    /// The number of its service; 0 for what concerns all.
    pub service: u32,
    /// What happened.
    pub what: Recorded,
}

/// What a line of a recording is about, see [`Event`](crate::Event). Sessions are named by their
/// serial, keys and targets by their place in the recording's lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Recorded {
    /// A client's connection was accepted.
    Accepted {
        /// The session.
        serial: u64,
    },
    /// A backend was picked.
    Admitted {
        /// The session.
        serial: u64,
        /// The backend's key.
        key: u32,
        /// Its target.
        target: u32,
    },
    /// The dial begins.
    DialStarted {
        /// The session.
        serial: u64,
        /// Whom it dials.
        target: u32,
    },
    /// A dial came to nothing.
    DialFailed {
        /// The session.
        serial: u64,
        /// Whom it dialled.
        target: u32,
        /// Why.
        failure: RecordedFailure,
    },
    /// The backend is connected.
    Connected {
        /// The session.
        serial: u64,
        /// The backend's target.
        target: u32,
    },
    /// One side's end of stream has been passed on.
    HalfClosed {
        /// The session.
        serial: u64,
        /// The side.
        by: Side,
    },
    /// The session is over.
    Ended {
        /// The session.
        serial: u64,
        /// Why.
        reason: EndReason,
        /// Bytes that were passed on to the backend.
        bytes_to_backend: u64,
        /// Bytes that were passed on to the client.
        bytes_to_client: u64,
    },
    /// A target was ejected.
    Ejected {
        /// The target.
        target: u32,
        /// What it did.
        fault: Fault,
    },
    /// A probe has ended.
    Probed {
        /// The target.
        target: u32,
        /// Why it failed; `None` if it succeeded.
        failure: Option<RecordedFailure>,
    },
    /// A target is in rotation again.
    Returned {
        /// The target.
        target: u32,
        /// Time since it was ejected.
        ejected_for: Duration,
    },
    /// The set was replaced.
    SetReplaced(Box<RecordedSet>),
    /// The settings are these from now on; or from the beginning, if they come first. Those that say
    /// nothing of what is recorded have their defaults.
    Settings(Box<Settings>),
    /// The source was lost.
    SourceLost,
    /// The source is back.
    SourceBack,
    /// The last set of a source that was lost was given up.
    SourceStale,
    /// The server shuts down.
    ShutdownBegan,
    /// Whatever was left is aborted.
    Closed,
    /// The shutdown is complete.
    Over,
    /// The recording lacks this many events of the service here: it couldn't be written in time.
    Dropped {
        /// How many.
        count: u64,
    },
    /// The recording has reached its bound, and has nothing that came later.
    Full,
    /// The program ran at this time: written about once a second, whatever happens.
    Tick,
}

/// Why a dial or a probe came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordedFailure {
    /// The dialer's error, as it was classified.
    Failed(Fault),
    /// It took too long.
    TimedOut,
    /// It went unanswered, and there was another target to go to.
    GivenUp,
    /// A replacement removed the target.
    Revoked,
}

/// A set, and what it did when it took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedSet {
    /// The replacement's number.
    pub generation: u64,
    /// [`Report::sessions_cut`](crate::Report::sessions_cut).
    pub sessions_cut: usize,
    /// [`Report::dials_revoked`](crate::Report::dials_revoked).
    pub dials_revoked: usize,
    /// [`Report::sessions_draining`](crate::Report::sessions_draining).
    pub sessions_draining: usize,
    /// Key and target of each backend, in key order.
    pub backends: Vec<(u32, u32)>,
}

/// How the settings that the judgement needs are written: microseconds, numbers, or `off`.
macro_rules! settings_fields {
    ($use:ident) => {
        $use! {
            time dial_timeout;
            option dial_patience;
            flag ejection;
            time probe_interval_min;
            time probe_interval_max;
            count probes_max;
            option cut_silent;
            count dial_attempts_max;
            time dial_time_max;
            count waiting_max;
            time waiting_timeout;
            option half_close_timeout;
            option idle_timeout;
            time delivery_timeout;
            count max_connections;
        }
    };
}
use settings_fields;
