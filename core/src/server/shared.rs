use std::{
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Waker,
    time::Duration,
};

use futures::Stream;

use super::{
    follow::{Follower, Following},
    signal::{Signal, Word, until_raised},
    state::{Item, Lifecycle, State, Task, Wakes},
};
use crate::{
    Admission, BackendSet, Change, Conn, DialFailure, Direction, EndReason, Event, Fault,
    Generation, Limit, ListenerId, Pick, Progress, Report, Runtime, SessionId, SetError, Settings,
    Side, Snapshot, SourceSettings, Target, Update,
    sync::{Mutex, MutexGuard},
};

/// Sees every event, in order. It must not block: sessions wait for it.
pub(super) type Observer<T> = Box<dyn Fn(u64, &Event<T>) + Send + Sync>;

type Validate<T> = Box<dyn Fn(&T) -> Result<(), String> + Send + Sync>;

/// What the tasks of a server share: the balancer under the one lock, and what goes with it.
///
/// Every step runs under the lock and leaves behind what is to be done outside it: tasks to wake,
/// events to deliver.
pub(crate) struct Shared<T> {
    state: Mutex<State<T>>,
    /// Held by the replacement that is being prepared; taken before `state`.
    replacing: Arc<Mutex<()>>,
    observer: Option<Observer<T>>,
    validate: Validate<T>,
    pub(super) runtime: Arc<dyn Runtime>,
}

/// What a step leaves to be done once the lock is free.
#[must_use = "tasks wait to be woken, and events to be delivered"]
struct Aftermath {
    wakes: Wakes,
    has_items: bool,
}

/// What a background task is known by; gives its place back when it ends.
pub(super) struct TaskGuard<T: Target> {
    shared: Arc<Shared<T>>,
    place: usize,
}

impl<T: Target> Shared<T> {
    pub(super) fn new(
        settings: Settings,
        runtime: Arc<dyn Runtime>,
        observer: Option<Observer<T>>,
        validate: Validate<T>,
    ) -> Self {
        let state = State::new(settings, observer.is_some());
        let replacing = Arc::default();
        Self { state: Mutex::new(state), replacing, observer, validate, runtime }
    }

    // Sessions.

    /// Accepts a client, if there is room, unless the server is shutting down.
    pub(super) fn admit(
        &self,
        listener: ListenerId,
        client: &mut impl Conn,
        signal: &Arc<Signal>,
    ) -> Result<Option<(SessionId, Admission<T>)>, Limit> {
        // An adapter's code, so neither under the lock nor trusted not to panic.
        let peer = || catch_unwind(AssertUnwindSafe(|| client.peer())).unwrap_or_default();
        let peer = self.observer.is_some().then(peer).unwrap_or_default();
        self.step(|state| state.admit(listener, peer, signal))
    }

    /// The backend to dial now, and the dial's patience, if that has an end; `None` if it was revoked.
    pub(super) fn start_dial(&self, id: SessionId) -> Option<(Pick<T>, Option<Duration>)> {
        self.step(|state| {
            let is_dialling = state.balancer.is_dialling(id);
            let pick = state.balancer.pick(id).filter(|_| is_dialling)?.clone();
            state.outbox.event(|| Event::DialStarted { id, pick: pick.clone() });
            Some((pick, state.balancer.patience(id)))
        })
    }

    /// Whether a dial whose patience is over is to be given up.
    pub(super) fn overdue(&self, id: SessionId) -> bool {
        let now = self.runtime.now();
        self.step(|state| state.balancer.overdue(id, now))
    }

    /// A dial has come to nothing, after this time and through this fault, if it was anybody's.
    pub(super) fn dial_failed(
        &self,
        id: SessionId,
        failure: DialFailure,
        fault: Option<Fault>,
        lasted: Duration,
    ) {
        let now = self.runtime.now();
        self.step(|state| {
            if let Some(fault) = fault {
                state.balancer.dial_failed(id, fault, lasted, now);
            }
            if let Some(pick) = state.balancer.pick(id) {
                state.outbox.event(|| Event::DialFailed { id, pick: pick.clone(), failure });
            }
        });
    }

