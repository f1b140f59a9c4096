use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use futures::{
    FutureExt, Stream, StreamExt,
    stream::{self, BoxStream},
};
use tinylb_core::Update;
use tokio::time::{Instant, sleep};

use super::backoff::{Backoff, random};

/// The updates of a source that is restarted whenever it panics or ends. The stream never ends.
///
/// `begin` makes the source, first at once and then after pauses of 100 ms to 10 s, which grow and
/// are spread at random. If a source has run for 10 s, the next pause is short again. Each panic
/// and each end is a loss with its reason, so the last set stays. The next set ends the loss.
/// `begin` may panic as well.
///
/// It runs on the tokio runtime that polls it, whose time must be enabled. Nothing happens unless it
/// is polled.
///
/// ```no_run
/// # use tinylb_core::Handle;
/// # use tinylb_tokio::Address;
/// # #[cfg(feature = "file")]
/// # fn follow(handle: &Handle<Address>) {
/// use tinylb_tokio::{FileSource, restarting};
///
/// handle.follow(restarting(|| FileSource::new("backends.toml").updates()));
/// # }
/// ```
pub fn restarting<T, S>(
    begin: impl FnMut() -> S + Send + 'static,
) -> impl Stream<Item = Update<T>> + Send + 'static
where
    T: Send + Sync + 'static,
    S: Stream<Item = Update<T>> + Send + 'static,
{
    spread_by(random, begin)
}

/// [`restarting`], with the random numbers that spread its pauses.
fn spread_by<T, S>(
    random: impl FnMut() -> u64 + Send + 'static,
    begin: impl FnMut() -> S + Send + 'static,
) -> impl Stream<Item = Update<T>> + Send + 'static
where
    T: Send + Sync + 'static,
    S: Stream<Item = Update<T>> + Send + 'static,
{
    let restarts = Restarts {
        begin,
        source: None,
        began: Instant::now(),
        backoff: Backoff::new(),
        random,
        pause: Duration::ZERO,
    };
    stream::unfold(restarts, |mut restarts| async move {
        let update = restarts.next().await;
        Some((update, restarts))
    })
}

/// After a source that has run for this long, pauses start short again.
const LIFE_LONG: Duration = Duration::from_secs(10);

struct Restarts<T, B, R> {
    begin: B,
    source: Option<BoxStream<'static, Update<T>>>,
    /// When the source began.
    began: Instant,
    backoff: Backoff,
    random: R,
    /// Before the next start.
    pause: Duration,
}

impl<T: Send + 'static, S, B, R> Restarts<T, B, R>
where
    S: Stream<Item = Update<T>> + Send + 'static,
    B: FnMut() -> S,
    R: FnMut() -> u64,
{
    async fn next(&mut self) -> Update<T> {
        let failure = match self.said().await {
            Ok(Some(update)) => return update,
            Ok(None) => "the source has ended".to_string(),
            Err(panic) => format!("the source panicked{}", words(&*panic)),
        };
        let source = self.source.take();
        // A second panic may follow from the first.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(source)));
        if self.began.elapsed() >= LIFE_LONG {
            self.backoff.reset();
        }
        self.pause = self.backoff.pause((self.random)());
        Update::Lost(format!("{failure}; it will be restarted").into())
    }

    /// The source's next update, or its panic.
    async fn said(&mut self) -> Result<Option<Update<T>>, Box<dyn Any + Send>> {
        let source = match &mut self.source {
            Some(source) => source,
            none => {
                sleep(self.pause).await;
                self.began = Instant::now();
                let begun = catch_unwind(AssertUnwindSafe(&mut self.begin))?;
                none.insert(begun.boxed())
            }
        };
        AssertUnwindSafe(source.next()).catch_unwind().await
    }
}

/// The message of a panic, if it is text.
fn words(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_string());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.map_or(String::new(), |text| format!(": {}", text.replace(char::is_control, " ")))
}

#[cfg(test)]
mod tests {
    use std::{
        pin::Pin,
        task::{Context, Poll},
    };

    use tinylb_core::BackendSet;

    use super::*;

    /// Says its sets, then panics, or ends.
    struct Script {
        sets: u32,
        panics: bool,
    }

    impl Stream for Script {
        type Item = Update<u32>;

        fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Update<u32>>> {
            if self.sets > 0 {
                self.sets -= 1;
                return Poll::Ready(Some(Update::Set(BackendSet::empty())));
            }
            assert!(!self.panics, "as a test\nsays");
            Poll::Ready(None)
        }
    }

    async fn next(updates: &mut (impl Stream<Item = Update<u32>> + Unpin)) -> String {
        match updates.next().await {
            Some(Update::Lost(reason)) => reason.to_string(),
            Some(_) => "set".into(),
            None => "end".into(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_panics_or_ends_begins_anew() {
        let mut lives = 0;
        let mut updates = Box::pin(restarting(move || {
            lives += 1;
            assert!(lives != 3, "at once");
            Script { sets: u32::from(lives != 4), panics: lives % 2 == 1 }
        }));
        let panicked = "the source panicked: as a test says; it will be restarted";
        let ended = "the source has ended; it will be restarted";
        let at_once = "the source panicked: at once; it will be restarted";
        for expected in ["set", panicked, "set", ended, at_once, ended, "set", panicked, "set"] {
            assert_eq!(next(&mut updates).await, expected);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_always_fails_begins_anew_ever_more_rarely_until_it_has_lived_for_long() {
        // The longest pause each time.
        let random = || u64::MAX;
        let mut updates = Box::pin(spread_by(random, || Script { sets: 0, panics: true }));
        for longest in [0, 299, 899, 2699, 8099, 9999, 9999] {
            let began = Instant::now();
            next(&mut updates).await;
            // The timer counts whole milliseconds, and rounds up.
            let pause = began.elapsed().as_millis();
            assert!((longest..=longest + 1).contains(&pause), "{pause} ms, not {longest}");
        }

        let mut life = Duration::ZERO;
        let mut updates = Box::pin(spread_by(random, move || {
            life += Duration::from_secs(1);
            stream::once(async move {
                sleep(life).await;
                Update::<u32>::Set(BackendSet::empty())
            })
        }));
        for life in 1..30 {
            let began = Instant::now();
            assert_eq!(next(&mut updates).await, "set");
            let pause = began.elapsed() - Duration::from_secs(life);
            let is_short = pause < Duration::from_millis(302);
            let has_lived_for_long = life > 10;
            // The first source didn't wait, and the second came after the first pause.
            assert_eq!(is_short, life <= 2 || has_lived_for_long, "life {life}: {pause:?}");
            assert!(next(&mut updates).await.contains("has ended"));
        }
    }
}
