//! What the balancer does to its connections, seen at the adapter's door.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures::{
    future::{Either, select},
    io::{AsyncRead, AsyncWrite},
};
use tinylb_core::{AcceptFailure, Conn, Direction, Listener, Progress, Relay, RelayError, Side};

use super::World;

/// A listener whose connections are watched, and whose accepts fail as ordered.
pub(super) struct TapListener<L> {
    pub(super) inner: L,
    pub(super) world: World,
}

/// A relay for watched connections. It moves the bytes past the watcher, and reports what it has
/// written whenever it has been at work; what it holds isn't seen.
pub struct TapRelay<R>(pub R);

/// A connection whose bytes are counted.
pub struct TapConn<C> {
    inner: C,
    world: World,
    side: Side,
    session: u64,
    is_open: bool,
}

#[async_trait]
impl<L: Listener> Listener for TapListener<L> {
    type Conn = TapConn<L::Conn>;

    async fn accept(&mut self) -> io::Result<Self::Conn> {
        let Self { inner, world } = self;
        let failing = poll_fn(|cx| world.poll_accept_failure(cx));
        let conn = match select(failing, inner.accept()).await {
            Either::Left((error, _)) => return Err(error),
            Either::Right((conn, _)) => conn?,
        };
        let session = self.world.judge().next_accepted();
        Ok(TapConn::new(conn, &self.world, Side::Client, session))
    }

    fn classify(&self, error: &io::Error) -> AcceptFailure {
        self.inner.classify(error)
    }
}

#[async_trait]
impl<C: Conn, B: Conn, R: Relay<C, B>> Relay<TapConn<C>, TapConn<B>> for TapRelay<R> {
    async fn relay(
        &self,
        client: &mut TapConn<C>,
        backend: &mut TapConn<B>,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        let (world, session) = (client.world.clone(), client.session);
        let inner = Progress::default();
        let mut relay = self.0.relay(&mut client.inner, &mut backend.inner, &inner);
        poll_fn(|cx| {
            let polled = relay.as_mut().poll(cx);
            if let Some(side) = inner.failed() {
                progress.fail(side);
            }
            for direction in [Direction::ToBackend, Direction::ToClient] {
                let moved = inner.bytes(direction) - progress.bytes(direction);
                if moved > 0 {
                    world.judge().written(session, direction.reverse().from(), moved);
                    progress.add(direction, moved as usize);
                }
                if inner.has_ended(direction) && !progress.has_ended(direction) {
                    world.judge().passes_end_on(session, direction.reverse().from());
                    progress.end(direction);
                }
            }
            polled
        })
        .await
    }
}

impl<C> TapConn<C> {
    pub(super) fn new(inner: C, world: &World, side: Side, session: u64) -> Self {
        world.judge().opened(session);
        Self { inner, world: world.clone(), side, session, is_open: true }
    }

    fn let_go(&mut self) {
        if std::mem::take(&mut self.is_open) {
            self.world.judge().let_go(self.session);
        }
    }
}

impl<C: Conn> Conn for TapConn<C> {
    fn peer(&self) -> String {
        self.inner.peer()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.inner.poll_cut(cx)
    }

    fn finish(&mut self) {
        self.inner.finish();
    }

    fn unacknowledged(&self) -> usize {
        self.inner.unacknowledged()
    }

    fn abort(&mut self) {
        if self.is_open {
            let lost = self.inner.unacknowledged() as u64;
            self.world.judge().discards(self.session, self.side, lost);
        }
        self.inner.abort();
        self.let_go();
    }
}

impl<C> Drop for TapConn<C> {
    fn drop(&mut self) {
        self.let_go();
    }
}

impl<C: Conn> AsyncRead for TapConn<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(bytes)) = &read {
            self.world.judge().read(self.session, self.side, *bytes as u64);
        }
        read
    }
}

impl<C: Conn> AsyncWrite for TapConn<C> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buffer);
        match &written {
            Poll::Ready(Ok(bytes)) => {
                self.world.judge().written(self.session, self.side, *bytes as u64);
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.world.judge().writer_waits(),
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.inner).poll_close(cx);
        if matches!(closed, Poll::Ready(Ok(()))) {
            self.world.judge().passes_end_on(self.session, self.side);
        }
        closed
    }
}
