use std::{
    any::Any,
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tinylb_core::Runtime;
use tokio::{runtime::Handle, time::Instant};

use super::Network;
use crate::{Entropy, Seeded};

/// The runtime of one of turmoil's hosts, until that crashes. A task that panics ends alone; its
/// message is in [`Network::take_panics`].
#[derive(Clone)]
pub struct TurmoilRuntime {
    network: Network,
    handle: Handle,
    /// The same moment on the clock of the simulation and on the host's.
    epoch: (Duration, Instant),
}

impl TurmoilRuntime {
    /// The runtime of the host that the caller runs in.
    ///
    /// # Panics
    /// Outside a host's tasks.
    pub fn current(network: &Network) -> Self {
        let elapsed = turmoil::sim_elapsed().expect("to be called in a host");
        let epoch = (elapsed, Instant::now());
        Self { network: network.clone(), handle: Handle::current(), epoch }
    }
}

impl Runtime for TurmoilRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.network.add_task();
        let network = self.network.clone();
        let random = self.network.random();
        drop(self.handle.spawn(Task { network, task, random, was_put_back: false }));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let _context = self.handle.enter();
        Box::pin(tokio::time::sleep(duration))
    }

    /// Time since the simulation began, as this host has it: hosts take turns, so within a tick of
    /// the simulation one may be ahead of another. Outside the host, the time when it last ran.
    fn now(&self) -> Duration {
        let _context = self.handle.enter();
        let (elapsed, began) = self.epoch;
        elapsed + began.elapsed()
    }
}

/// A task that is counted while it lives.
struct Task {
    network: Network,
    task: BoxFuture<'static, ()>,
    random: Seeded,
    was_put_back: bool,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let percent = u64::from(self.network.options().yield_percent);
        self.was_put_back = percent > 0 && !self.was_put_back && self.random.below(100) < percent;
        if self.was_put_back {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let polled = catch_unwind(AssertUnwindSafe(|| self.task.poll_unpin(cx)));
        polled.unwrap_or_else(|panic| {
            self.network.add_panic(text(&*panic));
            Poll::Ready(())
        })
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.network.remove_task();
    }
}

/// For the adapter's own tasks.
pub(crate) fn catch_panics(
    network: &Network,
    task: impl Future<Output = ()> + Send + 'static,
) -> impl Future<Output = ()> + Send + 'static {
    let network = network.clone();
    AssertUnwindSafe(task)
        .catch_unwind()
        .map(move |ended| ended.unwrap_or_else(|panic| network.add_panic(text(&*panic))))
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| text.to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".into())
}
