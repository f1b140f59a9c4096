use std::time::Duration;

use futures::future::BoxFuture;

/// The one door to tasks and time. An adapter implements it; a server may use several, as long as
/// their clocks have one epoch.
///
/// All three methods are called from whichever thread calls the server's [`Handle`](crate::Handle):
/// [`replace`](crate::Handle::replace) and [`shutdown`](crate::Handle::shutdown), say, spawn a task
/// that waits for the end of a drain. That thread may belong to another runtime, or to none. So an
/// implementation keeps a handle to its runtime, and doesn't rely on "the current one".
///
/// Tasks are sent between threads: runtimes whose tasks can't be are left out on purpose.
pub trait Runtime: Send + Sync + 'static {
    /// Runs a task to its end, without waiting for it. A runtime that has shut down drops it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Ready when this much time has passed since the call. The future is polled by a task of any of
    /// the server's runtimes. Dropping it cancels it.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Time since an epoch that all runtimes of a server share; never goes back.
    fn now(&self) -> Duration;
}
