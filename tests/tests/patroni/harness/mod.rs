//! Starts a cluster and clients that write to it, disturbs it, and judges what the clients noticed.

mod api;
mod balancer;
mod cluster;
mod estate;
mod judge;
mod node;
mod poller;
mod programs;
mod readers;
mod record;
mod wait;
mod writers;

pub(crate) use self::{
    balancer::Balancer,
    cluster::Cluster,
    judge::{BOUND, Judge, Promotion},
    node::Node,
    poller::{PAUSE_MAX, Poller},
    programs::say,
    readers::{Reader, Visitors},
    record::{Entry, Record, What},
    wait::eventually,
    writers::Writers,
};