    /// Whether the next attempt would go to a target that has failed already.
    pub(super) fn has_tried_all(&self, id: SessionId) -> bool {
        self.step(|state| state.balancer.has_tried_all(id))
    }

    /// Registers the next attempt.
    pub(super) fn retry(&self, id: SessionId, signal: &Arc<Signal>) -> Admission<T> {
        self.step(|state| {
            debug_assert!(state.balancer.pick(id).is_some(), "{id} has dialled before");
            let (next, owed) = state.balancer.retry(id, Arc::clone(signal));
            state.acknowledge(owed);
            if let Admission::Dial(pick) = &next {
                state.outbox.event(|| Event::Admitted { id, pick: pick.clone() });
            }
            next
        })
    }

    /// Whether the dialled connection, which took this long, may be used.
    pub(super) fn connected(&self, id: SessionId, took: Duration) -> bool {
        let now = self.runtime.now();
        self.step(|state| {
            let is_connected = state.balancer.connected(id, took, now);
            if is_connected && let Some(pick) = state.balancer.pick(id) {
                state.outbox.event(|| Event::Connected { id, pick: pick.clone() });
            }
            is_connected
        })
    }

    pub(super) fn half_closed(&self, id: SessionId, by: Side) {
        self.step(|state| state.outbox.event(|| Event::HalfClosed { id, by }));
    }

    pub(super) fn finish(&self, id: SessionId, reason: EndReason, progress: &Progress) {
        let bytes_to_backend = progress.bytes(Direction::ToBackend);
        let bytes_to_client = progress.bytes(Direction::ToClient);
        self.step(|state| {
            let pick = state.balancer.pick(id).cloned();
            let owed = state.balancer.finish(id, reason);
            state.give_room();
            state.bytes_to_backends += bytes_to_backend;
            state.bytes_to_clients += bytes_to_client;
            state.outbox.event(|| Event::Ended {
                id,
                pick,
                reason,
                bytes_to_backend,
                bytes_to_client,
            });
            state.acknowledge(owed);
        });
    }

    // Sets.

    /// Replaces the set by one that the caller brings, whatever a source has given.
    pub(super) fn replace(self: &Arc<Self>, set: BackendSet<T>) -> Result<Arc<Report>, SetError> {
        self.validate(&set)?;
        Ok(self.replace_valid(set, |state| state.source.lost = None))
    }

    /// Replaces the set by one that has been validated, and does `with` in the same step. The costly
    /// part is done outside the state's lock.
    pub(super) fn replace_valid(
        self: &Arc<Self>,
        set: BackendSet<T>,
        with: impl FnOnce(&mut State<T>),
    ) -> Arc<Report> {
        self.replace_held(self.replacing(), set, with)
    }

    /// Does that unless the source that gave the set has been stopped.
    pub(super) fn replace_followed(
        self: &Arc<Self>,
        stop: &Signal,
        set: BackendSet<T>,
        with: impl FnOnce(&mut State<T>),
    ) {
        let replacing = self.replacing();
        if stop.word().is_none() {
            self.replace_held(replacing, set, with);
        }
    }

    fn replacing(&self) -> MutexGuard<'_, ()> {
        self.replacing.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    fn replace_held(
        self: &Arc<Self>,
        replacing: MutexGuard<'_, ()>,
        set: BackendSet<T>,
        with: impl FnOnce(&mut State<T>),
    ) -> Arc<Report> {
        let change = Change::between(self.set(), set);
        let now = self.runtime.now();
        let ((report, before), aftermath) = self.step_only(|state| {
            with(state);
            state.replace(change, now)
        });
        // Before the events are delivered, since an observer may replace the set again.
        drop(replacing);
        self.finish_step(aftermath);
        drop(before);
        if report.sessions_draining > 0 {
            self.end_drain(report.generation);
        }
        report
    }

    /// The current set.
    pub(super) fn set(&self) -> Option<BackendSet<T>> {
        self.lock().balancer.set().cloned()
    }

