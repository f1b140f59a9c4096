#[cfg(doc)]
use tinylb_core::SocketConn;

use crate::stream::WatchedSocket;

/// The relay for this crate's connections, all of which are [`SocketConn`]s of a
/// [`WatchedSocket`]. It reads into one buffer for each thread and writes
/// straight from it, so a session holds memory only for what a slow reader has left: at most 64 KiB
/// each way.
///
/// On Linux, a direction that is *hot* is moved by splice(2), through a pipe that it holds while it
/// moves something; see [`Splice`](crate::Splice).
pub type SocketRelay = tinylb_core::SocketRelay<WatchedSocket>;
