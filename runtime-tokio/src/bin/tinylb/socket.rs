use std::{io, net::SocketAddr};

use rustix::io::Errno;
use tinylb_core::{ListenerHandle, Server};
use tinylb_tokio::{
    Address, AddressDialer, Host, SocketRelay, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
    UnixListener, UnixSocketFile, UnixTarget,
};
use tokio::runtime::Handle;

/// What listens at one address. Services accept from clones of its sockets, so that an address
/// that moves from one service to another, or from one worker to another, never stops listening,
/// and its backlog is kept.
pub(crate) enum Socket {
    /// One for each worker there was when it began to listen: the system spreads connections over
    /// them. Each has a backlog of its own, so none is closed before the whole is.
    Tcp(Vec<std::net::TcpListener>),
    Unix(std::os::unix::net::UnixListener, UnixSocketFile),
}

/// Which worker accepts from which of an address's sockets.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Share {
    worker: usize,
    socket: usize,
}

/// A clone of a socket, ready to be accepted from by a worker.
pub(crate) struct Acceptor {
    listener: Listener,
    worker: Handle,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// Listens at an address, for so many workers. What is accepted has these options.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn bind(
        address: &Address,
        options: &TcpOptions,
        workers: usize,
    ) -> Result<Self, String> {
        let bound = match address {
            Address::Tcp(TcpTarget { host: Host::Ip(ip), port }) => {
                let address = SocketAddr::new(*ip, *port);
                TcpListener::bind_group(address, options, workers).map(Self::Tcp)
            }
            Address::Tcp(TcpTarget { host: Host::Name(_), .. }) => {
                Err(io::Error::other("it is a name: give the IP address to listen at"))
            }
            Address::Unix(target) => {
                UnixListener::bind_std(target.path()).map(|(s, file)| Self::Unix(s, file))
            }
        };
        bound.map_err(|error| format!("can't listen at {address}: {}", remedy(&error)))
    }

    /// Where it listens, with the port that was taken.
    pub(crate) fn local_address(&self) -> io::Result<Address> {
        match self {
            Self::Tcp(group) => Ok(group[0].local_addr()?.into()),
            Self::Unix(socket, _) => {
                let address = socket.local_addr()?;
                let path = address.as_pathname().ok_or(io::ErrorKind::AddrNotAvailable)?;
                UnixTarget::new(path).map(Address::Unix).map_err(io::Error::other)
            }
        }
    }

    /// Gives connections that are accepted from now on these options.
    pub(crate) fn set_options(&self, options: &TcpOptions) -> io::Result<()> {
        match self {
            Self::Tcp(group) => group.iter().try_for_each(|socket| options.apply(socket)),
            Self::Unix(..) => Ok(()),
        }
    }

    /// Has each worker accept, and each socket accepted from.
    pub(crate) fn shares(&self, workers: usize) -> Vec<Share> {
        let sockets = match self {
            Self::Tcp(group) => group.len(),
            Self::Unix(..) => 1,
        };
        let shares = 0..workers.max(sockets);
        shares.map(|n| Share { worker: n % workers, socket: n % sockets }).collect()
    }

    /// A clone to accept from.
    pub(crate) fn acceptor(&self, share: Share, workers: &[Handle]) -> io::Result<Acceptor> {
        let worker = workers[share.worker].clone();
        let _context = worker.enter();
        let listener = match self {
            Self::Tcp(group) => {
                Listener::Tcp(TcpListener::from_std(group[share.socket].try_clone()?)?)
            }
            Self::Unix(socket, _) => Listener::Unix(UnixListener::from_std(socket.try_clone()?)?),
        };
        drop(_context);
        Ok(Acceptor { listener, worker })
    }
}

impl Acceptor {
    /// Hands the clone to a server.
    pub(crate) fn listen(
        self,
        server: &Server<AddressDialer>,
        relay: SocketRelay,
    ) -> ListenerHandle {
        let runtime = TokioRuntime::new(self.worker);
        match self.listener {
            Listener::Tcp(listener) => server.listen(listener, relay, runtime),
            Listener::Unix(listener) => server.listen(listener, relay, runtime),
        }
    }
}

/// The error with a remedy.
pub(crate) fn remedy(error: &io::Error) -> String {
    let remedy = match error.kind() {
        _ if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            "raise the limit on descriptors (`ulimit -n`)"
        }
        // A Unix socket's error of this kind says more by itself.
        io::ErrorKind::AddrInUse if error.raw_os_error().is_some() => {
            "end the program that listens there or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => "choose an address of this machine",
        io::ErrorKind::PermissionDenied => {
            "choose a port from 1024 on or a place you may write to, or run with the right to it"
        }
        io::ErrorKind::NotFound => "make the directory first",
        _ => return error.to_string(),
    };
    format!("{error}: {remedy}")
}
