//! Upkeep (Linux): looks after TCP connections that are older than a second. It has the system
//! probe idle ones, and ends those whose peer is dead.
//!
//! - [`peer`]: the decision whether a peer is dead, without I/O;
//! - [`table`]: the connections;
//! - this module: the thread that walks the table once a second, and what it does with a socket.
//!
//! A connection that ends within its first second costs two atomic stores, and no system call.
//!
//! The system itself ends an idle connection whose probes stay unanswered. The looks are for what
//! it would keep for a quarter of an hour or, without `TCP_USER_TIMEOUT`, for ever: data that is
//! never acknowledged. (That option can't be used: it also counts zero-window probes that the peer
//! answers, tcp(7), and so ends the connection of a reader that pauses.)

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

/// If a walk comes this late, the process or the machine was stopped, and the peers' answers may
/// have been held up too.
const LATE: Duration = Duration::from_secs(3);

static CONNECTIONS: Table = Table::new();

/// The number of the latest walk. Time is counted in walks here: none pass while the process is
/// stopped.
static NOW: AtomicU32 = AtomicU32::new(0);

static IS_RUNNING: AtomicBool = AtomicBool::new(false);

/// Looks after a connection from now on. `None`: with the limit that its listener was given
/// ([`Limit::set_inherited`]), if any.
///
/// [`leave`] must be called before the descriptor is closed.
pub(crate) fn look_after(socket: impl AsFd, limit: Option<Limit>) {
    CONNECTIONS.put(socket, Entry::new(limit, NOW.load(Ordering::Relaxed)));
    if !IS_RUNNING.load(Ordering::Relaxed) {
        start();
    }
}

/// Stops looking after a connection. Once this returns, only the owner uses the descriptor.
pub(crate) fn leave(socket: impl AsFd) {
    CONNECTIONS.take(socket);
}

/// Starts the thread. If that fails, the next connection tries again.
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

/// Exists while the thread runs or is being started.
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

/// Looks at a connection. `None`: it needs no upkeep.
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
        // The system ends it when the next retransmission is due, and keeps what has arrived from
        // the peer.
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

/// Makes the system probe the peer of a connection. If it can't, the looks have to suffice.
fn tend(socket: BorrowedFd<'_>, limit: Limit) {
    let keepalive = limit.keepalive(socket.as_raw_fd() as u32);
    let _ = SockRef::from(&socket).set_tcp_keepalive(&keepalive);
    let _ = set_rto_max(socket, limit.repeat_max());
}

/// Ends a connection: a task that waits for the socket gets an error, as do all later reads, and
/// never an end of stream.
fn end(socket: BorrowedFd<'_>) {
    // This dissolves the socket's connection (connect(2)). It fails if there is none.
    let _ = rustix::net::connect_unspec(socket);
}

fn see(socket: BorrowedFd<'_>) -> Seen {
    // The cheaper query first: most connections have nothing in flight.
    if unacknowledged(socket).unwrap_or(0) == 0 {
        return Seen::default();
    }
    match tcp_info(socket) {
        Ok(info) if !info.is_closed => Seen {
            // A single probe may have been lost; a shut window gets few of them.
            is_unanswered: info.retransmits > 0 || info.probes > 1,
            silence: Duration::from_millis(info.last_ack_recv.min(info.last_data_recv).into()),
        },
        // It has failed already; its owner reads what is left.
        _ => Seen::default(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use futures::{
        AsyncReadExt, AsyncWriteExt,
        future::{Either, select},
    };
    use tinylb_core::{CopyRelay, Dialer, Listener, Progress, Relay, Side, SocketConn};

    use super::*;
    use crate::{SocketRelay, Splice, TcpConn, TcpDialer, TcpListener, TcpOptions, TcpTarget};

    const LONG: Duration = Duration::from_secs(30);

    /// An accepted connection and the other end of it.
    async fn pair() -> (TcpConn, TcpConn) {
        let any = "127.0.0.1:0".parse().unwrap();
        let mut listener = TcpListener::bind(any, &TcpOptions::default()).unwrap();
        let target = TcpTarget::from(listener.local_address().unwrap());
        let dialer = TcpDialer::default();
        let (accepted, dialled) = tokio::join!(listener.accept(), dialer.dial(&target, LONG));
        (accepted.unwrap(), dialled.unwrap())
    }

    /// How a session stands when its backend is ended.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum State {
        Idle,
        BackendTakesNothing,
        ClientTakesNothing,
        ClientHasEnded,
        BackendHasEnded,
    }

    /// Writes until nothing is taken for a while.
    async fn fill(conn: &mut TcpConn) {
        let chunk = [7; 64 << 10];
        let patience = Duration::from_millis(300);
        while let Ok(Ok(_)) = tokio::time::timeout(patience, conn.write(&chunk)).await {}
    }

    async fn ends_with_an_error(relay: impl Relay<TcpConn, TcpConn>, state: State) {
        let (mut client, mut far_client) = pair().await;
        let (mut backend, mut far_backend) = pair().await;
        let socket = backend.stream().socket().unwrap().fd().try_clone_to_owned().unwrap();
        let progress = Progress::default();
        let relaying = relay.relay(&mut client, &mut backend, &progress);
        let prepared = Box::pin(async {
            match state {
                State::Idle => {}
                State::BackendTakesNothing => fill(&mut far_client).await,
                State::ClientTakesNothing => fill(&mut far_backend).await,
                State::ClientHasEnded => {
                    far_client.close().await.unwrap();
                    assert_eq!(far_backend.read(&mut [0]).await.unwrap(), 0);
                }
                State::BackendHasEnded => {
                    far_backend.close().await.unwrap();
                    assert_eq!(far_client.read(&mut [0]).await.unwrap(), 0);
                }
            }
        });
        let relaying = match select(relaying, prepared).await {
            Either::Left((ended, _)) => panic!("it has ended: {ended:?}"),
            Either::Right(((), relaying)) => relaying,
        };
        end(socket.as_fd());
        // What had come from the backend before is passed on first, if the client takes it.
        let reading = Box::pin(async {
            let mut buffer = vec![0; 64 << 10];
            while far_client.read(&mut buffer).await.is_ok_and(|length| length > 0) {}
            std::future::pending::<()>().await;
        });
        let relayed = tokio::time::timeout(LONG, select(relaying, reading)).await;
        let Either::Left((relayed, _)) = relayed.expect("a prompt end") else { unreachable!() };
        assert_eq!(relayed.unwrap_err().side, Side::Backend, "{state:?}");
        // Nor does it read as an end of stream later.
        let read = backend.read(&mut [0]).await;
        assert!(read.is_err(), "{state:?}: {read:?}");
    }

    #[tokio::test]
    async fn a_session_whose_connection_is_ended_fails_at_once_however_it_stands() {
        for state in [
            State::Idle,
            State::BackendTakesNothing,
            State::ClientTakesNothing,
            State::ClientHasEnded,
            State::BackendHasEnded,
        ] {
            ends_with_an_error(CopyRelay::default(), state).await;
            for splice in [Splice::Never, Splice::Always] {
                ends_with_an_error(SocketRelay::new(splice, 8), state).await;
            }
        }
    }

    #[tokio::test]
    async fn the_first_error_of_a_connection_that_is_ended_is_a_reset() {
        let (mut one, _other) = pair().await;
        end(one.stream().socket().unwrap().fd());
        let error = one.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert!(one.write(b"?").await.is_err());
    }
}
