//! A round-robin balancer of connections, apart from any runtime.
//!
//! A client connects, the next backend of the cycle is dialled, bytes flow both ways. When the set
//! of backends is replaced, every connection to a target that left the set is closed at once.
//!
//! The decisions, without a connection (`tinylb-tokio` begins with an example of the whole):
//!
//! ```
//! use std::time::Duration;
//!
//! use tinylb_core::{Admission, BackendSet, Balancer, Change, EndReason, Removal, Settings};
//!
//! let mut balancer = Balancer::new(Settings::default());
//! let both = BackendSet::new([("a", "10.0.0.1:80"), ("b", "10.0.0.2:80")])?;
//! let first = balancer.replace(Change::between(None, both), Removal::Abort, Duration::ZERO);
//! assert!(first.is_ok_and(|first| first.is_change));
//!
//! let (session, admission) = balancer.admit("kill handle of the first client");
//! assert!(matches!(admission, Admission::Dial(pick) if pick.target == "10.0.0.1:80"));
//! assert!(balancer.connected(session, Duration::from_millis(1), Duration::from_millis(1)), "the dial has succeeded: bytes may flow");
//!
//! // The first backend leaves: the session is to be cut.
//! let one = BackendSet::new([("b", "10.0.0.2:80")])?;
//! let change = Change::between(balancer.set().cloned(), one);
//! let Ok(replaced) = balancer.replace(change, Removal::Abort, Duration::from_secs(1)) else { unreachable!() };
//! assert_eq!(replaced.cut, ["kill handle of the first client"]);
//!
//! // The replacement is applied once the session has let go of its connections.
//! assert!(!balancer.is_applied(replaced.generation));
//! let owed = balancer.finish(session, EndReason::BackendRemoved);
//! owed.into_iter().for_each(|owed| balancer.acknowledge(owed));
//! assert!(balancer.is_applied(replaced.generation));
//! # Ok::<(), tinylb_core::SetError>(())
//! ```
//!
//! # The strata
//! Each knows those above it only.
//!
//! - **Decisions**, plain state with plain methods: [`Balancer`], with [`BackendSet`], which it
//!   chooses from, [`Cycle`], how it chooses, [`Change`], the difference between two sets, and
//!   [`Budget`], which several balancers share. What they say: [`Admission`], [`Pick`],
//!   [`Refusal`], [`Replaced`], [`Owed`], [`EndReason`], [`Fault`], [`Load`], [`Totals`].
//! - **Sources of sets**: a stream of [`Update`]s, or a [`publisher`]; [`SourceSettings`] say which
//!   of its sets are taken. [`Verdicts`] narrow its sets to the backends that pass a check.
//! - **What an adapter implements**: [`Listener`], [`Dialer`], [`Conn`] and [`Runtime`]; [`Relay`]
//!   if [`CopyRelay`] won't do; or [`Socket`], for [`SocketRelay`], which splices. `tinylb-tokio` is
//!   one for production, and `examples/smol.rs` a complete one in about a hundred lines.
//! - **The driver**: [`Server`] accepts, dials and relays as the balancer says. Its [`Handle`]
//!   replaces the set, follows a source, changes [`Settings`], shuts the server down, and takes a
//!   [`Snapshot`]. An observer sees each [`Event`].
//!
//! Nothing in this crate reads a clock, a random number or the order of a hash map; nothing in it
//! names a runtime or a system's sockets.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod absence;
mod admission;
mod balancer;
mod bitmap;
mod budget;
mod change;
mod conn;
mod cycle;
mod dialer;
mod error;
mod event;
mod fault;
mod health;
mod ids;
mod intake;
mod listener;
mod pool;
mod reason;
mod recording;
mod relay;
mod runtime;
mod server;
mod set;
mod settings;
mod snapshot;
mod source;
mod source_settings;
mod spread;
mod sync;
mod verdicts;

// Decisions.
pub use self::{
    admission::{Admission, Pick, Refusal},
    balancer::{Balancer, Owed, Replaced},
    budget::{Budget, MemberId},
    change::Change,
    cycle::Cycle,
    error::SetError,
    fault::Fault,
    health::{Ejected, Notice, Probe, ProbeEnd, ProbeId},
    ids::{BackendKey, Generation, ListenerId, SessionId},
    pool::Load,
    reason::{EndReason, Totals},
    set::{BackendSet, Target},
    settings::{EmptySet, Removal},
};

// Sources of sets.
pub use self::{
    absence::Absent,
    source::{BadEntry, Publisher, Subscription, Update, publisher},
    source_settings::{BadEntries, Floor, Held, SourceSettings},
    verdicts::{
        Answer, Check, CheckId, CheckSettings, Verdict, VerdictChange, VerdictState, Verdicts,
        WhenNone,
    },
};

// What an adapter implements.
pub use self::{
    conn::Conn,
    dialer::Dialer,
    listener::{AcceptFailure, Listener},
    relay::{
        CopyRelay, Direction, Pipe, Progress, Readiness, Relay, RelayError, Sizes, Socket,
        SocketConn, SocketKind, SocketRelay, SocketStream, Splice,
    },
    runtime::Runtime,
};

// The driver.
pub use self::{
    error::{ListenerError, SettingsError},
    event::{DialFailure, Event, Limit, Report, Side},
    recording::{
        Record, Recorded, RecordedFailure, RecordedSet, Recording, RecordingError, RecordingWriter,
    },
    server::{
        Ends, Following, Handle, ListenerHandle, Replacement, Server, SharedBudget, Shutdown,
        StopHandle, confirmed,
    },
    settings::Settings,
    snapshot::Snapshot,
};
