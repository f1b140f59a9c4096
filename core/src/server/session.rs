use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, poll_fn},
};

use super::{
    Link,
    deadline::Deadline,
    delivery::confirmed,
    ends::{Ends, abort},
    shared::Shared,
    signal::{Signal, Word},
};
use crate::{
    Admission, Conn, DialFailure, Dialer, Direction, EndReason, Fault, Progress, Refusal, Relay,
    Runtime, SessionId, Settings, Side, Target,
};

/// Pause before a client's second round through targets that have all failed.
const ROUND_PAUSE: Duration = Duration::from_millis(250);

/// One client's connection and what is done for it.
///
/// However it goes away (its end, a kill, a panic, a runtime that drops its task), its fields are
/// dropped in their order: the ends are let go, and then the record says so.
pub(super) struct Session<C: Conn, D: Dialer, R> {
    ends: Ends<C, D::Conn>,
    record: Record<D::Target>,
    link: Arc<Link<D, R>>,
    signal: Arc<Signal>,
}

/// The session's entry in the balancer. Finished when dropped.
struct Record<T: Target> {
    shared: Arc<Shared<T>>,
    id: SessionId,
    progress: Progress,
    reason: EndReason,
}

/// What came of one attempt to dial.
enum Outcome<B> {
    Dialled(B),
    Failed(DialFailure),
    /// The session is to end.
    Over(EndReason),
}

impl<C: Conn, D: Dialer, R: Relay<C, D::Conn>> Session<C, D, R> {
    pub(super) fn new(
        id: SessionId,
        signal: Arc<Signal>,
        client: C,
        link: Arc<Link<D, R>>,
    ) -> Self {
        Self {
            ends: Ends::new(client),
            record: Record {
                shared: Arc::clone(&link.shared),
                id,
                progress: Progress::default(),
                reason: EndReason::TaskDropped,
            },
            link,
            signal,
        }
    }

    /// Ends a session that was refused.
    pub(super) fn refuse(mut self, refusal: Refusal) {
        self.record.reason = refusal.into();
    }

    /// Serves the client to the end. An admission that says what to dial isn't kept: the balancer
    /// has the pick, and here it would enlarge the session's task for all its life.
    pub(super) fn run(
        mut self,
        admission: &Admission<D::Target>,
    ) -> impl Future<Output = ()> + Send + use<C, D, R> {
        let must_wait = matches!(admission, Admission::Wait);
        // An `async fn` would hold the session twice.
        async move {
            let served = AssertUnwindSafe(self.serve(must_wait)).catch_unwind().await;
            self.end(served.unwrap_or(EndReason::Panicked));
        }
    }

    fn end(&mut self, reason: EndReason) {
        self.record.reason = reason;
        match reason {
            EndReason::Finished => self.ends.complete(),
            _ => self.ends.take_back(&self.record.progress),
        }
    }

    #[expect(clippy::manual_async_fn, reason = "which would hold the reference twice")]
    fn serve(&mut self, must_wait: bool) -> impl Future<Output = EndReason> + Send {
        async move {
            // To wait and to dial take more memory than the rest of a session's life.
            match Box::pin(self.dial(must_wait)).await {
                Ok(()) => self.relay().await,
                Err(reason) => reason,
            }
        }
    }

