use std::{collections::BTreeMap, io, net::SocketAddr};

use rustix::io::Errno;
use tinylb_core::{ListenerHandle, Server};
use tinylb_services::{Plan, SocketKey, socket_key};
use tinylb_tokio::{
    Address, AddressDialer, Host, SocketRelay, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
    UnixListener, UnixSocketFile, UnixTarget,
};
use tokio::runtime::Handle;

use crate::config::{Backends, ServiceConfig};

/// The sockets that listen at one address. Services accept from clones of its sockets, so that an address
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
    /// Listens at an address, for this number of workers. Accepted connections have these options.
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

    /// Where it listens, with the port that it got.
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

    /// The shares by which each worker accepts, and each socket is accepted from.
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

/// What a service needs in order to listen where its configuration says.
pub(crate) struct Opened {
    /// Where it will listen, with the ports that it got.
    pub(crate) own: Vec<Address>,
    /// Its shares, each with its address as configured.
    pub(crate) shares: Vec<(Address, Share)>,
    /// The acceptors for those shares that are new to it.
    pub(crate) acceptors: Vec<((Address, Share), Acceptor)>,
}

/// Opens the sockets that a plan needs. Connections that are accepted have the options of the first
/// service that listens there.
///
/// # Errors
/// Cause and remedy in one line. None is left open.
pub(crate) fn bind(
    plan: &Plan<ServiceConfig>,
    sockets: &BTreeMap<SocketKey<Address>, Socket>,
    admin: Option<&Address>,
    workers: usize,
) -> Result<BTreeMap<SocketKey<Address>, Socket>, String> {
    let mut bound = BTreeMap::new();
    for (name, planned) in &plan.steps {
        for address in &planned.definition.listen {
            let key = socket_key::<ServiceConfig>(name, address);
            if plan.open.contains(&key) && !bound.contains_key(&key) {
                let socket = Socket::bind(address, &planned.definition.tcp_options(), workers);
                let own = sockets.keys().chain(bound.keys()).map(|key| &key.address);
                let socket =
                    socket.map_err(|error| in_the_way(own, admin, address).unwrap_or(error));
                bound.insert(key, socket?);
            }
        }
    }
    Ok(bound)
}

/// Prepares all that can fail when a service does as it is configured: which of these sockets it
/// accepts from. It has some of the shares already.
pub(crate) fn open(
    sockets: [&BTreeMap<SocketKey<Address>, Socket>; 2],
    has: &[(Address, Share)],
    name: &str,
    service: &ServiceConfig,
    workers: &[Handle],
) -> Result<Opened, String> {
    let mut opened = Opened { own: Vec::new(), shares: Vec::new(), acceptors: Vec::new() };
    for address in &service.listen {
        let key = socket_key::<ServiceConfig>(name, address);
        let Some(socket) = sockets.iter().find_map(|sockets| sockets.get(&key)) else { continue };
        let failed = |error| format!("can't listen at {address}: {}", remedy(&error));
        opened.own.push(socket.local_address().map_err(failed)?);
        for share in socket.shares(workers.len()) {
            let share = (address.clone(), share);
            if !has.contains(&share) {
                let acceptor = socket.acceptor(share.1, workers).map_err(failed)?;
                opened.acceptors.push((share.clone(), acceptor));
            }
            opened.shares.push(share);
        }
    }
    // The file could not be checked against a port that was not taken yet.
    if let Backends::Given(backends) = &service.backends {
        for (key, target) in backends.iter() {
            target.validate_target(&opened.own).map_err(|reason| {
                format!("service {name}: the target {target} of {key} is invalid: {reason}")
            })?;
        }
    }
    Ok(opened)
}

/// The error with a remedy.
fn remedy(error: &io::Error) -> String {
    let remedy = match error.kind() {
        _ if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            "raise the limit on descriptors (`ulimit -n`)"
        }
        // A Unix socket's error of this kind has a remedy of its own.
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

/// Why nothing can listen at an address, if a socket of this program is in its way.
fn in_the_way<'a>(
    mut own: impl Iterator<Item = &'a Address>,
    admin: Option<&Address>,
    wanted: &Address,
) -> Option<String> {
    let is_in_the_way = |own: &Address| own.takes_in(wanted) || wanted.takes_in(own);
    if admin.is_some_and(is_in_the_way) {
        let cause = "this is the admin address (--admin): choose another address";
        return Some(format!("can't listen at {wanted}: {cause}"));
    }
    // The same change may close it, but only once the new one listens.
    let own = own.find(|own| is_in_the_way(own))?;
    let cause =
        format!("tinylb itself listens at {own}: remove that listener first, in a separate change");
    Some(format!("can't listen at {wanted}: {cause}"))
}
