use std::{
    pin::pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
};

use futures::{future::poll_fn, task::AtomicWaker};

use crate::sync::AtomicU8;

/// Signals one task, from anywhere. The kill handle of each attempt is one, and so is the
/// stop handle of each background task.
#[derive(Default)]
pub(crate) struct Signal {
    value: AtomicU8,
    waker: AtomicWaker,
}

/// What a signal asks its task to do. A weaker word never replaces a stronger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Word {
    /// The session that waited for a set may dial.
    Admitted = 1,
    /// The set that the session waited for is empty.
    Refused,
    /// The dial's target has been removed: try another.
    Revoked,
    /// The session's target answers no dial: end.
    Silent,
    /// The session's target has been removed: end.
    Removed,
    /// The session has drained for too long: end.
    Expired,
    /// The server closes: end.
    Closed,
}

const WORDS: [Word; 7] = [
    Word::Admitted,
    Word::Refused,
    Word::Revoked,
    Word::Silent,
    Word::Removed,
    Word::Expired,
    Word::Closed,
];

impl Signal {
    /// Raises the word and wakes the task. Never called under the lock.
    pub(crate) fn raise(&self, word: Word) {
        self.value.fetch_max(word as u8, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Wakes the task to look around, without a word.
    pub(crate) fn nudge(&self) {
        self.waker.wake();
    }

    /// Has the task woken at the next word or nudge, whatever the word so far.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        self.waker.register(cx.waker());
    }

    /// The strongest word so far.
    pub(crate) fn word(&self) -> Option<Word> {
        match self.value.load(Ordering::Acquire) {
            0 => None,
            value => WORDS.get(usize::from(value) - 1).copied(),
        }
    }

    /// Ready once there is a word stronger than `than`. One task may wait at a time.
    pub(crate) fn poll(&self, than: Option<Word>, cx: &mut Context<'_>) -> Poll<Word> {
        self.register(cx);
        match self.word() {
            Some(word) if than.is_none_or(|than| word as u8 > than as u8) => Poll::Ready(word),
            _ => Poll::Pending,
        }
    }
}

/// What a future gives, or `None` as soon as the signal has a word.
pub(crate) async fn until_raised<F: Future>(signal: &Signal, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(|cx| match signal.poll(None, cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => future.as_mut().poll(cx).map(Some),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_comes_back_and_the_stronger_one_stays() {
        for (place, word) in WORDS.into_iter().enumerate() {
            assert_eq!(word as usize, place + 1);
            let signal = Signal::default();
            signal.raise(word);
            assert_eq!(signal.word(), Some(word));
            signal.raise(Word::Admitted);
            assert_eq!(signal.word(), Some(word));
        }
        assert_eq!(Signal::default().word(), None);
    }
}