    /// Waits for a set with backends.
    async fn wait(&mut self) -> Result<(), EndReason> {
        let limit = self.link.shared.settings().waiting_timeout;
        let mut timeout = Deadline::new(&*self.link.runtime, limit);
        poll_fn(|cx| {
            if let Poll::Ready(word) = self.signal.poll(None, cx) {
                return Poll::Ready(match word {
                    // A revoked attempt is the dial's to retry.
                    Word::Admitted | Word::Revoked => Ok(()),
                    word => Err(word.into()),
                });
            }
            if self.ends.client.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(EndReason::ClientFailed));
            }
            let runtime = &*self.link.runtime;
            timeout.poll(runtime, cx).map(|()| Err(EndReason::WaitingTimedOut))
        })
        .await
    }

    /// Dials one backend after the other until one is connected.
    async fn dial(&mut self, must_wait: bool) -> Result<(), EndReason> {
        if must_wait {
            self.wait().await?;
        }
        let link = Arc::clone(&self.link);
        let (shared, id) = (&link.shared, self.record.id);
        let settings = shared.settings();
        // If a time limit is exceeded here, the process was paused.
        let taken = |since, most| link.runtime.now().saturating_sub(since).min(most);
        let (mut attempts, mut left) = (0, settings.dial_time_max);
        loop {
            let (within, began) = (settings.dial_timeout.min(left), link.runtime.now());
            let outcome = self.attempt(within).await;
            let lasted = taken(began, within);
            let failure = match outcome {
                Outcome::Dialled(backend) => {
                    self.ends.backend = Some(backend);
                    if shared.connected(id, lasted) {
                        return Ok(());
                    }
                    abort(self.ends.backend.take().as_mut());
                    DialFailure::Revoked
                }
                Outcome::Failed(failure) => failure,
                Outcome::Over(reason) => return Err(reason),
            };
            let is_move = matches!(failure, DialFailure::GivenUp);
            attempts += usize::from(!is_move && !matches!(failure, DialFailure::Revoked));
            // So that no client is refused because its dials were given up.
            left = if is_move { left } else { left.saturating_sub(lasted) };
            let fault = self.fault(&failure);
            shared.dial_failed(id, failure, fault, lasted);
            if attempts == settings.dial_attempts_max {
                return Err(EndReason::DialFailed);
            }
            if shared.has_tried_all(id) {
                let (pause, began) = (ROUND_PAUSE.min(left), link.runtime.now());
                self.pause(pause).await?;
                left = left.saturating_sub(taken(began, pause));
            }
            // Before the next turn is taken: it is another session's if this one can't use it.
            if left.is_zero() {
                return Err(EndReason::DialTimedOut);
            }
            self.signal = Arc::new(Signal::default());
            match shared.retry(id, &self.signal) {
                Admission::Dial(_) => {}
                Admission::Wait => self.wait().await?,
                Admission::Refused(refusal) => return Err(refusal.into()),
            }
        }
    }

    /// Whose fault a dial's failure is, if it says anything of the target.
    fn fault(&self, failure: &DialFailure) -> Option<Fault> {
        match failure {
            DialFailure::Failed(error) => Some(self.link.dialer.classify(error)),
            DialFailure::TimedOut => Some(Fault::TimedOut),
            DialFailure::GivenUp | DialFailure::Revoked => None,
        }
    }

    /// Waits before targets that have failed are dialled again, unless the set has changed.
    async fn pause(&mut self, time: Duration) -> Result<(), EndReason> {
        let mut over = self.link.runtime.sleep(time);
        poll_fn(|cx| {
            if let Poll::Ready(word) = self.signal.poll(Some(Word::Admitted), cx) {
                return Poll::Ready(match word {
                    Word::Revoked => Ok(()),
                    word => Err(word.into()),
                });
            }
            if self.ends.client.poll_cut(cx).is_ready() {
                return Poll::Ready(Err(EndReason::ClientFailed));
            }
            over.poll_unpin(cx).map(Ok)
        })
        .await
    }

    /// Dials the session's current backend.
    async fn attempt(&mut self, within: Duration) -> Outcome<D::Conn> {
        let link = Arc::clone(&self.link);
        let Some((pick, patience)) = link.shared.start_dial(self.record.id) else {
            return match self.signal.word() {
                Some(Word::Closed) => Outcome::Over(EndReason::Shutdown),
                _ => Outcome::Failed(DialFailure::Revoked),
            };
        };
        let mut dial = link.dialer.dial(&pick.target, within);
        // Of the two limits, the later one isn't set before the earlier one is over.
        let patience = patience.filter(|patience| *patience < within);
        let mut timeout = Deadline::new(&*link.runtime, patience.unwrap_or(within));
        let mut is_overdue = false;
        poll_fn(|cx| {
            if let Poll::Ready(word) = self.signal.poll(Some(Word::Admitted), cx) {
                return Poll::Ready(match word {
                    Word::Revoked => Outcome::Failed(DialFailure::Revoked),
                    word => Outcome::Over(word.into()),
                });
            }
            // First, so that no connect begins for a client that has gone.
            if self.ends.client.poll_cut(cx).is_ready() {
                return Poll::Ready(Outcome::Over(EndReason::ClientFailed));
            }
            if let Poll::Ready(dialled) = dial.poll_unpin(cx) {
                return Poll::Ready(match dialled {
                    Ok(backend) => Outcome::Dialled(backend),
                    Err(error) => Outcome::Failed(DialFailure::Failed(error)),
                });
            }
            if let Some(patience) = patience
                && !is_overdue
                && timeout.poll(&*link.runtime, cx).is_ready()
            {
                is_overdue = true;
                timeout = Deadline::new(&*link.runtime, within - patience);
            }
            // Asked again whenever the task is woken, which it is if the answer may be another.
            if is_overdue && link.shared.overdue(self.record.id) {
                return Poll::Ready(Outcome::Failed(DialFailure::GivenUp));
            }
            let is_over = timeout.poll(&*link.runtime, cx);
            is_over.map(|()| Outcome::Failed(DialFailure::TimedOut))
        })
        .await
    }

    /// Moves bytes until both directions have ended; or until one side has failed and what it had
    /// sent before has been delivered.
    async fn relay(&mut self) -> EndReason {
        let mut limits = Limits::new(self.link.shared.settings(), &*self.link.runtime);
        // While bytes move, a session holds only what the closure captures.
        let moved = {
            let Self { ends, record, link, signal } = &mut *self;
            let (record, link, limits) = (&*record, &*link, &mut limits);
            let Some(backend) = &mut ends.backend else {
                debug_assert!(false, "a session relays once its dial has succeeded");
                return EndReason::BackendFailed;
            };
            let mut relay = link.relay.relay(&mut ends.client, backend, &record.progress);
            poll_fn(move |cx| {
                if let Poll::Ready(word) = signal.poll(Some(Word::Admitted), cx) {
                    return Poll::Ready(Ok(word.into()));
                }
                match relay.poll_unpin(cx) {
                    Poll::Ready(Ok(())) => return Poll::Ready(Ok(EndReason::Finished)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.side)),
                    Poll::Pending => {}
                }
                if let Some(by) = limits.note_end(&record.progress, &*link.runtime) {
                    record.shared.half_closed(record.id, by);
                }
                limits.poll(&record.progress, &*link.runtime, cx).map(Ok)
            })
        };
        match moved.await {
            Ok(reason) => reason,
            Err(failed) => Box::pin(self.deliver(failed, limits)).await,
        }
    }

    /// Waits until what a side had sent before it failed has been delivered to the other.
    async fn deliver(&mut self, failed: Side, mut limits: Limits) -> EndReason {
        let Self { ends, record, link, signal } = self;
        debug_assert!(ends.backend.is_some(), "only what was relayed is delivered");
        record.progress.fail(failed);
        let mut confirmed: BoxFuture<'_, ()> = match (failed, &mut ends.backend) {
            (Side::Client, Some(backend)) => Box::pin(confirmed(backend, &*link.runtime)),
            _ => Box::pin(confirmed(&mut ends.client, &*link.runtime)),
        };
        poll_fn(|cx| {
            if let Poll::Ready(word) = signal.poll(Some(Word::Admitted), cx) {
                return Poll::Ready(word.into());
            }
            if confirmed.poll_unpin(cx).is_ready() {
                return Poll::Ready(failed.into());
            }
            limits.poll(&record.progress, &*link.runtime, cx)
        })
        .await
    }
}

