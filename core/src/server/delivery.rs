//! Delivery to the side that has not failed.

use std::{future::poll_fn, task::Poll, time::Duration};

use crate::{Conn, Runtime};

/// The first pause between two queries of the system. Each is twice the one before, within bounds.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest pause: a hundredth of the time that the delivery has taken so far, within these
/// bounds. So a delivery ends soon after it is confirmed, and a thousand slow deliveries cost little.
const PAUSE_MAX: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];

/// Waits until the other end's system has confirmed all that was written, or until that end is cut.
/// An abort would discard what is unconfirmed. Dropping the future stops the wait.
pub async fn confirmed(conn: &mut impl Conn, runtime: &dyn Runtime) {
    let (mut pause, mut taken) = (PAUSE_MIN, Duration::ZERO);
    while conn.unacknowledged() > 0
        && poll_fn(|cx| Poll::Ready(conn.poll_cut(cx).is_pending())).await
    {
        runtime.sleep(pause).await;
        taken += pause;
        let [least, most] = PAUSE_MAX;
        pause = (pause * 2).min((taken / 100).clamp(least, most));
    }
}
