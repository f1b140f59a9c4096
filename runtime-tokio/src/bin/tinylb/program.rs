use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use futures::future::join_all;
use tinylb_core::SharedBudget;
use tinylb_tokio::{Address, SocketRelay, Splice};
use tokio::{runtime::Handle, sync::mpsc};
use tracing::{info, warn};

use crate::{
    config::{self, Config},
    descriptors, log,
    service::{Service, tcp_options},
    socket::{Acceptor, Share, Socket},
    workers::Workers,
};

/// All services and the sockets they accept from. Shared by the reloads, the admin address and
/// the signals.
pub(crate) struct Program {
    state: Mutex<State>,
    workers: Workers,
    /// How many workers there are, whatever the configuration says.
    workers_fixed: Option<usize>,
    /// Shared by all listeners, and so are its pipes.
    relay: SocketRelay,
    /// The connections of all services, retired ones included.
    budget: SharedBudget,
    fatal: mpsc::UnboundedSender<String>,
    /// Where the rotations of this process begin, where the configuration doesn't say: anywhere.
    start: u64,
}

#[derive(Default)]
struct State {
    services: BTreeMap<String, Arc<Service>>,
    sockets: BTreeMap<SocketKey, Socket>,
    /// Services that the file has no more, while their sessions finish.
    retired: Vec<Arc<Service>>,
}

/// An address as configured. Where it takes any port, each service has a socket of its own.
type SocketKey = (Option<String>, Address);

