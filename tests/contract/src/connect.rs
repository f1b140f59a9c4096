//! Dialling and accepting, without a balancer.

use std::{task::Poll, time::Duration};

use futures::{AsyncReadExt, future::join};
use tinylb_core::{AcceptFailure, Conn, Dialer, Listener};

use super::{
    Accepted, Adapter,
    drive::{QUESTION, abort, dial, give_up_dial, pair, ping, send},
};

/// Accepts the next connection that carries this byte. Those before it must be over without a byte
/// of their own: how many there were.
pub(super) async fn accept_marked<A: Adapter>(
    listener: &mut A::Listener,
    mark: u8,
) -> (Accepted<A>, usize) {
    let mut over = 0;
    loop {
        match listener.accept().await {
            Ok(mut conn) => {
                let mut byte = [0];
                if let Ok(1) = conn.read(&mut byte).await {
                    assert_eq!(byte, [mark], "a connection came that isn't next");
                    return (conn, over);
                }
            }
            Err(error) => {
                let failure = listener.classify(&error);
                assert_ne!(failure, AcceptFailure::Fatal, "{error} is one connection's alone");
            }
        }
        over += 1;
    }
}

pub(super) async fn mark(conn: &mut impl Conn, mark: u8) {
    futures::AsyncWriteExt::write_all(conn, &[mark]).await.expect("a write");
    futures::AsyncWriteExt::flush(conn).await.expect("a flush");
}

/// Logs name clients and backends by `peer`, so it must say something, on one line.
pub async fn both_ends_have_a_name_for_people<A: Adapter>(a: &A) {
    fn check(peer: String) {
        assert!(!peer.trim().is_empty(), "the peer has no name");
        assert!(!peer.contains(char::is_control), "{peer:?} spoils a log");
    }
    let (client, backend) = pair(a).await;
    check(client.peer());
    check(backend.peer());
}

/// A dial that is refused fails, and doesn't hang or give a connection that fails later.
pub async fn a_refused_dial_is_an_error<A: Adapter>(a: &A) {
    let dial = a.dialer().dial(&a.nowhere(), Duration::from_secs(60)).await;
    assert!(dial.is_err(), "a dial of nowhere gave a connection");
}

/// A dial whose future is dropped connects no more: there is no connection from one that never
/// began, and at most one from each that was under way, over at once.
pub async fn a_dial_that_is_given_up_leaves_no_connection_behind<A: Adapter>(a: &A) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let dialer = a.dialer();
    for polls in 0..3 {
        for _ in 0..5 {
            give_up_dial::<A>(&dialer, &target, polls).await;
        }
        let dialled = async {
            let mut conn = dial::<A>(&dialer, &target).await;
            mark(&mut conn, polls as u8).await;
            conn
        };
        let accepted = accept_marked::<A>(&mut listener, polls as u8);
        let (mut client, (mut backend, over)) = join(dialled, accepted).await;
        let over_max = if polls == 0 { 0 } else { 5 };
        assert!(over <= over_max, "{over} connections are left of 5 dials that were given up");
        ping(&mut client, &mut backend).await;
    }
}

/// An accept whose future is dropped leaves the connection to the next accept: it came in while
/// the future waited, and the future was woken for it, or has begun to take it.
pub async fn an_accept_that_is_given_up_loses_no_connection<A: Adapter>(a: &A) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let dialer = a.dialer();
    for round in 0..10 {
        let mut accept = listener.accept();
        assert!(futures::poll!(&mut accept).is_pending(), "a connection came that nobody dialled");
        let mut client = dial::<A>(&dialer, &target).await;
        mark(&mut client, round).await;
        let begun = if round % 2 == 0 { Poll::Pending } else { futures::poll!(&mut accept) };
        drop(accept);
        let mut backend = match begun {
            Poll::Ready(conn) => {
                let mut conn = conn.expect("an accepted connection");
                conn.read_exact(&mut [0]).await.expect("a read");
                conn
            }
            Poll::Pending => {
                let (conn, over) = accept_marked::<A>(&mut listener, round).await;
                assert_eq!(over, 0, "connections that nobody dialled");
                conn
            }
        };
        ping(&mut client, &mut backend).await;
    }
}

/// Accepts go on after one that failed, and the connection that waited meanwhile is not lost. An
/// adapter that can't let an accept fail just accepts.
pub async fn an_accept_that_fails_costs_no_connection<A: Adapter>(a: &A) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let failures = (0..3).filter(|_| a.fail_accept(&target)).count();
    let mut client = dial::<A>(&a.dialer(), &target).await;
    mark(&mut client, 7).await;
    let (mut backend, over) = accept_marked::<A>(&mut listener, 7).await;
    assert_eq!(over, failures, "accepts that failed");
    ping(&mut client, &mut backend).await;
}

/// A client that has given up before it was accepted is a failed accept or a connection that is
/// over, and the next client is accepted after it.
pub async fn a_client_that_is_gone_before_it_is_accepted_costs_no_other<A: Adapter>(a: &A) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let dialer = a.dialer();
    let mut gone = dial::<A>(&dialer, &target).await;
    send(&mut gone, QUESTION, 0..0).await;
    abort(gone);
    let mut client = dial::<A>(&dialer, &target).await;
    mark(&mut client, 7).await;
    let accept = accept_marked::<A>(&mut listener, 7);
    let (mut backend, over) = accept.await;
    assert!(over <= 1, "{over} connections of one client that was gone");
    ping(&mut client, &mut backend).await;
    let mut accept = listener.accept();
    assert!(matches!(futures::poll!(&mut accept), Poll::Pending), "one connection was taken twice");
}
