use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};

use crate::Runtime;

/// The last part of a time limit: a sleep in which the runtime finds out what arrived in time.
const LOOK: Duration = Duration::from_millis(10);

/// How many looks there are at most. A look that was interrupted by another pause is repeated.
const LOOKS_MAX: u8 = 3;

/// A time limit on some work, which is polled first, by the same task.
///
/// When a process resumes after a pause (SIGSTOP, a freezer, a suspended machine), every timer is
/// due at once, and fires before the reactor has reported what arrived meanwhile: the pause
/// interrupts the reactor's wait, which then reports nothing. So a limit expires only after a sleep
/// that has ended on time, in which the runtime has polled its reactor and woken the work. Without
/// a pause, it expires exactly when it is due.
pub(super) struct Deadline {
    due: Duration,
    /// When the timer is due.
    fires_at: Duration,
    timer: BoxFuture<'static, ()>,
    looks: u8,
}

impl Deadline {
    /// A limit that expires after this time.
    pub(super) fn new(runtime: &dyn Runtime, limit: Duration) -> Self {
        let (now, until_look) = (runtime.now(), limit.saturating_sub(LOOK));
        let timer = runtime.sleep(until_look);
        Self { due: now + limit, fires_at: now + until_look, timer, looks: 0 }
    }

    /// Ready when the limit has expired. Poll it after the work that it limits.
    pub(super) fn poll(&mut self, runtime: &dyn Runtime, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.poll_unpin(cx).is_ready() {
            let now = runtime.now();
            let is_on_time = now < self.fires_at + LOOK;
            if self.looks == LOOKS_MAX || (self.looks > 0 && is_on_time) {
                return Poll::Ready(());
            }
            self.looks += 1;
            // If the limit isn't over yet, the look ends when it is.
            let look = if now < self.due { self.due - now } else { LOOK };
            self.fires_at = now + look;
            self.timer = runtime.sleep(look);
        }
        Poll::Pending
    }
}
