use std::{io, os::fd::AsFd, time::Duration};

use socket2::SockRef;

use crate::limit::Limit;

/// What every TCP connection is set to, accepted or dialled. Besides this, `TCP_NODELAY` is always
/// on, from the second write at the latest: a relay writes what it has read at once. So is `SO_OOBINLINE`: urgent data stays in its
/// place in the stream, and passes as any other. And `SO_LINGER` is on with a time of 0, until a
/// connection is finished: if it is closed before, or its process dies in any way, the system
/// resets it. (Not on Apple's systems, where it can't be cleared once both directions have ended:
/// there a process that is killed looks like an end.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// How long a peer may leave data or probes unanswered before it counts as dead and the
    /// connection fails (`ETIMEDOUT`, or the system's reason why nothing gets there). A peer that
    /// answers is alive, however long it takes no data. 60 s; 5 s to 24 h, to which other values
    /// are rounded. `None`: connections aren't probed, and fail by the system's own limits, on Linux
    /// after about 15 minutes for data, and never while nothing is sent.
    ///
    /// On Linux, connections that are older than a second are looked after by a thread of this
    /// crate, which the first connection starts. A peer that is silent is probed (`SO_KEEPALIVE`)
    /// after a quarter to half of this time, and its connection fails once the time has passed without an
    /// answer. Data that was sent for the first time in a long silence has a quarter of this time
    /// to be answered. A dead peer whose receive window was shut is found as fast on Linux 6.15 or
    /// newer; older systems probe such a peer only every 2 minutes, and two probes have to stay
    /// unanswered.
    ///
    /// Elsewhere, connections are probed from the start, and data that stays unanswered fails by
    /// the system's own limits.
    pub peer_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { peer_timeout: Some(Duration::from_secs(60)) }
    }
}

impl TcpOptions {
    /// The least that [`Self::peer_timeout`] can be: 5 s.
    pub const PEER_TIMEOUT_MIN: Duration = Limit::MIN;
    /// The most that [`Self::peer_timeout`] can be: 24 h.
    pub const PEER_TIMEOUT_MAX: Duration = Limit::MAX;

    /// Sets the options of a socket that listens, for all that it accepts from then on (tcp(7):
    /// accepted sockets inherit them).
    ///
    /// # Errors
    /// The system's.
    pub fn apply(&self, listener: &impl AsFd) -> io::Result<()> {
        self.apply_dialled(listener)?;
        SockRef::from(listener).set_tcp_nodelay(true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        Limit::set_inherited(self.limit(), listener)?;
        Ok(())
    }

    /// Sets the options of a socket that is to connect, but for `TCP_NODELAY` on Linux, where that
    /// can wait ([`Stream::set_nodelay_when_due`](crate::stream::Stream::set_nodelay_when_due)).
    pub(crate) fn apply_dialled(&self, socket: &impl AsFd) -> io::Result<()> {
        reset_on_close(socket)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        let number = std::os::fd::AsRawFd::as_raw_fd(&socket.as_fd()) as u32;
        let socket = SockRef::from(socket);
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        match self.limit() {
            Some(limit) => socket.set_tcp_keepalive(&limit.keepalive(number))?,
            None => socket.set_keepalive(false)?,
        }
        Ok(())
    }

    pub(crate) fn limit(&self) -> Option<Limit> {
        self.peer_timeout.map(Limit::new)
    }
}

/// Whether connections are reset when they are closed, from the first moment on.
pub(crate) const RESETS_ON_CLOSE: bool = !cfg!(target_vendor = "apple");

/// Has the system reset a connection that is closed, and one that a listener has accepted, where
/// that is inherited.
pub(crate) fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    if RESETS_ON_CLOSE {
        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}
