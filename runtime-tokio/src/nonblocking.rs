//! Sockets that don't block, and that programs which are started don't inherit: made so by one
//! call where the system can.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use rustix::net::{AddressFamily, SocketAddrAny, SocketType};
use tokio::io::{Interest, unix::AsyncFd};

/// Has tokio's reactor watch a socket. To be called in a tokio runtime.
#[allow(
    deprecated,
    reason = "its successor differs in being `unsafe`, for descriptors that may be \
                              closed behind its back; those that are owned can't"
)]
pub(crate) fn watch<S>(socket: S, interest: Interest) -> io::Result<AsyncFd<S>>
where
    S: AsRawFd + Into<OwnedFd>,
{
    AsyncFd::with_interest(socket, interest)
}

/// A stream socket.
pub(crate) fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Ok(rustix::net::socket_with(family, SocketType::STREAM, FLAGS, None)?);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    return set_flags(rustix::net::socket(family, SocketType::STREAM, None)?);
}

/// The next connection in a listener's backlog, and the client's address.
pub(crate) fn accept(listener: &impl AsFd) -> io::Result<(OwnedFd, Option<SocketAddrAny>)> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    return Ok(rustix::net::acceptfrom_with(listener, FLAGS)?);
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    {
        let (socket, peer) = rustix::net::acceptfrom(listener)?;
        Ok((set_flags(socket)?, peer))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const FLAGS: rustix::net::SocketFlags =
    rustix::net::SocketFlags::NONBLOCK.union(rustix::net::SocketFlags::CLOEXEC);

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn set_flags(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&socket, true)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}
