use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use async_trait::async_trait;
use futures::{FutureExt, future::BoxFuture};
use tinylb_core::Listener;
use tokio::task::JoinHandle;

use super::{Network, TurmoilConn, network::FailAccept, runtime::catch_panics, wire::End};

/// Accepts connections on the simulated network.
///
/// As a kernel does, it completes handshakes on its own; connections wait in a backlog, which has
/// no bound, until they are accepted. Those that wait when it is dropped are reset.
pub struct TurmoilListener {
    network: Network,
    address: SocketAddr,
    backlog: Arc<Backlog>,
    /// By which the network knows it.
    fail: FailAccept,
    acceptor: Acceptor,
    task: JoinHandle<()>,
}

/// What takes connections from turmoil into the backlog, until it is taken away.
type Acceptor = Arc<Mutex<Option<BoxFuture<'static, ()>>>>;

impl TurmoilListener {
    /// Listens at this address of the host that calls it; port 0 takes any that is free.
    ///
    /// # Errors
    /// The port is in use. The address is not checked before the first connection: if it isn't the
    /// host's own, accepts fail.
    ///
    /// # Panics
    /// Outside a host, and if the IP versions differ.
    pub async fn bind(network: &Network, address: SocketAddr) -> io::Result<Self> {
        let any: IpAddr = match address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let listener = turmoil::net::TcpListener::bind((any, address.port())).await?;
        let address = SocketAddr::new(address.ip(), listener.local_addr()?.port());
        let backlog = Arc::new(Backlog::default());
        let accepting = accept(network.clone(), listener, address, Arc::clone(&backlog));
        let acceptor = Arc::new(Mutex::new(Some(accepting.boxed())));
        let fail: FailAccept = {
            let backlog = Arc::clone(&backlog);
            Arc::new(move |error| backlog.fail(error))
        };
        network.add_listener(address, &fail);
        let shared = Arc::clone(&acceptor);
        let accepting = poll_fn(move |cx| match &mut *lock(&shared) {
            Some(accepting) => accepting.poll_unpin(cx),
            None => Poll::Ready(()),
        });
        let task = tokio::spawn(catch_panics(network, accepting));
        Ok(Self { network: network.clone(), address, backlog, fail, acceptor, task })
    }

    /// Where it listens.
    pub fn local_address(&self) -> SocketAddr {
        self.address
    }
}

#[async_trait]
impl Listener for TurmoilListener {
    type Conn = TurmoilConn;

    async fn accept(&mut self) -> io::Result<TurmoilConn> {
        poll_fn(|cx| self.backlog.poll_accept(cx)).await
    }
}

impl Drop for TurmoilListener {
    fn drop(&mut self) {
        // At once, so that the port is free; the task only ends in its next turn.
        let accepting = lock(&self.acceptor).take();
        drop(accepting);
        self.task.abort();
        self.network.remove_listener(self.address, &self.fail);
        self.backlog.clear();
    }
}

async fn accept(
    network: Network,
    listener: turmoil::net::TcpListener,
    address: SocketAddr,
    backlog: Arc<Backlog>,
) {
    loop {
        let accepted = listener.accept().await.and_then(|(stream, from)| {
            let local = stream.local_addr()?;
            let wire = network.accepted(from, local);
            let conn = TurmoilConn::new(&network, stream, wire, End::Acceptor)?;
            if local.ip() != address.ip() && !local.ip().is_loopback() {
                let error = format!("the listener at {address} is on the host {}", local.ip());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
            Ok(conn)
        });
        match accepted {
            Ok(conn) => backlog.push(conn),
            Err(error) => backlog.fail(error),
        }
    }
}

/// Connections that wait to be accepted.
#[derive(Default)]
struct Backlog {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    conns: VecDeque<TurmoilConn>,
    failures: VecDeque<io::Error>,
    waker: Option<Waker>,
}

impl Backlog {
    fn push(&self, conn: TurmoilConn) {
        self.change(|state| state.conns.push_back(conn));
    }

    /// Lets an accept fail.
    fn fail(&self, error: io::Error) {
        self.change(|state| state.failures.push_back(error));
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.state);
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<TurmoilConn>> {
        let mut state = lock(&self.state);
        if let Some(error) = state.failures.pop_front() {
            return Poll::Ready(Err(error));
        }
        if let Some(conn) = state.conns.pop_front() {
            return Poll::Ready(Ok(conn));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Resets what waits.
    fn clear(&self) {
        let conns = std::mem::take(&mut lock(&self.state).conns);
        conns.into_iter().for_each(|mut conn| tinylb_core::Conn::abort(&mut conn));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
