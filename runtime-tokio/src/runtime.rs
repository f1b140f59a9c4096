use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tinylb_core::Runtime;
use tokio::runtime::Handle;

/// A tokio runtime, of either flavour. All in one process share their epoch.
#[derive(Clone, Debug)]
pub struct TokioRuntime {
    handle: Handle,
}

static EPOCH: OnceLock<Instant> = OnceLock::new();

impl TokioRuntime {
    /// The runtime with this handle. It must have time enabled.
    pub fn new(handle: Handle) -> Self {
        Self { handle }
    }

    /// The runtime that the caller runs in.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn current() -> Self {
        Self::new(Handle::current())
    }
}

impl Runtime for TokioRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        drop(self.handle.spawn(task));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let _context = self.handle.enter();
        Box::pin(tokio::time::sleep(duration))
    }

    fn now(&self) -> Duration {
        let _context = self.handle.enter();
        // A runtime with a paused clock may be behind the true time, so the epoch is before it.
        let epoch = EPOCH.get_or_init(|| {
            let now = Instant::now();
            now.checked_sub(Duration::from_secs(60)).unwrap_or(now)
        });
        tokio::time::Instant::now().into_std().saturating_duration_since(*epoch)
    }
}
