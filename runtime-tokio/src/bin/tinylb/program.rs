use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use tinylb_core::{BackendSet, SharedBudget, Totals};
use tinylb_services::{Descriptors, Split};
use tinylb_tokio::{Address, SocketRelay, Splice};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
};
use tracing::{info, warn};

use crate::{
    circle::{Fronts, Ways},
    config::{Config, ServiceConfig},
    descriptors,
    life::{Ends, Life, Plan, Step, Why},
    log,
    service::Service,
    socket::{Opened, Socket, SocketKey, bind_new, open, socket_key},
    workers::Workers,
};

/// All services and the sockets they accept from. Shared by the reloads, the admin address and the
/// signals, all on one thread: nothing happens between a decision and its execution.
pub(crate) struct Program {
    state: Mutex<State>,
    workers: Workers,
    /// The number of workers, if the command line sets it.
    workers_fixed: Option<usize>,
    /// Shared by all listeners, and so are its pipes.
    relay: SocketRelay,
    /// The admin address: no service can listen there.
    admin: Option<Address>,
    /// The connections of all services, including those that leave.
    budget: SharedBudget,
    fatal: mpsc::UnboundedSender<String>,
    /// Where rotations begin, unless the configuration sets it: a random place for each process.
    start: u64,
    /// What spreads the pauses between probes, unless the configuration sets it: another for each
    /// process, so that many of them don't probe together.
    seed: u64,
    /// Notified when a service is forgotten.
    gone: Notify,
    /// Notified when the set of a service was replaced.
    sets: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// All living services, including those that the configuration no longer names.
    services: BTreeMap<String, Arc<Service>>,
    sockets: BTreeMap<SocketKey, Socket>,
    /// Services that are being closed and whose name another service has by now.
    succeeded: Vec<Arc<Service>>,
    /// Where services lead, as far as their addresses show, and where they listened when that was
    /// worked out.
    ways: Ways,
    fronts: BTreeMap<String, Vec<Address>>,
    /// Once the program stops: the services that lived then, and how their sessions had ended until
    /// then.
    stopping: Option<Vec<(Arc<Service>, Totals)>>,
}

/// The outcome of applying a configuration.
#[derive(Debug, PartialEq)]
pub(crate) enum Applied {
    /// All of it was applied.
    Whole,
    /// The program stops: it was applied to services that still had sessions. Its other services
    /// were passed over: they had ended, or never begun.
    ToTheRest { reached: usize, passed_over: usize },
}

/// What a configuration changes about a service.
struct Change {
    service: Arc<Service>,
    config: ServiceConfig,
    opened: Opened,
    step: Step,
}

impl Program {
    /// A program without services. Listeners and workers that die are reported to `fatal`.
    pub(crate) fn new(
        workers_fixed: Option<usize>,
        splice: Splice,
        admin: Option<Address>,
        fatal: mpsc::UnboundedSender<String>,
    ) -> Self {
        Self {
            state: Mutex::default(),
            workers: Workers::new(fatal.clone()),
            workers_fixed,
            relay: SocketRelay::new(splice, descriptors::all().pipes_max()),
            admin,
            // A first guess, until it is known what else needs descriptors.
            budget: SharedBudget::new(0),
            fatal,
            start: RandomState::new().hash_one(()),
            seed: RandomState::new().hash_one(()),
            gone: Notify::new(),
            sets: Arc::default(),
        }
    }

