use std::{fmt, io, sync::Arc, time::Duration};

use crate::{
    BackendKey, BackendSet, BadEntry, EndReason, Fault, Generation, Held, ListenerId, Pick,
    SessionId, Settings,
};

/// Something that happened in a server.
///
/// Events are numbered from 0 in the order in which they took effect, and observers see them in
/// that order, after the fact. For each session: `Accepted` first, `Ended` last, one of each.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<T> {
    /// A client's connection was accepted. Without an `Admitted` to follow, it waits for the first
    /// set or is refused.
    Accepted {
        /// The session that begins.
        id: SessionId,
        /// The listener that it came by.
        listener: ListenerId,
        /// The client's address, for people to read.
        peer: String,
    },
    /// A backend was picked, and the attempt to dial it is in the pool.
    Admitted {
        /// The session.
        id: SessionId,
        /// The backend.
        pick: Pick<T>,
    },
    /// The dial begins.
    DialStarted {
        /// The session.
        id: SessionId,
        /// The backend.
        pick: Pick<T>,
    },
    /// A dial came to nothing. Another `Admitted` follows, or the end.
    DialFailed {
        /// The session.
        id: SessionId,
        /// The backend.
        pick: Pick<T>,
        /// Why.
        failure: DialFailure,
    },
    /// The backend is connected; bytes may flow.
    Connected {
        /// The session.
        id: SessionId,
        /// The backend.
        pick: Pick<T>,
    },
    /// A target doesn't accept connections, so the rotation skips it from now on. Its sessions stay.
    /// Reported once, until it returns or leaves the set.
    Ejected {
        /// The target.
        target: T,
        /// What it did.
        fault: Fault,
    },
    /// A probe of an ejected target has ended. One that was given up, since its target left the set
    /// or the server ends, has no such event.
    Probed {
        /// The target.
        target: T,
        /// Why it failed; `None` if it succeeded.
        failure: Option<DialFailure>,
    },
    /// An ejected target has accepted a connection, so it is in rotation again.
    Returned {
        /// The target.
        target: T,
        /// Time since it was ejected.
        ejected_for: Duration,
    },
    /// One side's end of stream has been passed on; the other direction goes on.
    HalfClosed {
        /// The session.
        id: SessionId,
        /// The side that has sent all it had.
        by: Side,
    },
    /// The session is over: both its ends are let go.
    Ended {
        /// The session.
        id: SessionId,
        /// The backend of its newest attempt, if there was one.
        pick: Option<Pick<T>>,
        /// Why.
        reason: EndReason,
        /// Bytes that were passed on to the backend: written, and not discarded by an abort, as far
        /// as the transport knows ([`Conn::unacknowledged`](crate::Conn::unacknowledged)).
        bytes_to_backend: u64,
        /// Bytes that were passed on to the client.
        bytes_to_client: u64,
    },
    /// The set was replaced by one that says something else.
    SetReplaced {
        /// What that did.
        report: Arc<Report>,
        /// The set from now on.
        set: BackendSet<T>,
    },
    /// A source of sets has been lost, or gave a set that can't be taken; the last set stays. Reported
    /// once, until it is back.
    SourceLost {
        /// The source's reason, or what is wrong with the set.
        reason: Arc<str>,
        /// The age of the set that stays, as in [`Snapshot::set_age`](crate::Snapshot::set_age);
        /// `None` before the first.
        set_age: Option<Duration>,
    },
    /// A source that was lost gives sets again.
    SourceBack {
        /// Time since it was lost.
        lost_for: Duration,
    },
    /// A source was lost for longer than
    /// [`SourceSettings::max_stale`](crate::SourceSettings::max_stale): an empty set takes the place
    /// of the last one.
    SourceStale {
        /// The source's last reason.
        reason: Arc<str>,
    },
    /// A source's set is held by [`SourceSettings::floor`](crate::SourceSettings::floor).
    SetHeld(Held),
    /// Sets of a source lack these entries from now on, which are no backends; perhaps none again.
    EntriesLeftOut(Arc<[BadEntry]>),
    /// The settings are these from now on.
    Configured(Arc<Settings>),
    /// The server shuts down: no client is accepted any more, and sessions may finish.
    ShutdownBegan,
    /// Whatever was left is aborted.
    Closed,
    /// A limit leaves no room for another connection, so accepting pauses. Reported once until
    /// [`Self::LimitLeft`], however many clients wait meanwhile.
    LimitReached(Limit),
    /// For 10 s no accept loop has had to wait for room.
    LimitLeft,
    /// An accept failed.
    AcceptFailed {
        /// The listener.
        listener: ListenerId,
        /// Its error.
        error: io::Error,
        /// How long the listener pauses; zero if it just goes on, `None` if it is dead.
        pause: Option<Duration>,
    },
}

/// The limit that leaves no room for another connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Limit {
    /// [`Settings::max_connections`](crate::Settings::max_connections), with its value.
    Own(usize),
    /// The [`SharedBudget`](crate::SharedBudget), with its total: all of it is in use, or reserved
    /// for other servers.
    Shared(usize),
}

/// One of the two ends of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that connected to the balancer.
    Client,
    /// Whom the balancer dialled.
    Backend,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client => "client",
            Self::Backend => "backend",
        })
    }
}

/// Why a dial came to nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum DialFailure {
    /// The dialer's error.
    Failed(io::Error),
    /// It took longer than [`Settings::dial_timeout`](crate::Settings::dial_timeout), or than
    /// what was left of [`Settings::dial_time_max`](crate::Settings::dial_time_max).
    TimedOut,
    /// It went unanswered for longer than the target's patience
    /// ([`Settings::dial_patience`](crate::Settings::dial_patience)), and another target was there to
    /// go to.
    GivenUp,
    /// A replacement removed the target.
    Revoked,
}

impl fmt::Display for DialFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => error.fmt(f),
            Self::TimedOut => f.write_str("timed out"),
            Self::GivenUp => f.write_str("no answer yet"),
            Self::Revoked => f.write_str("backend removed"),
        }
    }
}

/// What a replacement did, when it took effect.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Its number.
    pub generation: Generation,
    /// Whether the set says anything else than the one before; the first set always does.
    pub is_change: bool,
    /// How many backends the set has now.
    pub backends: usize,
    /// Keys that came, ascending.
    pub added: Vec<BackendKey>,
    /// Keys that left, ascending.
    pub removed: Vec<BackendKey>,
    /// Keys that stayed and changed their target, ascending.
    pub retargeted: Vec<BackendKey>,
    /// Sessions that were connected to a target that left, and are aborted. (One that came to its
    /// own end in the same moment is among them.)
    pub sessions_cut: usize,
    /// Dials of a target that left: their sessions go to another backend, if there is one.
    pub dials_revoked: usize,
    /// Sessions that were connected to a target that left, and drain.
    pub sessions_draining: usize,
}
