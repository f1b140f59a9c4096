use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use futures::{TryFutureExt, channel::oneshot};

/// Runs work that may block on a thread of its own, or returns why it can't.
/// [`tokio::task::spawn_blocking`] would panic if no thread can be started, and would make work
/// wait once 512 threads hang.
///
/// A thread that has done its work waits 10 s for more, so that frequent work doesn't cost a new
/// thread each time. The number of threads isn't limited here: limit the work that you start, since
/// work that hangs keeps its thread.
///
/// The work begins when this is called. Dropping the future doesn't stop the work; it drops the
/// result. No runtime is needed, neither to call it nor to await it.
///
/// # Errors
/// No thread can be started (the work is then dropped, and you may try again later), or the work
/// panicked.
pub fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = io::Result<T>> + Send + 'static {
    let started = start_blocking(work);
    async move { started?.await }
}

/// Like [`run_blocking`], but returns the first of its errors at once.
pub(crate) fn start_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<impl Future<Output = io::Result<T>> + Send + Unpin + 'static> {
    let (result, done) = oneshot::channel();
    POOL.run(Box::new(move || {
        // A panic drops the sender, which ends the wait.
        if let Ok(value) = catch_unwind(AssertUnwindSafe(work)) {
            let _ = result.send(value);
        }
    }))?;
    Ok(done.map_err(|_| io::Error::other("the work on a thread panicked")))
}

/// How long an idle thread stays.
const IDLE_TIME: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

static POOL: Pool = Pool { idle: Mutex::new(Vec::new()) };

struct Pool {
    /// The idle threads, the latest last.
    idle: Mutex<Vec<Arc<Idle>>>,
}

/// A thread that waits for work. A caller that takes it out of the pool must give it some.
struct Idle {
    work: mpsc::SyncSender<Work>,
}

impl Pool {
    fn run(&'static self, work: Work) -> io::Result<()> {
        let idle = self.lock().pop();
        let work = match idle {
            // The new thread waits for work, so the work is sure to be taken.
            Some(idle) => match idle.work.try_send(work) {
                Ok(()) => return Ok(()),
                Err(mpsc::TrySendError::Full(work) | mpsc::TrySendError::Disconnected(work)) => {
                    work
                }
            },
            None => work,
        };
        let serve = move || self.serve(work);
        thread::Builder::new().name("blocking".into()).spawn(serve).map(drop).map_err(|error| {
            let remedy = "raise the limit on threads (ulimit -u, systemd's TasksMax, a container's \
                          pids limit)";
            io::Error::new(error.kind(), format!("no thread can be started ({error}): {remedy}"))
        })
    }

    /// Works until it has been idle for [`IDLE_TIME`].
    fn serve(&self, mut work: Work) {
        let (sender, next) = mpsc::sync_channel(1);
        let own = Arc::new(Idle { work: sender });
        loop {
            work();
            self.lock().push(Arc::clone(&own));
            work = match next.recv_timeout(IDLE_TIME) {
                Ok(work) => work,
                Err(_) => {
                    let mut idle = self.lock();
                    let before = idle.len();
                    idle.retain(|idle| !Arc::ptr_eq(idle, &own));
                    if idle.len() < before {
                        return;
                    }
                    drop(idle);
                    // It was taken out of the pool, and its work is on its way.
                    match next.recv() {
                        Ok(work) => work,
                        Err(_) => return,
                    }
                }
            };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, future::join_all};

    use super::*;

    #[tokio::test]
    async fn work_that_blocks_gives_its_result_and_holds_up_no_other() {
        let (go_on, wait) = mpsc::channel::<()>();
        let mut hanging = Box::pin(run_blocking(move || wait.recv()));
        let results = join_all((0..20).map(|n| run_blocking(move || n * n))).await;
        let results: Vec<i32> = results.into_iter().map(Result::unwrap).collect();
        assert_eq!(results, (0..20).map(|n| n * n).collect::<Vec<_>>());
        assert!((&mut hanging).now_or_never().is_none());
        drop(go_on);
        assert!(hanging.await.unwrap().is_err());
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_and_its_thread_works_on() {
        for _ in 0..3 {
            let error = run_blocking(|| panic!("of a test")).await.unwrap_err();
            assert!(error.to_string().contains("panicked"), "{error}");
        }
        assert_eq!(run_blocking(|| 5).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn a_thread_that_has_done_its_work_is_used_again() {
        let mut seen = Vec::new();
        loop {
            let id = run_blocking(|| thread::current().id()).await.unwrap();
            if seen.contains(&id) {
                return;
            }
            seen.push(id);
            assert!(seen.len() < 1000, "each took a thread of its own");
            // It may still be on its way back.
            while POOL.lock().is_empty() {
                thread::yield_now();
            }
        }
    }
}