    /// Applies a configuration: starts, changes and ends services. Whatever can fail is done first, so
    /// that a configuration that can't be applied changes nothing.
    ///
    /// While the program stops, no service or listener is started. Services that still have
    /// sessions take their new backends and settings, including `shutdown_timeout`.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn apply(self: &Arc<Self>, config: Config) -> Result<Applied, String> {
        let mut state = self.lock();
        let descriptors = descriptors::all();
        let addresses = config.services.values().map(|service| service.listen.len()).sum();
        let workers = self.workers_fixed.or(config.workers);
        let workers = workers.unwrap_or_else(|| descriptors.workers(cores(), addresses));
        let needs: Vec<_> = config.services.values().map(ServiceConfig::need).collect();
        let living = state.services.iter();
        let leaving = living.filter(|(name, _)| !config.services.contains_key(*name));
        let leaving: Vec<_> = leaving.map(|(_, service)| service.room()).collect();
        let split = descriptors.split(workers, &needs, &leaving);
        let config = self.complete(config, &split);
        let lives: Vec<_> = state.lives().collect();
        let lives = lives.iter().map(|(name, life)| (name.as_str(), life));
        let names = config.keys().cloned().collect::<Vec<_>>();
        let plan = Plan::new(lives, names.iter().map(String::as_str), state.stopping.is_some());
        if state.stopping.is_some() {
            return state.adjust(config, &plan);
        }
        let bound = bind_new(&state.sockets, self.admin.as_ref(), &config, workers)?;
        let workers = self.workers.first(workers)?;
        let changes = self.prepare(&state, &bound, config, &plan, &workers)?;

