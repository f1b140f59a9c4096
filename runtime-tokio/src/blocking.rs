//! Work that blocks, on threads of its own.

use std::{io, thread};

use futures::{FutureExt, channel::oneshot};

/// Runs work that may block for as long as it likes, on a thread of its own. What is returned is
/// ready once the work is done: with `None` if it panicked.
///
/// tokio's pool for such work panics when the system has no thread to give, has one limit for all
/// kinds of work, and ends only when all of it is done.
///
/// # Errors
/// The system has no thread. Cause and remedy in one line.
///
/// # Cancellation
/// The work goes on, and what it returns is dropped.
pub(crate) fn on_thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<impl Future<Output = Option<T>> + Send + Unpin + 'static> {
    let (done, result) = oneshot::channel();
    // Nobody may wait any more.
    let run = move || drop(done.send(work()));
    match thread::Builder::new().name(name.into()).spawn(run) {
        Ok(_) => Ok(result.map(Result::ok)),
        Err(error) => Err(io::Error::new(
            error.kind(),
            format!(
                "no thread can be started ({error}): raise the limit of threads (ulimit -u, \
                 systemd's TasksMax, a container's pids limit)"
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_panics_leaves_nobody_waiting() {
        assert_eq!(on_thread("test", || 7).unwrap().await, Some(7));
        let panics = || -> u8 { panic!("on purpose") };
        assert_eq!(on_thread("test", panics).unwrap().await, None);
    }
}
