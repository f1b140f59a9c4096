//! What the balancer dials, seen at the adapter's door.

use std::{io, panic::resume_unwind, sync::Arc, time::Duration};

use async_trait::async_trait;
use tinylb_core::{Dialer, Side};

use super::{Fabric, Spot, World, tap::TapConn, world::PANIC_AS_TOLD};
use crate::scenario::Place;

/// A dialer whose dials and connections are watched; its targets are places.
pub(super) struct TapDialer<F: Fabric> {
    pub(super) fabric: Arc<F>,
    pub(super) inner: F::Dialer,
    pub(super) world: World,
}

#[async_trait]
impl<F: Fabric> Dialer for TapDialer<F> {
    type Target = Place;
    type Conn = TapConn<<F::Dialer as Dialer>::Conn>;

    async fn dial(&self, target: &Place, within: Duration) -> io::Result<Self::Conn> {
        let session = self.world.judge().dials(*target);
        if self.world.judge().cues().takes_panic(*target) {
            resume_unwind(Box::new(PANIC_AS_TOLD));
        }
        let address = self.fabric.address(Spot::Backend(*target));
        let conn = self.inner.dial(&address, within).await?;
        self.world.judge().dialled(session, *target, &self.fabric.name(&conn));
        Ok(TapConn::new(conn, &self.world, Side::Backend, session))
    }
}
