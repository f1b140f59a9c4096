use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};

use rustix::io::Errno;
use tinylb_core::Pipe;

/// A pipe of the system's (pipe(2)).
pub struct SystemPipe {
    pub(crate) read: OwnedFd,
    pub(crate) write: OwnedFd,
}

impl Pipe for SystemPipe {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.read, buffer)?)
    }

    fn is_unsupported(error: &io::Error) -> bool {
        let errno = Errno::from_io_error(error);
        errno.is_some_and(|errno| {
            [Errno::INVAL, Errno::NOSYS, Errno::PERM, Errno::OPNOTSUPP].contains(&errno)
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl SystemPipe {
    /// A pipe of this size, and the size that it has got. `None`: out of descriptors.
    pub(crate) fn new(size: usize) -> Option<(Self, usize)> {
        use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        let size = fcntl_setpipe_size(&write, size).or_else(|_| fcntl_getpipe_size(&write)).ok()?;
        Some((Self { read, write }, size))
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn splice(from: impl AsFd, to: impl AsFd, length: usize) -> io::Result<usize> {
    use rustix::pipe::SpliceFlags;
    Ok(rustix::pipe::splice(from, None, to, None, length, SpliceFlags::NONBLOCK)?)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl SystemPipe {
    pub(crate) fn new(_: usize) -> Option<(Self, usize)> {
        None
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn splice(_: impl AsFd, _: impl AsFd, _: usize) -> io::Result<usize> {
    Err(Errno::NOSYS.into())
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_splice_that_can_never_work_here_differs_from_one_whose_socket_failed() {
        let is_unsupported = |errno: Errno| SystemPipe::is_unsupported(&errno.into());
        assert!(is_unsupported(Errno::INVAL) && !is_unsupported(Errno::CONNRESET));
    }
}
