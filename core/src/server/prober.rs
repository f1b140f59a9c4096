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
    signal::{Signal, Word, until_told},
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

/// One probe; when dropped, it has let go of its connection, and tells the balancer how it ended.
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
        self.wakes.tell(signal, Word::Revoked);
    }

    /// Cuts the sessions of silent targets. Returns the probes to start now, and when to look again.
    fn look(&mut self, now: Duration) -> (Vec<Start<T>>, Option<Duration>) {
        let silent = self.balancer.cut_silent(now);
        self.wakes.tell(silent, Word::Silent);
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
            starts.into_iter().for_each(|start| self.start(start));
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
        }
    }

    fn start(&self, Start { probe, signal }: Start<D::Target>) {
        let (shared, dialer) = (Arc::clone(&self.shared), Arc::clone(&self.dialer));
        let probing =
            Probing { shared: Arc::clone(&shared), probe, end: ProbeEnd::Cancelled, failure: None };
        self.shared.spawn(async move {
            // Captured as a whole, so that it is dropped with the task.
            let mut probing = probing;
            let within = shared.settings().dial_timeout;
            let began = shared.runtime.now();
            let dial = dial(&*dialer, &probing.probe.target, within, &shared);
            let Some(dialled) = until_told(&signal, dial).await else { return };
            let took = shared.runtime.now().saturating_sub(began);
            (probing.end, probing.failure) = match dialled {
                Ok(()) => (ProbeEnd::Succeeded(took), None),
                Err(DialFailure::Failed(error)) => {
                    let fault = dialer.classify(&error);
                    (ProbeEnd::Failed(fault), Some(DialFailure::Failed(error)))
                }
                Err(failure) => (ProbeEnd::Failed(Fault::TimedOut), Some(failure)),
            };
        });
    }
}

/// Dials a target and lets go of the connection. A dialer that panics is at fault itself.
async fn dial<D: Dialer>(
    dialer: &D,
    target: &D::Target,
    within: Duration,
    shared: &Shared<D::Target>,
) -> Result<(), DialFailure> {
    let mut dial = AssertUnwindSafe(dialer.probe(target, within)).catch_unwind();
    let mut timeout = Deadline::new(&*shared.runtime, within);
    poll_fn(|cx| {
        if let Poll::Ready(dialled) = dial.poll_unpin(cx) {
            let panicked = |_| Err(std::io::Error::other("the dialer panicked"));
            return Poll::Ready(dialled.unwrap_or_else(panicked).map_err(DialFailure::Failed));
        }
        timeout.poll(&*shared.runtime, cx).map(|()| Err(DialFailure::TimedOut))
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
