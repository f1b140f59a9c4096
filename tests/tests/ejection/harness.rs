//! A server in a namespace of its own, its backends, and what its observer saw.

use std::{
    io::{Write, stderr},
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tinylb_core::{
    BackendSet, DialFailure, EndReason, Event, Fault, Handle, Replacement, Server, Settings,
};
use tinylb_tests::outage::{Backend, Filter, Outcome};
use tinylb_tokio::{SocketRelay, TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime};
use tokio::time::sleep;

use crate::program::harness::{DEADLINE, namespace::is_inside};

/// A server and what is around it.
pub(crate) struct World {
    pub(crate) filter: Filter,
    pub(crate) backends: Vec<Backend>,
    pub(crate) handle: Handle<TcpTarget>,
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Entry>>>,
    server: Server<TcpDialer>,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) session: Option<u64>,
    pub(crate) what: What,
    pub(crate) backend: Option<u8>,
}

/// What that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Dial,
    /// A dial was given up for another target.
    Moved,
    /// A dial failed otherwise.
    Failed,
    Connected,
    Ejected(Fault),
    /// A probe succeeded or not.
    Probed(bool),
    Returned,
    Ended(EndReason),
}

/// Runs a test, by its full name, in a namespace: with these settings, and with backends numbered from
/// 0, of which number 0 has the first turn.
pub(crate) fn run(
    test: &str,
    backends: u8,
    settings: impl FnOnce(&mut Settings),
    body: impl AsyncFnOnce(&mut World),
) {
    if !Filter::is_available() {
        // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
        let _ = writeln!(stderr(), "SKIPPED: nft isn't installed");
        return;
    }
    if !is_inside(test, "", "") {
        return;
    }
    let mut changed = Settings::default();
    settings(&mut changed);
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        let mut world = World::start(backends, changed);
        world.handle.replace(world.set(|_| true)).unwrap().await;
        world.listen();
        body(&mut world).await;
    });
}

impl World {
    fn start(backends: u8, settings: Settings) -> Self {
        let backends = Backend::several(backends).unwrap();
        let numbers: Vec<_> =
            backends.iter().map(|backend| (backend.address.to_string(), backend.number)).collect();
        let log = Arc::new(Mutex::new(Vec::new()));
        let observer = {
            let log = Arc::clone(&log);
            move |_, event: &Event<TcpTarget>| {
                log.lock().unwrap().extend(Entry::of(event, &numbers));
            }
        };
        let dialer = TcpDialer::new(TcpOptions::default());
        let server = Server::with_observer(dialer, TokioRuntime::current(), settings, observer);
        let server = server.unwrap();
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let (filter, handle) = (Filter::new().unwrap(), server.handle());
        Self { filter, backends, handle, address: nowhere, log, server }
    }

    fn listen(&mut self) {
        let listener = TcpListener::bind(self.address, &TcpOptions::default()).unwrap();
        self.address = listener.local_address().unwrap();
        self.server.listen(listener, SocketRelay::default(), TokioRuntime::current());
    }

    /// The backends that are wanted, by their numbers.
    pub(crate) fn set(&self, is_wanted: impl Fn(u8) -> bool) -> BackendSet<TcpTarget> {
        let wanted = self.backends.iter().filter(|backend| is_wanted(backend.number));
        let entry = |b: &Backend| (b.number.to_string(), b.address.to_string().parse().unwrap());
        BackendSet::new(wanted.map(entry)).unwrap()
    }

    /// Removes a backend.
    pub(crate) fn remove(&self, backend: u8) -> Replacement<TcpTarget> {
        self.handle.replace(self.set(|number| number != backend)).unwrap()
    }

    pub(crate) fn hang(&self, backend: u8) {
        self.filter.hang(self.at(backend)).unwrap();
    }

    pub(crate) fn heal(&self, backend: u8) {
        self.filter.heal(self.at(backend)).unwrap();
    }

    /// SYNs to a backend so far.
    pub(crate) fn syns(&self, backend: u8) -> u64 {
        self.filter.syns(self.at(backend)).unwrap()
    }

    fn at(&self, backend: u8) -> SocketAddr {
        self.backends[usize::from(backend)].address
    }

    /// All that happened so far.
    pub(crate) fn log(&self) -> Vec<Entry> {
        self.log.lock().unwrap().clone()
    }