/// The time limits of a session that relays.
struct Limits {
    settings: Arc<Settings>,
    is_half_closed: bool,
    is_delivering: bool,
    /// While a limit applies.
    watch: Option<Box<Watch>>,
}

/// Watches for bytes that move.
struct Watch {
    bytes: u64,
    /// When the last byte or end was seen.
    moved_at: Duration,
    deadline: Deadline,
}

impl Limits {
    fn new(settings: Arc<Settings>, runtime: &dyn Runtime) -> Self {
        let (is_half_closed, is_delivering) = (false, false);
        let mut limits = Self { settings, is_half_closed, is_delivering, watch: None };
        limits.restart(runtime);
        limits
    }

    /// The side whose end has just been passed on, if it is the session's first end.
    fn note_end(&mut self, progress: &Progress, runtime: &dyn Runtime) -> Option<Side> {
        // A delivery's limit stays, also if the relay passes on an end meanwhile.
        if self.is_half_closed || self.is_delivering {
            return None;
        }
        let ended = [Direction::ToBackend, Direction::ToClient]
            .into_iter()
            .find(|direction| progress.has_ended(*direction))?;
        self.is_half_closed = true;
        self.restart(runtime);
        Some(ended.from())
    }

    /// Ready when no byte has moved for as long as the session's state allows.
    fn poll(
        &mut self,
        progress: &Progress,
        runtime: &dyn Runtime,
        cx: &mut Context<'_>,
    ) -> Poll<EndReason> {
        if let Some(side) = progress.failed() {
            return self.poll_delivery(runtime, cx).map(|()| side.into());
        }
        let Some((limit, reason)) = self.limit() else { return Poll::Pending };
        debug_assert!(self.watch.is_some(), "a limit that applies has its watch");
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        let bytes = progress.bytes(Direction::ToBackend) + progress.bytes(Direction::ToClient);
        if bytes != watch.bytes {
            watch.bytes = bytes;
            watch.moved_at = runtime.now();
        }
        while watch.deadline.poll(runtime, cx).is_ready() {
            let left = limit.saturating_sub(runtime.now().saturating_sub(watch.moved_at));
            if left.is_zero() {
                return Poll::Ready(reason);
            }
            watch.deadline = Deadline::new(runtime, left);
        }
        Poll::Pending
    }