        for (key, socket) in bound {
            let address = socket.local_address().map_err(|error| error.to_string())?;
            info!(target: log::ALWAYS, "listening on {address}");
            state.sockets.insert(key, socket);
        }
        self.set_budget(split.connections, &descriptors);
        for Change { service, config, opened, step } in changes {
            if step == Step::Return {
                let sessions = service.handle().snapshot().live;
                info!(service = service.name, sessions, "service is back, with its sessions");
            }
            let minimum = split.guaranteed.min(config.settings.max_connections);
            service.handle().share(&self.budget, minimum);
            service.apply(config, opened, step)?;
            let before = state.services.insert(service.name.clone(), Arc::clone(&service));
            state.succeeded.extend(before.filter(|before| !Arc::ptr_eq(before, &service)));
        }
        for name in plan.leave {
            let service = Arc::clone(&state.services[name]);
            let (sessions, time) = (service.handle().snapshot().live, service.shutdown_timeout());
            info!(
                service = name,
                sessions, "service removed, its sessions have {time:?} to finish"
            );
            service.stop_keeping();
            self.see_off(&service, Why::Removed);
        }
        state.close_unused_sockets();
        state.find_ways();
        Ok(Applied::Whole)
    }

    /// Does whatever can fail: opens what services listen with, and makes new services.
    fn prepare(
        &self,
        state: &State,
        bound: &BTreeMap<SocketKey, Socket>,
        config: BTreeMap<String, ServiceConfig>,
        plan: &Plan<'_>,
        workers: &[Handle],
    ) -> Result<Vec<Change>, String> {
        let mut changes = Vec::new();
        for (name, config) in config {
            let step = plan.steps[&*name];
            let lives = state.services.get(&name).filter(|_| step != Step::Start);
            let has = lives.map(|service| service.shares()).unwrap_or_default();
            let opened = open([bound, &state.sockets], &has, &name, &config, workers)?;
            let service = match lives {
                Some(lives) => Arc::clone(lives),
                None => {
                    let (relay, fatal) = (self.relay.clone(), self.fatal.clone());
                    Arc::new(Service::new(&name, config.clone(), relay, fatal, &self.sets)?)
                }
            };
            changes.push(Change { service, config, opened, step });
        }
        for Change { service, config, .. } in &changes {
            for address in &config.listen {
                if let Some(socket) = state.sockets.get(&socket_key(&service.name, address)) {
                    let set = socket.set_options(&config.tcp_options());
                    set.map_err(|error| format!("can't set the options of {address}: {error}"))?;
                }
            }
        }
        Ok(changes)
    }

    /// The connections that all services have, and how many they may have.
    pub(crate) fn budget(&self) -> &SharedBudget {
        &self.budget
    }

    /// The service of this name, if sets can reach it.
    pub(crate) fn service(&self, name: &str) -> Option<Arc<Service>> {
        let state = self.lock();
        let service = state.services.get(name)?;
        (!matches!(service.life(), Life::Closing(_))).then(|| Arc::clone(service))
    }

    /// Every living service, by name, including those that the configuration no longer names.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.lock().services.values().cloned().collect()
    }

    /// Works out where sets lead whenever one was replaced, and keeps connections from going round
    /// in circles.
    pub(crate) async fn watch_sets(&self) {
        loop {
            self.sets.notified().await;
            self.lock().find_ways();
        }
    }

    /// Why a service can't have a set: one of its backends would bring connections back.
    pub(crate) fn circle(&self, service: &str, set: &BackendSet<Address>) -> Option<String> {
        let mut state = self.lock();
        state.find_ways();
        let reached = state.fronts().reached(set);
        let (other, key) =
            reached.iter().find(|(other, _)| state.ways.would_close(service, other))?;
        Some(format!(
            "{key} leads to the service {other}, which leads back to {service}: give another address"
        ))
    }

    /// Stops accepting. The sessions of each service have its `shutdown_timeout` to finish. Returns
    /// whether the program wasn't stopping before.
    pub(crate) fn stop(self: &Arc<Self>) -> bool {
        let mut state = self.lock();
        if state.stopping.is_some() {
            return false;
        }
        let services: Vec<_> = state.services.values().cloned().collect();
        let sessions = services.iter().chain(&state.succeeded).map(|s| s.handle().snapshot());
        let sessions: usize = sessions.map(|snapshot| snapshot.live).sum();
        state.sockets.clear();
        for service in &services {
            match service.life() {
                Life::Serving => self.see_off(service, Why::Stopping),
                Life::Leaving(_) | Life::Closing(_) => service.leave(Why::Stopping),
            }
        }
        let all = services.into_iter().chain(state.succeeded.iter().cloned());
        state.stopping = Some(all.map(|s| (Arc::clone(&s), s.handle().snapshot().ended)).collect());
        // Only now, so that whatever ends after this line is counted.
        info!(sessions, "shutting down; a second signal ends it at once");
        true
    }

    /// Cuts all sessions of a program that stops.
    pub(crate) fn abort(&self) {
        self.lock().services.values().for_each(|service| service.hurry());
    }

    /// Waits until no service is left after [`Self::stop`]. Returns how their sessions ended.
    pub(crate) async fn stopped(&self) -> Ends {
        loop {
            let gone = self.gone.notified();
            if let Some(ends) = self.ends() {
                return ends;
            }
            gone.await;
        }
    }

    /// How sessions ended since the program was stopped, once none is left.
    fn ends(&self) -> Option<Ends> {
        let state = self.lock();
        if !state.services.is_empty() || !state.succeeded.is_empty() {
            return None;
        }
        let mut ends = Ends::default();
        for (service, before) in state.stopping.as_ref()? {
            ends += Ends::between(before, &service.handle().snapshot().ended);
        }
        Some(ends)
    }

    /// Makes a service leave, and forgets it once it has left.
    fn see_off(self: &Arc<Self>, service: &Arc<Service>, why: Why) {
        service.leave(why);
        let (program, leaving) = (Arc::clone(self), Arc::clone(service));
        let task = tokio::spawn(async move {
            leaving.left().await;
            let ends = leaving.close().await;
            program.forget(&leaving, ends);
        });
        service.seen_off_by(task.abort_handle());
    }

    fn forget(&self, gone: &Arc<Service>, ends: Ends) {
        let mut state = self.lock();
        state.services.retain(|_, service| !Arc::ptr_eq(service, gone));
        state.succeeded.retain(|service| !Arc::ptr_eq(service, gone));
        drop(state);
        let Ends { finished, cut, removed, otherwise } = ends;
        let is_removed = matches!(gone.life(), Life::Closing(left) if left.why == Why::Removed);
        if is_removed || ends.sum() > 0 {
            info!(
                service = gone.name,
                sessions_finished = finished,
                sessions_cut = cut,
                sessions_cut_by_removal = removed,
                sessions_ended_otherwise = otherwise,
                "service ended"
            );
        }
        self.gone.notify_one();
    }

    /// Fills in what the configuration leaves to the program.
    fn complete(&self, config: Config, split: &Split) -> BTreeMap<String, ServiceConfig> {
        let mut services = config.services;
        for (service, room) in services.values_mut().zip(&split.rooms) {
            let seed = service.seed.unwrap_or(self.seed);
            if let Some(check) = &mut service.check {
                check.settings.seed = seed;
                check.settings.checks_max = room.checks;
                check.connections_max = room.check_connections;
            }
            service.settings.probes_max = room.probes;
            // Without a limit of its own, a service is limited by the descriptors, and reports that.
            service.settings.max_connections = service.max_connections.unwrap_or(usize::MAX);
            service.settings.start = service.start.unwrap_or(self.start);
            service.settings.seed = seed;
            let max_connections = service.max_connections;
            if let Some(max_connections) = max_connections.filter(|max| *max > split.connections) {
                warn!(
                    "max_connections is {max_connections}, but there are only descriptors for \
                     {}, and clients beyond that wait: raise `ulimit -n` (LimitNOFILE of \
                     a systemd unit)",
                    split.connections
                );
            }
        }
        services
    }

    fn set_budget(&self, connections: usize, descriptors: &Descriptors) {
        if connections < descriptors::FEW && connections != self.budget.total() {
            warn!(
                connections,
                descriptors = descriptors.limit(),
                "the descriptor limit leaves room for few connections at a time \
                 ({connections}), and clients beyond that wait: raise `ulimit -n` (LimitNOFILE of a \
                 systemd unit)"
            );
        }
        self.budget.set_total(connections);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Applies a configuration to the services of a program that stops.
    fn adjust(
        &self,
        config: BTreeMap<String, ServiceConfig>,
        plan: &Plan<'_>,
    ) -> Result<Applied, String> {
        for (name, service) in &self.services {
            if !plan.steps.contains_key(&**name) {
                service.stop_keeping();
            }
        }
        for (name, config) in config {
            if plan.steps.contains_key(&*name) {
                self.services[&name].adjust(config)?;
            }
        }
        Ok(Applied::ToTheRest { reached: plan.steps.len(), passed_over: plan.passed_over.len() })
    }

    fn lives(&self) -> impl Iterator<Item = (String, Life)> {
        self.services.iter().map(|(name, service)| (name.clone(), service.life()))
    }

    fn fronts(&self) -> Fronts<'_> {
        let all = self.fronts.iter();
        Fronts::new(all.flat_map(|(name, own)| own.iter().map(|own| (name.as_str(), own))))
    }

    /// Works out where services lead, if that may have changed, and makes each service refuse to
    /// dial those from which connections come back to it.
    fn find_ways(&mut self) {
        let own: BTreeMap<_, _> = self.services.iter().map(|(n, s)| (n.clone(), s.own())).collect();
        let have_moved = own != self.fronts;
        self.fronts = own;
        let mut ways = self.ways.clone();
        let fronts = self.fronts();
        for (name, service) in &self.services {
            let new = service.new_set();
            let set = if have_moved { service.handle().snapshot().set } else { new };
            if let Some(set) = set {
                ways.set(name, fronts.reached(&set).into_keys());
            }
        }
        ways.retain(|name| self.services.contains_key(name));
        if ways == self.ways && !have_moved {
            return;
        }
        for (name, service) in &self.services {
            let behind = ways.behind(name);
            let back = behind.into_iter().filter_map(|name| self.fronts.get(name)).flatten();
            service.set_back(back.cloned().collect());
        }
        for (service, other) in ways.closing().difference(self.ways.closing()) {
            warn!(
                service,
                "backends lead to the service {other}, which leads back to {service}: dials there \
                 are refused until that changes"
            );
        }
        self.ways = ways;
    }

    /// Closes the sockets that no service accepts from.
    fn close_unused_sockets(&mut self) {
        let services = self.services.values();
        let wanted: Vec<SocketKey> = services
            .flat_map(|service| {
                let name = &service.name;
                service.shares().into_iter().map(|(address, _)| socket_key(name, &address))
            })
            .collect();
        self.sockets.retain(|key, _| wanted.contains(key));
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}
