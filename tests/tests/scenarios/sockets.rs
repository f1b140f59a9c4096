//! A scenario on the loopback's TCP, in real time: the driver and the tokio adapter as they ship.
//!
//! What the loopback can't do is left out of the scenario: links are never cut, held or slow, and
//! a host that loses power is a process that dies. Nothing is silent for long there but a machine
//! that is busy, so the limits of dials and of silence are longer than patience. The kernel's
//! buffers and reads are what they are: windows, chunks and yields mean nothing.

use std::{
    any::Any,
    future::poll_fn,
    io,
    net::{Ipv4Addr, SocketAddr},
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use futures::{FutureExt, future::BoxFuture};
use socket2::{Domain, Protocol, Socket, Type};
use tinylb_core::{CopyRelay, Progress, Relay, RelayError, Runtime};
use tinylb_sim::{
    Law, Outcome, Scenario,
    driver::{
        Director, Disturbance, Fabric, Spot, TapConn, TapRelay, World, balance, connect, serve,
    },
    scenario::{Act, Operation, Place, Setting},
};
use tinylb_tokio::{
    SocketRelay, Splice, TcpConn, TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
};
/// Between two looks at everything.
const STEP: Duration = Duration::from_millis(2);

/// How late anything may be. The machine may have a lot to do besides.
const PATIENCE: Duration = Duration::from_secs(5);

/// Few, so that directions have to do without as well.
const PIPES_MAX: usize = 4;

/// Runs a scenario on sockets. It takes as long as the scenario says, and longer where patience is
/// needed; no two runs are the same.
pub fn run(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_with(None, scenario, keep_trace)
}

/// The same with the relay for sockets, which never splices.
pub fn run_unspliced(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_with(Some(Splice::Never), scenario, keep_trace)
}

/// The same, and it splices what is hot.
pub fn run_spliced_if_hot(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_with(Some(Splice::Hot), scenario, keep_trace)
}

/// The same, and it splices always.
pub fn run_spliced(scenario: &Scenario, keep_trace: bool) -> Outcome {
    run_with(Some(Splice::Always), scenario, keep_trace)
}

fn run_with(splice: Option<Splice>, scenario: &Scenario, keep_trace: bool) -> Outcome {
    let scenario = for_loopback(scenario);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let mut director = Director::new(&scenario, PATIENCE, keep_trace);
        let sockets = Sockets::new(director.world(), scenario.config.backends, splice);
        let mut stage = Stage::new(sockets.expect("free ports"));
        let began = stage.sockets.began;
        let mut steps = 0;
        while !director.is_over() {
            for disturbance in director.advance(began.elapsed()) {
                stage.disturb(disturbance);
            }
            steps += 1;
            tokio::time::sleep(STEP).await;
        }
        stage.check_tasks().await;
        director.finish(steps)
    })
}

/// What is left of a scenario where there is no network to be disturbed, and time is real.
fn for_loopback(scenario: &Scenario) -> Scenario {
    let mut scenario = scenario.clone();
    let config = &mut scenario.config;
    (config.latency_min, config.latency_max) = (0, 0);
    for limit in [
        &mut config.dial_timeout,
        &mut config.dial_time,
        &mut config.half_close_timeout,
        &mut config.idle_timeout,
    ] {
        if *limit > 0 {
            *limit = (2 * PATIENCE.as_millis() as u32).max(*limit);
        }
    }
    scenario.steps.retain_mut(|step| match step.operation {
        Operation::Partition(_)
        | Operation::CutTo(_)
        | Operation::CutFrom(_)
        | Operation::Hold(_)
        | Operation::Release(_)
        | Operation::Latency(..) => false,
        Operation::Set(
            setting @ (Setting::DialTimeout
            | Setting::DialTime
            | Setting::HalfCloseTimeout
            | Setting::IdleTimeout
            | Setting::DeliveryTimeout),
            value,
        ) if value > 0 => {
            let value = (2 * PATIENCE.as_millis() as u32).max(value);
            step.operation = Operation::Set(setting, value);
            true
        }
        Operation::PowerLoss(place) => {
            step.operation = Operation::Crash(place);
            true
        }
        _ => true,
    });
    scenario.rules.retain(|rule| !matches!(rule.act, Act::Partition | Act::Hold | Act::Release));
    scenario
}

/// Balancer, clients and backends, as tasks of one thread.
struct Stage {
    sockets: Sockets,
    /// Those that run or have run, by place.
    backends: Vec<Process>,
}

