//! What a program decides about its services, apart from any runtime and any socket.
//!
//! A service is one balancer of [`tinylb_core`], with the addresses that it listens at and the source
//! of its backends. This crate decides what they do together. All of it is plain state: no clock, no
//! lock, no task, no I/O, no random number, no order of a hash map.
//!
//! - [`Descriptors`] splits what a process may have open over its services.

mod descriptors;

pub use descriptors::{CheckKind, Descriptors, Need, Room, Split};
