//! The program `tinylb`, started for real, on real sockets of the loopback.
//!
//! Every wait is for a condition, with a deadline that only a hang can reach.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

mod admin;
mod checks;
mod circle;
mod delivery;
mod descriptors;
mod dial;
mod dns;
mod docs;
mod ejection;
mod exit;
mod harness;
mod https;
mod killed;
mod leaving;
mod memory;
mod names;
mod output;
mod pause;
mod put;
mod record;
mod relay;
mod reload;
mod removal;
mod rotation;
mod shutdown;
mod source;
mod tools;
mod unix_socket;
#[cfg(target_os = "linux")]
mod upkeep;
mod workers;
