use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{
    Definition, Ends, Feed, Plan, Planned, Rest, Room, SocketKey, Step, Why,
    definition::sockets_of,
    life::{Departure, Life},
};

/// A service, for as long as anything is left of it. Another one may get its name, but never its
/// number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceId(u64);

/// All services of a program, and the sockets that they accept from.
///
/// Each method takes what happened, and returns what to do about it. Carry that out in its order, and
/// before the next step. Times count from any one moment.
pub struct Services<D: Definition> {
    /// All of which something is left.
    services: BTreeMap<ServiceId, Service<D>>,
    /// The newest service of each name.
    names: BTreeMap<String, ServiceId>,
    sockets: BTreeSet<SocketKey<D::Address>>,
    /// How many services there have been.
    started: u64,
    /// How often this has changed.
    changes: u64,
    /// Once the program stops: how sessions have ended since then, of services that are gone.
    stopping: Option<Ends>,
}

struct Service<D> {
    name: String,
    life: Life,
    definition: Arc<D>,
    /// How its sessions had ended when the program stopped.
    ends_at_stop: Ends,
}

/// What to do after a step.
#[derive(Debug)]
pub enum Action<D: Definition> {
    /// Start the service, or make it do what its definition says. Its new accept loops begin before
    /// old ones end.
    Apply {
        /// The service.
        id: ServiceId,
        /// Its name.
        name: String,
        /// What to do.
        planned: Planned<D>,
    },
    /// Stop accepting for this service. From then on, ask [`Services::left`] whether it has left.
    Leave(ServiceId, Why),
    /// Keep the source's sets of this service no longer: where they are kept may be another's.
    Disown(ServiceId),
    /// Close these sockets: no service accepts from them.
    Close(SocketKey<D::Address>),
}

/// What becomes of a leaving service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Departing {
    /// It serves again, or is being closed already.
    Not,
    /// Ask again after this time, or once less is left of it.
    Wait(Duration),
    /// Cut what is left, stop following its source, and then report [`Services::closed`]. It can no
    /// longer come back.
    Close,
}

/// What to report of a service that is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// Its name.
    pub name: String,
    /// Why it left.
    pub why: Why,
    /// How the sessions ended that it had when it began to leave.
    pub ends: Ends,
}

impl<D: Definition> Default for Services<D> {
    fn default() -> Self {
        Self {
            services: BTreeMap::new(),
            names: BTreeMap::new(),
            sockets: BTreeSet::new(),
            started: 0,
            changes: 0,
            stopping: None,
        }
    }
}

impl<D: Definition> Services<D> {
    /// What a configuration would change. While the program stops, nothing begins, and whatever has
    /// sessions takes its new backends and settings.
    pub fn plan(&self, config: BTreeMap<String, D>) -> Plan<D> {
        let mut plan = Plan {
            steps: BTreeMap::new(),
            passed_over: BTreeSet::new(),
            open: BTreeSet::new(),
            leave: Vec::new(),
            disown: Vec::new(),
            base: self.changes,
        };
        for (id, service) in &self.services {
            let is_lacking = !config.contains_key(&service.name);
            match service.life {
                Life::Serving if is_lacking => plan.leave.push(*id),
                Life::Leaving(_) if is_lacking => plan.disown.push(*id),
                Life::Serving | Life::Leaving(_) | Life::Closing(_) => {}
            }
        }
        for (name, definition) in config {
            let Some(step) = self.step(&name) else {
                plan.passed_over.insert(name);
                continue;
            };
            if !matches!(step, Step::Adjust(_)) {
                let sockets = sockets_of(&name, &definition);
                plan.open.extend(sockets.filter(|key| !self.sockets.contains(key)));
            }
            let before = step.service().map(|id| &self.services[&id].definition);
            let feed = match before {
                Some(before) => Feed::between(&**before, &definition, step),
                None => Feed::begin(&definition),
            };
            plan.steps.insert(name, Planned { step, feed, definition: Arc::new(definition) });
        }
        plan
    }

    /// What a configuration that names it does to a service. `None`: the program stops, and the
    /// service is none that could take it.
    fn step(&self, name: &str) -> Option<Step> {
        let newest = self.names.get(name).map(|id| (*id, &self.services[id].life));
        match (newest, self.stopping.is_some()) {
            (Some((id, Life::Serving)), _) => Some(Step::Change(id)),
            (Some((id, Life::Leaving(_))), false) => Some(Step::Return(id)),
            (Some((id, Life::Leaving(_))), true) => Some(Step::Adjust(id)),
            (Some((_, Life::Closing(_))) | None, false) => Some(Step::Start),
            (Some((_, Life::Closing(_))) | None, true) => None,
        }
    }

    /// Applies a plan whose sockets are open, and all of whose parts that can fail have been done.
    /// `ends` says how the sessions of a service have ended until now.
    ///
    /// # Panics
    /// Something has happened since the plan was made.
    pub fn commit(
        &mut self,
        plan: Plan<D>,
        now: Duration,
        ends: impl Fn(ServiceId) -> Ends,
    ) -> Vec<Action<D>> {
        assert_eq!(plan.base, self.changes, "a plan is for the state that it was made from");
        self.changes += 1;
        self.sockets.extend(plan.open);
        let mut actions = Vec::new();
        for (name, planned) in plan.steps {
            let id = planned.step.service().unwrap_or_else(|| self.begin(&name, &planned));
            let service = self.service(id);
            service.definition = Arc::clone(&planned.definition);
            if !matches!(planned.step, Step::Adjust(_)) {
                service.life = Life::Serving;
            }
            actions.push(Action::Apply { id, name, planned });
        }
        // Only now, so that an address that moves to another service is always accepted from.
        for id in plan.leave {
            let departure = Departure::new(Why::Removed, now, ends(id));
            self.service(id).life = Life::Leaving(departure);
            actions.extend([Action::Disown(id), Action::Leave(id, Why::Removed)]);
        }
        actions.extend(plan.disown.into_iter().map(Action::Disown));
        self.close_unused(&mut actions);
        actions
    }

