use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tinylb_core::{AcceptFailure, Listener, SocketKind};
use tokio::io::{Interest, unix::AsyncFd};

use crate::{
    TcpConn, TcpOptions, UnixConn,
    explain::{errno, explain},
    nonblocking::{accept, watch},
    options::reset_on_close,
    stream::stream,
};

/// Connections that the kernel holds while they wait to be accepted; Linux caps it at
/// `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Accepts TCP connections.
pub struct TcpListener {
    listener: AsyncFd<std::net::TcpListener>,
    /// Accepted connections are reset when they are closed; they inherit that from the socket
    /// (Linux).
    resets: bool,
}

/// Accepts connections over a Unix socket.
pub struct UnixListener {
    listener: AsyncFd<std::os::unix::net::UnixListener>,
    path: String,
    /// `None` if somebody else looks after it.
    _file: Option<UnixSocketFile>,
}

/// The file of a Unix socket; removed when this is dropped, unless another has taken its place.
#[derive(Debug)]
pub struct UnixSocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl TcpListener {
    /// Listens at an address; port 0 takes any that is free. To be called in a tokio runtime.
    ///
    /// # Errors
    /// The system's: the address is in use, not this machine's, or not allowed.
    pub fn bind(address: SocketAddr, options: &TcpOptions) -> io::Result<Self> {
        Self::from_std(Self::bind_group(address, options, 1)?.remove(0))
    }

    /// Sockets that all listen at one address, among which the system spreads connections (Linux:
    /// `SO_REUSEPORT`, socket(7)); for a listener on each of several threads, or to keep a
    /// socket and accept from a clone. At least one.
    ///
    /// Each has a backlog of its own, and what waits there is lost when the last clone of that
    /// socket is closed: before a thread ends, let another accept from a clone of its socket.
    ///
    /// Another program that asks for the same option, of the same user, may join the group later; one
    /// that uses this function isn't let in.
    ///
    /// # Errors
    /// As for [`Self::bind`]: that another program has such a group there is one.
    pub fn bind_group(
        address: SocketAddr,
        options: &TcpOptions,
        count: usize,
    ) -> io::Result<Vec<std::net::TcpListener>> {
        // The first one has to listen before it has the option: with it, it would join a group of
        // another process, or let another that starts in this moment join its own.
        let first = open(address, options)?;
        first.bind(&address.into())?;
        first.listen(BACKLOG)?;
        let mut group = vec![first];
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if count > 1 {
            let taken = group[0].local_addr()?;
            group[0].set_reuse_port(true)?;
            for _ in 1..count {
                let socket = open(address, options)?;
                socket.set_reuse_port(true)?;
                socket.bind(&taken)?;
                socket.listen(BACKLOG)?;
                group.push(socket);
            }
        }
        Ok(group.into_iter().map(Into::into).collect())
    }

    /// Accepts from a socket that listens; what it accepts has the options that the socket was
    /// given ([`TcpOptions::apply`]). Without those, each connection costs one more call, which
    /// makes the system reset it when it is closed. Call this in a tokio runtime.
    ///
    /// # Errors
    /// No more sockets can be watched.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let resets = cfg!(any(target_os = "linux", target_os = "android"))
            && SockRef::from(&listener).linger()? == Some(Duration::ZERO);
        Ok(Self { listener: watch(listener, Interest::READABLE)?, resets })
    }

    /// The address it listens at, with the port that was taken.
    ///
    /// # Errors
    /// The system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.listener.get_ref().local_addr()
    }
}

impl UnixListener {
    /// Listens at a path. A socket's file that nobody listens on any more is replaced; the file is
    /// removed when the listener is dropped. To be called in a tokio runtime.
    ///
    /// # Errors
    /// [`io::ErrorKind::AddrInUse`] if somebody listens there or the file is no socket; else the
    /// system's.
    pub fn bind(path: impl AsRef<Path>) -> io::Result<Self> {
        let (listener, file) = Self::bind_std(path)?;
        let mut listener = Self::from_std(listener)?;
        listener._file = Some(file);
        Ok(listener)
    }

    /// A socket that listens at a path already, to keep it and accept from a clone; and its file, to be dropped after the last clone.
    ///
    /// # Errors
    /// As for [`Self::bind`].
    pub fn bind_std(
        path: impl AsRef<Path>,
    ) -> io::Result<(std::os::unix::net::UnixListener, UnixSocketFile)> {
        let path = path.as_ref();
        remove_stale(path)?;
        let listener = std::os::unix::net::UnixListener::bind(path)?;
        let file = UnixSocketFile { path: path.to_owned(), inode: inode(path)? };
        Ok((listener, file))
    }

    /// Accepts from a socket that listens. To be called in a tokio runtime.
    ///
    /// # Errors
    /// No more sockets can be watched.
    pub fn from_std(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let path =
            address.as_pathname().map_or("unix:".into(), |p| format!("unix:{}", p.display()));
        let listener = watch(listener, Interest::READABLE)?;
        Ok(Self { listener, path, _file: None })
    }
}

#[async_trait]
impl Listener for TcpListener {
    type Conn = TcpConn;

