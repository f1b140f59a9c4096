//! Starts etcd, disturbs it, and notes what a source tells.

mod balancer;
mod cluster;
mod process;
mod relay;
mod told;
mod traffic;
mod wait;
mod writer;

pub(crate) use self::{
    balancer::Balancer,
    cluster::Cluster,
    process::{Process, Security, own_host},
    relay::Relay,
    told::Told,
    traffic::{Backends, Client, Talker},
    wait::{DEADLINE, PREFIX, eventually, say},
    writer::Writer,
};
