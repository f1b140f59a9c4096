use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tinylb_core::{
    BackendSet, Event, Handle, ListenerHandle, Replacement, Server, SetError, StopHandle,
};
use tinylb_services::{Ends, Feed as FeedStep, Planned, Rest};
use tinylb_tokio::{Address, AddressDialer, SocketRelay, TokioRuntime, VerdictBoard};
use tokio::{
    sync::{Notify, mpsc},
    task::AbortHandle,
};

use crate::{
    checks::{CheckedTable, Checks},
    config::{Backends, ServiceConfig},
    log::EventLog,
    record::Recorder,
    socket::{Opened, Share},
    source::Source,
};

/// A living service: one server, its listeners, and its latest configuration.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) events: Arc<EventLog>,
    server: Server<AddressDialer>,
    handle: Handle<Address>,
    relay: SocketRelay,
    state: Mutex<State>,
    /// Where a dead listener is reported.
    fatal: mpsc::UnboundedSender<String>,
    /// Notified when the set was replaced, or the source is back.
    replaced: Arc<Notify>,
    leaving: Arc<Leaving>,
    /// Where its events are recorded, and under which number.
    recorder: Option<(Recorder, u32)>,
    /// How often a source panicked or ended and was restarted.
    pub(crate) source_restarts: Arc<AtomicU64>,
    /// The set has been replaced since the last check of where it leads.
    has_new_set: Arc<AtomicBool>,
}

/// Notified when less is left of a leaving service. Unused while it serves.
#[derive(Default)]
struct Leaving {
    is_watched: AtomicBool,
    changed: Notify,
}

struct State {
    /// Where it listens, with the ports that it got.
    own: Vec<Address>,
    /// The task that waits for the end of a leaving service.
    seeing_off: Option<AbortHandle>,
    config: Arc<ServiceConfig>,
    feed: Feed,
    /// By the address as configured, and the share of it.
    listeners: BTreeMap<(Address, Share), StopHandle>,
}

/// Where sets come from.
#[derive(Default)]
enum Feed {
    /// The configuration or a PUT gives them, and each is in force at once.
    #[default]
    Given,
    /// The same, but those of a table are in force that pass.
    Checked(CheckedTable),
    Source(Source),
}

impl Feed {
    fn checks(&mut self) -> Option<&mut Checks> {
        match self {
            Self::Given => None,
            Self::Checked(table) => Some(&mut table.checks),
            Self::Source(source) => source.checks.as_mut(),
        }
    }

    fn source(&mut self) -> Option<&mut Source> {
        match self {
            Self::Source(source) => Some(source),
            Self::Given | Self::Checked(_) => None,
        }
    }
}

