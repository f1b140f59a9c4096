mod accept;
mod deadline;
mod delivery;
mod drain;
mod ends;
mod follow;
mod limit;
mod member;
mod prober;
mod session;
mod shared;
mod signal;
mod state;

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{Stream, channel::oneshot};

use self::{
    accept::AcceptLoop,
    limit::Parking,
    shared::Shared,
    signal::{Signal, Word},
};
use crate::{
    BackendSet, Dialer, Event, Listener, ListenerError, ListenerId, Relay, Report, Runtime,
    SetError, Settings, SettingsError, Snapshot, SourceSettings, Target, Update,
};

pub use self::{delivery::confirmed, ends::Ends, follow::Following, member::SharedBudget};

/// The driver around a [`Balancer`](crate::Balancer): it accepts, dials and relays, on runtimes
/// and connections that it doesn't know.
///
/// It takes any number of listeners, each with a relay and a runtime of its own; all share one
/// balancer, so the rotation is strict over all of them. Dropping the server stops its listeners,
/// aborts every session and ends every task.
pub struct Server<D: Dialer> {
    dialer: Arc<D>,
    handle: Handle<D::Target>,
}

/// What one listener's sessions need.
struct Link<D: Dialer, R> {
    shared: Arc<Shared<D::Target>>,
    dialer: Arc<D>,
    relay: R,
    runtime: Arc<dyn Runtime>,
}

impl<D: Dialer> Server<D> {
    /// A server without listeners and without a set. `runtime` is where ejected targets are probed,
    /// and where drains, shutdowns and sources are waited for.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn new(
        dialer: D,
        runtime: impl Runtime,
        settings: Settings,
    ) -> Result<Self, SettingsError> {
        Self::build(dialer, runtime, settings, None)
    }

    /// Like [`Self::new`], and calls `observer` with each event and its number, in the order of
    /// the numbers, outside every lock. It may use the server's handle (and keeps the server's
    /// state in memory if it holds one). It must not block: the session that delivers waits for it, and
    /// events that it is too slow for pile up. A panic of it is caught, and that event is lost.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn with_observer(
        dialer: D,
        runtime: impl Runtime,
        settings: Settings,
        observer: impl Fn(u64, &Event<D::Target>) + Send + Sync + 'static,
    ) -> Result<Self, SettingsError> {
        Self::build(dialer, runtime, settings, Some(Box::new(observer)))
    }

    fn build(
        dialer: D,
        runtime: impl Runtime,
        settings: Settings,
        observer: Option<shared::Observer<D::Target>>,
    ) -> Result<Self, SettingsError> {
        settings.validate()?;
        let dialer = Arc::new(dialer);
        let validate = {
            let dialer = Arc::clone(&dialer);
            Box::new(move |target: &D::Target| dialer.validate(target))
        };
        let shared = Shared::new(settings, Arc::new(runtime), observer, validate);
        Ok(Self { dialer, handle: Handle { shared: Arc::new(shared) } })
    }

    /// A handle to steer and watch the server; it doesn't keep it alive.
    pub fn handle(&self) -> Handle<D::Target> {
        self.handle.clone()
    }

    /// The dialer.
    pub fn dialer(&self) -> &D {
        &self.dialer
    }

    /// Accepts from a listener, from now on: its connections are relayed by `relay`, and its tasks
    /// run on `runtime`.
    pub fn listen<L: Listener>(
        &self,
        listener: L,
        relay: impl Relay<L::Conn, D::Conn>,
        runtime: impl Runtime,
    ) -> ListenerHandle {
        let shared = &self.handle.shared;
        shared.probe_with(&self.dialer);
        let stop = Arc::new(Signal::default());
        let (ended, end) = oneshot::channel();
        let Some((id, guard)) = shared.add_listener(&stop) else {
            let _ = ended.send(Ok(()));
            return ListenerHandle { id: None, stop, end };
        };
        let link = Arc::new(Link {
            shared: Arc::clone(shared),
            dialer: Arc::clone(&self.dialer),
            relay,
            runtime: Arc::new(runtime),
        });
        let runtime = Arc::clone(&link.runtime);
        let parking = Parking::new(Arc::clone(shared));
        let accepting = AcceptLoop { id, listener, link, stop: Arc::clone(&stop), parking };
        runtime.spawn(Box::pin(async move {
            let result = accepting.run().await;
            drop(guard);
            let _ = ended.send(result);
        }));
        ListenerHandle { id: Some(id), stop, end }
    }
}

