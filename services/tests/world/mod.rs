//! A program without I/O. It does what the services answer, and knows from the documentation alone
//! what must come of it.

mod laws;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tinylb_services::{
    Action, CheckKind, Definition, Departing, Descriptors, Ends, Feed, Need, Rest, Room, ServiceId,
    Services, SocketKey, Step, Why, socket_key,
};

pub type Set = BTreeSet<u8>;

/// What happens.
#[derive(Clone, Debug)]
pub enum Event {
    /// A configuration was read. With a number, opening its sockets or preparing its services fails.
    Reload(BTreeMap<u8, Draft>, Option<usize>),
    /// The configuration was read again, with one service changed or gone.
    Edit(usize, Option<Draft>),
    Put(u8, Set),
    /// A source reports a set.
    Source(u8, Set),
    /// A client connects to a service, and gets to a backend.
    Connect(usize, usize),
    /// A session finishes.
    End(usize),
    /// A listener that was to stop has stopped.
    ListenerStops(usize),
    /// Time passes, in seconds.
    Pass(u64),
    /// A service that is being closed has gone.
    Closed(usize),
    Stop,
    Hurry,
}

/// A service in a configuration.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Its ports. At 0, it gets any.
    pub listen: Vec<u8>,
    pub backends: Backends,
    pub is_checked: bool,
    pub timeout: u64,
    pub probes: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Backends {
    Table(Set),
    Source(u8),
}

#[derive(Clone, Debug)]
pub struct Config {
    draft: Draft,
    room: Room,
}

impl Definition for Config {
    type Address = u8;

    fn listen(&self) -> &[u8] {
        &self.draft.listen
    }

    fn takes_any_port(address: &u8) -> bool {
        *address == 0
    }

    fn is_followed(&self) -> bool {
        matches!(self.draft.backends, Backends::Source(_))
    }

    fn has_backends_of(&self, other: &Self) -> bool {
        self.draft.backends == other.draft.backends
    }

    fn is_checked(&self) -> bool {
        self.draft.is_checked
    }

    fn shutdown_timeout(&self) -> Duration {
        Duration::from_secs(self.draft.timeout)
    }

    fn room(&self) -> Room {
        self.room
    }
}

/// Something of a service is left.
struct Running {
    name: String,
    draft: Draft,
    room: Room,
    accepts: BTreeSet<SocketKey<u8>>,
    /// Listeners that are to stop.
    stopping: usize,
    set: Set,
    /// Whether its source's sets are kept.
    keeps: bool,
    /// The backend of each session.
    sessions: Vec<u8>,
    ends: Ends,
    /// What must be: its set, and where it is in its life.
    expected: Set,
    phase: Phase,
    ends_before: Ends,
    ends_at_stop: Ends,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Phase {
    Serving,
    Leaving { since: u64, why: Why, is_urgent: bool },
    Closing { why: Why },
}

impl Running {
    /// Takes a set: sessions to backends that it lacks are cut.
    fn take(&mut self, set: Set) {
        let before = self.sessions.len();
        self.sessions.retain(|target| set.contains(target));
        self.ends.removed += (before - self.sessions.len()) as u64;
        self.set = set;
    }

    fn is_alive(&self) -> bool {
        !matches!(self.phase, Phase::Closing { .. })
    }
}

#[derive(Default)]
pub struct World {
    services: Services<Config>,
    running: BTreeMap<ServiceId, Running>,
    open: BTreeSet<SocketKey<u8>>,
    sources: [Set; 2],
    now: u64,
    config: BTreeMap<u8, Draft>,
    is_stopping: bool,
    ended_since_stop: Ends,
    connections: usize,
    pub seen: Seen,
}

/// What a good run must have seen.
#[derive(Default)]
pub struct Seen([u64; WHAT.len()]);

const WHAT: [&str; 8] = [
    "a service returns",
    "a name is taken while its last service is being closed",
    "an address moves to another service",
    "a reload fails half-way",
    "a service changes while the program stops",
    "a removal reaches a leaving service",
    "a service is closed since its time is over",
    "a set that was put stays",
];

impl Seen {
    fn note(&mut self, what: usize) {
        self.0[what] += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum += more);
    }

    pub fn missing(&self) -> Vec<&'static str> {
        WHAT.iter().zip(&self.0).filter(|(_, count)| **count == 0).map(|(what, _)| *what).collect()
    }
}

const WORKERS: usize = 2;
const DESCRIPTORS: u64 = 4096;

fn ensure(is_so: bool, message: impl FnOnce() -> String) -> Result<(), String> {
    if is_so { Ok(()) } else { Err(message()) }
}

fn name(number: u8) -> String {
    format!("s{number}")
}

