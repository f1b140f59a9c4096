use std::{io, os::fd::AsFd, time::Duration};

use socket2::SockRef;

use crate::limit::Limit;

/// The options of every TCP connection, accepted or dialled. In addition, `TCP_NODELAY` is always
/// on, from the second write at the latest: a relay writes what it has read at once. So is
/// `SO_OOBINLINE`: urgent data stays in its place in the stream, and is relayed like any other. And
/// `SO_LINGER` is on with a time of 0 until a connection is finished: if it is closed earlier, or its
/// process dies, the system resets it. (Not on Apple's systems, where the option can't be cleared
/// once both directions have ended: there, connections of a killed process look as if they had
/// ended.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// How long a peer may leave data or probes unanswered before it counts as dead and the
    /// connection fails (`ETIMEDOUT`, or the system's reason why the peer is unreachable). A peer
    /// that answers is alive, even if it reads nothing for long. 60 s; 5 s to 24 h, and other
    /// values become the nearest of these. `None`: connections aren't probed, and only the system's
    /// own limits apply: on Linux about 15 minutes for unanswered data, and none while nothing is
    /// sent.
    ///
    /// On Linux, a thread of this crate looks after connections that are older than a second; the
    /// first connection starts it. A silent peer is probed (`SO_KEEPALIVE`) after a quarter to half
    /// of this time, and its connection fails if the peer doesn't answer within the rest. If data
    /// is sent after a long silence, the peer has at least a quarter of this time to answer it. A
    /// dead peer whose receive window was shut is found as fast on Linux 6.15 or newer. Older
    /// systems probe such a peer only every 2 minutes, and two probes have to stay unanswered.
    ///
    /// On other systems, connections are probed from the start, and the system's own limits apply
    /// to unanswered data.
    pub peer_timeout: Option<Duration>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self { peer_timeout: Some(Duration::from_secs(60)) }
    }
}

impl TcpOptions {
    /// The shortest [`Self::peer_timeout`]: 5 s.
    pub const PEER_TIMEOUT_MIN: Duration = Limit::MIN;
    /// The longest [`Self::peer_timeout`]: 24 h.
    pub const PEER_TIMEOUT_MAX: Duration = Limit::MAX;

    /// Sets the options of a listening socket, for all connections that it accepts from then on
    /// (accepted sockets inherit them, tcp(7)).
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

    /// Sets the options of a socket before it connects. On Linux, `TCP_NODELAY` can wait
    /// ([`SocketStream::set_nodelay_when_due`](tinylb_core::SocketStream::set_nodelay_when_due)).
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

/// Whether connections are reset when they are closed, from the beginning.
pub(crate) const RESETS_ON_CLOSE: bool = !cfg!(target_vendor = "apple");

/// Makes the system reset this connection when it is closed. For a listener: each one that it
/// accepts, where accepted sockets inherit that.
pub(crate) fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    if RESETS_ON_CLOSE {
        SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
    }
    Ok(())
}
