//! An adapter in memory: connections are pairs of bounded buffers, and a [`PipeNetwork`] is all
//! the world there is. It runs on any executor, knows no time, and does the same each time.
//!
//! Tests steer it ([`PipeNetwork::script`], [`PipeNetwork::fail_accept`]) and read what happened
//! ([`PipeNetwork::stats`], [`PipeNetwork::until`]).

mod conn;

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    future::poll_fn,
    io,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use tinylb_core::{Conn, Dialer, Fault, Listener};

pub use self::conn::Pipe;
use self::conn::{Account, Role};

/// Bytes that one direction of a connection holds unless told otherwise.
const CAPACITY: usize = 64 << 10;

/// Where a backend is: the name of a listener of the dialer's network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PipeTarget(Arc<str>);

impl<S: Into<Arc<str>>> From<S> for PipeTarget {
    fn from(name: S) -> Self {
        Self(name.into())
    }
}

impl fmt::Display for PipeTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What becomes of dials of one target. Every dial reads it when it starts.
#[derive(Clone, Default)]
pub enum DialScript {
    /// It succeeds at once if the name is listened to, else it is refused.
    #[default]
    Connect,
    /// It fails at once with this kind of error.
    Fail(io::ErrorKind),
    /// It never comes to an end.
    Hang,
    /// The dialer panics.
    Panic,
    /// The dialer panics when it is asked whether it takes this target.
    PanicAtCheck,
    /// It waits until the gate is open, and then connects.
    Gate(Gate),
    /// It waits for a future that this makes, and then connects. So a test that has a clock can
    /// delay a dial by a time.
    After(Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>),
    /// Sets with this target are rejected, for this reason.
    Invalid(String),
}

/// Something that is shut until it is opened. Clones are the same gate.
#[derive(Clone, Default)]
pub struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    /// Lets everyone through, now and later.
    pub fn open(&self) {
        let mut gate = lock(&self.0);
        gate.0 = true;
        let wakers = std::mem::take(&mut gate.1);
        drop(gate);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Ready when the gate is open.
    pub async fn wait(&self) {
        poll_fn(|cx| {
            let mut gate = lock(&self.0);
            if gate.0 {
                return Poll::Ready(());
            }
            gate.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

/// What has happened under one name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipeStats {
    /// Dials that a [`PipeDialer`] started.
    pub dials_started: usize,
    /// Those of them that have come to no end yet.
    pub dials_in_flight: usize,
    /// Those whose future was dropped before its end.
    pub dials_dropped: usize,
    /// The ends that dialled this name: a balancer's, if it is a backend's name.
    pub dialled: EndStats,
    /// The ends that were accepted under this name: a balancer's, if it listens to the name.
    pub accepted: EndStats,
    /// Connections that wait to be accepted.
    pub backlog: usize,
}

/// What has become of one kind of ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndStats {
    /// Those that exist.
    pub open: usize,
    /// Those that were given up by [`Conn::abort`].
    pub aborted: usize,
    /// Those that were dropped without it.
    pub dropped: usize,
    /// Bytes that they wrote.
    pub bytes_written: u64,
    /// How often they were asked what is unacknowledged.
    pub queries: u64,
}

/// The world of some listeners, dialers and connections. Clones are the same network.
#[derive(Clone, Default)]
pub struct PipeNetwork(Arc<Mutex<World>>);

struct World {
    hosts: BTreeMap<Arc<str>, Host>,
    capacity: usize,
    chunk_max: usize,
    is_lossy: bool,
    buffered_max: usize,
    clients: u64,
    /// Those who wait for something to change.
    watchers: Vec<Waker>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            hosts: BTreeMap::new(),
            capacity: CAPACITY,
            chunk_max: usize::MAX,
            is_lossy: false,
            buffered_max: 0,
            clients: 0,
            watchers: Vec::new(),
        }
    }
}

#[derive(Default)]
struct Host {
    is_listening: bool,
    backlog: VecDeque<Pipe>,
    faults: VecDeque<AcceptFault>,
    accept_waker: Option<Waker>,
    script: DialScript,
    stats: PipeStats,
}

enum AcceptFault {
    Error(io::Error),
    Panic,
}

