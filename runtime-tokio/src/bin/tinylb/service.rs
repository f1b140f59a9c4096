use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use tinylb_core::{Event, Handle, ListenerHandle, Server, StopHandle};
use tinylb_tokio::{Address, AddressDialer, SocketRelay, TcpOptions, TokioRuntime};
use tokio::sync::{Notify, mpsc};

use crate::{config, log::EventLog, program::Opened, socket::Share, source::Source};

/// A service that runs: one server, its listeners, and what the file said of it.
pub(crate) struct Service {
    pub(crate) name: String,
    pub(crate) events: Arc<EventLog>,
    server: Server<AddressDialer>,
    handle: Arc<Handle<Address>>,
    relay: SocketRelay,
    state: Mutex<State>,
    /// Where a dead listener is reported.
    fatal: mpsc::UnboundedSender<String>,
    /// Notified when the set was replaced, or the source is back.
    replaced: Arc<Notify>,
}

struct State {
    config: config::Service,
    /// What is followed, unless the configuration gives the backends.
    source: Option<Source>,
    /// By the address as it is configured, and who accepts there.
    listeners: BTreeMap<(Address, Share), StopHandle>,
    /// The shutdown, once it has begun.
    finishing: Option<Shared<BoxFuture<'static, ()>>>,
}

impl Service {
    /// A service that doesn't listen yet.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub(crate) fn new(
        name: &str,
        config: config::Service,
        relay: SocketRelay,
        fatal: mpsc::UnboundedSender<String>,
    ) -> Result<Self, String> {
        let events = Arc::new(EventLog::new(name));
        let dialer = AddressDialer::new(tcp_options(&config)).on_address_failure({
            let events = Arc::clone(&events);
            move |failure| events.address_failed(&failure)
        });
        let replaced = Arc::new(Notify::new());
        let observer = {
            let (events, replaced) = (Arc::clone(&events), Arc::clone(&replaced));
            move |_, event: &_| {
                events.observe(event);
                if let Event::SetReplaced(_) | Event::SourceBack { .. } = event {
                    replaced.notify_one();
                }
            }
        };
        let settings = config.settings.clone();
        let server = Server::with_observer(dialer, TokioRuntime::current(), settings, observer)
            .map_err(|error| format!("service {name}: {error}"))?;
        let handle = Arc::new(server.handle());
        events.ask(&handle);
        let state = State { config, source: None, listeners: BTreeMap::new(), finishing: None };
        let (name, state) = (name.into(), Mutex::new(state));
        Ok(Self { name, events, server, handle, relay, state, fatal, replaced })
    }

    pub(crate) fn handle(&self) -> Handle<Address> {
        Handle::clone(&self.handle)
    }

    /// Where the backends come from, if that is a source.
    pub(crate) fn source(&self) -> Option<String> {
        match &self.lock().config.source {
            config::Source::Given(_) => None,
            config::Source::Followed(followed) => Some(followed.place.to_string()),
        }
    }

    /// Does as the file says now. Backends that the file didn't change stay as they are, and a
    /// source that it didn't change is followed on.
    pub(crate) fn apply(
        &self,
        config: config::Service,
        opened: Opened,
        is_new: bool,
    ) -> Result<(), String> {
        let mut state = self.lock();
        let in_service = |error: String| format!("service {}: {error}", self.name);
        self.server.dialer().set_options(tcp_options(&config));
        self.server.dialer().set_own(opened.own);
        let handle = self.server.handle();
        handle.configure(config.settings.clone()).map_err(|e| in_service(e.to_string()))?;
        if is_new || state.config.source != config.source {
            state.source = None;
            match &config.source {
                config::Source::Given(backends) => {
                    let replaced = handle.replace(backends.clone());
                    drop(replaced.map_err(|e| in_service(e.to_string()))?);
                }
                config::Source::Followed(followed) => {
                    let source = Source::follow(&self.name, followed, &handle, &self.replaced);
                    state.source = Some(source?);
                }
            }
        }
        // First who begins, then who stops: a socket never goes without.
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
        state.config = config;
        Ok(())
    }

    /// The addresses, as configured, that it listens at, each with all who accept there.
    pub(crate) fn shares(&self) -> Vec<(Address, Share)> {
        self.lock().listeners.keys().cloned().collect()
    }

    /// Why the service isn't ready, if it isn't.
    pub(crate) fn unready(&self) -> Option<&'static str> {
        let snapshot = self.server.handle().snapshot();
        if snapshot.is_shutting_down {
            Some("shutting down")
        } else if snapshot.listeners < self.lock().listeners.len() {
            Some("not listening")
        } else if snapshot.set.is_none() {
            Some("no set of backends yet")
        } else {
            None
        }
    }

    /// Stops accepting and waits for the sessions; called again, waits for the same.
    pub(crate) async fn finish(&self) {
        let finishing = {
            let mut state = self.lock();
            let grace = state.config.shutdown_timeout;
            let begin = || self.server.handle().shutdown(grace).boxed().shared();
            state.finishing.get_or_insert_with(begin).clone()
        };
        finishing.await;
    }

    /// Aborts every session, and waits until that is done.
    pub(crate) async fn abort(&self) {
        self.server.handle().shutdown(Duration::ZERO).await;
    }

    fn report_death(&self, address: Address, listener: ListenerHandle) {
        let (fatal, name) = (self.fatal.clone(), self.name.clone());
        tokio::spawn(async move {
            if let Err(error) = listener.await {
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

/// The socket options that a service is configured to have.
pub(crate) fn tcp_options(config: &config::Service) -> TcpOptions {
    let mut options = TcpOptions::default();
    options.peer_timeout = config.peer_timeout;
    options
}
