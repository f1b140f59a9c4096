//! What backends that hang, refuse, die and return cost clients: the driver that ships, on tokio and
//! real sockets, in a network namespace whose rules drop packets.
//!
//! Every wait is for a condition, with a deadline that only a hang can reach. What is compared are
//! counts of what the server did, so that a slow machine changes nothing; the benchmark beside other
//! balancers (`--bench peers -- outages`) measures times.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

mod die;
mod hang;
mod harness;
mod quiet;
/// What enters a namespace.
#[path = "../program"]
mod program {
    #[allow(dead_code, unused_imports)] // Most of it is for the tests of the program.
    pub(crate) mod harness;
}