impl World {
    pub fn apply(&mut self, event: &Event) -> Result<(), String> {
        match event {
            Event::Reload(config, fails) => self.reload(config.clone(), *fails),
            Event::Edit(at, draft) => {
                let mut config = self.config.clone();
                let names: Vec<u8> = config.keys().copied().collect();
                let number = if names.is_empty() { 0 } else { names[at % names.len()] };
                match draft {
                    Some(draft) => drop(config.insert(number, draft.clone())),
                    None => drop(config.remove(&number)),
                }
                self.reload(config, None)
            }
            Event::Put(number, set) => self.put(&name(*number), set),
            Event::Source(source, set) => {
                self.sources[usize::from(*source)] = set.clone();
                for running in self.running.values_mut().filter(|running| running.is_alive()) {
                    if running.draft.backends == Backends::Source(*source) {
                        running.expected = set.clone();
                        if running.phase != Phase::Serving
                            && !running.sessions.iter().all(|target| set.contains(target))
                        {
                            self.seen.note(5);
                        }
                        running.take(set.clone());
                    }
                }
                self.look()
            }
            Event::Connect(service, target) => {
                let count = self.running.len().max(1);
                if let Some(running) = self.running.values_mut().nth(service % count)
                    && !running.accepts.is_empty()
                    && let Some(target) = running.set.iter().nth(target % running.set.len().max(1))
                {
                    running.sessions.push(*target);
                }
                Ok(())
            }
            Event::End(at) => {
                let mut having = self.running.values_mut().filter(|r| !r.sessions.is_empty());
                if let Some(running) = having.nth(at % 4) {
                    running.sessions.remove(at % running.sessions.len());
                    running.ends.finished += 1;
                }
                self.look()
            }
            Event::ListenerStops(at) => {
                let mut having = self.running.values_mut().filter(|r| r.stopping > 0);
                if let Some(running) = having.nth(at % 4) {
                    running.stopping -= 1;
                }
                self.look()
            }
            Event::Pass(secs) => {
                self.now += secs;
                self.look()
            }
            Event::Closed(at) => self.closed(*at),
            Event::Stop => self.stop(),
            Event::Hurry => {
                let hurried = self.services.hurry();
                for (id, running) in &mut self.running {
                    let mut is_hurried = false;
                    if let Phase::Leaving { is_urgent, .. } = &mut running.phase {
                        *is_urgent |= self.is_stopping;
                        is_hurried = self.is_stopping;
                    }
                    ensure(hurried.contains(id) == is_hurried, || format!("{id:?} hurries not"))?;
                }
                self.look()
            }
        }
    }

    fn config_of(&self, drafts: &BTreeMap<u8, Draft>) -> (BTreeMap<String, Config>, usize) {
        let needs: Vec<_> = drafts.values().map(|draft| draft.need()).collect();
        let named = drafts.iter().map(|(number, draft)| (name(*number), draft)).collect();
        let leaving = self.services.leaving_rooms(&named);
        let split = Descriptors::new(DESCRIPTORS).split(WORKERS, &needs, &leaving);
        let config = |((name, draft), room): ((String, &Draft), Room)| {
            (name, Config { draft: draft.clone(), room })
        };
        (named.into_iter().zip(split.rooms).map(config).collect(), split.connections)
    }

    fn reload(&mut self, drafts: BTreeMap<u8, Draft>, fails: Option<usize>) -> Result<(), String> {
        let (config, connections) = self.config_of(&drafts);
        let unchanged = format!("{:?}", self.services.plan(self.config_of(&self.config).0));
        let plan = self.services.plan(config);
        ensure(!self.is_stopping || plan.open.is_empty(), || "opens while it stops".into())?;
        let mut opened = BTreeSet::new();
        for (number, key) in plan.open.iter().enumerate() {
            if fails.is_some_and(|at| at % (plan.open.len() + 1) == number) {
                self.seen.note(3);
                drop(plan);
                let after = format!("{:?}", self.services.plan(self.config_of(&self.config).0));
                return ensure(after == unchanged, || "a reload that failed did something".into());
            }
            ensure(!self.open.contains(key), || format!("{key:?} is opened twice"))?;
            opened.insert(key.clone());
        }
        self.open.extend(opened);
        if !self.is_stopping {
            self.connections = connections;
        }
        let stay = self.that_stay(&drafts);
        let before = self.phases();
        let ends = |id| self.running.get(&id).map(|running| running.ends).unwrap_or_default();
        let actions = self.services.commit(plan, Duration::from_secs(self.now), ends);
        for action in actions {
            self.carry_out(action)?;
            for key in &stay {
                // Clients wait in its backlog until the next service accepts.
                ensure(self.open.contains(key), || format!("{key:?} was closed meanwhile"))?;
            }
        }
        self.expect(&drafts, &before)?;
        self.config = drafts;
        self.look()
    }

