//! The source of sets in etcd, the registration of backends there, and balancers that follow it: with
//! a real etcd that each test starts for itself, on one member or three. Where etcd isn't installed,
//! each says so and does nothing.
//!
//! Every wait is for a condition, with a deadline that only a hang can reach.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

mod balancers;
mod failover;
mod harness;
mod history;
mod keeper;
mod login;
mod program;
mod register;
mod sets;
/// What starts the program and what is around it.
#[path = "../program"]
mod tinylb {
    #[allow(dead_code, unused_imports)] // Some of it is for the other tests of the program.
    pub(crate) mod harness;
}
