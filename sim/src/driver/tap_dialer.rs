//! What the balancer dials, seen at the adapter's door.

use std::{io, panic::resume_unwind, sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error as ThisError;
use tinylb_core::{Dialer, Fault, Side};

use super::{Fabric, Spot, World, tap::TapConn, world::PANIC_AS_ORDERED};
use crate::scenario::{DialError, Place};

/// A dialer whose dials, probes and connections are watched, and whose dials fail as ordered; its targets
/// are places.
pub(super) struct TapDialer<F: Fabric> {
    pub(super) fabric: Arc<F>,
    pub(super) inner: F::Dialer,
    pub(super) world: World,
    pub(super) clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

/// A probe that is under way.
struct Probing {
    number: u32,
    world: World,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Drop for Probing {
    fn drop(&mut self) {
        let now = (self.clock)();
        self.world.judge().probe_over(now, self.number);
    }
}

#[async_trait]
impl<F: Fabric> Dialer for TapDialer<F> {
    type Target = Place;
    type Conn = TapConn<<F::Dialer as Dialer>::Conn>;

    async fn dial(&self, target: &Place, within: Duration) -> io::Result<Self::Conn> {
        let session = self.world.judge().dials(*target);
        if self.world.judge().cues().takes_panic(*target) {
            resume_unwind(Box::new(PANIC_AS_ORDERED));
        }
        self.fail_as_ordered(*target)?;
        let address = self.fabric.address(Spot::Backend(*target));
        let conn = self.inner.dial(&address, within).await?;
        self.world.judge().dialled(session, *target, &self.fabric.name(&conn));
        Ok(TapConn::new(conn, &self.world, Side::Backend, session))
    }

    async fn probe(&self, target: &Place, within: Duration) -> io::Result<()> {
        let (world, clock) = (self.world.clone(), Arc::clone(&self.clock));
        let number = world.judge().probes(clock(), *target);
        // Dropped after the inner probe, however that ends.
        let _probing = Probing { number, world, clock };
        self.fail_as_ordered(*target)?;
        let address = self.fabric.address(Spot::Backend(*target));
        self.inner.probe(&address, within).await
    }

    fn classify(&self, error: &io::Error) -> Fault {
        let as_ordered = error.get_ref().and_then(|error| error.downcast_ref::<AsOrdered>());
        as_ordered.map_or_else(|| self.inner.classify(error), |AsOrdered(error)| error.fault())
    }
}

impl<F: Fabric> TapDialer<F> {
    /// Fails a dial or a probe if the scenario wants it to.
    fn fail_as_ordered(&self, target: Place) -> io::Result<()> {
        let ordered = self.world.judge().cues().takes_dial_failure(target);
        let Some(error) = ordered else { return Ok(()) };
        let kind = match error {
            DialError::NoDescriptors => io::ErrorKind::Other,
            DialError::Refused => io::ErrorKind::ConnectionRefused,
            DialError::Reset => io::ErrorKind::ConnectionReset,
            DialError::Unreachable => io::ErrorKind::HostUnreachable,
        };
        Err(io::Error::new(kind, AsOrdered(error)))
    }
}

/// How a dial fails when the scenario wants it to. Networks have no such errors, so it is not for
/// their dialers to say whose fault it is.
#[derive(Debug, ThisError)]
#[error("a dial fails as ordered: {0:?}")]
struct AsOrdered(DialError);
