//! The core's traits on turmoil's simulated network.

mod conn;
mod dialer;
mod listener;
mod network;
mod packets;
mod runtime;
mod shown;
mod watch;
mod wire;

pub use self::{
    conn::TurmoilConn,
    dialer::TurmoilDialer,
    listener::TurmoilListener,
    network::{Network, NetworkOptions},
    packets::{Packet, PacketFate, PacketKind},
    runtime::TurmoilRuntime,
};
