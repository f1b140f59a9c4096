use std::time::Duration;

use futures::future::BoxFuture;

/// The one door to tasks and time. An adapter implements it; a server may use several, as long as
/// their clocks have one epoch.
///
/// Tasks are sent between threads: runtimes whose tasks can't be are left out on purpose.
pub trait Runtime: Send + Sync + 'static {
    /// Runs a task to its end, without waiting for it. A runtime that has shut down drops it.
    fn spawn(&self, task: BoxFuture<'static, ()>);

    /// Ready when this much time has passed. Dropping the future cancels it.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;

    /// Time since an epoch that all runtimes of a server share; never goes back.
    fn now(&self) -> Duration;
}
