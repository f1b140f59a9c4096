//! The contract of an adapter of [`tinylb_core`], as tests that run against any of them; and an adapter
//! in memory with a runtime on virtual time, to test what you build on the core.
//!
//! # Test your adapter
//! Depend on this crate, write one [`Adapter`] and one line:
//!
//! ```text
//! struct Mine;
//!
//! impl Adapter for Mine {
//!     type Listener = MyListener;
//!     type Dialer = MyDialer;
//!
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities { notices_cut: false, ..Capabilities::default() }
//!     }
//!     async fn listen(&self) -> io::Result<(MyListener, MyTarget)> { .. }
//!     fn nowhere(&self) -> MyTarget { .. }
//!     fn dialer(&self) -> MyDialer { .. }
//!     fn runtime(&self) -> impl Runtime { .. }
//!     fn run(&self, case: impl Future<Output = ()> + 'static) { .. }
//! }
//!
//! tinylb_contract::contract_tests!(mine, Mine);
//! ```
//!
//! Each case becomes a `#[test]`. [`stream`] is about bytes and their end, [`cut`] about connections
//! that are given up, [`connect`] about dialling and accepting, [`fault`] about dials that fail and probes, and [`balanced`] puts a
//! [`Server`](tinylb_core::Server) with the adapter on both its sides between client and backend.
//! What an adapter says that it can't do isn't skipped: the cases assert what it does instead.
//!
//! No case measures time, and none waits for any: an adapter that loses a wake-up hangs, and
//! [`Adapter::run`] is to end that after a generous while. A case that fails then prints what it was
//! waiting for.
//!
//! # Test your dialer, your source, or what you build around a server
//! [`pipe`] has listeners, a dialer and connections in memory, and [`VirtualTime`] is a runtime whose
//! time passes only when nothing else is left to do: so a test with time limits of an hour takes no
//! time, and does the same each time.
//!
//! ```
//! use std::time::Duration;
//! use futures::{AsyncReadExt, AsyncWriteExt};
//! use tinylb_contract::{VirtualTime, pipe::PipeNetwork};
//! use tinylb_core::{BackendSet, CopyRelay, Dialer, Listener, Removal, Server, Settings};
//!
//! let (time, network) = (VirtualTime::new(), PipeNetwork::new());
//! let hour = Duration::from_secs(3600);
//! let mut settings = Settings::default();
//! settings.removal = Removal::Drain(hour);
//! let server = Server::new(network.dialer(), time.clone(), settings)?;
//! server.listen(network.listen("front"), CopyRelay::default(), time.clone());
//! let mut backend = network.listen("backend");
//! let set = BackendSet::new([("a", backend.target())])?;
//! drop(server.handle().replace(set)?);
//!
//! time.run(async {
//!     let mut client = network.dialer().dial(&"front".into(), hour).await.unwrap();
//!     let mut session = backend.accept().await.unwrap();
//!     drop(server.handle().replace(BackendSet::empty()).unwrap());
//!
//!     // The backend has left, and its session drains for an hour, and no longer.
//!     client.write_all(b"?").await.unwrap();
//!     session.read_exact(&mut [0]).await.unwrap();
//!     assert!(client.read(&mut [0]).await.is_err());
//!     assert_eq!(time.elapsed(), hour);
//! });
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A dialer of yours that wraps another can wrap [`pipe::PipeDialer`]; [`pipe::PipeNetwork::script`]
//! has its dials fail, hang or wait. A source is a stream: give it to
//! [`Handle::follow`](tinylb_core::Handle::follow) and look at
//! [`Handle::snapshot`](tinylb_core::Handle::snapshot).
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod balanced;
pub mod connect;
pub mod cut;
mod drive;
pub mod fault;
pub mod pipe;
pub mod stream;
mod virtual_time;
mod waiting;

use std::io;

use tinylb_core::{CopyRelay, Dialer, Listener, Relay, Runtime};

pub use self::virtual_time::VirtualTime;
#[doc(hidden)]
pub use self::waiting::Report;

