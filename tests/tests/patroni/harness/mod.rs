//! Starts a cluster and clients that write to it, disturbs it, and judges what the clients noticed.

mod api;
mod balancer;
mod cluster;
mod judge;
mod node;
mod poller;
mod programs;
mod record;
mod wait;
mod writers;

pub(crate) use self::{
    balancer::{Balancer, CHECK, service},
    cluster::Cluster,
    judge::{BOUND, Judge},
    node::Node,
    poller::Poller,
    programs::say,
    record::{Entry, Record, What},
    wait::eventually,
    writers::Writers,
};
