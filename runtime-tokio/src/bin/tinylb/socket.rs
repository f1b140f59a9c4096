use std::{io, net::SocketAddr};

use tinylb_core::{ListenerHandle, Server};
use tinylb_tokio::{
    Address, AddressDialer, Host, SocketRelay, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
    UnixListener, UnixSocketFile, UnixTarget,
};

/// A socket that listens. Services accept from clones of it, so that an address that moves from
/// one service to another never stops listening, and its backlog is kept.
pub(crate) enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, UnixSocketFile),
}

/// A clone of a socket, ready to be accepted from.
pub(crate) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Socket {
    /// Listens at an address.
    ///
    /// # Errors
    /// Cause and remedy in one line.
    pub(crate) fn bind(address: &Address) -> Result<Self, String> {
        let bound = match address {
            Address::Tcp(TcpTarget { host: Host::Ip(ip), port }) => {
                TcpListener::bind_std(SocketAddr::new(*ip, *port)).map(Self::Tcp)
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
            Self::Tcp(socket) => Ok(socket.local_addr()?.into()),
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
            Self::Tcp(socket) => options.apply(socket),
            Self::Unix(..) => Ok(()),
        }
    }

    /// A clone to accept from.
    pub(crate) fn acceptor(&self, options: &TcpOptions) -> io::Result<Acceptor> {
        Ok(match self {
            Self::Tcp(socket) => {
                Acceptor::Tcp(TcpListener::from_std(socket.try_clone()?, options)?)
            }
            Self::Unix(socket, _) => Acceptor::Unix(UnixListener::from_std(socket.try_clone()?)?),
        })
    }
}

impl Acceptor {
    /// Hands the clone to a server.
    pub(crate) fn listen(self, server: &Server<AddressDialer>) -> ListenerHandle {
        let runtime = TokioRuntime::current();
        match self {
            Self::Tcp(listener) => server.listen(listener, SocketRelay::default(), runtime),
            Self::Unix(listener) => server.listen(listener, SocketRelay::default(), runtime),
        }
    }
}

fn remedy(error: &io::Error) -> String {
    let remedy = match error.kind() {
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
