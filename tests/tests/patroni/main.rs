//! A database whose primary moves: PostgreSQL with Patroni and etcd, which each test starts for itself,
//! and clients that write to it through the program. Where one of them isn't installed, each test says
//! so and does nothing.
//!
//! Every wait is for a condition, with a deadline that only a hang can reach. Where a time is judged, a
//! round in which the machine paused is repeated.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

mod harness;
mod hung;
mod killed;
mod page;
mod replicas;
mod stopped;
mod switchover;
mod tools;
/// What starts the program and what is around it.
#[path = "../program"]
mod tinylb {
    #[allow(dead_code, unused_imports)] // Some of it is for the other tests of the program.
    pub(crate) mod harness;
}
