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
    deadline::Deadline,
    shared::Shared,
    signal::{Signal, Word, until_raised},
    state::State,
};
use crate::{DialFailure, Dialer, Event, Fault, Notice, Probe, ProbeEnd, ProbeId, Target};

/// What the server knows of its prober.
#[derive(Default)]
pub(super) struct ProberStatus {
    /// Nudges it.
    signal: Arc<Signal>,
    is_running: bool,
    /// When it will next look by itself.
    due: Option<Duration>,
}

/// Does what is due about ejected targets, for all listeners: probes them, and cuts the sessions of
/// those that are silent. While no target is ejected, it sleeps.
struct Prober<D: Dialer> {
    shared: Arc<Shared<D::Target>>,
    dialer: Arc<D>,
    signal: Arc<Signal>,
    /// Until the next look, and when that is.
    sleep: Option<(Duration, BoxFuture<'static, ()>)>,
}

/// A probe to start, and what cancels it.
struct Start<T> {
    probe: Probe<T>,
    signal: Arc<Signal>,
}

/// One probe; when dropped, it has let go of its connection, and reports to the balancer how it ended.
struct Probing<T: Target> {
    shared: Arc<Shared<T>>,
    probe: Probe<T>,
    end: ProbeEnd,
    failure: Option<DialFailure>,
}

impl<T: Target> State<T> {
    /// Does what the balancer's notices ask for, and has the prober look if something is due sooner
    /// than it knows.
    pub(super) fn settle_health(&mut self) {
        for notice in self.balancer.take_notices() {
            match notice {
                Notice::Ejected { target, fault } => {
                    self.outbox.event(|| Event::Ejected { target, fault });
                }
                Notice::Returned { target, ejected_for } => {
                    self.outbox.event(|| Event::Returned { target, ejected_for });
                }
                Notice::Reconsider(id) => {
                    self.wakes.nudges.extend(self.balancer.kill_handle(id).cloned());
                }
                Notice::Cancel(probe) => self.cancel_probe(probe),
            }
        }
        let due = self.balancer.due();
        if due.is_some_and(|due| self.prober.due.is_none_or(|known| due < known)) {
            self.prober.due = due;
            self.wakes.nudges.push(Arc::clone(&self.prober.signal));
        }
    }

    pub(super) fn cancel_probe(&mut self, probe: ProbeId) {
        let signal = self.balancer.probe_handle(probe).cloned();
        self.wakes.raise(signal, Word::Revoked);
    }

    /// Cuts the sessions of silent targets. Returns the probes to start now, and when to look again.
    fn look(&mut self, now: Duration) -> (Vec<Start<T>>, Option<Duration>) {
        let silent = self.balancer.cut_silent(now);
        self.wakes.raise(silent, Word::Silent);
        let mut starts = Vec::new();
        loop {
            let signal = Arc::new(Signal::default());
            let Some(probe) = self.balancer.start_probe(now, || Arc::clone(&signal)) else { break };
            starts.push(Start { probe, signal });
        }
        self.prober.due = self.balancer.due();
        (starts, self.prober.due)
    }
}

impl<T: Target> Shared<T> {
    /// Has ejected targets probed from now on, if that isn't so yet.
    pub(super) fn probe_with<D: Dialer<Target = T>>(self: &Arc<Self>, dialer: &Arc<D>) {
        let signal = self.step(|state| {
            let is_first = !std::mem::replace(&mut state.prober.is_running, true);
            is_first.then(|| Arc::clone(&state.prober.signal))
        });
        let Some(signal) = signal else { return };
        let (shared, dialer) = (Arc::clone(self), Arc::clone(dialer));
        let mut prober = Prober { shared, dialer, signal, sleep: None };
        self.spawn(poll_fn(move |cx| prober.poll(cx)));
    }
}

impl<D: Dialer> Prober<D> {
    /// Never ready: the task ends with the server.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let runtime = Arc::clone(&self.shared.runtime);
        self.signal.register(cx);
        loop {
            let now = runtime.now();
            let (starts, due) = self.shared.step(|state| state.look(now));
            // All are guarded before the first runs: a runtime that panics loses none.
            let probings: Vec<_> = starts.into_iter().map(|start| self.guard(start)).collect();
            probings.into_iter().for_each(|(probing, signal)| self.start(probing, signal));
            let Some(due) = due else {
                self.sleep = None;
                return Poll::Pending;
            };
            if self.sleep.as_ref().is_none_or(|(until, _)| *until != due) {
                self.sleep = Some((due, runtime.sleep(due.saturating_sub(now))));
            }
            let Some((_, sleep)) = &mut self.sleep else { return Poll::Pending };
            if sleep.poll_unpin(cx).is_pending() {
                return Poll::Pending;
            }
            self.sleep = None;
            if runtime.now() < due {
                // The sleep has ended early, and so may the next: other tasks come first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }

    fn guard(
        &self,
        Start { probe, signal }: Start<D::Target>,
    ) -> (Probing<D::Target>, Arc<Signal>) {
        let (shared, end) = (Arc::clone(&self.shared), ProbeEnd::Cancelled);
        (Probing { shared, probe, end, failure: None }, signal)
    }

    fn start(&self, probing: Probing<D::Target>, signal: Arc<Signal>) {
        let dialer = Arc::clone(&self.dialer);
        self.shared.spawn(async move {
            // Captured as a whole, so that it is dropped with the task.
            let mut probing = probing;
            let probe = probe(&*dialer, &probing.probe.target, &probing.shared);
            let ended = until_raised(&signal, AssertUnwindSafe(probe).catch_unwind()).await;
            let Some(ended) = ended else { return };
            (probing.end, probing.failure) = ended.unwrap_or_else(|_panic| {
                let error = std::io::Error::other("the dialer panicked");
                (ProbeEnd::Failed(Fault::Ours), Some(DialFailure::Failed(error)))
            });
        });
    }
}

/// Probes a target, and lets go of the connection.
async fn probe<D: Dialer>(
    dialer: &D,
    target: &D::Target,
    shared: &Shared<D::Target>,
) -> (ProbeEnd, Option<DialFailure>) {
    let (runtime, within) = (&*shared.runtime, shared.settings().dial_timeout);
    let began = runtime.now();
    let mut dial = dialer.probe(target, within);
    let mut timeout = Deadline::new(runtime, within);
    poll_fn(|cx| {
        if let Poll::Ready(dialled) = dial.poll_unpin(cx) {
            return Poll::Ready(match dialled {
                Ok(()) => (ProbeEnd::Succeeded(runtime.now().saturating_sub(began)), None),
                Err(error) => {
                    let fault = dialer.classify(&error);
                    (ProbeEnd::Failed(fault), Some(DialFailure::Failed(error)))
                }
            });
        }
        let timed_out = || (ProbeEnd::Failed(Fault::TimedOut), Some(DialFailure::TimedOut));
        timeout.poll(runtime, cx).map(|()| timed_out())
    })
    .await
}

impl<T: Target> Drop for Probing<T> {
    fn drop(&mut self) {
        let now = self.shared.runtime.now();
        let failure = self.failure.take();
        self.shared.step(|state| {
            let owed = state.balancer.probe_ended(self.probe.id, self.end, now);
            if self.end != ProbeEnd::Cancelled {
                let target = self.probe.target.clone();
                state.outbox.event(|| Event::Probed { target, failure });
            }
            state.acknowledge(owed);
        });
    }
}
