use std::{
    collections::BTreeMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use tinylb_core::{BackendSet, SharedBudget};
use tinylb_services::{
    Action, Departing, Descriptors, Ends, Farewell, Plan, ServiceId, Services, SocketKey, Split,
    Step, Why, socket_key,
};
use tinylb_tokio::{Address, SocketRelay, Splice};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use crate::{
    circle::{Fronts, Ways},
    config::{Config, ServiceConfig},
    descriptors, log,
    record::Recorder,
    service::Service,
    socket::{Opened, Socket, bind, open},
    workers::Workers,
};

/// All services and the sockets they accept from: carries out what [`Services`] decides. Shared by the
/// reloads, the admin address and the signals, all on one thread: nothing happens between a decision
/// and its execution.
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
    recorder: Option<Recorder>,
    fatal: mpsc::UnboundedSender<String>,
    /// Where rotations begin, unless the configuration sets it: a random place for each process.
    start: u64,
    /// What spreads the pauses between probes, unless the configuration sets it: another for each
    /// process, so that many of them don't probe together.
    seed: u64,
    /// The moment that times count from.
    epoch: Instant,
    /// Notified when a service is forgotten.
    gone: Notify,
    /// Notified when the set of a service was replaced.
    sets: Arc<Notify>,
}

#[derive(Default)]
struct State {
    /// What is decided about them.
    services: Services<ServiceConfig>,
    /// All of which something is left.
    running: BTreeMap<ServiceId, Arc<Service>>,
    sockets: BTreeMap<SocketKey<Address>, Socket>,
    /// Where services lead, as far as their addresses show, and where they listened when that was
    /// worked out.
    ways: Ways,
    fronts: BTreeMap<String, Vec<Address>>,
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

/// What a service needs for its next configuration, with all done that can fail.
struct Prepared {
    service: Arc<Service>,
    opened: Opened,
}

impl Program {
    /// A program without services. Listeners and workers that die are reported to `fatal`.
    pub(crate) fn new(
        workers_fixed: Option<usize>,
        splice: Splice,
        admin: Option<Address>,
        recorder: Option<Recorder>,
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
            recorder,
            fatal,
            start: RandomState::new().hash_one(()),
            seed: RandomState::new().hash_one(()),
            epoch: Instant::now(),
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
        let leaving = state.services.leaving_rooms(&config.services);
        let split = descriptors.split(workers, &needs, &leaving);
        let plan = state.services.plan(self.complete(config, &split));
        if state.services.is_stopping() {
            let (reached, passed_over) = (plan.steps.len(), plan.passed_over.len());
            self.commit(&mut state, plan, BTreeMap::new())?;
            return Ok(Applied::ToTheRest { reached, passed_over });
        }
        let bound = bind(&plan, &state.sockets, self.admin.as_ref(), workers)?;
        let workers = self.workers.first(workers)?;
        let prepared = self.prepare(&state, &bound, &plan, &workers)?;

        for (key, socket) in bound {
            let address = socket.local_address().map_err(|error| error.to_string())?;
            info!(target: log::ALWAYS, "listening on {address}");
            state.sockets.insert(key, socket);
        }
        self.set_budget(split.connections, &descriptors);
        for (name, planned) in &plan.steps {
            let minimum = split.guaranteed.min(planned.definition.settings.max_connections);
            prepared[name].service.handle().share(&self.budget, minimum);
        }
        self.commit(&mut state, plan, prepared)?;
        state.find_ways();
        Ok(Applied::Whole)
    }

    /// Does whatever can fail: opens what services listen with, and makes new services.
    fn prepare(
        &self,
        state: &State,
        bound: &BTreeMap<SocketKey<Address>, Socket>,
        plan: &Plan<ServiceConfig>,
        workers: &[Handle],
    ) -> Result<BTreeMap<String, Prepared>, String> {
        let mut prepared = BTreeMap::new();
        for (name, planned) in &plan.steps {
            let config = &planned.definition;
            let living = planned.step.service().map(|id| &state.running[&id]);
            let has = living.map(|service| service.shares()).unwrap_or_default();
            let opened = open([bound, &state.sockets], &has, name, config, workers)?;
            let service = match living {
                Some(living) => Arc::clone(living),
                None => {
                    let (relay, fatal) = (self.relay.clone(), self.fatal.clone());
                    let (config, recorder) = (Arc::clone(config), self.recorder.clone());
                    Arc::new(Service::new(name, config, relay, recorder, fatal, &self.sets)?)
                }
            };
            prepared.insert(name.clone(), Prepared { service, opened });
        }
        for (name, planned) in &plan.steps {
            let config = &planned.definition;
            for address in &config.listen {
                if let Some(socket) = state.sockets.get(&socket_key::<ServiceConfig>(name, address))
                {
                    let set = socket.set_options(&config.tcp_options());
                    set.map_err(|error| format!("can't set the options of {address}: {error}"))?;
                }
            }
        }
        Ok(prepared)
    }

    /// Does what a plan says, in its order.
    fn commit(
        self: &Arc<Self>,
        state: &mut State,
        plan: Plan<ServiceConfig>,
        mut prepared: BTreeMap<String, Prepared>,
    ) -> Result<(), String> {
        let State { services, running, .. } = state;
        let actions = services.commit(plan, self.now(), |id| running[&id].ends());
        let mut outcome = Ok(());
        for action in actions {
            let Action::Apply { id, name, planned } = action else {
                self.carry_out(state, action);
                continue;
            };
            let applied = match prepared.remove(&name) {
                Some(Prepared { service, opened }) => {
                    if let Step::Return(_) = planned.step {
                        let sessions = service.handle().snapshot().live;
                        info!(service = name, sessions, "service is back, with its sessions");
                    }
                    state.running.insert(id, Arc::clone(&service));
                    service.apply(planned, opened)
                }
                None => state.running[&id].adjust(planned),
            };
            // All else is done nevertheless: it has been decided.
            outcome = outcome.and(applied);
        }
        outcome
    }

