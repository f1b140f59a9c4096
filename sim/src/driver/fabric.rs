//! What carries a run's connections.

use std::io;

use async_trait::async_trait;
use tinylb_core::{CopyRelay, Dialer, Listener, Relay, Runtime};

use super::tap::TapConn;
use crate::scenario::Place;

/// What carries connections, as seen from one host.
#[async_trait]
pub trait Fabric: Send + Sync + 'static {
    /// Accepts connections.
    type Listener: Listener;
    /// Makes connections.
    type Dialer: Dialer;
    /// Tasks and time.
    type Runtime: Runtime + Clone;

    /// Listens at a spot of this host.
    ///
    /// # Errors
    /// The spot is taken, or not this host's.
    async fn listen(&self, at: Spot) -> io::Result<Self::Listener>;
    /// A dialer of this host.
    fn dialer(&self) -> Self::Dialer;
    /// Where a spot is.
    fn address(&self, of: Spot) -> <Self::Dialer as Dialer>::Target;
    /// This host's runtime.
    fn runtime(&self) -> Self::Runtime;
    /// What moves the bytes; it holds at most `buffer` of them each way. By default, the one that
    /// serves any connections.
    fn relay(
        &self,
        buffer: usize,
    ) -> impl Relay<TapConn<<Self::Listener as Listener>::Conn>, TapConn<<Self::Dialer as Dialer>::Conn>>
    {
        CopyRelay::new(buffer)
    }
    /// The name by which the other end of a dialled connection knows it
    /// ([`Conn::peer`](tinylb_core::Conn::peer)).
    fn name(&self, conn: &<Self::Dialer as Dialer>::Conn) -> String;
}

/// Where somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spot {
    /// The balancer, for clients.
    Front,
    /// A backend, for the balancer.
    Backend(Place),
}
