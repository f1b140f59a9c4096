use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use crate::stream::Stream;

/// What one pipe should hold; Linux lets an unprivileged user have up to this by default
/// (`/proc/sys/fs/pipe-max-size`).
const SIZE: usize = 1 << 20;

/// A pipe that holds less isn't worth its calls. Linux gives a user less who has many
/// (`/proc/sys/fs/pipe-user-pages-soft`).
const SIZE_MIN: usize = 64 << 10;

/// Pipes through which bytes go from socket to socket without being copied (splice(2), Linux).
/// There are none elsewhere.
pub(crate) struct Pipes {
    state: Mutex<State>,
    max: usize,
}

struct State {
    /// Empty pipes that nobody holds.
    spare: Vec<Pipe>,
    /// How many pipes there are, spare or not.
    made: usize,
}

/// A pipe, lent by [`Pipes`]: to be given back empty, or reported as lost.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Whether it may be kept, with what is in it, while a slow reader is waited for.
    pub(crate) may_wait: bool,
}

impl Pipes {
    /// At most so many pipes, of two descriptors each; made when they are needed.
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Mutex::new(State { spare: Vec::new(), made: 0 }), max }
    }

    /// An empty pipe, unless there are none to be had. Half of them may wait for slow readers, so
    /// that there is always one for who needs it for a moment.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let mut state = self.lock();
        let lent = state.made - state.spare.len();
        let mut pipe = match state.spare.pop() {
            Some(pipe) => pipe,
            None if state.made < self.max => {
                let pipe = Pipe::new()?;
                state.made += 1;
                pipe
            }
            None => return None,
        };
        pipe.may_wait = lent < self.max / 2;
        Some(pipe)
    }

    /// Gives back an empty pipe.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        self.lock().spare.push(pipe);
    }

    /// A pipe was closed, with what was in it.
    pub(crate) fn lost(&self) {
        self.lock().made -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pipe {
    /// Fills the pipe, which is empty, with at most `length` bytes from a socket. So what it takes
    /// to mean "try again" is an empty socket, and not a full pipe. 0 is the end of the stream.
    pub(crate) fn poll_fill(
        &self,
        from: &mut Stream,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        from.poll_take(cx, |socket| splice(socket, &self.write, length))
    }

    /// Moves what the pipe holds, `length` bytes, to a socket, as far as it takes them.
    pub(crate) fn poll_drain(
        &self,
        to: &mut Stream,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        // Nothing promises that a short splice means a full socket, so the next one has to tell.
        to.poll_give(cx, 0, |socket| splice(&self.read, socket, length))
    }

    /// Takes what the pipe holds, `length` bytes, into memory.
    pub(crate) fn read(&self, length: usize) -> io::Result<Box<[u8]>> {
        let mut bytes = vec![0; length];
        let mut filled = 0;
        while filled < length {
            match rustix::io::read(&self.read, &mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(bytes.into())
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Pipe {
    /// `None`: out of descriptors, or over the user's quota.
    fn new() -> Option<Self> {
        use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&write, SIZE).or_else(|_| fcntl_getpipe_size(&write)).ok()?;
        (size >= SIZE_MIN).then_some(Self { read, write, may_wait: false })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn splice(from: &OwnedFd, to: &OwnedFd, length: usize) -> rustix::io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    rustix::pipe::splice(from, None, to, None, length, SpliceFlags::NONBLOCK)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Pipe {
    fn new() -> Option<Self> {
        None
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn splice(_: &OwnedFd, _: &OwnedFd, _: usize) -> rustix::io::Result<usize> {
    Err(rustix::io::Errno::NOSYS)
}