impl PipeNetwork {
    /// A network without listeners, whose connections hold 64 KiB in each direction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Connections made from now on hold this many bytes in each direction, 1 or more.
    pub fn set_capacity(&self, bytes: usize) {
        self.change(|world| world.capacity = bytes.max(1));
    }

    /// Connections made from now on move at most this many bytes, 1 or more, in one read or write.
    pub fn set_chunk_max(&self, bytes: usize) {
        self.change(|world| world.chunk_max = bytes.max(1));
    }

    /// Makes new connections discard on abort what the other end has not read, as a system discards
    /// what has not been acknowledged. Each knows how much that is ([`Conn::unacknowledged`]).
    pub fn lose_by_aborts(&self) {
        self.change(|world| world.is_lossy = true);
    }

    /// Listens to a name.
    ///
    /// # Panics
    /// Somebody does already.
    pub fn listen(&self, name: &str) -> PipeListener {
        let was_listening =
            self.change(|world| std::mem::replace(&mut world.host(name).is_listening, true));
        assert!(!was_listening, "somebody listens to {name} already");
        PipeListener { network: self.clone(), name: name.into() }
    }

    /// A dialer that reaches this network's listeners.
    pub fn dialer(&self) -> PipeDialer {
        PipeDialer { network: self.clone() }
    }

