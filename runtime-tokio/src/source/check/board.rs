use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
    time::Duration,
};

use tinylb_core::{BackendSet, CheckSettings, SettingsError, Verdict, Verdicts};
use tokio::time::Instant;

use super::Checker;
use crate::Address;

/// What a [`Checked`](super::Checked) knows at present, and what it asks. Clones are about the same.
#[derive(Clone)]
pub struct VerdictBoard(Arc<Mutex<State>>);

struct State {
    verdicts: Verdicts<Address>,
    /// When the time of the verdicts was 0.
    began: Instant,
    /// What is to ask from now on.
    checker: Option<Arc<dyn Checker>>,
    /// Wakes the task that checks.
    waker: Option<Waker>,
}

impl VerdictBoard {
    pub(super) fn new(verdicts: Verdicts<Address>) -> Self {
        let (began, checker, waker) = (Instant::now(), None, None);
        Self(Arc::new(Mutex::new(State { verdicts, began, checker, waker })))
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

    /// Lets this checker ask from now on. Each verdict stays until its answers say otherwise, and every
    /// backend is asked at once.
    pub fn ask(&self, checker: impl Checker) {
        let waker = {
            let mut state = self.lock();
            state.checker = Some(Arc::new(checker));
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    /// Changes when backends are asked, and what their answers mean. Each verdict stays until the next
    /// answer.
    ///
    /// # Errors
    /// A setting is out of its range. Nothing took effect.
    pub fn configure(&self, settings: CheckSettings) -> Result<(), SettingsError> {
        let waker = {
            let mut state = self.lock();
            let now = state.began.elapsed();
            state.verdicts.configure(now, settings)?;
            state.waker.take()
        };
        waker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// What is to ask from now on, if that is news. Wakes the task when there is more.
    pub(super) fn new_checker(&self, cx: &Context<'_>) -> Option<Arc<dyn Checker>> {
        let mut state = self.lock();
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        state.checker.take()
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
