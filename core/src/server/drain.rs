use std::{sync::Arc, time::Duration};

use super::{
    shared::Shared,
    signal::{Signal, Word},
    state::State,
};
use crate::{Generation, Removal, Target};

/// The sessions that drain since one replacement. Kept until their time is over, even if all of
/// them have ended by then.
pub(super) struct Drain {
    began: Duration,
    /// How often the end has been set. Only the newest end counts.
    ends: u64,
    /// Stops the task that waits for the newest end.
    stop: Option<Arc<Signal>>,
}

impl Drain {
    pub(super) fn new(began: Duration) -> Self {
        Self { began, ends: 0, stop: None }
    }
}

impl<T: Target> State<T> {
    /// Sets a drain's end by the removal that is in force. Returns the end's number, and the time
    /// until it.
    fn end_drain_by_setting(
        &mut self,
        generation: Generation,
        now: Duration,
    ) -> Option<(u64, Duration)> {
        let time = match self.settings.removal {
            Removal::Abort => Duration::ZERO,
            Removal::Drain(time) => time,
        };
        let drain = self.drains.get_mut(&generation)?;
        drain.ends += 1;
        self.wakes.raise(drain.stop.take(), Word::Closed);
        Some((drain.ends, (drain.began + time).saturating_sub(now)))
    }

    fn drain_is_over(&mut self, generation: Generation, number: u64) {
        if self.drains.get(&generation).is_some_and(|drain| drain.ends == number) {
            self.drains.remove(&generation);
            let expired = self.balancer.drain_expired(generation);
            self.wakes.raise(expired, Word::Expired);
        }
    }
}

impl<T: Target> Shared<T> {
    /// Reschedules every drain by the present setting, counted from when the drain began.
    pub(super) fn end_drains(self: &Arc<Self>) {
        let drains: Vec<Generation> = self.step(|state| state.drains.keys().copied().collect());
        drains.into_iter().for_each(|generation| self.end_drain(generation));
    }

    /// Aborts the sessions that drain since a replacement, once their time is over.
    pub(super) fn end_drain(self: &Arc<Self>, generation: Generation) {
        let now = self.runtime.now();
        let end = self.step(|state| {
            let (number, left) = state.end_drain_by_setting(generation, now)?;
            if left.is_zero() {
                state.drain_is_over(generation, number);
                return None;
            }
            Some((number, left))
        });
        let Some((number, left)) = end else { return };
        let (shared, sleep) = (Arc::clone(self), self.runtime.sleep(left));
        let stop = self.spawn(async move {
            sleep.await;
            shared.step(|state| state.drain_is_over(generation, number));
        });
        self.step(|state| match state.drains.get_mut(&generation) {
            Some(drain) if drain.ends == number => drain.stop = Some(stop),
            // Another end has been set meanwhile.
            Some(_) => state.wakes.raise([stop], Word::Closed),
            None => {}
        });
    }
}
