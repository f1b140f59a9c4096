use std::{
    future::poll_fn,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;

use super::{
    deadline::Deadline,
    shared::Shared,
    signal::{Signal, Word},
    state::State,
};
use crate::{
    BackendSet, BadEntries, BadEntry, Event, Held, SetError, SourceSettings, Target, Update,
    absence::Absentees,
    intake::{Decision, Intake},
    sync::Mutex,
};

/// A source that is followed, see [`Handle::follow`](crate::Handle::follow). Dropping this changes
/// nothing.
pub struct Following {
    pub(super) stop: Arc<Signal>,
    /// Held by each replacement.
    pub(super) replacing: Arc<Mutex<()>>,
}

impl Following {
    /// Follows the source no more; it is dropped soon. The last set stays. Once this has returned, no
    /// set of the source takes effect.
    pub fn stop(&self) {
        let replacing = self.replacing.lock().unwrap_or_else(|poison| poison.into_inner());
        self.stop.raise(Word::Closed);
        drop(replacing);
    }
}

/// What the server reports of its source, besides events.
#[derive(Default)]
pub(super) struct SourceStatus {
    /// The number of the source that is followed: what an earlier one reports is out of date.
    number: u64,
    /// It has ended: what is known of it stays until the next one reports.
    has_ended: bool,
    /// Why it is lost, if it is.
    pub(super) lost: Option<Arc<str>>,
    /// The set that is held back.
    pub(super) held: Option<Held>,
    /// Entries that are no backends.
    pub(super) left_out: Arc<[BadEntry]>,
    /// Backends in force that it no longer names.
    pub(super) absent: Absentees,
}

impl SourceStatus {
    /// Another source is followed from now on. Returns its number.
    fn begin(&mut self) -> u64 {
        let number = self.number + 1;
        let known = if self.has_ended { mem::take(self) } else { Self::default() };
        *self = Self { number, has_ended: false, ..known };
        number
    }
}

/// Follows one source: does what its intake decides. When the source is no longer followed, the
/// server forgets its status, unless it ended by itself.
pub(super) struct Follower<T: Target> {
    shared: Arc<Shared<T>>,
    stop: Arc<Signal>,
    number: u64,
    intake: Intake<T>,
    bad_entries: BadEntries,
    has_ended: bool,
}

/// Updates that are taken in a row before other tasks have their turn.
const TURN: usize = 32;

impl<T: Target> Follower<T> {
    /// Raising `stop` ends it.
    pub(super) fn new(shared: Arc<Shared<T>>, settings: SourceSettings, stop: Arc<Signal>) -> Self {
        let (bad_entries, intake) = (settings.bad_entries, Intake::new(settings));
        let number = shared.step(|state| state.source.begin());
        Self { shared, stop, number, intake, bad_entries, has_ended: false }
    }

    /// Returns when the source has ended, and there is nothing to wait for.
    pub(super) async fn follow(mut self, source: impl Stream<Item = Update<T>>) {
        let mut source = pin!(source);
        let mut taken = 0;
        let runtime = Arc::clone(&self.shared.runtime);
        loop {
            let now = runtime.now();
            while let Some(decision) = self.intake.decide(now, self.shared.set().as_ref()) {
                self.act(decision);
            }
            let due = self.intake.due();
            if self.has_ended && due.is_none() {
                return;
            }
            let mut deadline = due.map(|due| Deadline::new(&*runtime, due.saturating_sub(now)));
            let next = poll_fn(|cx| {
                if taken == TURN {
                    taken = 0;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                if !self.has_ended
                    && let Poll::Ready(update) = self.hear(source.as_mut(), cx)
                {
                    taken += 1;
                    return Poll::Ready(Some(update));
                }
                match &mut deadline {
                    Some(deadline) => deadline.poll(&*runtime, cx).map(|()| None),
                    None => Poll::Pending,
                }
            });
            if let Some(update) = next.await {
                self.intake.update(runtime.now(), update, self.shared.set().as_ref());
            }
        }
    }

    /// The source's next update. If it ends or panics, that is a loss, and its last update.
    fn hear(
        &mut self,
        source: Pin<&mut impl Stream<Item = Update<T>>>,
        cx: &mut Context<'_>,
    ) -> Poll<Update<T>> {
        let next = match catch_unwind(AssertUnwindSafe(|| source.poll_next(cx))) {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(update)) => update.ok_or("the source has ended"),
            Err(_) => Err("the source panicked"),
        };
        Poll::Ready(match next {
            // A dialer that panics at one set may take the next.
            Ok(update) => catch_unwind(AssertUnwindSafe(|| self.check(update)))
                .unwrap_or_else(|_| Update::Lost("the check of its set panicked".into())),
            Err(cause) => {
                self.has_ended = true;
                Update::Lost(cause.into())
            }
        })
    }

    /// An update, less what the server can't take.
    fn check(&self, update: Update<T>) -> Update<T> {
        let (set, mut entries) = match update {
            Update::Set(set) => (set, Arc::default()),
            Update::Partial(set, entries) => (set, entries),
            lost @ Update::Lost(_) => return lost,
            Update::Narrowed(set) => {
                let checked = self.check(Update::Set(set));
                return match checked {
                    Update::Partial(set, _) => Update::Narrowed(set),
                    other => other,
                };
            }
        };
        let set = match self.shared.validate(&set) {
            Err(SetError::InvalidTarget { .. }) if self.bad_entries == BadEntries::LeaveOut => {
                let (good, bad) = self.split(&set);
                entries = entries.iter().cloned().chain(bad).collect();
                BackendSet::new(good)
            }
            checked => checked.map(|()| set),
        };
        set.map_or_else(
            |error| Update::Lost(error.to_string().into()),
            |set| Update::Partial(set, entries),
        )
    }

    /// The backends that the dialer takes, and the others.
    fn split(&self, set: &BackendSet<T>) -> (Vec<(crate::BackendKey, T)>, Vec<BadEntry>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (key, target) in set.iter() {
            match self.shared.validate_target(target) {
                Ok(()) => good.push((key.clone(), target.clone())),
                Err(reason) => bad.push(BadEntry {
                    key: key.as_str().into(),
                    reason: format!("the target {target} is invalid: {reason}").into(),
                }),
            }
        }
        (good, bad)
    }

    fn act(&self, decision: Decision<T>) {
        let shared = &self.shared;
        match decision {
            Decision::Take(set, absent) => {
                // It may only narrow the last set of a source that is lost.
                let is_lost = self.intake.is_lost();
                self.replace(set, |source| {
                    source.lost.take_if(|_| !is_lost);
                    source.held = None;
                    source.absent = absent;
                });
            }
            Decision::Hold(held) => self.step(|state| {
                state.source.held = Some(held);
                state.outbox.event(|| Event::SetHeld(held));
            }),
            Decision::Lose { reason, is_news } => {
                let now = shared.runtime.now();
                let is_holding = self.intake.is_holding();
                self.step(|state| {
                    state.source.lost = Some(Arc::clone(&reason));
                    state.source.held.take_if(|_| !is_holding);
                    state.source.has_ended = self.has_ended;
                    if is_news {
                        let set_age = state.set_at.map(|at| now.saturating_sub(at));
                        state.outbox.event(|| Event::SourceLost { reason, set_age });
                    }
                });
            }
            Decision::Recover(lost_for) => self.step(|state| {
                state.source.lost = None;
                state.outbox.event(|| Event::SourceBack { lost_for });
            }),
            Decision::LeaveOut(entries) => self.step(|state| {
                state.source.left_out = Arc::clone(&entries);
                state.outbox.event(|| Event::EntriesLeftOut(entries));
            }),
            Decision::Expire(reason) => {
                self.step(|state| state.outbox.event(|| Event::SourceStale { reason }));
                self.replace(BackendSet::empty(), |source| {
                    source.held = None;
                    source.absent = Absentees::default();
                });
            }
        }
    }

    /// Puts a set in force, and changes what is known of the source in the same step.
    fn replace(&self, set: BackendSet<T>, with: impl FnOnce(&mut SourceStatus)) {
        self.shared.replace_followed(&self.stop, set, |state| {
            if state.source.number == self.number {
                with(&mut state.source);
            }
        });
    }

    /// Changes and reports what is known of the source, unless another one is followed.
    fn step(&self, with: impl FnOnce(&mut State<T>)) {
        self.shared.step(|state| {
            if state.source.number == self.number {
                with(state);
            }
        });
    }
}

impl<T: Target> Drop for Follower<T> {
    fn drop(&mut self) {
        self.step(|state| match self.has_ended {
            true => state.source.held = None,
            false => {
                state.source = SourceStatus { number: self.number, ..SourceStatus::default() };
            }
        });
    }
}
