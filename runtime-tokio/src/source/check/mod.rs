//! Checks: whether backends may be used.
//!
//! - `http/`, `tcp.rs`: the checkers; `words.rs`: how they put an error.

mod http;
mod tcp;
mod words;

use std::{num::NonZeroU16, time::Duration};

use async_trait::async_trait;
use tinylb_core::{Answer, BackendSet};

pub use self::{
    http::{HttpCheck, HttpCheckError},
    tcp::TcpCheck,
};
use crate::{Address, TcpTarget};

/// Asks backends whether they may be used.
#[async_trait]
pub trait Checker: Send + Sync + 'static {
    /// Asks this backend. Called for several backends at a time, and for each of them
    /// by one call at a time.
    ///
    /// # Cancellation
    /// The future is dropped `within` that time, which counts as no answer. So it has to return
    /// earlier if it knows the answer.
    async fn check(&self, target: &Address, within: Duration) -> Answer;

    /// These are the backends from now on: drop what is kept for any other. Does nothing by default.
    fn retain(&self, _set: &BackendSet<Address>) {}
}

/// Where a backend is asked.
///
/// # Errors
/// The backend has no ports.
fn at_port(target: &Address, port: Option<NonZeroU16>) -> Result<Address, String> {
    match (target, port) {
        (target, None) => Ok(target.clone()),
        (Address::Tcp(TcpTarget { host, .. }), Some(port)) => {
            Ok(Address::Tcp(TcpTarget { host: host.clone(), port: port.get() }))
        }
        (Address::Unix(_), Some(port)) => {
            Err(format!("a Unix socket has no port {port}: check it without a port"))
        }
    }
}