impl<D: Dialer> Drop for Server<D> {
    fn drop(&mut self) {
        self.handle.shared.close();
    }
}

/// Steers and watches a [`Server`] from anywhere. Cheap to clone. Once the server is gone it does
/// no harm: sets are taken and reach nobody.
pub struct Handle<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<T: Target> Handle<T> {
    /// Replaces the set. When this returns, new clients go to the new set, and every session of a
    /// target that left has been signalled to end. The returned future waits until they have; it
    /// may be dropped.
    ///
    /// Calls from several threads take effect one after the other, and each returns its own
    /// report. Takes time in proportion to the size of the sets, in which sessions go on.
    ///
    /// # Errors
    /// What is wrong with the set. Nothing of it took effect.
    pub fn replace(&self, set: BackendSet<T>) -> Result<Replacement<T>, SetError> {
        let report = self.shared.replace(set)?;
        Ok(Replacement { shared: Arc::clone(&self.shared), report })
    }

    /// Checks a set as [`Self::replace`] does, and changes nothing.
    ///
    /// # Errors
    /// What is wrong with the set.
    pub fn validate(&self, set: &BackendSet<T>) -> Result<(), SetError> {
        self.shared.validate(set)
    }

    /// Takes sets from a source until the server ends, in a task on the server's runtime, as
    /// [`Self::follow_with`] does with the default settings.
    pub fn follow(&self, source: impl Stream<Item = Update<T>> + Send + 'static) -> Following {
        self.shared.follow(source, SourceSettings::default())
    }

    /// Takes sets from a source until the server ends or that is stopped, in a task on the server's
    /// runtime.
    ///
    /// Of many sets in a burst the newest is taken: the first at once, and then one each 10 ms at
    /// most. A source that ends or panics is lost, and so is one whose set can't be taken
    /// ([`Event::SourceLost`]).
    ///
    /// # Errors
    /// A setting is out of its range.
    pub fn follow_with(
        &self,
        source: impl Stream<Item = Update<T>> + Send + 'static,
        settings: SourceSettings,
    ) -> Result<Following, SettingsError> {
        settings.validate()?;
        Ok(self.shared.follow(source, settings))
    }

    /// Changes the settings while the server runs; see [`Settings`] for when each takes effect.
    ///
    /// # Errors
    /// A setting is out of its range. Nothing took effect.
    pub fn configure(&self, settings: Settings) -> Result<(), SettingsError> {
        settings.validate()?;
        self.shared.configure(settings);
        Ok(())
    }

    /// Counts the server's connections against a budget that it shares with other servers, starting
    /// with those that are live now. `minimum` connections are guaranteed to this server. While the
    /// budget has no room for it, it accepts no client, just as at [`Settings::max_connections`],
    /// which still limits this server alone. Another call changes the minimum, or the budget.
    ///
    /// Once the server shuts down, it has no guaranteed minimum, and its sessions count until they
    /// have ended.
    pub fn share(&self, budget: &SharedBudget, minimum: usize) {
        self.shared.share(budget, minimum);
    }

    /// Begins the rotation anew, at [`Settings::start`].
    pub fn reset_cycle(&self) {
        self.shared.reset_cycle();
    }

    /// The set in force, if there has been one. Much cheaper than a snapshot.
    pub fn set(&self) -> Option<BackendSet<T>> {
        self.shared.set()
    }

