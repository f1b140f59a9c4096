//! The sockets and pipes of the model, as the relay sees them.

use std::{
    fmt, io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{
    future::{BoxFuture, poll_fn},
    io::{AsyncRead, AsyncWrite},
};
use tinylb_core::{
    Conn, Pipe, Readiness, Runtime, Side, Sizes, Socket, SocketConn, SocketKind, SocketStream,
};

use super::kernel::{
    ERROR, Kernel, READ_CLOSED, READABLE, Trouble, URGENT, WRITABLE, WRITE_CLOSED,
};

/// The model, shared by what uses it.
#[derive(Clone)]
pub(super) struct System(Arc<Mutex<Kernel>>);

pub(super) struct ModelSocket {
    system: System,
    side: Side,
}

pub(super) struct ModelPipe {
    system: System,
    number: usize,
}

/// What was reported when it was asked for.
pub(super) struct ModelReadiness<'a> {
    socket: &'a ModelSocket,
    bits: u8,
    tick: u64,
}

/// A connection of the balancer's, as an adapter makes it.
pub(super) struct ModelConn {
    stream: SocketStream<ModelSocket>,
}

impl System {
    pub(super) fn new(kernel: Kernel) -> Self {
        Self(Arc::new(Mutex::new(kernel)))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Kernel> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn conn(&self, side: Side) -> ModelConn {
        let socket = ModelSocket { system: self.clone(), side };
        ModelConn { stream: SocketStream::new(socket, SocketKind::Tcp, true) }
    }
}

impl ModelSocket {
    fn poll(&self, mask: u8, cx: &mut Context<'_>) -> Poll<io::Result<ModelReadiness<'_>>> {
        match self.system.lock().reports(self.side).poll(mask, cx.waker()) {
            Some((bits, tick)) => Poll::Ready(Ok(ModelReadiness { socket: self, bits, tick })),
            None => Poll::Pending,
        }
    }
}

impl Socket for ModelSocket {
    type Pipe = ModelPipe;
    type Readiness<'a> = ModelReadiness<'a>;

    /// Small, so that a short scenario meets every bound.
    const SIZES: Sizes =
        Sizes { read: 16, turn: 64, small: 4, pipe: 64, pipe_min: 8, pipe_pause: 3 };

    const REPORTS_URGENT_AND_FAILED: bool = true;

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<ModelReadiness<'_>>> {
        self.poll(READABLE | READ_CLOSED, cx)
    }

    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<ModelReadiness<'_>>> {
        self.poll(WRITABLE | WRITE_CLOSED, cx)
    }

    fn may_stop_short(&self) -> bool {
        self.system.lock().reports(self.side).has(URGENT | READ_CLOSED)
    }

    fn has_ended_well(&self) -> bool {
        let mut kernel = self.system.lock();
        let reports = kernel.reports(self.side);
        reports.has(READ_CLOSED) && !reports.has(URGENT | ERROR)
    }

    fn reported_error(&self) -> Option<io::Error> {
        let mut kernel = self.system.lock();
        let is_reported = kernel.reports(self.side).has(ERROR);
        let error = if is_reported { kernel.of(self.side).ours.error.take() } else { None };
        error.map(Into::into)
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.system.lock().receive(self.side, buffer)?)
    }

    fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.system.lock().send(self.side, bytes, false)?)
    }

    fn send_last(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.system.lock().send(self.side, bytes, true)?)
    }

    fn make_pipe(&self, _size: usize) -> Option<(ModelPipe, usize)> {
        let (number, size) = self.system.lock().make_pipe()?;
        Some((ModelPipe { system: self.system.clone(), number }, size))
    }

    fn fill(&self, pipe: &ModelPipe, length: usize) -> io::Result<usize> {
        Ok(self.system.lock().fill(self.side, pipe.number, length)?)
    }

    fn drain(&self, pipe: &ModelPipe, length: usize) -> io::Result<usize> {
        Ok(self.system.lock().drain(self.side, pipe.number, length)?)
    }

    fn shut_down(&self) -> io::Result<()> {
        Ok(self.system.lock().shut_down(self.side)?)
    }

    fn is_connected(&self) -> bool {
        !self.system.lock().of(self.side).ours.is_closed
    }

    fn unacknowledged(&self) -> usize {
        self.system.lock().of(self.side).unacknowledged() as usize
    }

    fn set_nodelay(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_resets(&self, resets: bool) -> io::Result<()> {
        self.system.lock().of(self.side).ours.resets = resets;
        Ok(())
    }

    fn close(self, _kind: SocketKind) {
        self.system.lock().close(self.side);
    }
}

impl Readiness for ModelReadiness<'_> {
    fn is_read_closed(&self) -> bool {
        self.bits & READ_CLOSED > 0
    }

    fn is_write_closed(&self) -> bool {
        self.bits & WRITE_CLOSED > 0
    }

    fn take_back(&mut self) {
        let Self { socket, bits, tick } = self;
        socket.system.lock().reports(socket.side).take_back(*bits, *tick);
    }
}

impl Pipe for ModelPipe {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.system.lock().read_pipe(self.number, buffer)?)
    }

    fn is_unsupported(error: &io::Error) -> bool {
        error.kind() == io::ErrorKind::Unsupported
    }
}

impl Drop for ModelPipe {
    fn drop(&mut self) {
        self.system.lock().pipes[self.number].is_open = false;
    }
}

impl From<Trouble> for io::Error {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::WouldBlock => io::ErrorKind::WouldBlock.into(),
            Trouble::Interrupted => io::ErrorKind::Interrupted.into(),
            Trouble::Failed(failure) => failure.into(),
            Trouble::NoMemory => io::ErrorKind::OutOfMemory.into(),
            Trouble::Unsupported => io::ErrorKind::Unsupported.into(),
            Trouble::NotConnected => io::ErrorKind::NotConnected.into(),
        }
    }
}

impl Conn for ModelConn {
    fn peer(&self) -> String {
        "a peer".into()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_cut(cx)
    }

    fn finish(&mut self) {
        self.stream.finish();
    }

    fn unacknowledged(&self) -> usize {
        self.stream.unacknowledged()
    }

    fn abort(&mut self) {
        self.stream.reset();
    }
}

impl SocketConn for ModelConn {
    type Socket = ModelSocket;

    fn stream(&mut self) -> &mut SocketStream<ModelSocket> {
        &mut self.stream
    }
}

impl AsyncRead for ModelConn {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_read(cx, buffer)
    }
}

impl AsyncWrite for ModelConn {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_close()
    }
}

/// Time in the model: a pause is over when the run says so.
impl Runtime for System {
    fn spawn(&self, _task: BoxFuture<'static, ()>) {
        debug_assert!(false, "a delivery spawns nothing");
    }

    fn sleep(&self, _duration: Duration) -> BoxFuture<'static, ()> {
        let (system, mut is_waiting) = (self.clone(), false);
        Box::pin(poll_fn(move |cx| {
            let mut kernel = system.lock();
            if is_waiting && kernel.sleeper.is_none() {
                return Poll::Ready(());
            }
            is_waiting = true;
            kernel.sleeper = Some(cx.waker().clone());
            Poll::Pending
        }))
    }

    fn now(&self) -> Duration {
        Duration::from_micros(self.lock().now)
    }
}

impl fmt::Debug for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the model of a system")
    }
}
