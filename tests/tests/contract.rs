//! The contract, run on every adapter there is.

use std::{
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, SystemTime},
};

use rustix::io::Errno;
use tinylb_contract::{
    Adapter, Capabilities, Failure, Sight, VirtualTime, contract_tests,
    pipe::{DialScript, PipeDialer, PipeListener, PipeNetwork, PipeTarget},
};
use tinylb_core::{Dialer, Relay, Runtime};
use tinylb_sim::{Network, NetworkOptions, TurmoilDialer, TurmoilListener, TurmoilRuntime};
use tinylb_tokio::{
    SocketRelay, Splice, TcpConn, TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
    UnixConn, UnixDialer, UnixListener, UnixTarget,
};

#[allow(dead_code)] // Its `main`, for one.
#[path = "../../core/examples/smol.rs"]
mod smol_adapter;

use smol_adapter::{SmolDialer, SmolListener, SmolRuntime};

contract_tests!(pipe, Pipe::new(64 << 10, usize::MAX));
contract_tests!(pipe_of_few_bytes_at_a_time, Pipe::new(16 << 10, 3));
contract_tests!(tcp_on_one_thread, Tcp::new(Threads::One, SocketRelay::default()));
contract_tests!(tcp_on_many_threads, Tcp::new(Threads::Many, SocketRelay::default()));
contract_tests!(tcp_never_spliced, Tcp::new(Threads::One, SocketRelay::new(Splice::Never, 0)));
contract_tests!(tcp_always_spliced, Tcp::new(Threads::One, SocketRelay::new(Splice::Always, 64)));
contract_tests!(
    tcp_spliced_by_a_pipe_that_may_not_wait,
    Tcp::new(Threads::One, SocketRelay::new(Splice::Always, 1))
);
contract_tests!(unix, Unix::new());
contract_tests!(smol_example, Smol);
contract_tests!(simulated, Turmoil::new(NetworkOptions::default()));
contract_tests!(
    simulated_few_bytes_at_a_time,
    Turmoil::new(NetworkOptions { seed: 1, window: 16 << 10, chunk_max: 7, yield_percent: 30 })
);

/// How long a case may take: it hangs, if so.
const WATCHDOG: Duration = Duration::from_secs(120);

const LOOPBACK: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A port of the loopback where nobody listens: tcpmux, which needs privileges and is long dead.
const NOBODY: SocketAddr = SocketAddr::new(LOOPBACK.ip(), 1);

/// How Linux words it that a dial fails like this. (That it does is tested with the program, since it
/// takes limits and networks that a case would share with others.)
fn system_error(failure: Failure) -> io::Error {
    let errno = match failure {
        Failure::Unreachable => Errno::HOSTUNREACH,
        Failure::TimedOut => Errno::TIMEDOUT,
        Failure::OutOfDescriptors => Errno::MFILE,
        Failure::OutOfPorts => Errno::ADDRNOTAVAIL,
    };
    errno.into()
}

// In memory.

/// Pipes, on one thread: a case that can't go on fails at once.
struct Pipe {
    network: PipeNetwork,
    listeners: AtomicUsize,
    capacity: usize,
    time: VirtualTime,
}

impl Pipe {
    fn new(capacity: usize, chunk_max: usize) -> Self {
        let network = PipeNetwork::new();
        network.set_capacity(capacity);
        network.set_chunk_max(chunk_max);
        Self { network, listeners: AtomicUsize::new(0), capacity, time: VirtualTime::new() }
    }
}

impl Adapter for Pipe {
    type Listener = PipeListener;
    type Dialer = PipeDialer;

    fn capabilities(&self) -> Capabilities {
        let capacity = self.capacity as u64;
        Capabilities {
            hides_probes: false,
            in_flight_max: capacity,
            volume: capacity * 20,
            ..Capabilities::default()
        }
    }

    async fn listen(&self) -> io::Result<(PipeListener, PipeTarget)> {
        let name = format!("listener-{}", self.listeners.fetch_add(1, Ordering::Relaxed));
        let listener = self.network.listen(&name);
        let target = listener.target();
        Ok((listener, target))
    }

    fn nowhere(&self) -> PipeTarget {
        "nowhere".into()
    }

    fn dialer(&self) -> PipeDialer {
        self.network.dialer()
    }

    fn runtime(&self) -> impl Runtime {
        self.time.clone()
    }

    fn fail_accept(&self, target: &PipeTarget) -> bool {
        self.network.fail_accept(&target.to_string(), io::ErrorKind::ConnectionAborted.into());
        true
    }

    async fn failed_dial(&self, failure: Failure) -> Option<io::Error> {
        self.network.script("failing", DialScript::Fail(system_error(failure).kind()));
        self.network.dialer().dial(&"failing".into(), WATCHDOG).await.err()
    }

    fn run(&self, case: impl Future<Output = ()>) {
        self.time.run(case);
    }
}

// tokio.

#[derive(Clone, Copy)]
enum Threads {
    One,
    Many,
}

fn run_on_tokio(threads: Threads, case: impl Future<Output = ()>) {
    let mut builder = match threads {
        Threads::One => tokio::runtime::Builder::new_current_thread(),
        Threads::Many => tokio::runtime::Builder::new_multi_thread(),
    };
    let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(WATCHDOG, case).await }).expect("the case hangs");
}

/// TCP on tokio.
struct Tcp {
    threads: Threads,
    relay: SocketRelay,
}

impl Tcp {
    fn new(threads: Threads, relay: SocketRelay) -> Self {
        Self { threads, relay }
    }
}

impl Adapter for Tcp {
    type Listener = TcpListener;
    type Dialer = TcpDialer;

