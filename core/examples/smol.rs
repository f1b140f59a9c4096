//! A complete adapter: TCP on smol. And a balancer that runs on it:
//!
//!     cargo run --example smol -- 127.0.0.1:8080 127.0.0.1:9001 127.0.0.1:9002
//! `poll_cut` is the default (never), so a client that is reset during a dial is noticed after it.
#![allow(clippy::disallowed_types)] // Only the core itself does without a clock.
use std::task::{Context as Cx, Poll};
use std::{io, net::SocketAddr, pin::Pin, sync::LazyLock, time::Duration, time::Instant};

use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use smol::net::{TcpListener, TcpStream};
use tinylb_core::{
    BackendSet, Conn, CopyRelay, Dialer, Fault, Listener, Runtime, Server, Settings,
};

type Ready<T> = Poll<io::Result<T>>;

pub(crate) struct SmolConn(TcpStream, SocketAddr);

impl SmolConn {
    fn new(stream: TcpStream, peer: SocketAddr) -> io::Result<Self> {
        // However it is closed, the other end sees a reset, until it is finished.
        stream.set_nodelay(true)?;
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        Ok(Self(stream, peer))
    }
}

impl Conn for SmolConn {
    fn peer(&self) -> String {
        self.1.to_string()
    }

    fn finish(&mut self) {
        let _ = socket2::SockRef::from(&self.0).set_linger(None);
    }

    fn abort(&mut self) {} // The drop that follows sends a reset.
}

impl AsyncRead for SmolConn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Cx, buffer: &mut [u8]) -> Ready<usize> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for SmolConn {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Cx, buffer: &[u8]) -> Ready<usize> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Cx) -> Ready<()> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Cx) -> Ready<()> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

pub(crate) struct SmolListener(pub(crate) TcpListener);

#[async_trait::async_trait]
impl Listener for SmolListener {
    type Conn = SmolConn;

    async fn accept(&mut self) -> io::Result<SmolConn> {
        self.0.accept().await.and_then(|(stream, peer)| SmolConn::new(stream, peer))
    }
}

pub(crate) struct SmolDialer;

#[async_trait::async_trait]
impl Dialer for SmolDialer {
    type Target = SocketAddr;
    type Conn = SmolConn;

    async fn dial(&self, target: &SocketAddr, _within: Duration) -> io::Result<SmolConn> {
        TcpStream::connect(target).await.and_then(|stream| SmolConn::new(stream, *target))
    }

    fn classify(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            io::ErrorKind::ConnectionReset => Fault::Reset,
            io::ErrorKind::HostUnreachable => Fault::Unreachable,
            io::ErrorKind::TimedOut => Fault::TimedOut,
            _ => Fault::Ours, // No descriptors, no ports, no route: the target can't help it.
        }
    }
}

pub(crate) struct SmolRuntime;
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Runtime for SmolRuntime {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        smol::spawn(task).detach();
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        Box::pin(smol::Timer::after(duration).map(drop))
    }

    fn now(&self) -> Duration {
        EPOCH.elapsed()
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addresses = std::env::args().skip(1).map(|text| text.parse::<SocketAddr>());
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    let (listen, backends) = addresses.split_first().ok_or("usage: smol LISTEN BACKEND...")?;
    let set = BackendSet::new(backends.iter().map(|address| (address.to_string(), *address)))?;
    smol::block_on(async {
        let server = Server::new(SmolDialer, SmolRuntime, Settings::default())?;
        server.handle().replace(set)?.await;
        let listener = SmolListener(TcpListener::bind(listen).await?);
        Ok(server.listen(listener, CopyRelay::default(), SmolRuntime).await?)
    })
}