    async fn accept(&mut self) -> io::Result<TcpConn> {
        let (socket, peer) =
            self.listener.async_io(Interest::READABLE, accept).await.map_err(explain)?;
        let peer = peer.and_then(|peer| peer.try_into().ok()).ok_or(Errno::PROTO)?;
        let resets = self.resets || reset_on_close(&socket).is_ok();
        let stream = stream(socket, SocketKind::Tcp, resets)?;
        stream.socket()?.look_after(None);
        Ok(TcpConn::new(stream, peer))
    }

    fn classify(&self, error: &io::Error) -> AcceptFailure {
        classify(error)
    }
}

#[async_trait]
impl Listener for UnixListener {
    type Conn = UnixConn;

    async fn accept(&mut self) -> io::Result<UnixConn> {
        let (socket, _) =
            self.listener.async_io(Interest::READABLE, accept).await.map_err(explain)?;
        Ok(UnixConn::new(stream(socket, SocketKind::Unix, false)?, self.path.as_str()))
    }

    fn classify(&self, error: &io::Error) -> AcceptFailure {
        classify(error)
    }
}

/// A TCP socket for an address. It has its options before it listens: what is accepted has those
/// that the listener had when the client came.
fn open(address: SocketAddr, options: &TcpOptions) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for connections of the run before (TIME-WAIT).
    socket.set_reuse_address(true)?;
    // `[::]` accepts IPv4 on every system, whatever the default is there (ipv6(7)). A system that
    // can't accepts IPv6 only.
    if address.is_ipv6() && address.ip().is_unspecified() {
        let _ = socket.set_only_v6(false);
    }
    options.apply(&socket)?;
    Ok(socket)
}

/// accept(2): what a failed accept says of the listener.
fn classify(error: &io::Error) -> AcceptFailure {
    match errno(error) {
        Some(Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::OPNOTSUPP | Errno::FAULT) => {
            AcceptFailure::Fatal
        }
        // Errors that wait on the new connection are that connection's alone; so is a firewall.
        Some(
            Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::INTR
            | Errno::AGAIN
            | Errno::PERM
            | Errno::PROTO
            | Errno::NOPROTOOPT
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::TIMEDOUT,
        ) => AcceptFailure::Skip,
        // Descriptors, memory, and whatever else may pass.
        _ => AcceptFailure::BackOff,
    }
}

/// Removes a socket's file that nobody listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    let in_use = |why: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, why.to_string()));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            in_use("a file that is no socket stands there: remove it or choose another path")
        }
        Ok(_) => match try_connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            // A full backlog is somebody's as well.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => in_use("somebody listens there: end that program or choose another path"),
        },
    }
}

/// Connects to a Unix socket, without waiting for room in its backlog.
fn try_connect(path: &Path) -> io::Result<()> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    socket.connect(&SockAddr::unix(path)?)
}

fn inode(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl Drop for UnixSocketFile {
    fn drop(&mut self) {
        if inode(&self.path).is_ok_and(|inode| inode == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_group_shares_what_comes_and_lets_no_other_in() {
        let options = TcpOptions::default();
        let group = TcpListener::bind_group("127.0.0.1:0".parse().unwrap(), &options, 3).unwrap();
        let address = group[0].local_addr().unwrap();
        for count in [1, 3] {
            let error = TcpListener::bind_group(address, &options, count).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
        let clients: Vec<_> =
            (0..100).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
        let accepted = group.iter().map(|socket| {
            socket.set_nonblocking(true).unwrap();
            socket.incoming().map_while(Result::ok).count()
        });
        let accepted: Vec<_> = accepted.collect();
        assert_eq!(accepted.iter().sum::<usize>(), clients.len());
        assert!(accepted.iter().all(|count| *count > 0), "{accepted:?}");
    }

    #[tokio::test]
    async fn an_ipv4_client_of_an_ipv6_listener_is_shown_as_what_it_is() {
        use tinylb_core::Conn;

        let options = TcpOptions::default();
        // Where there is no IPv6, there is nothing to see.
        let Ok(mut listener) = TcpListener::bind("[::]:0".parse().unwrap(), &options) else {
            return;
        };
        let port = listener.local_address().unwrap().port();
        let client = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        let conn = listener.accept().await.unwrap();
        assert_eq!(conn.peer(), client.local_addr().unwrap().to_string());
        assert_eq!(conn.local_address().unwrap(), client.peer_addr().unwrap());
    }

    #[test]
    fn only_an_error_of_the_listener_itself_is_fatal() {
        let kind = |errno: Errno| classify(&errno.into());
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert_eq!(kind(errno), AcceptFailure::BackOff, "{errno}");
            assert_eq!(classify(&explain(errno.into())), AcceptFailure::BackOff, "{errno}");
        }
        for errno in [Errno::CONNABORTED, Errno::PROTO, Errno::PERM, Errno::HOSTUNREACH] {
            assert_eq!(kind(errno), AcceptFailure::Skip, "{errno}");
        }
        for errno in [Errno::BADF, Errno::INVAL, Errno::NOTSOCK] {
            assert_eq!(kind(errno), AcceptFailure::Fatal, "{errno}");
        }
        assert_eq!(classify(&io::Error::other("?")), AcceptFailure::BackOff);
    }
}