    /// Whether a replacement is applied; if not, the waker is woken when it is.
    pub(super) fn poll_applied(&self, generation: Generation, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (is_applied, _unused) = self.step(|state| {
            if state.balancer.is_applied(generation) {
                (true, Some(waker))
            } else {
                (false, state.barriers.insert(generation, waker))
            }
        });
        is_applied
    }

    pub(super) fn forget_barrier(&self, generation: Generation) {
        self.step(|state| state.barriers.remove(&generation));
    }

    pub(super) fn validate(&self, set: &BackendSet<T>) -> Result<(), SetError> {
        let max = self.settings().backends_max;
        if let Some((key, _)) = set.iter().nth(max) {
            let key = key.clone();
            return Err(SetError::TooManyBackends { count: set.len(), max, key });
        }
        for (key, target) in set.iter() {
            if let Err(reason) = self.validate_target(target) {
                let target = target.to_string();
                return Err(SetError::InvalidTarget { key: key.clone(), target, reason });
            }
        }
        Ok(())
    }

    pub(super) fn validate_target(&self, target: &T) -> Result<(), String> {
        (self.validate)(target)
    }

    // Tasks.

    /// Registers a task that is to end when its signal says so. `None`: the server is closing.
    pub(super) fn add_listener(
        self: &Arc<Self>,
        stop: &Arc<Signal>,
    ) -> Option<(ListenerId, TaskGuard<T>)> {
        self.step(|state| {
            if state.lifecycle != Lifecycle::Running {
                return None;
            }
            let id = ListenerId(state.next_listener);
            state.next_listener += 1;
            state.listeners += 1;
            let place = state.tasks.insert(Task { stop: Arc::clone(stop), is_listener: true });
            Some((id, TaskGuard { shared: Arc::clone(self), place }))
        })
    }

