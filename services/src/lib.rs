//! What a program decides about its services, apart from any runtime and any socket.
//!
//! A service is one balancer of [`tinylb_core`], with the addresses that it listens at and the source
//! of its backends. This crate decides what they do together. All of it is plain state: no clock, no
//! lock, no task, no I/O, no random number, no order of a hash map.
//!
//! - [`Services`] takes what happened, and answers what to do: a configuration was read
//!   ([`Services::plan`], then [`Services::commit`]), the program is to stop ([`Services::stop`]), less
//!   is left of a service that leaves ([`Services::left`]), or nothing ([`Services::closed`]).
//! - A [`Plan`] is the difference that a configuration makes. Nothing has changed until it is
//!   committed, so a driver first does all of it that can fail.
//! - A [`Definition`] is what a configuration says of one service.
//! - [`Descriptors`] splits what a process may have open over its services.

mod definition;
mod descriptors;
mod ends;
mod life;
mod plan;
mod services;

pub use definition::{Definition, SocketKey, socket_key};
pub use descriptors::{CheckKind, Descriptors, Need, Room, Split};
pub use ends::Ends;
pub use life::{Rest, Why};
pub use plan::{Feed, Plan, Planned, Step};
pub use services::{Action, Departing, Farewell, ServiceId, Services};
