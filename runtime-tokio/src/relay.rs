use std::{
    cell::RefCell,
    io,
    sync::Arc,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::future::poll_fn;
use tinylb_core::{Direction, Progress, Relay, RelayError, Side};

use crate::{
    conn::Socket,
    pipe::{Pipe, Pipes, is_unsupported},
    stream::{Stream, yield_turn},
};

/// The relay for this crate's connections. It reads into one buffer for each thread and writes
/// straight from it, so a session holds memory only for what a slow reader has left: at most 64 KiB
/// each way.
///
/// On Linux, a direction that is *hot* is moved by splice(2), through a pipe that it holds while it
/// moves something; see [`Splice`].
#[derive(Clone)]
pub struct SocketRelay {
    splice: Splice,
    pipes: Arc<Pipes>,
}

/// When bytes go through a pipe within the system, rather than through memory. Elsewhere than on
/// Linux, and where no pipe is to be had, they never do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Splice {
    /// Never.
    Never,
    /// While a direction is hot: from four full reads in a row that its reader took at once, until
    /// it has little to move.
    #[default]
    Hot,
    /// From the first byte on, wherever the reader is a TCP socket that has sent no urgent data.
    /// For tests.
    Always,
}

thread_local! {
    /// What is read and written at once. Made at the first use.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Bytes of a read.
const READ: usize = 64 << 10;

/// Bytes that one direction moves before others get their turn.
const TURN: usize = 1 << 20;

/// Full reads in a row, each written at once, that make a direction hot.
const HOT: u8 = 4;

/// Moves above [`HOT`] that a hot direction can be ahead; each small one takes it back by one.
const HOTTEST: u8 = 8;

/// A hot direction that moves less at a time cools.
const SMALL: usize = 16 << 10;

impl SocketRelay {
    /// A relay that splices when `splice` says, with at most `pipes_max` pipes, of two descriptors
    /// and 1 MiB each: fewer bytes if the system grants less. Its clones share them. Half of them
    /// may wait for slow readers.
    pub fn new(splice: Splice, pipes_max: usize) -> Self {
        Self { splice, pipes: Arc::new(Pipes::new(pipes_max)) }
    }
}

impl Default for SocketRelay {
    /// For hot directions, with at most 32 pipes.
    fn default() -> Self {
        Self::new(Splice::default(), 32)
    }
}

#[async_trait]
impl<C: Socket, B: Socket> Relay<C, B> for SocketRelay {
    async fn relay(
        &self,
        client: &mut C,
        backend: &mut B,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        let mut session = Session::new(self, client.stream(), backend.stream(), progress);
        poll_fn(|cx| session.poll(cx)).await
    }
}

struct Session<'a> {
    client: &'a mut Stream,
    backend: &'a mut Stream,
    to_backend: Flow<'a>,
    to_client: Flow<'a>,
}

impl<'a> Session<'a> {
    fn new(
        relay: &'a SocketRelay,
        client: &'a mut Stream,
        backend: &'a mut Stream,
        progress: &'a Progress,
    ) -> Self {
        let to_backend = Flow::new(relay, Direction::ToBackend, progress);
        let to_client = Flow::new(relay, Direction::ToClient, progress);
        Self { client, backend, to_backend, to_client }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let Self { client, backend, to_backend, to_client } = self;
        let up = to_backend.poll(client, backend, cx);
        let down = match up {
            Poll::Ready(Err(_)) => Poll::Pending,
            _ => to_client.poll(backend, client, cx),
        };
        match (up, down) {
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => {
                match error.side {
                    Side::Client => to_backend.offer(client, backend, cx),
                    Side::Backend => to_client.offer(backend, client, cx),
                }
                Poll::Ready(Err(error))
            }
            _ => Poll::Pending,
        }
    }
}

/// One direction.
struct Flow<'a> {
    relay: &'a SocketRelay,
    progress: &'a Progress,
    direction: Direction,
    held: Held,
    heat: u8,
    is_ended: bool,
}

/// What was read and isn't written yet.
enum Held {
    Nothing,
    InMemory { bytes: Box<[u8]>, start: usize },
    InPipe { pipe: Pipe, length: usize },
}

impl<'a> Flow<'a> {
    fn new(relay: &'a SocketRelay, direction: Direction, progress: &'a Progress) -> Self {
        let heat = if relay.splice == Splice::Always { HOT } else { 0 };
        Self { relay, progress, direction, held: Held::Nothing, heat, is_ended: false }
    }

