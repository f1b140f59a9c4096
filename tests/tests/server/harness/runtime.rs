//! Tokio's runtime, watched.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{AbortHandle, Abortable, BoxFuture};
use tinylb_core::Runtime;
use tinylb_tokio::TokioRuntime;
use tokio::time::Instant;

/// Tokio's runtime, which counts its tasks and can be made to drop them. Clones are the same.
///
/// Its epoch is its own, so that tests in one process don't share a clock.
#[derive(Clone)]
pub struct TestRuntime {
    inner: TokioRuntime,
    epoch: Instant,
    tasks: Arc<AtomicUsize>,
    aborts: Arc<Mutex<Vec<AbortHandle>>>,
}

impl TestRuntime {
    pub fn current() -> Self {
        let (tasks, aborts) = Default::default();
        Self { inner: TokioRuntime::current(), epoch: Instant::now(), tasks, aborts }
    }

    /// A runtime of its own in the same executor: it counts, and drops, for itself.
    pub fn another(&self) -> Self {
        let (tasks, aborts) = Default::default();
        Self { tasks, aborts, ..self.clone() }
    }

    /// Tasks that exist.
    pub fn tasks(&self) -> usize {
        self.tasks.load(Ordering::SeqCst)
    }

    /// Drops every task, as a runtime does that shuts down.
    pub fn drop_tasks(&self) {
        let aborts =
            std::mem::take(&mut *self.aborts.lock().unwrap_or_else(|poison| poison.into_inner()));
        aborts.into_iter().for_each(|abort| abort.abort());
    }
}

/// One task, while it exists.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Runtime for TestRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.tasks.fetch_add(1, Ordering::SeqCst);
        let counted = Counted(Arc::clone(&self.tasks));
        let (abort, registration) = AbortHandle::new_pair();
        self.aborts.lock().unwrap_or_else(|poison| poison.into_inner()).push(abort);
        self.inner.spawn(Box::pin(async move {
            let _counted = counted;
            let _ = Abortable::new(task, registration).await;
        }));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }
}