    /// The state at this moment. O(targets in use or ejected).
    pub fn snapshot(&self) -> Snapshot<T> {
        self.shared.snapshot()
    }

    /// Shuts the server down: stops accepting at once, lets sessions finish for at most `grace`,
    /// and aborts the rest. Awaiting what it returns waits until all that is done; it may be
    /// dropped. A second call aborts at once.
    pub fn shutdown(&self, grace: Duration) -> Shutdown<T> {
        let is_first = self.shared.begin_shutdown();
        if !is_first || grace.is_zero() {
            self.shared.close();
        } else {
            let (shared, sleep) = (Arc::clone(&self.shared), self.shared.runtime.sleep(grace));
            self.shared.spawn(async move {
                sleep.await;
                shared.close();
            });
        }
        Shutdown { place: self.shared.await_shutdown(), shared: Arc::clone(&self.shared) }
    }
}

/// A replacement that has taken effect. As a future it is ready once the replacement is *applied*:
/// each session it cut has let go of both its connections, and each dial it revoked of its own,
/// those of every replacement before it included. From then on nothing is sent to a target that
/// isn't in the newest set, but resets, and what sessions send that drain.
///
/// It only waits; dropping it changes nothing. It waits for tasks of this server, for no peer.
#[must_use = "the replacement has taken effect; await this to know that it is applied"]
pub struct Replacement<T: Target> {
    shared: Arc<Shared<T>>,
    report: Arc<Report>,
}

impl<T: Target> Replacement<T> {
    /// What the replacement did when it took effect.
    pub fn report(&self) -> &Report {
        &self.report
    }
}

impl<T: Target> Future for Replacement<T> {
    type Output = Arc<Report>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Arc<Report>> {
        match self.shared.poll_applied(self.report.generation, cx.waker()) {
            true => Poll::Ready(Arc::clone(&self.report)),
            false => Poll::Pending,
        }
    }
}

impl<T: Target> Drop for Replacement<T> {
    fn drop(&mut self) {
        self.shared.forget_barrier(self.report.generation);
    }
}

/// A shutdown that has begun. Ready when every listener is closed, every session and every probe has
/// ended, and the observer has seen it.
/// Dropping it changes nothing.
pub struct Shutdown<T: Target> {
    shared: Arc<Shared<T>>,
    place: usize,
}

impl<T: Target> Future for Shutdown<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        match self.shared.poll_shutdown(self.place, cx.waker()) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}

impl<T: Target> Drop for Shutdown<T> {
    fn drop(&mut self) {
        self.shared.forget_shutdown(self.place);
    }
}

/// One listener of a server. As a future it is ready when the listener is closed: `Ok` after
/// [`Self::stop`], a shutdown or the server's end; else why it died. Dropping it changes nothing.
pub struct ListenerHandle {
    id: Option<ListenerId>,
    stop: Arc<Signal>,
    end: oneshot::Receiver<Result<(), ListenerError>>,
}

impl ListenerHandle {
    /// The listener's number in events; `None` if the server was shutting down already.
    pub fn id(&self) -> Option<ListenerId> {
        self.id
    }

    /// Stops accepting and closes the listener. Its sessions go on.
    pub fn stop(&self) {
        self.stop_handle().stop();
    }

    /// A handle to stop the listener with while this one is awaited.
    pub fn stop_handle(&self) -> StopHandle {
        StopHandle { stop: Arc::clone(&self.stop) }
    }
}

/// Stops one listener of a server. Cheap to clone.
#[derive(Clone)]
pub struct StopHandle {
    stop: Arc<Signal>,
}

impl StopHandle {
    /// Stops accepting and closes the listener. Its sessions go on.
    pub fn stop(&self) {
        self.stop.raise(Word::Closed);
    }
}

impl Future for ListenerHandle {
    type Output = Result<(), ListenerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let end = Pin::new(&mut self.end).poll(cx);
        end.map(|result| result.unwrap_or(Err(ListenerError::TaskDropped)))
    }
}