impl Service {
    /// A service that doesn't listen yet.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub(crate) fn new(
        name: &str,
        config: Arc<ServiceConfig>,
        relay: SocketRelay,
        recorder: Option<Recorder>,
        fatal: mpsc::UnboundedSender<String>,
        sets: &Arc<Notify>,
    ) -> Result<Self, String> {
        let events = Arc::new(EventLog::new(name));
        let [failed, changed] = [(); 2].map(|()| Arc::clone(&events));
        let dialer = AddressDialer::new(config.tcp_options())
            .on_address_failure(move |failure| failed.address_failed(&failure))
            .on_address_change(move |change| changed.addresses_changed(&change));
        let (replaced, leaving) = (Arc::new(Notify::new()), Arc::new(Leaving::default()));
        let has_new_set = Arc::new(AtomicBool::new(false));
        let recorder = recorder.map(|recorder| {
            let number = recorder.add(name, &config.settings);
            (recorder, number)
        });
        let observer = {
            let recorder = recorder.clone();
            let (events, replaced) = (Arc::clone(&events), Arc::clone(&replaced));
            let (leaving, sets) = (Arc::clone(&leaving), Arc::clone(sets));
            let has_new_set = Arc::clone(&has_new_set);
            move |_, event: &_| {
                if let Some((recorder, number)) = &recorder {
                    recorder.event(*number, event);
                }
                events.observe(event);
                match event {
                    Event::SetReplaced { .. } => {
                        replaced.notify_one();
                        has_new_set.store(true, Ordering::Relaxed);
                        sets.notify_one();
                    }
                    Event::SourceBack { .. } => replaced.notify_one(),
                    Event::Ended { .. } => leaving.note(),
                    _ => {}
                }
            }
        };
        let settings = config.settings.clone();
        let server = Server::with_observer(dialer, TokioRuntime::current(), settings, observer)
            .map_err(|error| format!("service {name}: {error}"))?;
        let handle = server.handle();
        let state = State {
            own: Vec::new(),
            seeing_off: None,
            config,
            feed: Feed::Given,
            listeners: BTreeMap::new(),
        };
        let (name, state) = (name.into(), Mutex::new(state));
        Ok(Self {
            name,
            events,
            server,
            handle,
            relay,
            state,
            fatal,
            replaced,
            leaving,
            recorder,
            source_restarts: Arc::default(),
            has_new_set,
        })
    }

    pub(crate) fn handle(&self) -> Handle<Address> {
        self.handle.clone()
    }

    /// Where the backends come from, if that is a source.
    pub(crate) fn source(&self) -> Option<String> {
        match &self.lock().config.backends {
            Backends::Given(_) => None,
            Backends::Followed(followed) => Some(followed.place.to_string()),
        }
    }

    /// Does as planned. Backends that the configuration doesn't change stay as they are, and a source
    /// that it doesn't change is still followed.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn apply(
        &self,
        planned: Planned<ServiceConfig>,
        opened: Opened,
    ) -> Result<(), String> {
        let mut state = self.lock();
        self.events.ejections.set_handle(Some(self.handle.clone()));
        self.server.dialer().set_own(opened.own.clone());
        state.own = opened.own;
        self.take(&mut state, planned)?;
        self.leaving.is_watched.store(false, Ordering::Relaxed);
        if let Some(seeing_off) = state.seeing_off.take() {
            seeing_off.abort();
        }
        // New accept loops begin before old ones stop, so that each socket always has one.
        for (share, acceptor) in opened.acceptors {
            let listener = acceptor.listen(&self.server, self.relay.clone());
            let address = share.0.clone();
            state.listeners.insert(share, listener.stop_handle());
            self.report_death(address, listener);
        }
        state.listeners.retain(|share, listener| {
            let stays = opened.shares.contains(share);
            if !stays {
                listener.stop();
            }
            stays
        });
        Ok(())
    }

    /// Applies a configuration to a leaving service: its backends, its settings and its time
    /// change, but it doesn't listen.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn adjust(&self, planned: Planned<ServiceConfig>) -> Result<(), String> {
        self.take(&mut self.lock(), planned)?;
        // It may have less time now, or more.
        self.look_again();
        Ok(())
    }

    /// Applies the parts of a configuration that a leaving service needs too.
    fn take(&self, state: &mut State, planned: Planned<ServiceConfig>) -> Result<(), String> {
        let Planned { feed, definition: config, .. } = planned;
        let in_service = |error: String| format!("service {}: {error}", self.name);
        self.server.dialer().set_options(config.tcp_options());
        self.server.dialer().set_dial_from(config.dial_from.clone());
        self.handle.configure(config.settings.clone()).map_err(|e| in_service(e.to_string()))?;
        if let (Some(checks), Some(check)) = (state.feed.checks(), &config.check) {
            checks.change(check, &config.dial_from).map_err(in_service)?;
        }
        match (feed, &config.backends) {
            (FeedStep::Stays, _) => {
                if self.keep(state) {
                    // The file may have been another service's meanwhile.
                    self.replaced.notify_one();
                }
            }
            (FeedStep::Given | FeedStep::Kept, Backends::Given(backends)) => {
                let backends = match &state.feed {
                    _ if feed == FeedStep::Given => backends.clone(),
                    // Perhaps a PUT gave others.
                    Feed::Checked(table) => table.set(),
                    _ => self.handle.set().unwrap_or_else(|| backends.clone()),
                };
                self.give(state, &config, backends).map_err(in_service)?;
            }
            (FeedStep::Followed, Backends::Followed(followed)) => {
                self.drop_feed(state);
                let (handle, replaced) = (&self.handle, &self.replaced);
                let restarts = &self.source_restarts;
                let source =
                    Source::follow(followed, &config, handle, replaced, restarts, &self.events)?;
                state.feed = Feed::Source(source);
                self.keep(state);
            }
            (feed, _) => debug_assert!(false, "{feed:?} is planned for other backends"),
        }
        state.config = config;
        Ok(())
    }

    /// Uses the backends of a table: those that pass, if the configuration has a check.
    fn give(
        &self,
        state: &mut State,
        config: &ServiceConfig,
        backends: BackendSet<Address>,
    ) -> Result<(), String> {
        match (&mut state.feed, &config.check) {
            (Feed::Checked(table), Some(_)) => {
                drop(table.replace(backends, &self.handle).map_err(|e| e.to_string())?);
            }
            (_, Some(check)) => {
                self.drop_feed(state);
                let (handle, dial_from) = (&self.handle, &config.dial_from);
                let table = CheckedTable::follow(backends, check, dial_from, handle, &self.events);
                state.feed = Feed::Checked(table?);
            }
            (_, None) => {
                self.drop_feed(state);
                drop(self.handle.replace(backends).map_err(|e| e.to_string())?);
            }
        }
        Ok(())
    }

    /// Replaces the backends of a service without a source. `None`: there is a check, and nothing is in
    /// force yet.
    ///
    /// # Errors
    /// What is wrong with the set. Nothing of it took effect.
    pub(crate) fn put(
        &self,
        set: BackendSet<Address>,
    ) -> Result<Option<Replacement<Address>>, SetError> {
        match &mut self.lock().feed {
            Feed::Checked(table) => table.replace(set, &self.handle),
            Feed::Given | Feed::Source(_) => self.handle.replace(set).map(Some),
        }
    }

    /// What the checks know of the backends, if they are checked.
    pub(crate) fn board(&self) -> Option<VerdictBoard> {
        self.lock().feed.checks().map(|checks| checks.board().clone())
    }

    /// Stops following its source and checking its backends, and forgets their failures.
    fn drop_feed(&self, state: &mut State) {
        if let Feed::Source(_) = std::mem::take(&mut state.feed) {
            self.events.source_gone();
        }
    }

    /// Keeps the source's sets from now on: a configuration names this service, so the file of the
    /// last known backends is its own. Returns whether that is new.
    fn keep(&self, state: &mut State) -> bool {
        let (handle, replaced) = (&self.handle, &self.replaced);
        state.feed.source().is_some_and(|source| source.keep(handle, replaced, &self.events))
    }

    /// Stops keeping the source's sets: the configuration lacks this service, and another one may have
    /// its file of the last known backends.
    pub(crate) fn stop_keeping(&self) {
        if let Some(source) = self.lock().feed.source() {
            source.stop_keeping();
        }
    }

    /// Its shares of the addresses that it listens at, as configured.
    pub(crate) fn shares(&self) -> Vec<(Address, Share)> {
        self.lock().listeners.keys().cloned().collect()
    }

    /// Where it listens, with the ports that it got; nowhere if it leaves.
    pub(crate) fn own(&self) -> Vec<Address> {
        self.lock().own.clone()
    }

    /// Refuses to dial these addresses, from which connections come back here.
    pub(crate) fn set_back(&self, back: Vec<Address>) {
        self.server.dialer().set_back(back);
    }

    /// The set, if it has been replaced since the last call.
    pub(crate) fn new_set(&self) -> Option<BackendSet<Address>> {
        // Before reading the set: a set that comes later counts the next time.
        let is_new = self.has_new_set.swap(false, Ordering::Relaxed);
        is_new.then(|| self.handle.snapshot().set).flatten()
    }

    /// Why a service of a program that goes on isn't ready, if it isn't. Removed services don't count
    /// here.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        let snapshot = self.handle.snapshot();
        if self.is_leaving() {
            None
        } else if snapshot.listeners < self.lock().listeners.len() {
            Some("not listening")
        } else if snapshot.set.is_none() {
            Some("no set of backends yet")
        } else {
            None
        }
    }

    /// Whether it no longer accepts, since the configuration lacks it or the program stops.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_watched.load(Ordering::Relaxed)
    }

    /// How long its sessions may take to finish once it leaves.
    pub(crate) fn shutdown_timeout(&self) -> Duration {
        self.lock().config.shutdown_timeout
    }

    /// Stops accepting; sessions go on.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        self.leaving.is_watched.store(true, Ordering::Relaxed);
        std::mem::take(&mut state.listeners).values().for_each(StopHandle::stop);
        // Clients no longer come here, so these addresses may now be another listener's, and
        // backends here.
        self.server.dialer().set_own(Vec::new());
        self.server.dialer().set_back(Vec::new());
        state.own = Vec::new();
    }

    /// Sets the task that waits for the end of this leaving service. It is stopped if the service
    /// comes back.
    pub(crate) fn seen_off_by(&self, task: AbortHandle) {
        self.lock().seeing_off = Some(task);
    }

    /// What is left of it. Whatever ends later wakes [`Self::less_left`], if it leaves.
    pub(crate) fn rest(&self) -> Rest {
        let snapshot = self.handle.snapshot();
        Rest { sessions: snapshot.live, listeners: snapshot.listeners }
    }

    /// Waits until less is left of this leaving service, or it may have another time.
    pub(crate) async fn less_left(&self) {
        self.leaving.changed.notified().await;
    }

    /// Has the task that waits for its end ask again how long that may take.
    pub(crate) fn look_again(&self) {
        self.leaving.changed.notify_one();
    }

    /// How its sessions have ended.
    pub(crate) fn ends(&self) -> Ends {
        Ends::from(&self.handle.snapshot().ended)
    }

    /// Cuts what is left, for good, and waits until that is done and logged.
    pub(crate) async fn close(&self) {
        self.drop_feed(&mut self.lock());
        self.handle.shutdown(Duration::ZERO).await;
        if let Some((recorder, number)) = &self.recorder {
            recorder.over(*number);
        }
        self.events.ejections.set_handle(None);
    }

    fn report_death(&self, address: Address, listener: ListenerHandle) {
        let (fatal, name) = (self.fatal.clone(), self.name.clone());
        let leaving = Arc::clone(&self.leaving);
        tokio::spawn(async move {
            let end = listener.await;
            leaving.note();
            if let Err(error) = end {
                let cause = std::error::Error::source(&error).map(|e| format!(": {e}"));
                let cause = cause.unwrap_or_default();
                let _ = fatal.send(format!("service {name}, {address}: {error}{cause}"));
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leaving {
    /// Notes that less is left of the service.
    fn note(&self) {
        // The state that is read afterwards is behind a lock, which orders this as well.
        if self.is_watched.load(Ordering::Relaxed) {
            self.changed.notify_one();
        }
    }
}