    fn carry_out(&mut self, action: Action<Config>) -> Result<(), String> {
        match action {
            Action::Apply { id, name, planned } => {
                let definition = &*planned.definition;
                let running = match planned.step {
                    Step::Start => {
                        let new = Running::new(&name, &definition.draft);
                        self.running.entry(id).or_insert(new)
                    }
                    Step::Change(_) | Step::Return(_) | Step::Adjust(_) => {
                        self.running.get_mut(&id).ok_or(format!("{id:?} is gone"))?
                    }
                };
                (running.draft, running.room) = (definition.draft.clone(), definition.room);
                if let Backends::Source(_) = running.draft.backends {
                    running.keeps = true;
                }
                match (planned.feed, &definition.draft.backends) {
                    (Feed::Stays | Feed::Kept, _) => {}
                    (Feed::Given, Backends::Table(table)) => {
                        running.keeps = false;
                        running.take(table.clone());
                    }
                    (Feed::Followed, Backends::Source(source)) => {
                        running.take(self.sources[usize::from(*source)].clone());
                    }
                    (feed, backends) => return Err(format!("{feed:?} with {backends:?}")),
                }
                if matches!(planned.step, Step::Adjust(_)) {
                    return Ok(());
                }
                let keys = definition.draft.listen.iter();
                running.accepts = keys.map(|port| socket_key::<Config>(&name, port)).collect();
                let closed = running.accepts.difference(&self.open).next().cloned();
                ensure(closed.is_none(), || format!("{name} accepts from {closed:?}, not open"))
            }
            Action::Leave(id, _) => {
                let running = self.running.get_mut(&id).ok_or(format!("{id:?} is gone"))?;
                running.stopping = running.accepts.len();
                running.accepts.clear();
                Ok(())
            }
            Action::Disown(id) => {
                self.running.get_mut(&id).ok_or(format!("{id:?} is gone"))?.keeps = false;
                Ok(())
            }
            Action::Close(key) => {
                let is_used = self.running.values().any(|running| running.accepts.contains(&key));
                ensure(!is_used, || format!("{key:?} is closed under a service"))?;
                ensure(self.open.remove(&key), || format!("{key:?} is closed twice"))
            }
        }
    }

    fn put(&mut self, name: &str, set: &Set) -> Result<(), String> {
        let alive = self.running.iter().filter(|(_, running)| running.is_alive());
        let expected = alive.filter(|(_, running)| running.name == name).map(|(id, _)| *id).next();
        let id = self.services.reachable(name);
        ensure(id == expected, || format!("PUT reaches {id:?} and not {expected:?}"))?;
        if let Some(running) = id.and_then(|id| self.running.get_mut(&id))
            && let Backends::Table(_) = running.draft.backends
        {
            running.expected = set.clone();
            running.take(set.clone());
        }
        self.look()
    }

    fn closed(&mut self, at: usize) -> Result<(), String> {
        let closing = self.running.iter().filter(|(_, running)| !running.is_alive());
        let ids: Vec<_> = closing.map(|(id, _)| *id).collect();
        if ids.is_empty() {
            return Ok(());
        }
        let id = ids[at % ids.len()];
        let Some(mut gone) = self.running.remove(&id) else { return Ok(()) };
        gone.ends.cut += gone.sessions.len() as u64;
        let Phase::Closing { why } = gone.phase else { return Ok(()) };
        let farewell = self.services.closed(id, gone.ends).ok_or("it isn't forgotten")?;
        let expected = (gone.name, why, gone.ends - gone.ends_before);
        ensure((farewell.name.clone(), farewell.why, farewell.ends) == expected, || {
            format!("{farewell:?}, not {expected:?}")
        })?;
        if self.is_stopping {
            self.ended_since_stop += gone.ends - gone.ends_at_stop;
        }
        Ok(())
    }

    fn stop(&mut self) -> Result<(), String> {
        let ends = |id| self.running.get(&id).map(|running| running.ends).unwrap_or_default();
        let actions = self.services.stop(Duration::from_secs(self.now), ends);
        ensure(actions.is_none() == self.is_stopping, || "it stops twice, or not".into())?;
        for action in actions.into_iter().flatten() {
            self.carry_out(action)?;
        }
        if !std::mem::replace(&mut self.is_stopping, true) {
            for running in self.running.values_mut() {
                running.ends_at_stop = running.ends;
                if running.phase == Phase::Serving {
                    running.leave(self.now, Why::Stopping);
                }
                match &mut running.phase {
                    Phase::Serving => {}
                    Phase::Leaving { why, .. } | Phase::Closing { why } => *why = Why::Stopping,
                }
            }
        }
        self.look()
    }

    /// Ends everything, and checks that nothing is left.
    pub fn wind_up(&mut self) -> Result<(), String> {
        self.stop()?;
        self.check()?;
        self.now += 100;
        self.look()?;
        while !self.running.is_empty() {
            ensure(self.services.stopped().is_none(), || "it has stopped too soon".into())?;
            self.closed(0)?;
        }
        let (ends, expected) = (self.services.stopped(), Some(self.ended_since_stop));
        ensure(ends == expected, || format!("{ends:?} sessions ended, not {expected:?}"))?;
        let is_empty = self.services.named().next().is_none() && self.open.is_empty();
        ensure(is_empty && self.services.leaving_rooms::<()>(&BTreeMap::new()).is_empty(), || {
            "something is left".into()
        })
    }
}

impl Draft {
    fn need(&self) -> Need {
        let checks = self.is_checked.then_some(CheckKind::Keep);
        Need { addresses: self.listen.len(), probes: self.probes, checks }
    }
}