/// An adapter, set up for one case.
#[allow(async_fn_in_trait)] // `run` drives a case where it stands; nothing is sent to a thread.
pub trait Adapter {
    /// What accepts: clients for the balancer, and the balancer for the backends of the tests.
    type Listener: Listener;
    /// What dials: backends for the balancer, and the balancer for the clients of the tests.
    type Dialer: Dialer;

    /// What the adapter can show, and what it does instead.
    fn capabilities(&self) -> Capabilities;

    /// A new listener, and the target by which [`Self::dialer`] reaches it.
    async fn listen(&self) -> io::Result<(Self::Listener, TargetOf<Self>)>;

    /// A target that refuses every dial.
    fn nowhere(&self) -> TargetOf<Self>;

    /// A new dialer.
    fn dialer(&self) -> Self::Dialer;

    /// The relay that the balancer uses.
    fn relay(&self) -> impl Relay<Accepted<Self>, Dialled<Self>> {
        CopyRelay::default()
    }

    /// The runtime that the balancer uses. Asked for within [`Self::run`].
    fn runtime(&self) -> impl Runtime;

    /// Lets the next accept at a target fail, in a way that is not fatal, before a connection is
    /// taken. `false`: the adapter has no means to.
    fn fail_accept(&self, _target: &TargetOf<Self>) -> bool {
        false
    }

    /// The error of a dial that fails in this way: a real one if the adapter can bring it about, and
    /// otherwise one as its dialer would report it. `None`: no dial of this adapter fails like that.
    #[allow(unused_variables)]
    async fn failed_dial(&self, failure: Failure) -> Option<io::Error> {
        None
    }

    /// Runs a case to its end, together with what [`Self::runtime`] spawns. The case borrows
    /// nothing, so that it may be handed to a simulator as the program of a host.
    ///
    /// # Panics
    /// When the case does, and when it has not ended after a generous while (a minute, say).
    fn run(&self, case: impl Future<Output = ()> + 'static);
}

/// Where an adapter's dialer dials.
pub type TargetOf<A> = <<A as Adapter>::Dialer as Dialer>::Target;
/// The connection that an adapter accepts.
pub type Accepted<A> = <<A as Adapter>::Listener as Listener>::Conn;
/// The connection that an adapter dials.
pub type Dialled<A> = <<A as Adapter>::Dialer as Dialer>::Conn;

/// What an adapter can show. Where it can't do what TCP can, the cases assert what it says here
/// that it does instead. The default is TCP on Linux.
///
/// The cases count on a connection to hold 16 KiB in each direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What the other end sees of an abort, when each end has read all it was sent.
    pub abort: Sight,
    /// What the other end sees of an abort by an end that has bytes left to read.
    pub abort_unread: Sight,
    /// Whether [`Conn::poll_cut`](tinylb_core::Conn::poll_cut) reports an abort that is a
    /// [`Sight::Cut`]. If not, it never reports anything.
    pub notices_cut: bool,
    /// Whether [`Conn::unacknowledged`](tinylb_core::Conn::unacknowledged) knows what an abort
    /// discards, or an abort discards nothing.
    pub knows_unacknowledged: bool,
    /// Whether a probe of a target ([`Dialer::probe`]) goes unseen by its listener. If not, each is
    /// accepted as a connection that is over.
    pub hides_probes: bool,
    /// A bound for the bytes that one direction of a connection holds while nobody reads them.
    pub in_flight_max: u64,
    /// Bytes that are moved where the amount matters: enough to fill buffers several times.
    pub volume: u64,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            abort: Sight::Cut,
            abort_unread: Sight::Cut,
            notices_cut: true,
            knows_unacknowledged: true,
            hides_probes: true,
            in_flight_max: 64 << 20,
            volume: 4 << 20,
        }
    }
}

/// A way in which a dial fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nothing gets to the target, as the network says.
    Unreachable,
    /// The target doesn't answer, and the transport doesn't wait any longer.
    TimedOut,
    /// The process has no descriptor left.
    OutOfDescriptors,
    /// This machine has no port left to dial from.
    OutOfPorts,
}

