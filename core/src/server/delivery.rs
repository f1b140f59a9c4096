//! Delivery to the side that has not failed.

use std::{future::poll_fn, task::Poll, time::Duration};

use crate::{Conn, Runtime};

/// Pauses between two queries of the system; each is twice the one before.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

/// Waits until the other end's system has confirmed all that was written, or until that end is cut.
/// An abort would discard what is unconfirmed.
pub(super) async fn confirmed(conn: &mut impl Conn, runtime: &dyn Runtime) {
    let mut pause = PAUSE_MIN;
    while conn.unacknowledged() > 0
        && poll_fn(|cx| Poll::Ready(conn.poll_cut(cx).is_pending())).await
    {
        runtime.sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