    /// Runs a background task until it ends, the server is closed, or the signal that is returned
    /// has a word.
    pub(super) fn spawn(
        self: &Arc<Self>,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Arc<Signal> {
        let stop = Arc::default();
        self.spawn_until(&stop, task);
        stop
    }

    /// Runs a background task, until this signal has a word.
    fn spawn_until(
        self: &Arc<Self>,
        stop: &Arc<Signal>,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let stop = Arc::clone(stop);
        let guard = self.step(|state| {
            if state.is_done() {
                return None;
            }
            let place = state.tasks.insert(Task { stop: Arc::clone(&stop), is_listener: false });
            Some(TaskGuard { shared: Arc::clone(self), place })
        });
        if let Some(guard) = guard {
            self.runtime.spawn(Box::pin(async move {
                let _guard = guard;
                until_raised(&stop, task).await;
            }));
        }
    }

    /// Follows a source in a background task.
    pub(super) fn follow(
        self: &Arc<Self>,
        source: impl Stream<Item = Update<T>> + Send + 'static,
        settings: SourceSettings,
    ) -> Following {
        let stop = Arc::default();
        let follower = Follower::new(Arc::clone(self), settings, Arc::clone(&stop));
        self.spawn_until(&stop, follower.follow(source));
        Following { stop, replacing: Arc::clone(&self.replacing) }
    }

    pub(super) fn accept_failed(
        &self,
        listener: ListenerId,
        error: std::io::Error,
        pause: Option<Duration>,
    ) {
        self.step(|state| {
            state.outbox.event(|| Event::AcceptFailed { listener, error, pause });
        });
    }

    // The server's life.

    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.lock().settings)
    }

    pub(super) fn configure(self: &Arc<Self>, settings: Settings) {
        let now = self.runtime.now();
        let drains_change = self.step(|state| {
            let drains_change = state.settings.removal != settings.removal;
            state.outbox.event(|| Event::Configured(Arc::new(settings.clone())));
            let refused = state.balancer.configure(settings.clone(), now);
            state.wakes.raise(refused, Word::Refused);
            state.settings = Arc::new(settings);
            drains_change
        });
        if drains_change {
            self.end_drains();
        }
    }

    pub(super) fn reset_cycle(&self) {
        self.step(|state| state.balancer.reset_cycle());
    }

    /// Stops accepting and lets sessions finish. `false`: it had begun before.
    pub(super) fn begin_shutdown(&self) -> bool {
        self.step(|state| {
            let is_first = state.lifecycle == Lifecycle::Running;
            if is_first {
                state.lifecycle = Lifecycle::Closing;
                state.outbox.event(|| Event::ShutdownBegan);
                state.need_no_room();
                state.stop_tasks(|task| task.is_listener);
            }
            is_first
        })
    }

    /// Stops accepting and aborts every session.
    pub(super) fn close(&self) {
        self.step(|state| {
            state.lifecycle = Lifecycle::Closed;
            state.outbox.event(|| Event::Closed);
            state.need_no_room();
            let kills = state.balancer.abort_all();
            state.wakes.raise(kills, Word::Closed);
            state.stop_tasks(|_| true);
        });
    }

    /// A place for the waker of a shutdown's future.
    pub(super) fn await_shutdown(&self) -> usize {
        self.lock().shutdowns.insert(None)
    }

    /// Whether nothing is left of the server, and its observer knows; if something is, the waker is
    /// woken when nothing is.
    pub(super) fn poll_shutdown(&self, place: usize, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (is_done, _unused) = self.step(|state| {
            if state.is_over() {
                (true, Some(waker))
            } else {
                (false, state.shutdowns[place].replace(waker))
            }
        });
        is_done
    }

    pub(super) fn forget_shutdown(&self, place: usize) {
        self.step(|state| state.shutdowns.remove(place));
    }

    pub(super) fn snapshot(&self) -> Snapshot<T> {
        let now = self.runtime.now();
        let mut snapshot = self.lock().snapshot(now);
        snapshot.loads.sort_by(|a, b| a.target.cmp(&b.target));
        snapshot
    }

    // The lock.

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// One step under the lock; what it leaves behind is done before this returns.
    pub(super) fn step<R>(&self, step: impl FnOnce(&mut State<T>) -> R) -> R {
        let (result, aftermath) = self.step_only(step);
        self.finish_step(aftermath);
        result
    }

    /// One step under the lock, whose aftermath is the caller's to do.
    fn step_only<R>(&self, step: impl FnOnce(&mut State<T>) -> R) -> (R, Aftermath) {
        let mut state = self.lock();
        let result = step(&mut state);
        (result, Aftermath::of(&mut state))
    }

    fn finish_step(&self, aftermath: Aftermath) {
        aftermath.wakes.wake();
        if aftermath.has_items {
            self.deliver();
        }
    }

    /// Hands the events to the observer, in order, unless another call is at it (which then does
    /// these as well). A panicking observer costs its event and nothing else.
    fn deliver(&self) {
        let Some(observer) = &self.observer else { return };
        let mut state = self.lock();
        if state.outbox.is_delivering {
            return;
        }
        state.outbox.is_delivering = true;
        while !state.outbox.items.is_empty() {
            let items = mem::take(&mut state.outbox.items);
            drop(state);
            let mut owed = Vec::new();
            for item in items {
                match item {
                    Item::Event(number, event) => {
                        let _ = catch_unwind(AssertUnwindSafe(|| observer(number, &event)));
                    }
                    Item::Owed(debt) => owed.push(debt),
                }
            }
            if !owed.is_empty() {
                self.step(|state| {
                    owed.into_iter().for_each(|debt| state.balancer.acknowledge(debt));
                });
            }
            state = self.lock();
        }
        state.outbox.is_delivering = false;
        let aftermath = Aftermath::of(&mut state);
        drop(state);
        debug_assert!(!aftermath.has_items, "to settle makes no events");
        aftermath.wakes.wake();
    }
}

impl Aftermath {
    /// Taken at the end of a step.
    fn of<T: Target>(state: &mut State<T>) -> Self {
        state.settle();
        let wakes = mem::take(&mut state.wakes);
        Self { wakes, has_items: !state.outbox.items.is_empty() }
    }
}

impl<T: Target> Drop for TaskGuard<T> {
    fn drop(&mut self) {
        self.shared.step(|state| {
            let task = state.tasks.remove(self.place);
            state.listeners -= usize::from(task.is_listener);
        });
    }
}
