use std::{error::Error, fmt, io};

use rustix::io::Errno;

/// An error of the system, with a remedy.
#[derive(Debug)]
struct Explained {
    error: io::Error,
    remedy: &'static str,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.error, self.remedy)
    }
}

impl Error for Explained {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Adds a remedy to a socket's error, if the user can do something about it.
pub(crate) fn explain(error: io::Error) -> io::Error {
    let remedy = match Errno::from_io_error(&error) {
        Some(Errno::MFILE) => {
            "raise the limit on descriptors (ulimit -n, systemd's LimitNOFILE), or lower \
             `max_connections`"
        }
        Some(Errno::NFILE) => "raise the system's limit of files (sysctl fs.file-max)",
        Some(Errno::ADDRNOTAVAIL) => {
            "this machine has no address that can reach it, or no port left for it: \
             set net.ipv4.tcp_tw_reuse=1, widen net.ipv4.ip_local_port_range, or give several \
             addresses in `dial_from`"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), Explained { error, remedy })
}

/// The system's number of an error, with or without a remedy.
pub(crate) fn errno(error: &io::Error) -> Option<Errno> {
    let explained = error.get_ref().and_then(|inner| inner.downcast_ref::<Explained>());
    Errno::from_io_error(explained.map_or(error, |explained| &explained.error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_the_user_can_do_something_about_says_what() {
        for (errno, remedy) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::ADDRNOTAVAIL, "net.ipv4.tcp_tw_reuse"),
        ] {
            let plain = io::Error::from(errno);
            let explained = explain(errno.into());
            let text = explained.to_string();
            assert!(text.starts_with(&plain.to_string()) && text.contains(remedy), "{text}");
            assert_eq!((explained.kind(), super::errno(&explained)), (plain.kind(), Some(errno)));
        }
        let plain = io::Error::from(Errno::CONNREFUSED);
        assert_eq!(explain(Errno::CONNREFUSED.into()).raw_os_error(), plain.raw_os_error());
        assert_eq!(errno(&io::Error::other("?")), None);
    }
}
