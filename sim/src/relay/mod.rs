//! Runs the relay that ships on a model of a system's sockets and pipes.
//!
//! Two connections, the client's and the backend's, with buffers of given sizes, and a
//! [`SocketRelay`](tinylb_core::SocketRelay) between them. Peers send, end, abort, close and stop
//! reading; the reactor reports late, early and for no reason; calls are interrupted, splices fail
//! and pipes run out. Everything else about the session is as in production: its ends
//! ([`Ends`](tinylb_core::Ends)), and how a delivery is confirmed
//! ([`confirmed`](tinylb_core::confirmed)).
//!
//! It is plain state, driven by a seed: no runtime, no network, some microseconds for a scenario.
//! One unit of its time is one thing that happens.

mod happening;
mod judge;
mod kernel;
mod minimize;
mod network;
mod questions;
mod run;
mod scenario;
mod socket;
mod tcp;
mod text;

pub(crate) use self::text::FIRST_LINE;
pub use self::{
    happening::Happening,
    minimize::minimize,
    questions::{Answer, Level as SocketLevel, Question, answers},
    run::run,
    scenario::{CONFIG_FIELDS, Config, ConfigField, Operation, Scenario, Step},
};
