use std::{
    collections::BTreeMap,
    future::Future,
    mem,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::BoxFuture,
    stream::FuturesUnordered,
    task::{ArcWake, waker},
};
use tinylb_core::Runtime;

/// A runtime of one thread whose time passes only when nothing else is left to do. Clones are the
/// same.
///
/// It begins at zero. Tasks are polled in the order in which they were woken, so a test does the
/// same each time, as long as it uses no other thread.
#[derive(Clone, Default)]
pub struct VirtualTime {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    now: Duration,
    /// Tasks that haven't been polled yet.
    spawned: Vec<BoxFuture<'static, ()>>,
    /// The sleeps that wait, by when they end and in the order of their calls.
    sleeps: BTreeMap<(Duration, u64), Waker>,
    next_sleep: u64,
}

impl VirtualTime {
    /// A runtime without tasks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a future to its end, together with all tasks that are spawned. Tasks that are left then
    /// are dropped.
    ///
    /// # Panics
    /// If the future does or a task does; and if nothing is left that could go on, since the future
    /// would wait for ever.
    pub fn run<T>(&self, future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        let mut tasks = FuturesUnordered::new();
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = waker(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            while woken.0.swap(false, Ordering::AcqRel) {
                if let Poll::Ready(value) = future.poll_unpin(&mut cx) {
                    return value;
                }
                tasks.extend(mem::take(&mut self.lock().spawned));
                while let Poll::Ready(Some(())) = tasks.poll_next_unpin(&mut cx) {
                    tasks.extend(mem::take(&mut self.lock().spawned));
                }
            }
            assert!(self.pass(), "nothing is left that could go on: this would wait for ever");
        }
    }

    /// The time that has passed.
    pub fn elapsed(&self) -> Duration {
        self.lock().now
    }

    /// Lets time pass until the next sleeps end. `false`: nobody sleeps.
    fn pass(&self) -> bool {
        let mut state = self.lock();
        let Some(((due, _), _)) = state.sleeps.first_key_value() else { return false };
        let now = *due;
        state.now = now;
        let later = state.sleeps.split_off(&(now + Duration::from_nanos(1), 0));
        let over = mem::replace(&mut state.sleeps, later);
        drop(state);
        over.into_values().for_each(Waker::wake);
        true
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Runtime for VirtualTime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.lock().spawned.push(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let mut state = self.lock();
        state.next_sleep += 1;
        let place = (state.now + duration, state.next_sleep);
        Box::pin(Sleep { time: self.clone(), place })
    }

    fn now(&self) -> Duration {
        self.elapsed()
    }
}

struct Sleep {
    time: VirtualTime,
    place: (Duration, u64),
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.time.lock();
        if state.now >= self.place.0 {
            return Poll::Ready(());
        }
        state.sleeps.insert(self.place, cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.time.lock().sleeps.remove(&self.place);
        drop(waker);
    }
}

struct Woken(AtomicBool);

impl ArcWake for Woken {
    fn wake_by_ref(woken: &Arc<Self>) {
        woken.0.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use futures::{channel::oneshot, future::pending};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn time_passes_to_the_next_sleep_that_somebody_waits_for() {
        let time = VirtualTime::new();
        let (sender, woken_at) = oneshot::channel();
        let sleeper = time.clone();
        time.spawn(Box::pin(async move {
            sleeper.sleep(SECOND * 2).await;
            drop(sleeper.sleep(SECOND));
            sleeper.sleep(SECOND * 3600).await;
            let _ = sender.send(sleeper.now());
        }));
        let woken_at = time.run(async {
            time.sleep(SECOND * 3).await;
            assert_eq!(time.elapsed(), SECOND * 3);
            woken_at.await
        });
        assert_eq!(woken_at, Ok(SECOND * 3602));
        time.run(time.sleep(Duration::ZERO));
        assert_eq!(time.elapsed(), SECOND * 3602);
    }

    #[test]
    fn a_future_that_nothing_can_wake_is_found_at_once() {
        let time = VirtualTime::new();
        let run = || time.run(pending::<()>());
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        assert!(panic.downcast_ref::<&str>().is_some_and(|text| text.contains("for ever")));
    }
}
