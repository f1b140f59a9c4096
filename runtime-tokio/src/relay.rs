use std::{
    cell::RefCell,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::future::BoxFuture;
use tinylb_core::{Direction, Progress, Relay, RelayError};

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

impl<C: Socket, B: Socket> Relay<C, B> for SocketRelay {
    // What `async_trait` makes of an `async fn` would hold the arguments twice.
    fn relay<'s: 'f, 'c: 'f, 'b: 'f, 'p: 'f, 'f>(
        &'s self,
        client: &'c mut C,
        backend: &'b mut B,
        progress: &'p Progress,
    ) -> BoxFuture<'f, Result<(), RelayError>>
    where
        Self: 'f,
    {
        Box::pin(Transfer::new(self, client.stream(), backend.stream(), progress))
    }
}

struct Transfer<'a> {
    relay: &'a SocketRelay,
    progress: &'a Progress,
    client: &'a mut Stream,
    backend: &'a mut Stream,
    to_backend: FlowState,
    to_client: FlowState,
    /// The failure of the side that has failed.
    error: Option<io::Error>,
}

/// How one direction stands.
struct FlowState {
    held: Carried,
    heat: u8,
    is_ended: bool,
}

/// What was read and isn't written yet.
enum Carried {
    Nothing,
    InMemory { bytes: Box<[u8]>, start: usize },
    InPipe { pipe: Pipe, length: usize },
}

/// One direction.
struct Flow<'s> {
    relay: &'s SocketRelay,
    progress: &'s Progress,
    direction: Direction,
    reader: &'s mut Stream,
    writer: &'s mut Stream,
    state: &'s mut FlowState,
}

impl<'a> Transfer<'a> {
    fn new(
        relay: &'a SocketRelay,
        client: &'a mut Stream,
        backend: &'a mut Stream,
        progress: &'a Progress,
    ) -> Self {
        let state = || {
            let heat = if relay.splice == Splice::Always { HOT } else { 0 };
            FlowState { held: Carried::Nothing, heat, is_ended: false }
        };
        let (to_backend, to_client) = (state(), state());
        Self { relay, progress, client, backend, to_backend, to_client, error: None }
    }

    fn flow(&mut self, direction: Direction) -> Flow<'_> {
        let Self { relay, progress, client, backend, to_backend, to_client, .. } = self;
        let (reader, writer, state) = match direction {
            Direction::ToBackend => (client, backend, to_backend),
            Direction::ToClient => (backend, client, to_client),
        };
        Flow { relay, progress, direction, reader, writer, state }
    }
}

impl Transfer<'_> {
    /// Ready when both ends have been passed on.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let up = self.flow(Direction::ToBackend).poll(cx)?;
        let down = self.flow(Direction::ToClient).poll(cx)?;
        if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }
}

impl Future for Transfer<'_> {
    type Output = Result<(), RelayError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        if self.error.is_none() {
            match ready!(self.poll_move(cx)) {
                Ok(()) => return Poll::Ready(Ok(())),
                Err(RelayError { side, error }) => {
                    self.progress.fail(side);
                    self.error = Some(error);
                }
            }
        }
        let Some(side) = self.progress.failed() else { return Poll::Pending };
        ready!(self.flow(Direction::of(side)).poll_deliver(cx));
        self.error
            .take()
            .map_or(Poll::Pending, |error| Poll::Ready(Err(RelayError { side, error })))
    }
}

impl Drop for Transfer<'_> {
    fn drop(&mut self) {
        for state in [&self.to_backend, &self.to_client] {
            if let Carried::InPipe { .. } = state.held {
                self.relay.pipes.lost();
            }
        }
    }
}

