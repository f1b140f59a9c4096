use std::{sync::Arc, time::Duration};

use crate::{
    Absent, BackendSet, BadEntry, Ejected, Generation, Held, Limit, Load, Settings, Totals,
};

/// The state of a server at one moment.
///
/// `accepted = live + ended.sum()`.
#[derive(Clone)]
#[non_exhaustive]
pub struct Snapshot<T> {
    /// The current set, shared and not copied; `None` before the first.
    pub set: Option<BackendSet<T>>,
    /// The newest replacement.
    pub generation: Generation,
    /// Time since a source or a caller last gave a set, even an equal one.
    pub set_age: Option<Duration>,
    /// Why the source of sets is lost, if it is.
    pub source_lost: Option<Arc<str>>,
    /// The source's set that is held back, if there is one.
    pub set_held: Option<Held>,
    /// Entries of the source that are no backends and were left out.
    pub left_out: Arc<[BadEntry]>,
    /// Backends in the set that its source no longer names, in key order.
    pub absent: Vec<Absent>,
    /// The sessions of each target that has any, ascending by target.
    pub loads: Vec<Load<T>>,
    /// The targets that are ejected, ascending.
    pub ejected: Vec<Ejected<T>>,
    /// Probes that are under way.
    pub probes: usize,
    /// Sessions that wait for a set.
    pub waiting: usize,
    /// Clients accepted, ever.
    pub accepted: u64,
    /// Sessions that have not ended.
    pub live: usize,
    /// Sessions that have ended, by reason.
    pub ended: Totals,
    /// Bytes written to backends by sessions that have ended.
    pub bytes_to_backends: u64,
    /// Bytes written to clients by sessions that have ended.
    pub bytes_to_clients: u64,
    /// The limit for which accepting had to pause in the last 10 s, if any.
    pub limit_reached: Option<Limit>,
    /// Listeners that accept.
    pub listeners: usize,
    /// Whether the server has begun to shut down.
    pub is_shutting_down: bool,
    /// The settings in force.
    pub settings: Arc<Settings>,
}
