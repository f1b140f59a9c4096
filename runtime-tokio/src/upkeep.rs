//! Upkeep (Linux): looks after TCP connections once they have lived for a second. They are probed
//! when idle from then on, and those whose peer is dead are ended.
//!
//! - [`peer`]: the decision whether a peer is dead, without I/O;
//! - [`table`]: which connections there are;
//! - here: the thread that walks the table once a second, and what it does with a socket.
//!
//! A connection that ends within its first second costs two atomic stores, and no system call.
//!
//! The system itself ends an idle connection whose probes stay unanswered. The looks are for what it
//! would keep for a quarter of an hour or, without `TCP_USER_TIMEOUT`, for ever: data that nobody
//! acknowledges. (That option doesn't do: it also counts zero-window probes that the peer answers,
//! tcp(7), and so ends the connection of a reader that pauses.)

mod peer;
mod table;

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use socket2::SockRef;

use self::{
    peer::{Peer, Seen},
    table::{Entry, Table},
};
use crate::{
    limit::Limit,
    tcp_info::{set_rto_max, tcp_info, unacknowledged},
};

/// Between two walks.
const TURN: Duration = Duration::from_secs(1);

/// A walk that comes this late was kept from it: the process or the machine had been stopped, and
/// so may have been the peers' answers.
const LATE: Duration = Duration::from_secs(3);

static CONNECTIONS: Table = Table::new();

/// The walk that began last. Turns are what time is counted in here: while the process is stopped,
/// none pass.
static NOW: AtomicU32 = AtomicU32::new(0);

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Looks after a connection from now on. `None`: by the limit that its listener was given
/// ([`Limit::set_inherited`]), if any.
///
/// [`leave`] must be called before the descriptor is closed.
pub(crate) fn look_after(socket: impl AsFd, limit: Option<Limit>) {
    CONNECTIONS.put(socket, Entry::new(limit, NOW.load(Ordering::Relaxed)));
    if !IS_RUNNING.load(Ordering::Relaxed) {
        start();
    }
}

/// Looks after a connection no more. When this returns, nobody uses the descriptor but its owner.
pub(crate) fn leave(socket: impl AsFd) {
    CONNECTIONS.take(socket);
}

/// Starts the thread. If there can be none now, the next connection tries again.
#[cold]
fn start() {
    if IS_RUNNING.swap(true, Ordering::Relaxed) {
        return;
    }
    let running = Running;
    let thread = thread::Builder::new().name("tinylb-upkeep".into());
    let _ = thread.spawn(move || {
        let _running = running;
        walk_each_turn();
    });
}

/// While the thread is there, or is being started.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        IS_RUNNING.store(false, Ordering::Relaxed);
    }
}

fn walk_each_turn() {
    loop {
        let began = Instant::now();
        thread::sleep(TURN);
        let is_late = began.elapsed() > LATE;
        let now = NOW.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        walk(&CONNECTIONS, now, is_late);
    }
}

/// Looks at each connection whose turn it is.
fn walk(connections: &Table, now: u32, is_late: bool) {
    connections.each(|slot| {
        let entry = slot.entry();
        if is_late && entry.peer.renew(now) != entry.peer {
            slot.look(|_, entry| Some(Entry { peer: entry.peer.renew(now), ..entry }));
        } else if entry.is_due(slot.number(), now) {
            slot.look(|socket, entry| look(socket, entry, now));
        }
    });
}

/// Looks at a connection. `None`: it isn't to be looked after.
fn look(socket: BorrowedFd<'_>, entry: Entry, now: u32) -> Option<Entry> {
    if entry.peer.is_new() {
        let limit = entry.limit.or_else(|| Limit::inherited(socket))?;
        tend(socket, limit);
        return Some(Entry { limit: Some(limit), peer: Peer::Heard });
    }
    let limit = entry.limit?;
    let peer = entry.peer.look(see(socket), now, limit);
    match (entry.peer, peer) {
        (Peer::Condemned { .. }, Peer::Dead) => {
            end(socket);
            return None;
        }
        // The system ends it when it next would have sent something again, and keeps what has come
        // from the peer.
        (Peer::Silent { .. }, Peer::Condemned { .. }) => {
            let _ = SockRef::from(&socket).set_tcp_user_timeout(Some(Duration::from_millis(1)));
        }
        (Peer::Condemned { .. }, Peer::Heard | Peer::Silent { .. }) => {
            let _ = SockRef::from(&socket).set_tcp_user_timeout(None);
        }
        _ => {}
    }
    Some(Entry { peer, ..entry })
}

/// Has the system probe the peer of a connection. If it can't, looks will have to do.
fn tend(socket: BorrowedFd<'_>, limit: Limit) {
    let keepalive = limit.keepalive(socket.as_raw_fd() as u32);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
    let _ = set_rto_max(socket, limit.repeat_max());
}

/// Ends a connection: whoever waits for the socket gets an error, as do all later reads, and never
/// an end of stream.
fn end(socket: BorrowedFd<'_>) {
    // Which takes the socket's peer away (connect(2)). It fails for a socket that has none.
    let _ = rustix::net::connect_unspec(socket);
}

fn see(socket: BorrowedFd<'_>) -> Seen {
    // The cheaper question first: of most connections nothing is under way.
    if unacknowledged(socket).unwrap_or(0) == 0 {
        return Seen::default();
    }
    match tcp_info(socket) {
        Ok(info) if !info.is_closed => Seen {
            // A single probe may have been lost, and a shut window may have few of them.
            is_unanswered: info.retransmits > 0 || info.probes > 1,
            silence: Duration::from_millis(info.last_ack_recv.min(info.last_data_recv).into()),
        },
        // Failed already: what is left to read of it is its owner's.
        _ => Seen::default(),
    }
}