    fn carry_out(self: &Arc<Self>, state: &mut State, action: Action<ServiceConfig>) {
        match action {
            Action::Apply { .. } => unreachable!("only a plan holds it"),
            Action::Leave(id, why) => {
                let service = &state.running[&id];
                if why == Why::Removed {
                    let sessions = service.handle().snapshot().live;
                    let time = service.shutdown_timeout();
                    info!(
                        service = service.name,
                        sessions, "service removed, its sessions have {time:?} to finish"
                    );
                }
                service.leave();
                // It accepts no more, so what it was guaranteed would be kept for nobody.
                service.handle().share(&self.budget, 0);
                self.see_off(id, service);
            }
            Action::Disown(id) => state.running[&id].stop_keeping(),
            Action::Close(key) => drop(state.sockets.remove(&key)),
        }
    }

    /// The connections that all services have, and how many they may have.
    pub(crate) fn budget(&self) -> &SharedBudget {
        &self.budget
    }

    /// The service of this name, if sets can reach it.
    pub(crate) fn service(&self, name: &str) -> Option<Arc<Service>> {
        let state = self.lock();
        state.services.reachable(name).map(|id| Arc::clone(&state.running[&id]))
    }

    /// The newest service of each name, in their order, including those that the configuration no
    /// longer names.
    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        self.lock().newest().map(|(_, service)| Arc::clone(service)).collect()
    }

    /// Whether the program stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().services.is_stopping()
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
        let State { services, running, .. } = &mut *state;
        let sessions: usize =
            running.values().map(|service| service.handle().snapshot().live).sum();
        let Some(actions) = services.stop(self.now(), |id| running[&id].ends()) else {
            return false;
        };
        for action in actions {
            self.carry_out(&mut state, action);
        }
        // Only now, so that whatever ends after this line is counted.
        info!(sessions, "shutting down; a second signal ends it at once");
        true
    }

    /// Cuts all sessions of a program that stops.
    pub(crate) fn abort(&self) {
        let mut state = self.lock();
        for id in state.services.hurry() {
            state.running[&id].look_again();
        }
    }

    /// Waits until no service is left after [`Self::stop`]. Returns how their sessions ended.
    pub(crate) async fn stopped(&self) -> Ends {
        loop {
            let gone = self.gone.notified();
            if let Some(ends) = self.lock().services.stopped() {
                return ends;
            }
            gone.await;
        }
    }

    /// Forgets a service that leaves, once it has left.
    fn see_off(self: &Arc<Self>, id: ServiceId, service: &Arc<Service>) {
        let (program, leaving) = (Arc::clone(self), Arc::clone(service));
        let task = tokio::spawn(async move {
            if program.has_left(id, &leaving).await {
                leaving.close().await;
                program.forget(id, &leaving);
            }
        });
        service.seen_off_by(task.abort_handle());
    }

    /// Waits until a leaving service must be closed. `false`: it serves again.
    async fn has_left(&self, id: ServiceId, service: &Service) -> bool {
        loop {
            let departing = self.lock().services.left(id, self.now(), service.rest());
            match departing {
                Departing::Not => return false,
                Departing::Wait(time) => drop(timeout(time, service.less_left()).await),
                Departing::Close => return true,
            }
        }
    }

    fn forget(&self, id: ServiceId, gone: &Service) {
        let mut state = self.lock();
        let farewell = state.services.closed(id, gone.ends());
        debug_assert!(
            farewell.is_some(),
            "a service is forgotten once, and only after it was closed"
        );
        state.running.remove(&id);
        drop(state);
        let Some(Farewell { name, why, ends }) = farewell else { return };
        if why == Why::Removed || ends.sum() > 0 {
            let Ends { finished, cut, removed, otherwise } = ends;
            info!(
                service = name,
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

    fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newest service of each name.
    fn newest(&self) -> impl Iterator<Item = (&str, &Arc<Service>)> {
        self.services.named().map(|(name, id)| (name, &self.running[&id]))
    }

    fn fronts(&self) -> Fronts<'_> {
        let all = self.fronts.iter();
        Fronts::new(all.flat_map(|(name, own)| own.iter().map(|own| (name.as_str(), own))))
    }

    /// Works out where services lead, if that may have changed, and makes each service refuse to
    /// dial those from which connections come back to it.
    fn find_ways(&mut self) {
        let own: BTreeMap<_, _> = self.newest().map(|(n, s)| (n.to_string(), s.own())).collect();
        let have_moved = own != self.fronts;
        self.fronts = own;
        let mut ways = self.ways.clone();
        let fronts = self.fronts();
        for (name, service) in self.newest() {
            let new = service.new_set();
            let set = if have_moved { service.handle().snapshot().set } else { new };
            if let Some(set) = set {
                ways.set(name, fronts.reached(&set).into_keys());
            }
        }
        ways.retain(|name| self.fronts.contains_key(name));
        if ways == self.ways && !have_moved {
            return;
        }
        for (name, service) in self.newest() {
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
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, |cores| cores.get())
}
