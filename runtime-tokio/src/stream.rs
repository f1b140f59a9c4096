use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    pin::pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::FutureExt;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use socket2::SockRef;
use tinylb_core::{Readiness, Socket, SocketKind, SocketStream};
use tokio::io::{
    Interest,
    unix::{AsyncFd, AsyncFdReadyGuard},
};

#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::upkeep;
use crate::{
    limit::Limit,
    nonblocking::watch,
    options::RESETS_ON_CLOSE,
    pipe::{SystemPipe, splice},
};

/// A connected socket that doesn't block, on tokio's reactor.
pub struct WatchedSocket(AsyncFd<OwnedFd>);

/// Such a socket, with what is known of it.
pub(crate) type Stream = SocketStream<WatchedSocket>;

/// What tokio's reactor has reported of a socket.
pub struct Reported<'a>(AsyncFdReadyGuard<'a, OwnedFd>);

/// Where there is no such flag, SIGPIPE is ignored all the same: Rust's start-up sees to that.
#[cfg(not(target_vendor = "apple"))]
const SEND_FLAGS: SendFlags = SendFlags::NOSIGNAL.union(SendFlags::DONTWAIT);
#[cfg(target_vendor = "apple")]
const SEND_FLAGS: SendFlags = SendFlags::DONTWAIT;

#[cfg(any(target_os = "linux", target_os = "android"))]
const SEND_LAST_FLAGS: SendFlags = SEND_FLAGS.union(SendFlags::MORE);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const SEND_LAST_FLAGS: SendFlags = SEND_FLAGS;

/// Watches a socket. Closing a TCP connection resets it if it was set up for that (`resets`), and
/// if systems like this one can be. Call this in a tokio runtime.
pub(crate) fn stream(socket: OwnedFd, kind: SocketKind, resets: bool) -> io::Result<Stream> {
    let interest = Interest::READABLE | Interest::WRITABLE;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let interest = interest | Interest::PRIORITY;
    let socket = watch(socket, interest)?;
    let resets = resets && kind == SocketKind::Tcp && RESETS_ON_CLOSE;
    Ok(SocketStream::new(WatchedSocket(socket), kind, resets))
}

impl WatchedSocket {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }

    /// Ready once the socket is connected.
    ///
    /// # Errors
    /// Why it could not be.
    pub(crate) async fn connected(&self) -> io::Result<()> {
        let guard = self.0.writable().await?;
        // A connect that failed has shut the socket; elsewhere than on Linux it has to be asked.
        if !cfg!(target_os = "linux") || guard.ready().is_write_closed() {
            SockRef::from(guard.get_inner()).take_error()?.map_or(Ok(()), Err)?;
        }
        Ok(())
    }

    /// A TCP connection's own address, once it is connected.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let local = SockRef::from(&self.0).local_addr()?;
        local.as_socket().ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Registers a TCP connection for upkeep, once it is connected. `None`: with the limit of its
    /// listener.
    pub(crate) fn look_after(&self, limit: Option<Limit>) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        upkeep::look_after(self.fd(), limit);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = limit;
    }
}

impl Socket for WatchedSocket {
    type Pipe = SystemPipe;
    type Readiness<'a> = Reported<'a>;

    const REPORTS_URGENT_AND_FAILED: bool = cfg!(any(target_os = "linux", target_os = "android"));

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Reported<'_>>> {
        self.0.poll_read_ready(cx).map_ok(Reported)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<Reported<'_>>> {
        self.0.poll_write_ready(cx).map_ok(Reported)
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn may_stop_short(&self) -> bool {
        self.0.try_io(Interest::PRIORITY, |_| Ok(())).is_ok()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn has_ended_well(&self) -> bool {
        let reported = self.0.ready(Interest::PRIORITY | Interest::ERROR).now_or_never();
        reported.and_then(Result::ok).is_some_and(|guard| {
            let ready = guard.ready();
            ready.is_read_closed() && !ready.is_priority() && !ready.is_error()
        })
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn may_stop_short(&self) -> bool {
        true
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn has_ended_well(&self) -> bool {
        false
    }

    fn reported_error(&self) -> Option<io::Error> {
        let error = self.0.try_io(Interest::ERROR, |fd| SockRef::from(fd).take_error());
        error.ok().flatten()
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let (_, length) = rustix::net::recv(self.fd(), buffer, RecvFlags::DONTWAIT)?;
        Ok(length)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.fd(), bytes, SEND_FLAGS)?)
    }

    fn send_last(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(rustix::net::send(self.fd(), bytes, SEND_LAST_FLAGS)?)
    }

    fn make_pipe(&self, size: usize) -> Option<(SystemPipe, usize)> {
        SystemPipe::new(size)
    }

    fn fill(&self, pipe: &SystemPipe, length: usize) -> io::Result<usize> {
        splice(self.fd(), &pipe.write, length)
    }

    fn drain(&self, pipe: &SystemPipe, length: usize) -> io::Result<usize> {
        splice(&pipe.read, self.fd(), length)
    }

    fn shut_down(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(self.fd(), Shutdown::Write)?)
    }

    fn is_connected(&self) -> bool {
        rustix::net::getpeername(self.fd()).is_ok()
    }

    fn unacknowledged(&self) -> usize {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        return crate::tcp_info::unacknowledged(self.fd()).unwrap_or(0);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        0
    }

    fn set_nodelay(&self) -> io::Result<()> {
        SockRef::from(&self.0).set_tcp_nodelay(true)
    }

    fn set_resets(&self, resets: bool) -> io::Result<()> {
        SockRef::from(&self.0).set_linger(resets.then_some(Duration::ZERO))
    }

    fn close(self, kind: SocketKind) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if kind == SocketKind::Tcp {
            upkeep::leave(self.fd());
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let _ = kind;
    }

    fn yield_turn(cx: &mut Context<'_>) {
        let _ = pin!(tokio::task::yield_now()).poll(cx);
    }
}

impl Readiness for Reported<'_> {
    fn is_read_closed(&self) -> bool {
        self.0.ready().is_read_closed()
    }

    fn is_write_closed(&self) -> bool {
        self.0.ready().is_write_closed()
    }

    fn take_back(&mut self) {
        self.0.clear_ready();
    }
}