    /// Ready when the time for a delivery is over. Call it once a side has failed; no other limit
    /// applies from then on.
    fn poll_delivery(&mut self, runtime: &dyn Runtime, cx: &mut Context<'_>) -> Poll<()> {
        debug_assert!(self.watch.is_some() || !self.is_delivering, "a delivery has a limit");
        if !std::mem::replace(&mut self.is_delivering, true) {
            let deadline = Deadline::new(runtime, self.settings.delivery_timeout);
            self.watch = Some(Box::new(Watch { bytes: 0, moved_at: Duration::ZERO, deadline }));
        }
        let Some(watch) = &mut self.watch else { return Poll::Pending };
        watch.deadline.poll(runtime, cx)
    }

    fn restart(&mut self, runtime: &dyn Runtime) {
        let watch = |(limit, _)| {
            let deadline = Deadline::new(runtime, limit);
            Box::new(Watch { bytes: 0, moved_at: runtime.now(), deadline })
        };
        self.watch = self.limit().map(watch);
    }

    /// The shortest limit that applies now.
    fn limit(&self) -> Option<(Duration, EndReason)> {
        let half_close = self.settings.half_close_timeout.filter(|_| self.is_half_closed);
        let half_close = half_close.map(|limit| (limit, EndReason::HalfCloseTimedOut));
        let idle = self.settings.idle_timeout.map(|limit| (limit, EndReason::IdleTimedOut));
        half_close.into_iter().chain(idle).min()
    }
}

impl<T: Target> Drop for Record<T> {
    fn drop(&mut self) {
        self.shared.finish(self.id, self.reason, &self.progress);
    }
}

impl From<Word> for EndReason {
    fn from(word: Word) -> Self {
        match word {
            Word::Refused => Self::NoBackends,
            Word::Admitted | Word::Revoked => {
                debug_assert!(false, "{word:?} ends no session: it dials, or dials again");
                Self::BackendRemoved
            }
            Word::Removed => Self::BackendRemoved,
            Word::Expired => Self::DrainExpired,
            Word::Silent => Self::BackendSilent,
            Word::Closed => Self::Shutdown,
        }
    }
}

impl From<Refusal> for EndReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NoBackends => Self::NoBackends,
            Refusal::WaitingFull => Self::WaitingFull,
            Refusal::Closed => Self::Shutdown,
        }
    }
}

impl From<Side> for EndReason {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::ClientFailed,
            Side::Backend => Self::BackendFailed,
        }
    }
}
