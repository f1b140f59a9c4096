use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};

use crate::{Conn, Direction, Progress, Relay, RelayError, Side, sync::Mutex};

/// The relay that serves any pair of connections: it reads into a buffer and writes from it.
///
/// Buffers are shared among the sessions: one holds a buffer only while it moves bytes, or until
/// a slow reader has taken what is in it. So an idle session holds none, and any session at most
/// two.
pub struct CopyRelay {
    buffer_size: usize,
    /// Buffers that nobody holds, at most [`SPARE_MAX`].
    spare: Mutex<Vec<Box<[u8]>>>,
}

/// Buffers kept for the next session that needs one.
const SPARE_MAX: usize = 64;

/// Buffers that one direction fills in a row before others get their turn.
const TURN: usize = 16;

impl CopyRelay {
    /// A relay with buffers of this many bytes, 1 to 16 MiB; other values are taken to the nearest.
    pub fn new(buffer_size: usize) -> Self {
        Self { buffer_size: buffer_size.clamp(1, 16 << 20), spare: Mutex::new(Vec::new()) }
    }

    fn take_buffer(&self) -> Box<[u8]> {
        let spare = self.spare.lock().unwrap_or_else(|poison| poison.into_inner()).pop();
        spare.unwrap_or_else(|| vec![0; self.buffer_size].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut spare = self.spare.lock().unwrap_or_else(|poison| poison.into_inner());
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

impl Default for CopyRelay {
    /// Buffers of 64 KiB.
    fn default() -> Self {
        Self::new(64 << 10)
    }
}

#[async_trait]
impl<C: Conn, B: Conn> Relay<C, B> for CopyRelay {
    async fn relay(
        &self,
        client: &mut C,
        backend: &mut B,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        let mut to_backend = Copy::new(self, Direction::ToBackend, progress);
        let mut to_client = Copy::new(self, Direction::ToClient, progress);
        let result = poll_fn(|cx| {
            let up = to_backend.poll(client, backend, cx)?;
            let down = to_client.poll(backend, client, cx)?;
            match (up, down) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        })
        .await;
        if let Err(RelayError { side, .. }) = &result {
            poll_fn(|cx| {
                match side {
                    Side::Client => to_backend.offer(client, backend, cx),
                    Side::Backend => to_client.offer(backend, client, cx),
                }
                Poll::Ready(())
            })
            .await;
        }
        result
    }
}

/// One direction.
struct Copy<'a> {
    relay: &'a CopyRelay,
    progress: &'a Progress,
    direction: Direction,
    /// What was read and isn't written yet; a buffer is held only while there is something.
    unwritten: Option<Unwritten>,
    /// Something was written since the last flush.
    is_dirty: bool,
    state: State,
}

struct Unwritten {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

#[derive(PartialEq)]
enum State {
    Open,
    /// The reader has ended, the writer isn't closed yet.
    Closing,
    Ended,
}

impl<'a> Copy<'a> {
    fn new(relay: &'a CopyRelay, direction: Direction, progress: &'a Progress) -> Self {
        let state = State::Open;
        Self { relay, progress, direction, unwritten: None, is_dirty: false, state }
    }

    /// Ready when the reader's end has been passed on.
    fn poll<R: Conn, W: Conn>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        for _ in 0..TURN {
            match self.state {
                State::Open => {
                    ready!(self.poll_write(writer, cx))?;
                    ready!(self.poll_read(reader, writer, cx))?;
                }
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_close(cx)).map_err(|e| self.writer(e))?;
                    self.progress.end(self.direction);
                    self.state = State::Ended;
                }
                State::Ended => {
                    // Nothing is left to read that would tell of a reset.
                    if let Poll::Ready(error) = reader.poll_cut(cx) {
                        return Poll::Ready(Err(self.reader(error)));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_read<R: Conn, W: Conn>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        let mut buffer = self.relay.take_buffer();
        match Pin::new(reader).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(0)) => self.state = State::Closing,
            Poll::Ready(Ok(end)) => {
                self.unwritten = Some(Unwritten { buffer, start: 0, end });
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(error)) => {
                self.relay.give_back(buffer);
                return Poll::Ready(Err(self.reader(error)));
            }
            Poll::Pending => {
                self.relay.give_back(buffer);
                if self.is_dirty {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(|e| self.writer(e))?;
                    self.is_dirty = false;
                }
                return Poll::Pending;
            }
        }
        self.relay.give_back(buffer);
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        while let Some(Unwritten { buffer, start, end }) = &mut self.unwritten {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[*start..*end])) {
                Ok(0) => return Poll::Ready(Err(self.writer(io::ErrorKind::WriteZero.into()))),
                Ok(written) => {
                    *start += written;
                    let is_done = *start == *end;
                    self.progress.add(self.direction, written);
                    self.is_dirty = true;
                    if is_done && let Some(done) = self.unwritten.take() {
                        self.relay.give_back(done.buffer);
                    }
                }
                Err(error) => return Poll::Ready(Err(self.writer(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// The reader's side has failed: what can be had from it is offered to the writer once. The
    /// writer isn't closed, even if the reader now seems to have ended: a system reports a reset
    /// once, and an end of stream from then on.
    fn offer<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) {
        for _ in 0..TURN {
            if !matches!(self.poll_write(writer, cx), Poll::Ready(Ok(()))) {
                return;
            }
            let mut buffer = self.relay.take_buffer();
            match Pin::new(&mut *reader).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(end)) if end > 0 => {
                    self.unwritten = Some(Unwritten { buffer, start: 0, end });
                }
                _ => return self.relay.give_back(buffer),
            }
        }
    }

    fn reader(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.from(), error }
    }

    fn writer(&self, error: io::Error) -> RelayError {
        let side = match self.direction.from() {
            Side::Client => Side::Backend,
            Side::Backend => Side::Client,
        };
        RelayError { side, error }
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if let Some(Unwritten { buffer, .. }) = self.unwritten.take() {
            self.relay.give_back(buffer);
        }
    }
}
