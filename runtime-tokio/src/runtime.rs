use std::{sync::OnceLock, time::Duration};

use futures::future::BoxFuture;
use tinylb_core::Runtime;
use tokio::{runtime::Handle, time::Instant};

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
        let now = Instant::now();
        now.saturating_duration_since(*EPOCH.get_or_init(|| now))
    }
}
