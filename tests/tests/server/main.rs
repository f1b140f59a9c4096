//! The driver ([`tinylb_core::Server`]), on pipes and a clock that stands still unless everybody
//! waits for it: what is seen here is the same in each run, to the millisecond.

mod harness;

mod accept;
mod admission;
mod barrier;
mod delivery;
mod dial;
mod drain;
mod ejection;
mod events;
mod limit;
mod listeners;
mod panics;
mod pause;
mod relay;
mod revoked;
mod runtimes;
mod shutdown;
mod source;
mod waiting;