/// A backend's process, which dies at once.
///
/// A task that is aborted is dropped only when its turn comes, and until then its listener takes
/// clients. The judge would know nothing of what ends those, since it has marked the dead process's
/// sessions before.
#[derive(Clone)]
struct Process(Arc<Mutex<Option<BoxFuture<'static, ()>>>>);

impl Process {
    fn new(part: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Some(part.boxed()))))
    }

    /// Runs it until it is over or has died.
    async fn run(self) {
        poll_fn(|cx| {
            let mut process = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            process.as_mut().map_or(Poll::Ready(()), |part| part.poll_unpin(cx))
        })
        .await;
    }

    /// The system closes what the process had open.
    fn die(&self) {
        drop(self.0.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Stage {
    fn new(sockets: Sockets) -> Self {
        let world = sockets.world.clone();
        sockets.run(balance(world.clone(), sockets.clone()));
        sockets.run(connect(world.clone(), sockets.clone()));
        let places = (0..world.scenario().config.backends as u16).map(Place);
        let backends = places.map(|place| sockets.start(place)).collect();
        Self { sockets, backends }
    }

    fn disturb(&mut self, disturbance: Disturbance) {
        match disturbance {
            Disturbance::Crash(place) => self.backends[usize::from(place.0)].die(),
            Disturbance::Start(place) => {
                self.backends[usize::from(place.0)] = self.sockets.start(place);
            }
            disturbance => unreachable!("{disturbance:?} was left out"),
        }
    }

    /// No task of the balancer is left once it has shut down.
    async fn check_tasks(&self) {
        let Sockets { world, tasks, .. } = &self.sockets;
        let over = Instant::now() + PATIENCE;
        while !world.has_failed() && tasks.load(Ordering::Relaxed) > 0 {
            if Instant::now() > over {
                let tasks = tasks.load(Ordering::Relaxed);
                world.fail(Law::Quiet, format!("{tasks} tasks are left after the shutdown"));
            }
            tokio::time::sleep(STEP).await;
        }
    }
}

/// The loopback, with a port for each spot.
#[derive(Clone)]
struct Sockets {
    world: World,
    front: SocketAddr,
    backends: Arc<[SocketAddr]>,
    /// How the relay for sockets splices; `None`: the one for any connections is used.
    splice: Option<Splice>,
    /// They are bound and don't listen: dials are refused, and nobody else gets the ports while a
    /// backend is down (Linux: socket(7), `SO_REUSEADDR`).
    _holders: Arc<[Socket]>,
    /// Tasks of the balancer that have not ended.
    tasks: Arc<AtomicUsize>,
    began: Instant,
}

impl Sockets {
    fn new(world: &World, backends: u32, splice: Option<Splice>) -> io::Result<Self> {
        let holders = (0..=backends).map(|_| holder()).collect::<io::Result<Arc<[Socket]>>>()?;
        let address = |holder: &Socket| {
            let address = holder.local_addr()?.as_socket();
            address.ok_or_else(|| io::ErrorKind::InvalidData.into())
        };
        let addresses = holders.iter().map(address).collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            world: world.clone(),
            front: addresses[0],
            backends: addresses[1..].into(),
            splice,
            _holders: holders,
            tasks: Arc::default(),
            began: Instant::now(),
        })
    }

    fn at(&self, spot: Spot) -> SocketAddr {
        match spot {
            Spot::Front => self.front,
            Spot::Backend(place) => self.backends[usize::from(place.0)],
        }
    }

    /// Runs one that takes part, for ever.
    fn run(&self, part: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.clone().watch(part.boxed()));
    }

    /// Starts the process of a backend.
    fn start(&self, place: Place) -> Process {
        let process = Process::new(serve(self.world.clone(), self.clone(), place));
        self.run(process.clone().run());
        process
    }

    /// Runs a task at the time that it is, and reports how it panics.
    async fn watch(self, mut task: BoxFuture<'static, ()>) {
        let timed = poll_fn(|cx| {
            self.world.set_time(self.began.elapsed());
            task.poll_unpin(cx)
        });
        if let Err(panic) = AssertUnwindSafe(timed).catch_unwind().await {
            self.world.panicked(text(&*panic));
        }
    }
}

fn holder() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Ok(socket)
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a panic without a text")
}

#[async_trait]
impl Fabric for Sockets {
    type Listener = TcpListener;
    type Dialer = TcpDialer;
    type Runtime = Watching;

    async fn listen(&self, at: Spot) -> io::Result<TcpListener> {
        TcpListener::bind(self.at(at), &TcpOptions::default())
    }

    fn dialer(&self) -> TcpDialer {
        TcpDialer::default()
    }

    fn address(&self, of: Spot) -> TcpTarget {
        self.at(of).into()
    }

    fn runtime(&self) -> Watching {
        Watching { inner: TokioRuntime::current(), sockets: self.clone() }
    }

    fn relay(&self, buffer: usize) -> impl Relay<TapConn<TcpConn>, TapConn<TcpConn>> {
        match self.splice {
            None => Carrier::Any(CopyRelay::new(buffer)),
            Some(splice) => Carrier::Sockets(TapRelay(SocketRelay::new(splice, PIPES_MAX))),
        }
    }

    fn name(&self, conn: &TcpConn) -> String {
        conn.local_address().map_or_else(|error| error.to_string(), |address| address.to_string())
    }
}

/// Either relay.
enum Carrier {
    Any(CopyRelay),
    Sockets(TapRelay<SocketRelay>),
}

#[async_trait]
impl Relay<TapConn<TcpConn>, TapConn<TcpConn>> for Carrier {
    async fn relay(
        &self,
        client: &mut TapConn<TcpConn>,
        backend: &mut TapConn<TcpConn>,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        match self {
            Self::Any(relay) => relay.relay(client, backend, progress).await,
            Self::Sockets(relay) => relay.relay(client, backend, progress).await,
        }
    }
}

/// Tokio's runtime, with its tasks watched.
#[derive(Clone)]
struct Watching {
    inner: TokioRuntime,
    sockets: Sockets,
}

impl Runtime for Watching {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let sockets = self.sockets.clone();
        sockets.tasks.fetch_add(1, Ordering::Relaxed);
        self.inner.spawn(Box::pin(async move {
            sockets.clone().watch(task).await;
            sockets.tasks.fetch_sub(1, Ordering::Relaxed);
        }));
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.inner.sleep(duration)
    }

    fn now(&self) -> Duration {
        self.inner.now()
    }
}
