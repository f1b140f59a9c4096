//! The driver among clients and backends that talk: a scenario on connections, whatever carries
//! them.
//!
//! [`run`] does it on turmoil's simulated network. Anything else that can listen and dial takes
//! part by a [`Fabric`] of its own: run [`balance`], [`connect`] and [`serve`] where balancer,
//! clients and backends are, and let a [`Director`] say when things happen.

mod balancer;
mod checked;
mod clients;
mod cues;
mod director;
mod fabric;
mod judge;
mod orders;
mod party;
mod payload;
mod simulated;
mod tap;
mod tap_dialer;
mod world;

pub use self::{
    balancer::balance,
    clients::{connect, serve},
    director::{Director, Disturbance},
    fabric::{Fabric, Spot},
    simulated::{run, run_with},
    tap::{TapConn, TapRelay},
    world::World,
};
