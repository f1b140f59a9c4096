use std::{
    io,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use rustix::io::Errno;

use crate::stream::Stream;

/// What one pipe should hold; Linux lets an unprivileged user have up to this by default
/// (`/proc/sys/fs/pipe-max-size`).
const SIZE: usize = 1 << 20;

/// A pipe that holds less isn't worth its calls. A user who has many gets smaller ones
/// (`/proc/sys/fs/pipe-user-pages-soft`).
const SIZE_MIN: usize = 64 << 10;

/// Pipes through which bytes go from socket to socket without being copied (splice(2), Linux).
/// There are none elsewhere.
pub(crate) struct Pipes {
    state: Mutex<State>,
    max: usize,
}

/// How often one is asked for in vain, after one could not be made, before that is tried again.
const PAUSE: usize = 10_000;

struct State {
    /// Empty pipes that nobody holds.
    spare: Vec<Pipe>,
    /// How many pipes there are, spare or not.
    made: usize,
    /// How often one is asked for before another may be made.
    pause: usize,
}

/// A pipe, lent by [`Pipes`]: to be given back empty, or reported as lost.
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Whether it may be kept, with what is in it, while a slow reader is waited for.
    pub(crate) may_wait: bool,
}

impl Pipes {
    /// At most `max` pipes, of two descriptors each; made when they are needed.
    pub(crate) fn new(max: usize) -> Self {
        Self { state: Mutex::new(State { spare: Vec::new(), made: 0, pause: 0 }), max }
    }

    /// An empty pipe, unless there are none to be had. Half of them may wait for slow readers, so
    /// that there is always one for a short use.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let mut state = self.lock();
        let lent = state.made - state.spare.len();
        let mut pipe = match state.spare.pop() {
            Some(pipe) => pipe,
            None if state.made == self.max => return None,
            None if state.pause > 0 => {
                state.pause -= 1;
                return None;
            }
            None => {
                let Some(pipe) = Pipe::new() else {
                    state.pause = PAUSE;
                    return None;
                };
                state.made += 1;
                pipe
            }
        };
        pipe.may_wait = lent < self.max / 2;
        Some(pipe)
    }

    /// Gives back an empty pipe.
    pub(crate) fn give_back(&self, pipe: Pipe) {
        self.lock().spare.push(pipe);
    }

    /// Lends no pipe any more.
    pub(crate) fn lend_no_more(&self) {
        let mut state = self.lock();
        state.made -= std::mem::take(&mut state.spare).len();
        state.pause = usize::MAX;
    }

    /// Notes that a pipe failed, for lack of memory or the like: for a while, only pipes that
    /// already exist are lent.
    pub(crate) fn pause(&self) {
        let mut state = self.lock();
        state.made -= std::mem::take(&mut state.spare).len();
        state.pause = state.pause.max(PAUSE);
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

/// Whether splice(2) can never work here.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    errno.is_some_and(|errno| {
        [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP].contains(&errno)
    })
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn half_of_the_pipes_may_wait_and_none_is_lent_twice() {
        let pipes = Pipes::new(4);
        let lent: Vec<_> = std::iter::from_fn(|| pipes.take()).collect();
        assert_eq!(
            lent.iter().map(|pipe| pipe.may_wait).collect::<Vec<_>>(),
            [true, true, false, false]
        );
        for pipe in lent {
            pipes.give_back(pipe);
        }
        assert!(pipes.take().is_some_and(|pipe| pipe.may_wait));
        pipes.lost();
        assert_eq!(
            std::iter::from_fn(|| pipes.take()).count(),
            4,
            "the one that was lost is replaced"
        );
    }

    #[test]
    fn where_splice_does_not_work_no_pipe_is_lent_any_more() {
        let pipes = Pipes::new(4);
        let [one, other] = [(); 2].map(|()| pipes.take().unwrap());
        pipes.give_back(one);
        pipes.lend_no_more();
        assert!(pipes.take().is_none());
        // One that was out meanwhile finds out for itself.
        pipes.give_back(other);
        drop(pipes.take());
        pipes.lend_no_more();
        assert!(pipes.take().is_none());
        assert!(is_unsupported(&Errno::INVAL.into()) && !is_unsupported(&Errno::CONNRESET.into()));
    }
}
