//! What can happen.

use tinylb_core::{EndReason, Fault, Side};

use crate::{
    PacketFate, PacketKind,
    relay::Happening,
    scenario::{Backends, Key, Place, Reply},
};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    /// Microseconds since the beginning.
    pub at: u64,
    /// What it was.
    pub note: Note,
}

/// What can happen. Sessions are named by their serial, connections of clients by the number of
/// the attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The scenario's step of this number was done.
    Step(u32),
    /// The scenario's rule of this number did something to this backend.
    Act(u32, Place),
    /// Faults have stopped and the set is fixed.
    Healed,

    /// See [`tinylb_core::Event`] for this and the following.
    Accepted(u64),
    /// A backend was picked for a session.
    Admitted(u64, Key, Place),
    /// A session's dial began.
    DialStarted(u64, Place),
    /// A session's dial came to nothing.
    DialFailed(u64, Failure),
    /// A session is connected.
    Connected(u64, Place),
    /// A target was ejected.
    Ejected(Place, Fault),
    /// A target is in rotation again, after this many microseconds.
    Returned(Place, u64),
    /// A probe began.
    ProbeStarted(Place),
    /// A probe has ended; `None`: it succeeded.
    Probed(Place, Option<Fault>),
    /// A probe was given up.
    ProbeGivenUp(Place),
    /// One side has ended its stream.
    HalfClosed(u64, By),
    /// A session is over.
    Ended(u64, EndReason),
    /// It has moved this many bytes to the backend and to the client.
    Moved(u64, u64, u64),
    /// The set was replaced by this one: generation, sessions cut, dials revoked, draining.
    Replaced(u64, Backends, u32, u32, u32),
    /// The set was replaced by the same set.
    Repeated(u64),
    /// A replacement is applied, and so is every one before it.
    Applied(u64),
    /// The deadline of a replacement's drain has come.
    DrainExpired(u64),
    /// The source of sets is lost.
    SourceLost,
    /// It is back.
    SourceBack,
    /// It was lost for too long.
    SourceStale,
    /// A set is held: how many targets it removes, and how many there are.
    SetHeld(u32, u32),
    /// From now on, this many entries of the sets are left out, since they are no backends.
    LeftOut(u32),
    /// An accept failed.
    AcceptFailed,
    /// The shutdown has begun.
    Closing,
    /// What was left is aborted.
    Closed,
    /// The shutdown is complete.
    ShutDown,

    /// A client's attempt has begun to connect.
    ClientDials(u32),
    /// It is connected.
    ClientConnected(u32),
    /// It has read the greeting of this backend, and how often that one had booted.
    Greeted(u32, Place, u32),
    /// It is over: bytes sent, bytes received, and how its stream was over.
    ClientOver(u32, u64, u64, Sight),
    /// A backend has taken this connection's header.
    BackendTook(Place, u32),
    /// A backend's end is over: bytes sent, bytes received, and how its stream was over.
    BackendOver(Place, u32, u64, u64, Sight),
    /// A backend's process has died, and its connections with it.
    Crashed(Place),
    /// A packet: from host and port, to host and port, what, and what became of it.
    Packet(Host, u16, Host, u16, PacketKind, PacketFate),
    /// A law was broken.
    Violated(&'static str),

    /// Something happened to the relay on the model of a system.
    Relay(Happening),

    /// A check of a backend began.
    CheckStarted(Place),
    /// It has found this.
    Checked(Place, Reply),
    /// It was given up, since its backend has left.
    CheckGivenUp(Place),
}

/// Why a dial came to nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The dialer reported it, and whose fault it was.
    Failed(Fault),
    /// It took too long.
    TimedOut,
    /// It went unanswered, and there was another target to go to.
    GivenUp,
    /// A replacement removed the target.
    Revoked,
}

/// Which side of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// The client.
    Client,
    /// The backend.
    Backend,
}

/// How a stream was over for its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sight {
    /// It ended.
    End,
    /// It was cut.
    Cut,
    /// Its reader gave it up first.
    GivenUp,
    /// There was no connection: the dial failed.
    Refused,
}

/// A host of the simulated network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// The balancer's.
    Balancer,
    /// That of all clients.
    Clients,
    /// A backend's.
    Backend(Place),
}

impl From<Side> for By {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Backend => Self::Backend,
        }
    }
}
