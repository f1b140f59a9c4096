//! Starts etcd, disturbs it, and notes what a source reports.

mod balancer;
mod cluster;
mod process;
mod relay;
mod reports;
mod traffic;
mod wait;
mod writer;

pub(crate) use self::{
    balancer::Balancer,
    cluster::Cluster,
    process::{Process, Security, own_host},
    relay::Relay,
    reports::Reports,
    traffic::{Backends, Client, Talker},
    wait::{DEADLINE, PREFIX, eventually, say},
    writer::Writer,
};
