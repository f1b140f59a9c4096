//! What a case waits for, so that one that hangs can say it.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    future::{Future, poll_fn},
    pin::pin,
    thread,
};

thread_local! {
    /// What the case that runs on this thread waits for, in the order in which it began to.
    static WAITS: RefCell<(u64, BTreeMap<u64, String>)> = RefCell::default();
}

/// Waits for a future, and notes what that is meanwhile. A note stays if the future is dropped
/// before it is ready: so does a case that has hung.
pub(crate) async fn waiting<T>(what: impl Fn() -> String, future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut noted = None;
    let value = poll_fn(|cx| {
        let polled = future.as_mut().poll(cx);
        if polled.is_pending() && noted.is_none() {
            noted = Some(WAITS.with_borrow_mut(|(next, waits)| {
                *next += 1;
                waits.insert(*next, what());
                *next
            }));
        }
        polled
    })
    .await;
    if let Some(noted) = noted {
        WAITS.with_borrow_mut(|(_, waits)| waits.remove(&noted));
    }
    value
}

/// Prints what a case was waiting for, if it is dropped by a panic.
#[derive(Default)]
pub struct Report(());

impl Drop for Report {
    #[expect(clippy::print_stderr, reason = "it is a test's output")]
    fn drop(&mut self) {
        let waits = WAITS.take().1;
        if thread::panicking() {
            for what in waits.values() {
                eprintln!("the case was waiting for {what}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, executor::block_on, future::pending};

    use super::*;

    #[test]
    fn what_is_waited_for_is_known_until_it_has_come() {
        let waits = || WAITS.with_borrow(|(_, waits)| waits.values().cloned().collect::<Vec<_>>());
        block_on(waiting(|| "nothing".into(), async {}));
        assert!(waits().is_empty());
        let hangs = waiting(|| "Godot".into(), pending::<()>()).now_or_never();
        assert_eq!((hangs, waits()), (None, vec!["Godot".to_string()]));
        drop(Report::default());
        assert!(waits().is_empty(), "the next case begins anew");
    }
}