    fn capabilities(&self) -> Capabilities {
        let is_linux = cfg!(target_os = "linux");
        Capabilities {
            notices_cut: is_linux,
            knows_unacknowledged: is_linux,
            hides_probes: is_linux,
            ..Capabilities::default()
        }
    }

    async fn listen(&self) -> io::Result<(TcpListener, TcpTarget)> {
        let listener = TcpListener::bind(LOOPBACK, &TcpOptions::default())?;
        let address = listener.local_address()?;
        Ok((listener, address.into()))
    }

    fn nowhere(&self) -> TcpTarget {
        NOBODY.into()
    }

    fn dialer(&self) -> TcpDialer {
        TcpDialer::new(TcpOptions::default())
    }

    fn relay(&self) -> impl Relay<TcpConn, TcpConn> {
        self.relay.clone()
    }

    fn runtime(&self) -> impl Runtime {
        TokioRuntime::current()
    }

    async fn failed_dial(&self, failure: Failure) -> Option<io::Error> {
        Some(system_error(failure))
    }

    fn run(&self, case: impl Future<Output = ()>) {
        run_on_tokio(self.threads, case);
    }
}

/// Unix sockets on tokio, each in a directory that goes away with the adapter.
struct Unix {
    directory: tempfile::TempDir,
    listeners: AtomicUsize,
}

impl Unix {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        Self { directory, listeners: AtomicUsize::new(0) }
    }

    fn target(&self, name: &str) -> UnixTarget {
        UnixTarget::new(self.directory.path().join(name)).expect("a short path")
    }
}

impl Adapter for Unix {
    type Listener = UnixListener;
    type Dialer = UnixDialer;

    /// There is no reset of a Unix socket; but Linux reports bytes that were never read to the peer.
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            abort: Sight::End,
            notices_cut: false,
            hides_probes: false,
            ..Capabilities::default()
        }
    }

    async fn listen(&self) -> io::Result<(UnixListener, UnixTarget)> {
        let name = self.listeners.fetch_add(1, Ordering::Relaxed).to_string();
        let target = self.target(&name);
        Ok((UnixListener::bind(target.path())?, target))
    }

    fn nowhere(&self) -> UnixTarget {
        self.target("nowhere")
    }

    fn dialer(&self) -> UnixDialer {
        UnixDialer::default()
    }

    fn relay(&self) -> impl Relay<UnixConn, UnixConn> {
        SocketRelay::default()
    }

    fn runtime(&self) -> impl Runtime {
        TokioRuntime::current()
    }

    async fn failed_dial(&self, failure: Failure) -> Option<io::Error> {
        (failure == Failure::OutOfDescriptors).then(|| system_error(failure))
    }

    fn run(&self, case: impl Future<Output = ()>) {
        run_on_tokio(Threads::One, case);
    }
}

// smol: the core's example, as a third party would test its own.

struct Smol;

impl Adapter for Smol {
    type Listener = SmolListener;
    type Dialer = SmolDialer;

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            notices_cut: false,
            knows_unacknowledged: false,
            hides_probes: false,
            ..Capabilities::default()
        }
    }

    async fn listen(&self) -> io::Result<(SmolListener, SocketAddr)> {
        let listener = smol::net::TcpListener::bind(LOOPBACK).await?;
        let address = listener.local_addr()?;
        Ok((SmolListener(listener), address))
    }

    fn nowhere(&self) -> SocketAddr {
        NOBODY
    }

    fn dialer(&self) -> SmolDialer {
        SmolDialer
    }

    fn runtime(&self) -> impl Runtime {
        SmolRuntime
    }

    async fn failed_dial(&self, failure: Failure) -> Option<io::Error> {
        Some(system_error(failure))
    }

    fn run(&self, case: impl Future<Output = ()>) {
        let watchdog = async {
            smol::Timer::after(WATCHDOG).await;
            panic!("the case hangs");
        };
        smol::block_on(smol::future::or(case, watchdog));
    }
}

// turmoil: a case is one host's program, so its connections stay within that host.

struct Turmoil {
    network: Network,
}

impl Turmoil {
    const HOST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));

    fn new(options: NetworkOptions) -> Self {
        Self { network: Network::new(options) }
    }
}

impl Adapter for Turmoil {
    type Listener = TurmoilListener;
    type Dialer = TurmoilDialer;

    fn capabilities(&self) -> Capabilities {
        let window = self.network.options().window as u64;
        Capabilities {
            hides_probes: false,
            in_flight_max: window,
            volume: window * 10,
            ..Capabilities::default()
        }
    }

    async fn listen(&self) -> io::Result<(TurmoilListener, SocketAddr)> {
        let listener = TurmoilListener::bind(&self.network, (Self::HOST, 0).into()).await?;
        let address = listener.local_address();
        Ok((listener, address))
    }

    fn nowhere(&self) -> SocketAddr {
        (Self::HOST, 1).into()
    }

    fn dialer(&self) -> TurmoilDialer {
        TurmoilDialer::new(&self.network, Self::HOST)
    }

    fn runtime(&self) -> impl Runtime {
        TurmoilRuntime::current(&self.network)
    }

    fn fail_accept(&self, target: &SocketAddr) -> bool {
        self.network.fail_accept(*target, io::ErrorKind::ConnectionAborted.into())
    }

    fn run(&self, case: impl Future<Output = ()> + 'static) {
        let mut sim = turmoil::Builder::new()
            .epoch(SystemTime::UNIX_EPOCH)
            .rng_seed(0)
            .simulation_duration(WATCHDOG)
            .tick_duration(Duration::from_millis(5))
            .tcp_capacity(self.network.options().tcp_capacity())
            .build();
        sim.client(Self::HOST, async {
            case.await;
            Ok(())
        });
        sim.run().expect("the case hangs, or has panicked");
        assert!(self.network.take_panics().is_empty(), "a task has panicked");
    }
}