    /// Ready when the reader's end has been passed on.
    fn poll(
        &mut self,
        reader: &mut Stream,
        writer: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        let mut moved = 0;
        while !self.is_ended {
            ready!(self.poll_write(writer, cx))?;
            if moved >= TURN {
                yield_turn(cx);
                return Poll::Pending;
            }
            match ready!(self.poll_move(reader, writer, cx))? {
                0 => {
                    // The caller closes both connections after the second end: that ends both.
                    if !self.progress.has_ended(self.direction.reverse()) {
                        ready!(writer.poll_close()).map_err(|error| self.writer(error))?;
                    }
                    self.progress.end(self.direction);
                    self.is_ended = true;
                }
                more => moved += more,
            }
        }
        // Nothing is left to read that would tell of a reset.
        match reader.poll_cut(cx) {
            Poll::Ready(error) => Poll::Ready(Err(self.reader(error))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Reads once, and writes what the writer takes of it; the rest is held. 0: the reader's end.
    fn poll_move(
        &mut self,
        reader: &mut Stream,
        writer: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayError>> {
        // A splice stops at urgent data.
        if self.heat >= HOT
            && !reader.may_stop_short()
            && let Some(pipe) = self.relay.pipes.take()
        {
            match self.poll_splice(pipe, reader, cx) {
                // It may be urgent data of which the reactor has not told yet: a read can tell.
                Poll::Ready(Ok(0)) => {}
                polled => return polled,
            }
        }
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ, 0);
            self.poll_copy(buffer, reader, writer, cx)
        })
    }

    fn poll_copy(
        &mut self,
        buffer: &mut [u8],
        reader: &mut Stream,
        writer: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayError>> {
        let length = ready!(reader.poll_read(cx, buffer)).map_err(|error| self.reader(error))?;
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let written = match writer.poll_write(cx, &buffer[..length]) {
            Poll::Ready(written) => self.wrote(written)?,
            Poll::Pending => 0,
        };
        if written < length {
            self.held = Held::InMemory { bytes: buffer[written..length].into(), start: 0 };
        }
        if self.relay.splice == Splice::Hot {
            let is_hot = written == buffer.len();
            self.heat = if is_hot { (self.heat + 1).min(HOT) } else { 0 };
        }
        Poll::Ready(Ok(length))
    }

    /// Fills a pipe, which is held from then on. 0: the reader's end, or this is not how to tell.
    fn poll_splice(
        &mut self,
        pipe: Pipe,
        reader: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayError>> {
        let length = if pipe.may_wait { TURN } else { READ };
        let filled = pipe.poll_fill(reader, length, cx);
        if let Poll::Ready(Ok(length @ 1..)) = filled {
            self.held = Held::InPipe { pipe, length };
            if self.relay.splice == Splice::Hot {
                self.heat = if length < SMALL { self.heat - 1 } else { self.heat + 1 };
                self.heat = self.heat.min(HOTTEST);
            }
        } else {
            self.relay.pipes.give_back(pipe);
        }
        match filled {
            // Nothing was taken: this kernel, or this sandbox, splices no sockets.
            Poll::Ready(Err(error)) if is_unsupported(&error) => {
                self.relay.pipes.lend_no_more();
                Poll::Ready(Ok(0))
            }
            filled => filled.map_err(|error| self.reader(error)),
        }
    }

    /// Writes what is held.
    fn poll_write(
        &mut self,
        writer: &mut Stream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        loop {
            let polled = match &self.held {
                Held::Nothing => return Poll::Ready(Ok(())),
                Held::InMemory { bytes, start } => writer.poll_write(cx, &bytes[*start..]),
                Held::InPipe { pipe, length } => pipe.poll_drain(writer, *length, cx),
            };
            let Poll::Ready(written) = polled else {
                self.spare_pipe()?;
                return Poll::Pending;
            };
            let written = self.wrote(written)?;
            match &mut self.held {
                Held::InMemory { bytes, start } => {
                    *start += written;
                    if *start < bytes.len() {
                        continue;
                    }
                }
                Held::InPipe { length, .. } => {
                    *length -= written;
                    if *length > 0 {
                        continue;
                    }
                }
                Held::Nothing => {}
            }
            if let Held::InPipe { pipe, .. } = std::mem::replace(&mut self.held, Held::Nothing) {
                self.relay.pipes.give_back(pipe);
            }
        }
    }

    /// Gives a pipe back that may not wait for the writer; what it holds is held in memory instead.
    fn spare_pipe(&mut self) -> Result<(), RelayError> {
        let Held::InPipe { pipe, length } = &self.held else { return Ok(()) };
        if pipe.may_wait {
            return Ok(());
        }
        let bytes = pipe.read(*length).map_err(|error| self.reader(error))?;
        let before = std::mem::replace(&mut self.held, Held::InMemory { bytes, start: 0 });
        if let Held::InPipe { pipe, .. } = before {
            self.relay.pipes.give_back(pipe);
        }
        Ok(())
    }

    /// The reader has failed: what can be had from it is offered to the writer once. The writer
    /// isn't closed, even if the reader now seems to have ended: a system reports a reset once, and
    /// an end of stream from then on.
    fn offer(&mut self, reader: &mut Stream, writer: &mut Stream, cx: &mut Context<'_>) {
        for _ in 0..TURN / READ {
            if !matches!(self.poll_write(writer, cx), Poll::Ready(Ok(())))
                || !matches!(self.poll_move(reader, writer, cx), Poll::Ready(Ok(1..)))
            {
                return;
            }
        }
        let _ = self.poll_write(writer, cx);
    }

    fn wrote(&self, written: io::Result<usize>) -> Result<usize, RelayError> {
        match written {
            Ok(0) => Err(self.writer(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                self.progress.add(self.direction, written);
                Ok(written)
            }
            Err(error) => Err(self.writer(error)),
        }
    }

    fn reader(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.from(), error }
    }

    fn writer(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.reverse().from(), error }
    }
}

impl Drop for Flow<'_> {
    fn drop(&mut self) {
        if let Held::InPipe { .. } = self.held {
            self.relay.pipes.lost();
        }
    }
}