/// How a stream is over, for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// A read fails.
    Cut,
    /// A read returns 0.
    End,
}

/// One `#[test]` for each case of the contract, in a module of this name, each with an adapter of
/// its own that the expression makes.
#[macro_export]
macro_rules! contract_tests {
    ($name:ident, $adapter:expr) => {
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $crate::contract_tests! { @each $adapter;
                stream {
                    bytes_arrive_intact_both_ways_at_odd_sizes
                    an_answer_after_the_end_of_the_question_arrives_whole
                    an_end_of_stream_comes_after_every_byte_and_nothing_after_it
                    a_connection_finished_after_its_ends_is_not_cut
                    a_connection_finished_with_much_to_send_loses_nothing
                    a_writer_waits_for_a_reader_that_does_not_read
                }
                cut {
                    an_aborted_stream_is_not_taken_for_a_finished_one
                    a_connection_dropped_unfinished_is_not_taken_for_a_finished_one
                    an_abort_with_bytes_unread_leaves_a_prefix_and_a_cut
                    what_came_before_a_cut_can_be_read_after_a_write_has_failed
                    an_abort_wakes_a_stuck_writer
                    a_cut_is_noticed_without_reading
                    who_watches_for_a_cut_still_gets_bytes_and_room
                    an_end_of_stream_is_not_taken_for_a_cut
                }
                connect {
                    both_ends_have_a_name_for_people
                    a_refused_dial_is_an_error
                    a_dial_that_is_given_up_leaves_no_connection_behind
                    an_accept_that_is_given_up_loses_no_connection
                    an_accept_that_fails_costs_no_connection
                    a_client_that_is_gone_before_it_is_accepted_costs_no_other
                }
                fault {
                    a_refusal_is_the_targets_fault
                    a_reset_during_the_handshake_is_the_targets_fault
                    a_target_that_does_not_answer_is_at_fault
                    what_this_machine_lacks_is_not_the_targets_fault
                    an_error_of_unknown_origin_is_ours
                    a_probe_finds_a_target_that_accepts_and_leaves_no_connection
                    a_probe_that_is_refused_is_the_targets_fault
                }
                balanced {
                    bytes_pass_intact_both_ways_at_odd_sizes
                    an_answer_passes_whole_after_the_end_of_the_question
                    an_abort_is_passed_on_to_the_other_side
                    an_answer_arrives_whose_backend_takes_no_more_of_the_question
                    what_a_side_sent_before_it_failed_reaches_a_slow_reader
                    a_removal_does_not_wait_for_what_a_failed_side_had_sent
                    a_slow_reader_stalls_its_own_writer_and_nobody_else
                    a_removed_backend_is_cut_from_its_clients_and_others_are_not
                    a_removal_does_not_wait_for_a_peer_that_stalls
                    a_backend_that_refuses_costs_no_client
                    an_accept_that_fails_costs_no_client
                    a_thread_outside_every_runtime_steers_the_server
                }
            }
        }
    };
    (@each $adapter:expr; $($group:ident { $($case:ident)* })*) => {
        $($(
            #[test]
            fn $case() {
                let adapter = ::std::rc::Rc::new($adapter);
                let shared = ::std::rc::Rc::clone(&adapter);
                let case = async move { $crate::$group::$case(&*shared).await };
                let _report = $crate::Report::default();
                $crate::Adapter::run(&*adapter, case);
            }
        )*)*
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_case_that_is_written_is_run() {
        let listed = include_str!("lib.rs");
        let files = [
            include_str!("stream.rs"),
            include_str!("cut.rs"),
            include_str!("connect.rs"),
            include_str!("fault.rs"),
            include_str!("balanced.rs"),
        ];
        let cases = files.iter().flat_map(|file| file.lines()).filter_map(|line| {
            line.strip_prefix("pub async fn ").and_then(|line| line.split('<').next())
        });
        let unlisted: Vec<&str> =
            cases.filter(|case| !listed.lines().any(|line| line.trim() == *case)).collect();
        assert!(unlisted.is_empty(), "not in contract_tests!: {unlisted:?}");
    }
}
