use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::allocator;

/// Shorter than the time limits that matter, and long enough to cost nothing.
const TICK: Duration = Duration::from_secs(1);

/// Threads that carry the connections, each with a runtime of its own. A worker that is no longer
/// needed stays for its sessions until the program ends.
pub(crate) struct Workers {
    workers: Mutex<Vec<Worker>>,
    /// Where a worker that died is reported.
    fatal: mpsc::UnboundedSender<String>,
}

struct Worker {
    runtime: Handle,
    /// The thread ends when this is dropped.
    _running: oneshot::Sender<()>,
}

impl Workers {
    pub(crate) fn new(fatal: mpsc::UnboundedSender<String>) -> Self {
        Self { workers: Mutex::default(), fatal }
    }

    /// The runtimes of the first `count` workers. Workers that don't run yet are started.
    ///
    /// # Errors
    /// The system has no thread or no descriptors for one.
    pub(crate) fn first(&self, count: usize) -> Result<Vec<Handle>, String> {
        let mut workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        while workers.len() < count {
            let number = workers.len();
            let worker = self.start(number).map_err(|error| {
                format!(
                    "can't start worker {number} of {count}: {error}: use fewer workers, or raise the \
                     limits on threads and descriptors"
                )
            })?;
            workers.push(worker);
        }
        Ok(workers[..count].iter().map(|worker| worker.runtime.clone()).collect())
    }

    fn start(&self, number: usize) -> std::io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let handle = runtime.handle().clone();
        let (running, stopped) = oneshot::channel();
        let fatal = self.fatal.clone();
        let name = format!("worker {number}");
        let (hand_over, taken) = std::sync::mpsc::sync_channel(1);
        let thread = thread::Builder::new().name(name.clone()).spawn(move || {
            if let Ok(runtime) = taken.recv() {
                run(runtime, until(stopped), &name, &fatal);
            }
        });
        if let Err(error) = thread {
            // A plain drop would panic: this may be called on another runtime.
            runtime.shutdown_background();
            return Err(error);
        }
        let _ = hand_over.send(runtime);
        Ok(Worker { runtime: handle, _running: running })
    }
}

/// Waits until the worker must end, and gives memory back now and then.
///
/// A timer that is due soon is always set meanwhile: when tokio is given one that is due before all
/// others, it wakes the reactor, even on its own thread. So a dial's limit costs no system call.
async fn until(mut stopped: oneshot::Receiver<()>) {
    while timeout(TICK, &mut stopped).await.is_err() {
        allocator::collect();
    }
}

/// Runs a worker. A panic that gets here came from the runtime itself, and has ended the worker's
/// connections: it is reported.
fn run(
    runtime: Runtime,
    until_stopped: impl Future<Output = ()>,
    name: &str,
    fatal: &mpsc::UnboundedSender<String>,
) {
    let run = catch_unwind(AssertUnwindSafe(|| runtime.block_on(until_stopped)));
    if run.is_err() {
        let _ = fatal.send(format!("{name} has died of a panic: start the program again"));
    }
    // A name that is still being looked up would hold the thread up.
    runtime.shutdown_background();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_started_once_and_each_has_a_thread_of_its_own() {
        let (fatal, mut deaths) = mpsc::unbounded_channel();
        let workers = Workers::new(fatal);
        let thread_of = |runtime: &Handle| {
            let (id, answer) = std::sync::mpsc::channel();
            drop(runtime.spawn(async move { id.send(thread::current().id()) }));
            answer.recv().unwrap()
        };
        let threads: Vec<_> = workers.first(2).unwrap().iter().map(thread_of).collect();
        assert_ne!(threads[0], threads[1]);
        assert_ne!(threads[0], thread::current().id());
        let more: Vec<_> = workers.first(3).unwrap().iter().map(thread_of).collect();
        assert_eq!(more[..2], threads);
        assert_eq!(workers.first(1).unwrap().len(), 1);
        drop(workers);
        assert_eq!(deaths.blocking_recv(), None, "a worker that ends as it should has not died");
    }

    #[test]
    fn a_worker_that_dies_takes_its_connections_down_and_is_reported() {
        let (fatal, mut deaths) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().build().unwrap();
        let (connection, ended) = oneshot::channel::<()>();
        drop(runtime.spawn(async move {
            let _connection = connection;
            std::future::pending::<()>().await;
        }));
        run(runtime, async { panic!("on purpose") }, "worker 7", &fatal);
        let death = deaths.try_recv().unwrap();
        assert!(death.starts_with("worker 7 has died"), "{death}");
        assert!(ended.blocking_recv().is_err());
    }
}
