use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tinylb_core::{BackendSet, Verdict, Verdicts};
use tokio::time::Instant;

use crate::Address;

/// What a [`Checked`](super::Checked) knows at present. Clones show the same.
#[derive(Clone)]
pub struct VerdictBoard(Arc<Mutex<State>>);

struct State {
    verdicts: Verdicts<Address>,
    /// When the time of the verdicts was 0.
    began: Instant,
}

impl VerdictBoard {
    pub(super) fn new(verdicts: Verdicts<Address>) -> Self {
        Self(Arc::new(Mutex::new(State { verdicts, began: Instant::now() })))
    }

    /// The newest set of the source whose backends are checked, whatever their verdicts. `None` before
    /// the first.
    pub fn set(&self) -> Option<BackendSet<Address>> {
        self.lock().verdicts.inner().cloned()
    }

    /// The verdict on each target of that set, ascending by target, and for how long it has been the
    /// same.
    pub fn verdicts(&self) -> Vec<(Verdict<Address>, Duration)> {
        let state = self.lock();
        let now = state.began.elapsed();
        let with_age = |verdict: Verdict<Address>| {
            let age = now.saturating_sub(verdict.since);
            (verdict, age)
        };
        state.verdicts.verdicts().map(with_age).collect()
    }

    /// Lets the verdicts decide something, at this time.
    pub(super) fn decide<R>(
        &self,
        decide: impl FnOnce(&mut Verdicts<Address>, Duration) -> R,
    ) -> R {
        let mut state = self.lock();
        let now = state.began.elapsed();
        decide(&mut state.verdicts, now)
    }

    /// When there may be something to decide though nothing comes.
    pub(super) fn due(&self) -> Option<Instant> {
        let state = self.lock();
        state.verdicts.due().map(|due| state.began + due)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
