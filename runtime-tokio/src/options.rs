use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// Socket options of every TCP connection, accepted or dialled. Besides these, `TCP_NODELAY` is
/// always on: a relay writes what it has read at once. So is `SO_OOBINLINE`: urgent data stays in
/// its place in the stream, and passes as any other. And `SO_LINGER` is on with a time of 0, until
/// a connection is finished: if it is closed before, or its process dies in any way, the system
/// resets it. (Not on Apple's systems, where it can't be cleared once both directions have ended:
/// there a process that is killed looks like an end.)
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TcpOptions {
    /// `TCP_USER_TIMEOUT`, in whole milliseconds: how long sent data may stay unacknowledged before
    /// the connection fails. Linux counts a peer whose receive window is shut as well, so this is
    /// also the longest time that a reader may stall while data waits for it. `None`: the system's
    /// own limits, on Linux about 15 minutes, and none for a shut window. 2 min.
    pub user_timeout: Option<Duration>,
    /// Whether idle connections are probed (`SO_KEEPALIVE`), from 30 s of silence on, every 10 s.
    /// A peer that is gone is found by the third probe without an answer, 60 s after it was last
    /// heard. On.
    ///
    /// On Linux `user_timeout`, if there is one, decides instead of that count (tcp(7)): an idle
    /// peer that is gone is then found at the first probe after `user_timeout`. For 60 s, set that
    /// to 60 s or to `None`.
    pub keepalive: bool,
}

/// Silence before the first probe, time between probes, and probes without answer.
const KEEPALIVE_TIME: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_PROBES: u32 = 3;

impl Default for TcpOptions {
    fn default() -> Self {
        Self { user_timeout: Some(Duration::from_secs(120)), keepalive: true }
    }
}

impl TcpOptions {
    /// Sets the options of a socket; of a listener, for all that it accepts (Linux: tcp(7),
    /// accepted sockets inherit them).
    ///
    /// # Errors
    /// The system's.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        reset_on_close(socket)?;
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        socket.set_out_of_band_inline(true)?;
        if self.keepalive {
            let keepalive =
                TcpKeepalive::new().with_time(KEEPALIVE_TIME).with_interval(KEEPALIVE_INTERVAL);
            // Switches it on as well.
            socket.set_tcp_keepalive(&keepalive.with_retries(KEEPALIVE_PROBES))?;
        } else {
            socket.set_keepalive(false)?;
        }
        #[cfg(any(target_os = "linux", target_os = "android"))]
        socket.set_tcp_user_timeout(self.user_timeout)?;
        Ok(())
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