    /// How often that happened, of all backends together.
    pub(crate) fn count(&self, what: What) -> usize {
        self.log().iter().filter(|entry| entry.what == what).count()
    }

    /// The same of one backend.
    pub(crate) fn count_of(&self, backend: u8, what: What) -> usize {
        self.log().iter().filter(|entry| entry.is(backend, what)).count()
    }

    /// How often a backend was ejected, whatever for.
    pub(crate) fn ejections(&self, backend: u8) -> usize {
        let is_ejection = |entry: &&Entry| matches!(entry.what, What::Ejected(_));
        self.log().iter().filter(is_ejection).filter(|e| e.backend == Some(backend)).count()
    }

    /// Waits until something has happened to a backend as often as that.
    pub(crate) async fn until(&self, backend: u8, what: What, count: usize) {
        let about = format!("{what:?} of backend {backend}, {count} times");
        self.eventually(&about, || self.count_of(backend, what) >= count).await;
    }

    /// Waits until something holds.
    pub(crate) async fn eventually(&self, about: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            let log = || self.log().into_iter().rev().take(20).collect::<Vec<_>>();
            assert!(
                began.elapsed() < DEADLINE,
                "this never came: {about}; the newest: {:#?}",
                log()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// What a backend that hangs has cost: it had no dials but those that began before it was ejected,
    /// and no more of them than it had turns. Returns how many.
    pub(crate) fn check_moves(&self, hung: u8) -> usize {
        let log = self.log();
        let dial = log.iter().position(|entry| entry.is(hung, What::Dial));
        let Some(first) = dial else { return 0 };
        let is_ejected = |entry: &Entry| entry.is(hung, What::Ejected(Fault::TimedOut));
        let ejected = log.iter().position(is_ejected).expect("who hangs is ejected");
        let of_hung = |entries: &[Entry], what| entries.iter().filter(|e| e.is(hung, what)).count();
        let dials = of_hung(&log, What::Dial);
        assert_eq!(of_hung(&log[ejected..], What::Dial), 0, "a dial after the ejection");
        assert_eq!(of_hung(&log, What::Moved), dials, "each is given up");
        let turns = log[first..ejected].iter().filter(|entry| entry.what == What::Dial).count();
        let moves = log[..ejected].iter().filter(|entry| entry.what == What::Moved).count();
        assert!(dials <= (turns - moves) / self.backends.len() + 1, "{dials} of {turns} turns");
        dials
    }
}

impl Entry {
    fn is(&self, backend: u8, what: What) -> bool {
        self.backend == Some(backend) && self.what == what
    }

    /// `numbers`: the backends' addresses and numbers.
    fn of(event: &Event<TcpTarget>, numbers: &[(String, u8)]) -> Option<Self> {
        let number = |target: &TcpTarget| {
            let target = target.to_string();
            numbers.iter().find(|(address, _)| *address == target).map(|(_, number)| *number)
        };
        let (session, what, target) = match event {
            Event::DialStarted { id, pick } => (Some(id), What::Dial, Some(&pick.target)),
            Event::DialFailed { id, pick, failure: DialFailure::GivenUp } => {
                (Some(id), What::Moved, Some(&pick.target))
            }
            Event::DialFailed { id, pick, .. } => (Some(id), What::Failed, Some(&pick.target)),
            Event::Connected { id, pick } => (Some(id), What::Connected, Some(&pick.target)),
            Event::Ejected { target, fault } => (None, What::Ejected(*fault), Some(target)),
            Event::Probed { target, failure } => {
                (None, What::Probed(failure.is_none()), Some(target))
            }
            Event::Returned { target, .. } => (None, What::Returned, Some(target)),
            Event::Ended { id, pick, reason, .. } => {
                (Some(id), What::Ended(*reason), pick.as_ref().map(|pick| &pick.target))
            }
            _ => return None,
        };
        let session = session.map(|id| id.serial());
        Some(Self { session, what, backend: target.and_then(number) })
    }
}

/// The numbers of the backends that served, in the clients' order. Nobody may have failed.
pub(crate) fn served(outcomes: &[Outcome]) -> Vec<u8> {
    outcomes.iter().map(|outcome| outcome.backend.expect("nobody fails")).collect()
}

/// How many a backend served.
pub(crate) fn share(served: &[u8], backend: u8) -> usize {
    served.iter().filter(|number| **number == backend).count()
}
