//! A bug in an adapter costs the one session or listener that meets it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};
use tinylb_contract::pipe::{DialScript, Pipe, PipeListener};
use tinylb_core::{
    Conn, CopyRelay, EndReason, Listener, ListenerError, Progress, Relay, RelayError,
};

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn a_panicking_dialer_ends_that_session_alone() {
    let mut world = World::new(settings(|_| {}), ["B"]);
    world.net.script("A", DialScript::Panic);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let (mut unlucky, mut client) = (world.client(), world.client());
    let mut backend = world.accept("B").await;
    talk(&mut client, &mut backend).await;
    assert!(is_cut(&mut unlucky));
    assert_eq!(world.log.of(0), ["admitted a=A", "dial a", "ended panicked 0/0"]);
    assert_eq!(world.load("A"), (0, 0));
    assert!(within(world.replace(&[("b", "B")])).await.is_change);
}

/// Panics at the first byte of the client's.
struct PanicRelay;

#[async_trait]
impl Relay<Pipe, Pipe> for PanicRelay {
    async fn relay(&self, client: &mut Pipe, _: &mut Pipe, _: &Progress) -> Result<(), RelayError> {
        use futures::AsyncReadExt;

        let _ = client.read(&mut [0]).await;
        panic!("the relay panics, as a test wants it to");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panicking_relay_ends_that_session_alone() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let listener = world.net.listen("other");
    let _other = world.server().listen(listener, PanicRelay, world.runtime.clone());
    world.apply(&[("a", "A")]).await;
    let (mut one, mut two) = (world.client_of("other"), world.client_of("other"));
    let (mut a_one, mut a_two) = (world.accept("A").await, world.accept("A").await);
    write(&mut one, "x").await;
    within(world.log.until("ended", 1)).await;
    assert!(is_cut(&mut one) && is_cut(&mut a_one));
    assert!(!is_cut(&mut two) && !is_cut(&mut a_two));
    assert_eq!(world.ended(EndReason::Panicked), 1);
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    talk(&mut client, &mut backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_panicking_listener_ends_only_itself() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let _other = world.listen("other");
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    world.net.panic_accept(FRONT);
    let ended = within(world.front.take().expect("it is there")).await;
    assert!(matches!(ended, Err(ListenerError::Panicked)), "{ended:?}");
    assert_eq!(world.snapshot().listeners, 1);
    talk(&mut client, &mut backend).await;
    let _next = world.client_of("other");
    settle().await;
    assert_eq!(world.load("A"), (0, 2));
}

/// A connection that can neither name its peer nor be aborted.
struct BuggyConn(Pipe);

struct BuggyListener(PipeListener);

#[async_trait]
impl Listener for BuggyListener {
    type Conn = BuggyConn;

    async fn accept(&mut self) -> io::Result<BuggyConn> {
        self.0.accept().await.map(BuggyConn)
    }
}

impl Conn for BuggyConn {
    fn peer(&self) -> String {
        panic!("the connection panics, as a test wants it to");
    }

    fn abort(&mut self) {
        panic!("the connection panics, as a test wants it to");
    }
}

impl AsyncRead for BuggyConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for BuggyConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_name_panics_is_served_and_ended_as_any_other() {
    let world = World::new(settings(|_| {}), ["A"]);
    let listener = BuggyListener(world.net.listen("other"));
    let other = world.server().listen(listener, CopyRelay::default(), world.runtime.clone());
    world.apply(&[("a", "A")]).await;
    let _client = world.client_of("other");
    settle().await;
    assert_eq!(world.snapshot().live, 1);
    within(world.handle.shutdown(secs(0))).await;
    assert_eq!(world.snapshot().live, 0, "nobody would ever end that session");
    within(other).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_abort_panics_does_not_keep_the_other_end_open() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let listener = BuggyListener(world.net.listen("other"));
    drop(world.server().listen(listener, CopyRelay::default(), world.runtime.clone()));
    world.apply(&[("a", "A")]).await;
    let _client = world.client_of("other");
    let mut backend = world.accept("A").await;
    world.apply(&[]).await;
    assert!(is_cut(&mut backend));
    assert_eq!(world.stats("A").dialled.aborted, 1);
    assert_eq!(world.ended(EndReason::BackendRemoved), 1);
}