    /// A connection to a name, as a client of a test makes it: no script applies.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] if nobody listens to the name.
    pub fn connect(&self, name: &str) -> io::Result<Pipe> {
        let mut waker = None;
        let dialled = self.change(|world| {
            let limits = (world.capacity, world.chunk_max, world.is_lossy);
            world.clients += 1;
            let peer = format!("client-{}", world.clients);
            let host = world.host(name);
            if !host.is_listening {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let account = |role| Account { network: self.clone(), name: name.into(), role };
            let accounts = [account(Role::Dialled), account(Role::Accepted)];
            let peers = [name.into(), peer];
            let [dialled, accepted] = Pipe::pair(limits, peers, accounts);
            host.backlog.push_back(accepted);
            host.stats.dialled.open += 1;
            host.stats.accepted.open += 1;
            waker = host.accept_waker.take();
            Ok(dialled)
        });
        waker.into_iter().for_each(Waker::wake);
        dialled
    }

    /// What becomes of dials of this name that start from now on.
    pub fn script(&self, name: &str, script: DialScript) {
        self.change(|world| world.host(name).script = script);
    }

    /// Lets one accept fail, before any connection that waits. Several are taken in their order.
    /// The error's kind says whether it is fatal: see [`Listener::classify`].
    pub fn fail_accept(&self, name: &str, error: io::Error) {
        self.fault(name, AcceptFault::Error(error));
    }

    /// Lets one accept panic.
    pub fn panic_accept(&self, name: &str) {
        self.fault(name, AcceptFault::Panic);
    }

    fn fault(&self, name: &str, fault: AcceptFault) {
        let waker = self.change(|world| {
            let host = world.host(name);
            host.faults.push_back(fault);
            host.accept_waker.take()
        });
        waker.into_iter().for_each(Waker::wake);
    }

    /// What has happened under a name.
    pub fn stats(&self, name: &str) -> PipeStats {
        let world = lock(&self.0);
        let Some(host) = world.hosts.get(name) else { return PipeStats::default() };
        PipeStats { backlog: host.backlog.len(), ..host.stats.clone() }
    }

    /// The greatest number of bytes that one direction of one connection has ever held.
    pub fn buffered_max(&self) -> usize {
        lock(&self.0).buffered_max
    }

    /// Ready as soon as the condition holds; asked again whenever something in the network has
    /// changed, a byte included. It may read this network.
    pub async fn until(&self, mut condition: impl FnMut(&Self) -> bool) {
        poll_fn(|cx| {
            // First the waker, so that a change in between isn't missed.
            lock(&self.0).watchers.push(cx.waker().clone());
            if condition(self) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }

    /// Changes the world and wakes the tasks that wait for that.
    fn change<R>(&self, change: impl FnOnce(&mut World) -> R) -> R {
        let mut world = lock(&self.0);
        let result = change(&mut world);
        let watchers = std::mem::take(&mut world.watchers);
        drop(world);
        watchers.into_iter().for_each(Waker::wake);
        result
    }
}

impl World {
    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.entry(name.into()).or_default()
    }
}

/// Accepts what is dialled under its name. Dropping it resets what waits, and later dials are
/// refused.
pub struct PipeListener {
    network: PipeNetwork,
    name: Arc<str>,
}

impl PipeListener {
    /// Where it is reached.
    pub fn target(&self) -> PipeTarget {
        PipeTarget(Arc::clone(&self.name))
    }
}

#[async_trait]
impl Listener for PipeListener {
    type Conn = Pipe;

    async fn accept(&mut self) -> io::Result<Pipe> {
        poll_fn(|cx| {
            let mut world = lock(&self.network.0);
            let host = world.host(&self.name);
            let taken = match host.faults.pop_front() {
                Some(AcceptFault::Error(error)) => Some(Err(error)),
                Some(AcceptFault::Panic) => {
                    drop(world);
                    panic!("the listener panics, as its script says");
                }
                None => host.backlog.pop_front().map(Ok),
            };
            if taken.is_none() {
                host.accept_waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            drop(world);
            self.network.change(|_| {});
            taken.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}

impl Drop for PipeListener {
    fn drop(&mut self) {
        let backlog = self.network.change(|world| {
            let host = world.host(&self.name);
            host.is_listening = false;
            host.accept_waker = None;
            std::mem::take(&mut host.backlog)
        });
        backlog.into_iter().for_each(|mut conn| conn.abort());
    }
}

/// Dials the listeners of its network, as their [`DialScript`]s say.
#[derive(Clone)]
pub struct PipeDialer {
    network: PipeNetwork,
}

#[async_trait]
impl Dialer for PipeDialer {
    type Target = PipeTarget;
    type Conn = Pipe;

    async fn dial(&self, target: &PipeTarget, _within: Duration) -> io::Result<Pipe> {
        let mut flight = Flight::new(&self.network, &target.0);
        let script = lock(&self.network.0).host(&target.0).script.clone();
        let result = match script {
            DialScript::Connect | DialScript::Invalid(_) => self.network.connect(&target.0),
            DialScript::Fail(kind) => Err(kind.into()),
            DialScript::Hang => std::future::pending().await,
            DialScript::Panic | DialScript::PanicAtCheck => {
                panic!("the dialer panics, as its script says")
            }
            DialScript::Gate(gate) => {
                gate.wait().await;
                self.network.connect(&target.0)
            }
            DialScript::After(delay) => {
                delay().await;
                self.network.connect(&target.0)
            }
        };
        flight.has_landed = true;
        result
    }

    /// By the error's kind: a script may have a dial fail by the target's fault
    /// ([`ConnectionRefused`](io::ErrorKind::ConnectionRefused),
    /// [`ConnectionReset`](io::ErrorKind::ConnectionReset),
    /// [`HostUnreachable`](io::ErrorKind::HostUnreachable), [`TimedOut`](io::ErrorKind::TimedOut)) or
    /// by the balancer's (any other).
    fn classify(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            io::ErrorKind::ConnectionReset => Fault::Reset,
            io::ErrorKind::HostUnreachable => Fault::Unreachable,
            io::ErrorKind::TimedOut => Fault::TimedOut,
            _ => Fault::Ours,
        }
    }

    fn validate(&self, target: &PipeTarget) -> Result<(), String> {
        match &lock(&self.network.0).host(&target.0).script {
            DialScript::Invalid(reason) => Err(reason.clone()),
            DialScript::PanicAtCheck => panic!("the dialer panics at a check, as its script says"),
            _ => Ok(()),
        }
    }
}

/// One dial. If it is dropped before it has landed, so was the dial's future.
struct Flight<'a> {
    network: &'a PipeNetwork,
    name: &'a str,
    has_landed: bool,
}

impl<'a> Flight<'a> {
    fn new(network: &'a PipeNetwork, name: &'a str) -> Self {
        network.change(|world| {
            let stats = &mut world.host(name).stats;
            stats.dials_started += 1;
            stats.dials_in_flight += 1;
        });
        Self { network, name, has_landed: false }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.network.change(|world| {
            let stats = &mut world.host(self.name).stats;
            stats.dials_in_flight -= 1;
            stats.dials_dropped += usize::from(!self.has_landed);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poison| poison.into_inner())
}