    /// A service of a plan. Nothing has happened since that was made, so it is there.
    fn service(&mut self, id: ServiceId) -> &mut Service<D> {
        self.services.get_mut(&id).expect("a plan holds only services that are there")
    }

    fn begin(&mut self, name: &str, planned: &Planned<D>) -> ServiceId {
        let id = ServiceId(self.started);
        self.started += 1;
        let definition = Arc::clone(&planned.definition);
        let (name, life) = (name.to_string(), Life::Serving);
        self.names.insert(name.clone(), id);
        self.services.insert(id, Service { name, life, definition, ends_at_stop: Ends::default() });
        id
    }

    /// Closes the sockets that no service accepts from.
    fn close_unused(&mut self, actions: &mut Vec<Action<D>>) {
        let serving = self.services.values().filter(|service| service.life == Life::Serving);
        let used: BTreeSet<_> =
            serving.flat_map(|service| sockets_of(&service.name, &*service.definition)).collect();
        let unused: Vec<_> = self.sockets.difference(&used).cloned().collect();
        self.sockets.retain(|key| used.contains(key));
        actions.extend(unused.into_iter().map(Action::Close));
    }

    /// Stops the program: no service accepts any more, and the sessions of each have its time to
    /// finish. Those that leave already keep their time. `None`: it stops already.
    pub fn stop(
        &mut self,
        now: Duration,
        ends: impl Fn(ServiceId) -> Ends,
    ) -> Option<Vec<Action<D>>> {
        if self.stopping.is_some() {
            return None;
        }
        self.changes += 1;
        self.stopping = Some(Ends::default());
        let mut actions = Vec::new();
        for (id, service) in &mut self.services {
            service.ends_at_stop = ends(*id);
            match &mut service.life {
                Life::Serving => {
                    let departure = Departure::new(Why::Stopping, now, service.ends_at_stop);
                    service.life = Life::Leaving(departure);
                    actions.push(Action::Leave(*id, Why::Stopping));
                }
                Life::Leaving(departure) | Life::Closing(departure) => {
                    departure.why = Why::Stopping;
                }
            }
        }
        self.close_unused(&mut actions);
        Some(actions)
    }

    /// Leaves no service any more time, if the program stops. Returns those that were leaving.
    pub fn hurry(&mut self) -> Vec<ServiceId> {
        let mut hurried = Vec::new();
        if self.stopping.is_some() {
            for (id, service) in &mut self.services {
                if let Life::Leaving(departure) = &mut service.life {
                    departure.hurry();
                    hurried.push(*id);
                }
            }
        }
        hurried
    }

    /// What becomes of a leaving service, of which this is left.
    pub fn left(&mut self, id: ServiceId, now: Duration, rest: Rest) -> Departing {
        let Some(service) = self.services.get_mut(&id) else { return Departing::Not };
        let Life::Leaving(departure) = &service.life else { return Departing::Not };
        if let Some(time) = departure.time_left(now, rest, service.definition.shutdown_timeout()) {
            return Departing::Wait(time);
        }
        service.life = Life::Closing(departure.clone());
        self.changes += 1;
        Departing::Close
    }

    /// Notes that nothing is left of a service, all of whose sessions have ended like this. `None`: it
    /// was not being closed.
    pub fn closed(&mut self, id: ServiceId, ends: Ends) -> Option<Farewell> {
        let Life::Closing(departure) = &self.services.get(&id)?.life else { return None };
        let (why, before) = (departure.why, departure.before);
        let service = self.services.remove(&id)?;
        self.changes += 1;
        if self.names.get(&service.name) == Some(&id) {
            self.names.remove(&service.name);
        }
        if let Some(since) = &mut self.stopping {
            *since += ends - service.ends_at_stop;
        }
        Some(Farewell { name: service.name, why, ends: ends - before })
    }

    /// How sessions ended since the program was stopped, once nothing is left of any service.
    pub fn stopped(&self) -> Option<Ends> {
        self.stopping.filter(|_| self.services.is_empty())
    }

    /// Whether the program stops.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// The service that has a name, if sets can reach it: the target of a PUT.
    pub fn reachable(&self, name: &str) -> Option<ServiceId> {
        let id = self.names.get(name)?;
        (!matches!(self.services[id].life, Life::Closing(_))).then_some(*id)
    }

    /// The newest service of each name, in the order of the names.
    pub fn named(&self) -> impl Iterator<Item = (&str, ServiceId)> {
        self.names.iter().map(|(name, id)| (name.as_str(), *id))
    }

    /// The room of every service that keeps it though none of these names is its own: of those that leave or
    /// would, or are being closed.
    pub fn leaving_rooms<V>(&self, named: &BTreeMap<String, V>) -> Vec<Room> {
        let stays = |id: &ServiceId, service: &Service<D>| {
            // One that is being closed can't come back: another service takes its name.
            let is_newest = self.reachable(&service.name) == Some(*id);
            is_newest && named.contains_key(&service.name)
        };
        let leaving = self.services.iter().filter(|(id, service)| !stays(id, service));
        leaving.map(|(_, service)| service.definition.room()).collect()
    }
}

#[cfg(test)]
mod tests;