impl Program {
    /// A program without services. `fatal` is told of a listener or a worker that died.
    pub(crate) fn new(
        workers_fixed: Option<usize>,
        splice: Splice,
        fatal: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            workers: Workers::new(fatal.clone()),
            workers_fixed,
            relay: SocketRelay::new(splice, descriptors::pipes_max()),
            // Until it is known what else needs descriptors.
            budget: SharedBudget::new(0),
            fatal,
            start: RandomState::new().hash_one(()),
        }
    }

    /// Does as the configuration says: starts, changes and ends services. What can fail is done
    /// first, so that a configuration that can't be had changes nothing.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn apply(&self, config: Config) -> Result<(), String> {
        let mut state = self.lock();
        let workers = self.workers_fixed.or(config.workers).unwrap_or_else(cores);
        let addresses = config.services.values().map(|service| service.listen.len()).sum();
        let connections = descriptors::connections_max(workers, addresses);
        let config = self.complete(config, connections);
        let bound = bind_new(&state.sockets, &config, workers)?;
        let workers = self.workers.first(workers)?;
        let mut changes = Vec::new();
        for (name, service) in config {
            let opened = open(&state, &bound, &name, &service, &workers)?;
            let running = match state.services.get(&name) {
                Some(running) => Arc::clone(running),
                None => {
                    let (relay, fatal) = (self.relay.clone(), self.fatal.clone());
                    Arc::new(Service::new(&name, service.clone(), relay, fatal)?)
                }
            };
            changes.push((running, service, opened));
        }
        for (running, service, _) in &changes {
            for address in &service.listen {
                if let Some(socket) = state.sockets.get(&socket_key(&running.name, address)) {
                    let set = socket.set_options(&tcp_options(service));
                    set.map_err(|error| format!("can't set the options of {address}: {error}"))?;
                }
            }
        }

        for (key, socket) in bound {
            let address = socket.local_address().map_err(|error| error.to_string())?;
            info!(target: log::ALWAYS, "listening on {address}");
            state.sockets.insert(key, socket);
        }
        self.set_budget(connections);
        let guaranteed = descriptors::connections_min(connections, changes.len());
        let mut services = BTreeMap::new();
        for (service, config, opened) in changes {
            let is_new = !state.services.contains_key(&service.name);
            let minimum = guaranteed.min(config.settings.max_connections);
            service.handle().share(&self.budget, minimum);
            service.apply(config, opened, is_new)?;
            services.insert(service.name.clone(), service);
        }
        let before = std::mem::replace(&mut state.services, services);
        self.retire_missing(&mut state, before);
        Ok(())
    }

    /// The connections that all services have together, and may have.
    pub(crate) fn budget(&self) -> &SharedBudget {
        &self.budget
    }

    /// The service of this name.
    pub(crate) fn service(&self, name: &str) -> Option<Arc<Service>> {
        self.lock().services.get(name).cloned()
    }

    /// Every service, by name.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.lock().services.values().cloned().collect()
    }

    /// Stops accepting and waits until the sessions have finished, each service for as long as it
    /// is set to.
    pub(crate) async fn finish(&self) {
        self.lock().sockets.clear();
        join_all(self.ending().iter().map(|service| service.finish())).await;
    }

    /// Aborts every session, and waits until that is done.
    pub(crate) async fn abort(&self) {
        join_all(self.ending().iter().map(|service| service.abort())).await;
    }

    fn ending(&self) -> Vec<Arc<Service>> {
        let state = self.lock();
        state.services.values().chain(&state.retired).cloned().collect()
    }

    /// Fills in what the configuration leaves to the program.
    fn complete(&self, config: Config, connections: usize) -> BTreeMap<String, config::Service> {
        let mut services = config.services;
        for service in services.values_mut() {
            service.settings.max_connections = service.max_connections.unwrap_or(connections);
            service.settings.start = service.start.unwrap_or(self.start);
            if service.settings.max_connections > connections {
                warn!(
                    "max_connections is {}, and there are descriptors for {connections}: raise \
                     `ulimit -n` (LimitNOFILE of a systemd unit), or clients beyond that wait",
                    service.settings.max_connections
                );
            }
        }
        services
    }

    fn set_budget(&self, connections: usize) {
        if connections < descriptors::FEW && connections != self.budget.total() {
            warn!(
                connections,
                descriptors = descriptors::limit(),
                "the limit of descriptors leaves room for few connections at a time \
                 ({connections}), and clients beyond that wait: raise `ulimit -n` (LimitNOFILE of a \
                 systemd unit)"
            );
        }
        self.budget.set_total(connections);
    }

    fn retire_missing(&self, state: &mut State, before: BTreeMap<String, Arc<Service>>) {
        state.retired.retain(|service| service.handle().snapshot().live > 0);
        for (name, service) in before {
            if state.services.contains_key(&name) {
                continue;
            }
            info!(service = name, "service removed, its sessions may finish");
            state.retired.push(Arc::clone(&service));
            tokio::spawn(async move { service.finish().await });
        }
        let wanted: Vec<SocketKey> = state
            .services
            .values()
            .flat_map(|service| {
                let name = &service.name;
                service.shares().into_iter().map(|(address, _)| socket_key(name, &address))
            })
            .collect();
        state.sockets.retain(|key, _| wanted.contains(key));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens at the addresses that nothing listens at yet.
fn bind_new(
    sockets: &BTreeMap<SocketKey, Socket>,
    config: &BTreeMap<String, config::Service>,
    workers: usize,
) -> Result<BTreeMap<SocketKey, Socket>, String> {
    let mut bound = BTreeMap::new();
    for (name, service) in config {
        for address in &service.listen {
            let key = socket_key(name, address);
            if !sockets.contains_key(&key) && !bound.contains_key(&key) {
                let socket = Socket::bind(address, &tcp_options(service), workers);
                bound.insert(key, socket.map_err(|error| hint(error, sockets, address))?);
            }
        }
    }
    Ok(bound)
}

/// What a service needs in order to listen where it is to.
pub(crate) struct Opened {
    /// Where it will listen, with the ports that were taken.
    pub(crate) own: Vec<Address>,
    /// Who will accept from which sockets of which address, as configured.
    pub(crate) shares: Vec<(Address, Share)>,
    /// For those of them that are new to it.
    pub(crate) acceptors: Vec<((Address, Share), Acceptor)>,
}

/// Prepares all that can fail when a service does as it is configured.
fn open(
    state: &State,
    bound: &BTreeMap<SocketKey, Socket>,
    name: &str,
    service: &config::Service,
    workers: &[Handle],
) -> Result<Opened, String> {
    let has = state.services.get(name).map(|service| service.shares()).unwrap_or_default();
    let mut opened = Opened { own: Vec::new(), shares: Vec::new(), acceptors: Vec::new() };
    for address in &service.listen {
        let key = socket_key(name, address);
        let Some(socket) = bound.get(&key).or_else(|| state.sockets.get(&key)) else { continue };
        let failed = |error: std::io::Error| format!("can't listen at {address}: {error}");
        opened.own.push(socket.local_address().map_err(failed)?);
        for share in socket.shares(workers.len()) {
            let share = (address.clone(), share);
            if !has.contains(&share) {
                let acceptor = socket.acceptor(share.1, workers).map_err(failed)?;
                opened.acceptors.push((share.clone(), acceptor));
            }
            opened.shares.push(share);
        }
    }
    // The file could not be checked against a port that was not taken yet.
    if let config::Source::Given(backends) = &service.source {
        for (key, target) in backends.iter() {
            target.validate_target(&opened.own).map_err(|reason| {
                format!("service {name}: the target {target} of {key} is invalid: {reason}")
            })?;
        }
    }
    Ok(opened)
}

/// Adds what may be in the way: a socket of this program, which is closed only later.
fn hint(error: String, sockets: &BTreeMap<SocketKey, Socket>, wanted: &Address) -> String {
    let Address::Tcp(wanted) = wanted else { return error };
    let is_in_the_way = |own: &Address| matches!(own, Address::Tcp(own) if own.port == wanted.port);
    match sockets.keys().find(|(_, own)| is_in_the_way(own)) {
        Some((_, own)) => {
            format!("{error}; tinylb itself listens at {own}: change it in two steps")
        }
        None => error,
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}

fn socket_key(service: &str, address: &Address) -> SocketKey {
    let takes_any_port = matches!(address, Address::Tcp(target) if target.port == 0);
    (takes_any_port.then(|| service.to_string()), address.clone())
}