impl Flow<'_> {
    /// Ready when the reader's end has been passed on.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let mut moved = 0;
        while !self.state.is_ended {
            ready!(self.poll_write(cx))?;
            if moved >= TURN {
                yield_turn(cx);
                return Poll::Pending;
            }
            match ready!(self.poll_move(cx))? {
                0 => {
                    // The caller closes both connections after the second end: that ends both.
                    if !self.progress.has_ended(self.direction.reverse()) {
                        ready!(self.writer.poll_close())
                            .map_err(|error| self.writer_failed(error))?;
                    }
                    self.progress.end(self.direction);
                    self.state.is_ended = true;
                }
                more => moved += more,
            }
        }
        // Nothing is left to read that would tell of a reset.
        match self.reader.poll_cut(cx) {
            Poll::Ready(error) => Poll::Ready(Err(self.reader_failed(error))),
            Poll::Pending => Poll::Ready(Ok(())),
        }
    }

    /// Reads once, and writes what the writer takes of it; the rest is held. 0: the reader's end.
    fn poll_move(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, RelayError>> {
        // A splice stops at urgent data.
        if self.state.heat >= HOT
            && !self.reader.may_stop_short()
            && let Some(pipe) = self.relay.pipes.take()
        {
            match self.poll_splice(pipe, cx) {
                // It may be urgent data that the reactor has not reported yet: a read finds out.
                Poll::Ready(Ok(0)) => {}
                polled => return polled,
            }
        }
        self.poll_copy(cx)
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, RelayError>> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(READ, 0);
            self.poll_copy_by(buffer, cx)
        })
    }

    fn poll_copy_by(
        &mut self,
        buffer: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayError>> {
        let length =
            ready!(self.reader.poll_read(cx, buffer)).map_err(|error| self.reader_failed(error))?;
        if length == 0 {
            return Poll::Ready(Ok(0));
        }
        let bytes = &buffer[..length];
        // The end of the first direction is passed on at once. With the second, the caller closes; and
        // after a failure, no end is passed on.
        let is_last = self.reader.is_at_end()
            && !self.progress.has_ended(self.direction.reverse())
            && self.progress.failed().is_none();
        let polled = match is_last {
            true => self.writer.poll_write_last(cx, bytes),
            false => self.writer.poll_write(cx, bytes),
        };
        let written = match polled {
            Poll::Ready(written) => self.wrote(written)?,
            Poll::Pending => 0,
        };
        if written < length {
            self.state.held = Carried::InMemory { bytes: buffer[written..length].into(), start: 0 };
        }
        if self.relay.splice == Splice::Hot {
            let is_hot = written == buffer.len();
            self.state.heat = if is_hot { (self.state.heat + 1).min(HOT) } else { 0 };
        }
        Poll::Ready(Ok(length))
    }

    /// Fills a pipe, which is held from then on. 0: the reader's end, or this is not how to tell.
    fn poll_splice(&mut self, pipe: Pipe, cx: &mut Context<'_>) -> Poll<Result<usize, RelayError>> {
        let length = if pipe.may_wait { TURN } else { READ };
        let filled = pipe.poll_fill(self.reader, length, cx);
        if let Poll::Ready(Ok(length @ 1..)) = filled {
            self.state.held = Carried::InPipe { pipe, length };
            if self.relay.splice == Splice::Hot {
                self.state.heat =
                    if length < SMALL { self.state.heat - 1 } else { self.state.heat + 1 };
                self.state.heat = self.state.heat.min(HOTTEST);
            }
        } else {
            self.relay.pipes.give_back(pipe);
        }
        match filled {
            // Nothing was read yet, so a plain read works instead: this kernel or this sandbox
            // can't splice sockets, or the system is out of memory.
            Poll::Ready(Err(error)) if self.reader.is_connected() => {
                if is_unsupported(&error) {
                    self.relay.pipes.lend_no_more();
                } else {
                    self.relay.pipes.pause();
                }
                Poll::Ready(Ok(0))
            }
            filled => filled.map_err(|error| self.reader_failed(error)),
        }
    }

    /// Writes what is held.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        loop {
            let polled = match &self.state.held {
                Carried::Nothing => return Poll::Ready(Ok(())),
                Carried::InMemory { bytes, start } => self.writer.poll_write(cx, &bytes[*start..]),
                Carried::InPipe { pipe, length } => match pipe.poll_drain(self.writer, *length, cx)
                {
                    // A write shows whether the socket or the pipe is at fault.
                    Poll::Ready(Err(_)) => {
                        self.unload()?;
                        continue;
                    }
                    drained => drained,
                },
            };
            let Poll::Ready(written) = polled else {
                self.spare_pipe()?;
                return Poll::Pending;
            };
            let written = self.wrote(written)?;
            match &mut self.state.held {
                Carried::InMemory { bytes, start } => {
                    *start += written;
                    if *start < bytes.len() {
                        continue;
                    }
                }
                Carried::InPipe { length, .. } => {
                    *length -= written;
                    if *length > 0 {
                        continue;
                    }
                }
                Carried::Nothing => {}
            }
            if let Carried::InPipe { pipe, .. } =
                std::mem::replace(&mut self.state.held, Carried::Nothing)
            {
                self.relay.pipes.give_back(pipe);
            }
        }
    }

    /// Gives a pipe back that may not wait for the writer; what it holds is held in memory instead.
    fn spare_pipe(&mut self) -> Result<(), RelayError> {
        match &self.state.held {
            Carried::InPipe { pipe, .. } if !pipe.may_wait => self.unload(),
            _ => Ok(()),
        }
    }

    /// Moves the contents of a pipe into memory, and returns the pipe.
    fn unload(&mut self) -> Result<(), RelayError> {
        let Carried::InPipe { pipe, length } = &self.state.held else { return Ok(()) };
        let bytes = pipe.read(*length).map_err(|error| self.reader_failed(error))?;
        let before = std::mem::replace(&mut self.state.held, Carried::InMemory { bytes, start: 0 });
        if let Carried::InPipe { pipe, .. } = before {
            self.relay.pipes.give_back(pipe);
        }
        Ok(())
    }

    /// Delivers what the reader's side sent before it failed. Ready when that is written, or the
    /// writer has failed too. The writer isn't closed, even if the reader now seems to have ended:
    /// a system reports a reset once, and an end of stream from then on.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut moved = 0;
        loop {
            if ready!(self.poll_write(cx)).is_err() || self.state.is_ended {
                return Poll::Ready(());
            }
            if moved >= TURN {
                yield_turn(cx);
                return Poll::Pending;
            }
            match self.poll_copy(cx) {
                Poll::Ready(Ok(more @ 1..)) => moved += more,
                _ => return Poll::Ready(()),
            }
        }
    }

    fn wrote(&self, written: io::Result<usize>) -> Result<usize, RelayError> {
        match written {
            Ok(0) => Err(self.writer_failed(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                self.progress.add(self.direction, written);
                Ok(written)
            }
            Err(error) => Err(self.writer_failed(error)),
        }
    }

    fn reader_failed(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.from(), error }
    }

    fn writer_failed(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.reverse().from(), error }
    }
}
