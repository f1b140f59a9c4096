//! Backends that hang, refuse and come back, the network that loses their packets, and clients that
//! report what they noticed.

mod backend;
mod clients;
mod filter;

pub use self::{
    backend::Backend,
    clients::{Outcome, at_once, at_rate, one_by_one, visit},
    filter::Filter,
};
