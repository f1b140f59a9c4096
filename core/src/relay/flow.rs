use std::{
    cell::RefCell,
    io,
    task::{Context, Poll, ready},
};

use super::{
    Direction, Pipe, Progress, RelayError, Socket, SocketStream, Splice,
    pipes::{Lent, Pipes},
};

thread_local! {
    /// What is read and written at once. Made at the first use.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Full reads in a row, each written at once, that make a direction hot.
const HOT: u8 = 4;

/// Moves above [`HOT`] that a hot direction can be ahead; each small one takes it back by one.
const HOTTEST: u8 = 8;

/// One direction.
pub(super) struct Flow<'s, S: Socket> {
    pub(super) splice: Splice,
    pub(super) pipes: &'s Pipes<S::Pipe>,
    pub(super) progress: &'s Progress,
    pub(super) direction: Direction,
    pub(super) reader: &'s mut SocketStream<S>,
    pub(super) writer: &'s mut SocketStream<S>,
    pub(super) state: &'s mut FlowState<S::Pipe>,
}

/// How one direction stands.
pub(super) struct FlowState<P> {
    held: Carried<P>,
    heat: u8,
    is_ended: bool,
}

/// What was read and isn't written yet.
enum Carried<P> {
    Nothing,
    InMemory { bytes: Box<[u8]>, start: usize },
    InPipe { lent: Lent<P>, length: usize },
}

impl<P> FlowState<P> {
    pub(super) fn new(splice: Splice) -> Self {
        let heat = if splice == Splice::Always { HOT } else { 0 };
        Self { held: Carried::Nothing, heat, is_ended: false }
    }

    /// Whether it holds a pipe, with something in it.
    pub(super) fn holds_pipe(&self) -> bool {
        matches!(self.held, Carried::InPipe { .. })
    }
}

impl<S: Socket> Flow<'_, S> {
    /// Ready when the reader's end has been passed on.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let mut moved = 0;
        while !self.state.is_ended {
            ready!(self.poll_write(cx))?;
            if moved >= S::SIZES.turn {
                S::yield_turn(cx);
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
            && let Ok(socket) = self.reader.socket()
            && let Some(lent) = self.pipes.take(socket)
        {
            match self.poll_splice(lent, cx) {
                // It may be urgent data that the reactor has not reported yet: a read finds out.
                Poll::Ready(Ok(0)) => {}
                polled => return polled,
            }
        }
        self.poll_copy(cx)
    }

    fn poll_copy(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, RelayError>> {
        BUFFER.with_borrow_mut(|buffer| {
            buffer.resize(S::SIZES.read, 0);
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
        if self.splice == Splice::Hot {
            let is_hot = written == buffer.len();
            self.state.heat = if is_hot { (self.state.heat + 1).min(HOT) } else { 0 };
        }
        Poll::Ready(Ok(length))
    }

    /// Fills a pipe, which is held from then on. 0: the reader's end, or this is not how to tell.
    fn poll_splice(
        &mut self,
        lent: Lent<S::Pipe>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, RelayError>> {
        let length = if lent.may_wait { S::SIZES.turn } else { S::SIZES.read };
        let filled = self.reader.poll_fill(&lent.pipe, length, cx);
        if let Poll::Ready(Ok(length @ 1..)) = filled {
            self.state.held = Carried::InPipe { lent, length };
            if self.splice == Splice::Hot {
                self.state.heat =
                    if length < S::SIZES.small { self.state.heat - 1 } else { self.state.heat + 1 };
                self.state.heat = self.state.heat.min(HOTTEST);
            }
        } else {
            self.pipes.give_back(lent);
        }
        match filled {
            // Nothing was read yet, so a plain read works instead: this kernel or this sandbox
            // can't splice sockets, or the system is out of memory. (A socket isn't connected any
            // more if it has failed, and also if both directions have ended.)
            Poll::Ready(Err(error)) if S::Pipe::is_unsupported(&error) => {
                self.pipes.lend_no_more();
                Poll::Ready(Ok(0))
            }
            Poll::Ready(Err(error))
                if error.kind() == io::ErrorKind::OutOfMemory || self.reader.is_connected() =>
            {
                self.pipes.pause(S::SIZES.pipe_pause);
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
                Carried::InPipe { lent, length } => {
                    match self.writer.poll_drain(&lent.pipe, *length, cx) {
                        // A write shows whether the socket or the pipe is at fault.
                        Poll::Ready(Err(_)) => {
                            self.unload()?;
                            continue;
                        }
                        drained => drained,
                    }
                }
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
                Carried::Nothing => debug_assert!(false, "it returned before anything was written"),
            }
            if let Carried::InPipe { lent, .. } =
                std::mem::replace(&mut self.state.held, Carried::Nothing)
            {
                self.pipes.give_back(lent);
            }
        }
    }

    /// Gives a pipe back that may not wait for the writer; what it holds is held in memory instead.
    fn spare_pipe(&mut self) -> Result<(), RelayError> {
        match &self.state.held {
            Carried::InPipe { lent, .. } if !lent.may_wait => self.unload(),
            _ => Ok(()),
        }
    }

    /// Moves the contents of a pipe into memory, and returns the pipe.
    fn unload(&mut self) -> Result<(), RelayError> {
        let Carried::InPipe { lent, length } = &self.state.held else { return Ok(()) };
        let bytes = contents(&lent.pipe, *length).map_err(|error| self.reader_failed(error))?;
        let before = std::mem::replace(&mut self.state.held, Carried::InMemory { bytes, start: 0 });
        if let Carried::InPipe { lent, .. } = before {
            self.pipes.give_back(lent);
        }
        Ok(())
    }

    /// Delivers what the reader's side sent before it failed. Ready when that is written, or the
    /// writer has failed too. The writer isn't closed, even if the reader now seems to have ended:
    /// a system reports a reset once, and an end of stream from then on.
    pub(super) fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut moved = 0;
        loop {
            if ready!(self.poll_write(cx)).is_err() || self.state.is_ended {
                return Poll::Ready(());
            }
            if moved >= S::SIZES.turn {
                S::yield_turn(cx);
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

/// Takes what a pipe holds, `length` bytes, into memory.
fn contents(pipe: &impl Pipe, length: usize) -> io::Result<Box<[u8]>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match pipe.read(&mut bytes[filled..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(bytes.into())
}
