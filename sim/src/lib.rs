//! tinylb on a simulated network, and what to do with it there.
//!
//! A scenario is drawn from a seed, run in simulated time, and judged by the laws:
//!
//! ```
//! use tinylb_sim::{Level, Profile, Scenario};
//!
//! let scenario = Scenario::from_seed(&Profile::FAST, 7);
//! let outcome = Level::Driver.run(&scenario, false);
//! assert!(outcome.violations.is_empty(), "{:?}", outcome.violations);
//!
//! // A seed is a run: all that happens is the same again.
//! let again = Level::Driver.run(&scenario, false);
//! assert_eq!(again.trace.hash(), outcome.trace.hash());
//! ```
//!
//! - An adapter of the core's traits for [turmoil]: [`Network`], what the hosts of one simulation
//!   share, and where faults are made; [`TurmoilListener`], [`TurmoilDialer`], [`TurmoilConn`] and
//!   [`TurmoilRuntime`], for use inside turmoil's hosts; [`Packet`], what [`Network::watch`] shows
//!   of the network.
//! - [`Scenario`]s: what there is in a run and what happens when, as plain data, drawn from any
//!   source of choices ([`Entropy`]), written and read as text.
//! - [`decisions`]: runs a scenario on the balancer's decisions alone, millions of steps a second,
//!   and judges each step by a naive balancer beside it. What it finds are [`Violation`]s of
//!   [`Law`]s.
//! - [`driver`]: runs it on the server that ships, with clients and backends on that network.
//! - [`relay`]: runs the relay that ships on a model of a system's sockets, some 65,000
//!   scenarios a second.
//! - [`recorded`]: judges what the program did, by a recording, with the same ledger.
//! - [`Level`]: which of these ways a scenario is run; [`minimize`]: a smaller scenario that breaks
//!   the same law; [`timeline`]: what happened, as a page to look at.
//! - The program `tinylb-sim`, which does all this from the command line.
//!
//! The same seeds give the same run, in any process and on any thread: nothing here reads a clock,
//! a random number or the order of a hash map.
//!
//! # What is made of turmoil
//! turmoil's network is simpler than TCP. The adapter makes up for what the balancer relies on:
//! - An abort is a reset: the two ends share a [table](Network) that says what the end of the
//!   stream means; the other end reads that there once the end arrives through the network.
//! - A close of the write side is a segment of its own ([`PacketKind::End`]), so that a later abort
//!   still has turmoil's FIN to announce it.
//! - The window is counted in bytes, not in segments; reads and writes are short.
//! - A dial that meets a partition hangs until the link is whole again, and is not refused.
//! - A handshake completes before the listener is asked to accept, as in a kernel.
//! - A connection that is dropped lingers until the other end has ended too, as in a kernel.
//!
//! # What it can't do
//! - Nothing is sent again. A stream that lost a segment stalls for ever after, without an error;
//!   [`Network::is_lossy`] shows which.
//! - Segments of one direction are read in order, but a reset may overtake what was sent before it.
//! - If an end has sent bytes to a connection that was dropped meanwhile, it is reset when it hears
//!   of the drop: up to a round trip earlier than by TCP's answer to these bytes.
//! - Room in a window and the answer to a SYN (accepted or refused) take no time on the network,
//!   and pass partitions.
//! - A dial that is given up while its SYN is under way still reaches the listener, which gets a
//!   connection that is cut at once.
//! - A dial that is refused or lost keeps its port and its socket until the simulation ends: a host
//!   panics after some 16 000 of them. If the host crashes while its dial is being accepted, the
//!   acceptor never hears of it.
//! - A host can't be asked for its own address, so [`TurmoilListener`] and [`TurmoilDialer`] take
//!   it as an argument. A connection belongs to the host that made it, and is used nowhere else.
//! - Connections within one host need no link: faults don't touch them.
//! - Hosts take turns: within one tick, one may be ahead of another.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod adapter;
mod any;
pub mod decisions;
pub mod driver;
mod entropy;
mod level;
pub mod minimize;
mod nemesis;
mod oracle;
mod outcome;
pub mod recorded;
pub mod relay;
pub mod scenario;
mod sometimes;
pub mod timeline;
pub mod trace;

pub use self::{
    adapter::{
        Network, NetworkOptions, Packet, PacketFate, PacketKind, TurmoilConn, TurmoilDialer,
        TurmoilListener, TurmoilRuntime,
    },
    any::AnyScenario,
    entropy::{Bytes, Entropy, Seeded},
    level::Level,
    oracle::{Law, Violation},
    outcome::Outcome,
    scenario::{Profile, Scenario},
    sometimes::{Counts, Sometimes},
    trace::{RecordOf, Trace},
};
