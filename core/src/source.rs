use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::Stream;
use slab::Slab;

use crate::{
    BackendSet,
    sync::{Mutex, MutexGuard},
};

/// What a source of sets says. A source is any [`Stream`] of these; see
/// [`Handle::follow`](crate::Handle::follow).
///
/// An empty set and a lost source are not the same: the first closes everything, the second
/// changes nothing. A stream that ends is lost.
pub enum Update<T> {
    /// These are the backends.
    Set(BackendSet<T>),
    /// These are the backends, but for some entries that can't be read: what becomes of the set,
    /// [`SourceSettings::bad_entries`](crate::SourceSettings::bad_entries) says.
    Partial(BackendSet<T>, Arc<[BadEntry]>),
    /// The source doesn't know the backends at present, for this reason: the last set stays. It may
    /// be repeated as often as you like.
    Lost(Arc<str>),
    /// The source has nothing new, but of the backends in its last set, these are to be used. This
    /// neither ends a loss nor names a backend anew
    /// ([`SourceSettings::keep_absent`](crate::SourceSettings::keep_absent)), and changes nothing
    /// once the last set was given up as stale.
    Narrowed(BackendSet<T>),
}

/// An entry of a source that is no backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEntry {
    /// Its key, or whatever it is known by.
    pub key: Arc<str>,
    /// What is wrong with it.
    pub reason: Arc<str>,
}

impl fmt::Display for BadEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, reason } = self;
        write!(f, "{key}: {reason}")
    }
}

/// A source in memory: a [`Publisher`] and the stream of what it publishes. More streams come from
/// [`Publisher::subscribe`].
pub fn publisher<T>() -> (Publisher<T>, Subscription<T>) {
    let publisher = Publisher {
        shared: Arc::new(Mutex::new(Published {
            version: 0,
            set: None,
            lost: None,
            is_closed: false,
            wakers: Slab::new(),
        })),
    };
    let subscription = publisher.subscribe();
    (publisher, subscription)
}

/// Publishes sets to its [`Subscription`]s, which end when it is dropped.
pub struct Publisher<T> {
    shared: Arc<Mutex<Published<T>>>,
}

/// The stream of what a [`Publisher`] publishes. Only the newest matters: a reader that lags sees
/// the newest set, and whether the source has been lost since.
pub struct Subscription<T> {
    shared: Arc<Mutex<Published<T>>>,
    seen: u64,
    waker: usize,
}

struct Published<T> {
    version: u64,
    /// The newest set, with its version.
    set: Option<(u64, BackendSet<T>)>,
    /// The reason of a loss that no set has followed yet, with its version.
    lost: Option<(u64, Arc<str>)>,
    is_closed: bool,
    wakers: Slab<Option<Waker>>,
}

impl<T> Publisher<T> {
    /// These are the backends from now on.
    pub fn publish(&self, set: BackendSet<T>) {
        self.change(|published| {
            published.set = Some((published.version, set));
            published.lost = None;
        });
    }

    /// The source doesn't know the backends until the next set.
    pub fn lose(&self, reason: impl Into<Arc<str>>) {
        self.change(|published| published.lost = Some((published.version, reason.into())));
    }

    /// Another stream, which begins with the newest set, if there is one.
    pub fn subscribe(&self) -> Subscription<T> {
        let waker = lock(&self.shared).wakers.insert(None);
        Subscription { shared: Arc::clone(&self.shared), seen: 0, waker }
    }

    fn change(&self, change: impl FnOnce(&mut Published<T>)) {
        let mut published = lock(&self.shared);
        published.version += 1;
        change(&mut published);
        let wakers: Vec<Waker> =
            published.wakers.iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        drop(published);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<T> Drop for Publisher<T> {
    fn drop(&mut self) {
        self.change(|published| published.is_closed = true);
    }
}

impl<T> Stream for Subscription<T> {
    type Item = Update<T>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Update<T>>> {
        let this = self.get_mut();
        let mut published = lock(&this.shared);
        if let Some((version, set)) = &published.set
            && *version > this.seen
        {
            this.seen = *version;
            return Poll::Ready(Some(Update::Set(set.clone())));
        }
        if let Some((version, reason)) = &published.lost
            && *version > this.seen
        {
            this.seen = *version;
            return Poll::Ready(Some(Update::Lost(Arc::clone(reason))));
        }
        if published.is_closed {
            return Poll::Ready(None);
        }
        let before = published.wakers[this.waker].replace(cx.waker().clone());
        drop(published);
        drop(before);
        Poll::Pending
    }
}

impl<T> Drop for Subscription<T> {
    fn drop(&mut self) {
        lock(&self.shared).wakers.remove(self.waker);
    }
}

fn lock<T>(shared: &Mutex<Published<T>>) -> MutexGuard<'_, Published<T>> {
    shared.lock().unwrap_or_else(|poison| poison.into_inner())
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn set(target: u32) -> BackendSet<u32> {
        BackendSet::new([("a", target)]).unwrap()
    }

    /// What a reader sees now: a target, a reason, "end" or "nothing".
    fn next(subscription: &mut Subscription<u32>) -> String {
        match subscription.next().now_or_never() {
            Some(Some(Update::Set(set))) => set.get("a").unwrap().to_string(),
            Some(Some(Update::Partial(..))) => "partial".into(),
            Some(Some(Update::Lost(reason))) => reason.to_string(),
            Some(Some(Update::Narrowed(_))) => "narrowed".into(),
            Some(None) => "end".into(),
            None => "nothing".into(),
        }
    }

    #[test]
    fn a_reader_that_lags_sees_the_newest_set_and_a_loss_after_it() {
        let (publisher, mut reader) = publisher();
        assert_eq!(next(&mut reader), "nothing");
        publisher.publish(set(1));
        publisher.lose("away");
        publisher.publish(set(2));
        publisher.lose("gone");
        assert_eq!(next(&mut reader), "2");
        assert_eq!(next(&mut reader), "gone");
        assert_eq!(next(&mut reader), "nothing");
        publisher.lose("still gone");
        publisher.publish(set(3));
        assert_eq!(next(&mut reader), "3");
        assert_eq!(next(&mut reader), "nothing");
    }

    #[test]
    fn every_reader_gets_the_newest_set_and_the_end() {
        let (publisher, mut one) = publisher();
        publisher.publish(set(1));
        let mut other = publisher.subscribe();
        assert_eq!((next(&mut one), next(&mut other)), ("1".into(), "1".into()));
        publisher.publish(set(2));
        drop(publisher);
        assert_eq!((next(&mut one), next(&mut one)), ("2".into(), "end".into()));
    }
}
