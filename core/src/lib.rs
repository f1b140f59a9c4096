//! A round-robin balancer of connections, apart from any runtime.
//!
//! A client connects, the next backend of the cycle is dialled, bytes flow both ways. When the set
//! of backends is replaced, every connection to a target that left the set is closed at once.
//!
//! - Decisions: [`Balancer`] is plain state with plain methods. [`BackendSet`] is what it chooses
//!   from, [`Cycle`] how it chooses, [`Change`] the difference between two sets.
//! - The driver: [`Server`] accepts, dials and relays as the balancer says. Its [`Handle`] replaces
//!   the set and shuts it down. [`Event`]s tell what happens.
//! - The traits that an adapter implements: [`Listener`], [`Dialer`], [`Conn`] and [`Runtime`];
//!   [`Relay`] if [`CopyRelay`] won't do. `tinylb-tokio` is one for production, and
//!   `examples/smol.rs` a complete one in about a hundred lines.
//!
//! Nothing in this crate reads a clock, a random number or the order of a hash map; nothing in it
//! names a runtime or a socket.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod absence;
mod balancer;
mod budget;
mod change;
mod conn;
mod copy;
mod cycle;
mod dialer;
mod error;
mod event;
mod ids;
mod intake;
mod listener;
mod pool;
mod reason;
mod relay;
mod runtime;
mod server;
mod set;
mod settings;
mod snapshot;
mod source;
mod source_settings;
mod sync;

pub use self::{
    absence::Absent,
    balancer::{Admission, Balancer, Owed, Pick, Refusal, Replaced},
    budget::{Budget, MemberId},
    change::Change,
    conn::Conn,
    copy::CopyRelay,
    cycle::Cycle,
    dialer::Dialer,
    error::{ListenerError, SetError, SettingsError},
    event::{DialFailure, Event, Limit, Report, Side},
    ids::{BackendKey, Generation, ListenerId, SessionId},
    listener::{AcceptFailure, Listener},
    pool::Load,
    reason::{EndReason, Totals},
    relay::{Direction, Progress, Relay, RelayError},
    runtime::Runtime,
    server::{
        Following, Handle, ListenerHandle, Replacement, Server, SharedBudget, Shutdown, StopHandle,
    },
    set::{BackendSet, Target},
    settings::{Removal, Settings},
    snapshot::Snapshot,
    source::{BadEntry, Publisher, Subscription, Update, publisher},
    source_settings::{BadEntries, Floor, Held, SourceSettings},
};
