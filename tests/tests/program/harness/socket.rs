use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::unix::net::{UnixListener, UnixStream},
    thread,
    time::Duration,
};

use socket2::{Domain, SockAddr, SockRef, Type};
use tempfile::TempDir;

use super::DEADLINE;

/// A connection over TCP or a Unix socket. No call on it waits longer than the deadline.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Socket {
    /// Connects to `HOST:PORT` or `unix:/PATH`.
    pub(crate) fn connect(address: &str) -> io::Result<Self> {
        let socket = match address.strip_prefix("unix:") {
            Some(path) => {
                let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
                // Linux waits for so long if the backlog is full.
                socket.set_write_timeout(Some(DEADLINE))?;
                socket.connect(&SockAddr::unix(path)?)?;
                Self::Unix(socket.into())
            }
            None => {
                let address = address.parse().map_err(io::Error::other)?;
                Self::Tcp(TcpStream::connect_timeout(&address, DEADLINE)?)
            }
        };
        socket.limit_time(DEADLINE);
        Ok(socket)
    }

    /// Has each read and write give up after a time.
    pub(crate) fn limit_time(&self, time: Duration) {
        let socket = match self {
            Self::Tcp(stream) => SockRef::from(stream),
            Self::Unix(stream) => SockRef::from(stream),
        };
        socket.set_read_timeout(Some(time)).unwrap();
        socket.set_write_timeout(Some(time)).unwrap();
    }

    /// The same connection once more.
    pub(crate) fn another(&self) -> Self {
        match self {
            Self::Tcp(stream) => Self::Tcp(stream.try_clone().unwrap()),
            Self::Unix(stream) => Self::Unix(stream.try_clone().unwrap()),
        }
    }

    /// Ends the stream, and goes on reading.
    pub(crate) fn shutdown_write(&self) {
        match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write).unwrap(),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write).unwrap(),
        }
    }

    /// Resets the connection, if it is TCP.
    pub(crate) fn reset(self) {
        if let Self::Tcp(stream) = &self {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(buffer),
            Self::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(buffer),
            Self::Unix(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A backend that answers no dial: its backlog is full, and nobody accepts.
pub(crate) struct Hung {
    pub(crate) address: String,
    listener: socket2::Socket,
    _fill: Vec<socket2::Socket>,
    dir: Option<TempDir>,
}

impl Hung {
    pub(crate) fn tcp() -> Self {
        Self::tcp_at("127.0.0.1:0")
    }

    pub(crate) fn tcp_at(address: &str) -> Self {
        Self::from(TcpListener::bind(address).unwrap())
    }

    pub(crate) fn unix() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("hung");
        let listener = UnixListener::bind(&path).unwrap();
        let address = format!("unix:{}", path.display());
        let place = SockAddr::unix(&path).unwrap();
        Self::fill(listener.into(), &place, address, Some(dir))
    }

    /// A listener that answers no more, though its connections go on.
    pub(crate) fn from(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        Self::fill(listener.into(), &SockAddr::from(address), address.to_string(), None)
    }

    /// Connects until that takes too long to be true. (Linux then drops what else asks for a TCP
    /// connection, and has who asks for a Unix one wait.)
    fn fill(
        listener: socket2::Socket,
        place: &SockAddr,
        address: String,
        dir: Option<TempDir>,
    ) -> Self {
        listener.listen(0).unwrap();
        let domain = if place.is_unix() { Domain::UNIX } else { Domain::IPV4 };
        let mut fill = Vec::new();
        loop {
            let socket = socket2::Socket::new(domain, Type::STREAM, None).unwrap();
            socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
            let is_full = socket.connect(place).is_err();
            fill.push(socket);
            if is_full {
                return Self { address, listener, _fill: fill, dir };
            }
        }
    }

    /// Answers from now on, including clients that have been waiting: greets with a key and a
    /// newline.
    pub(crate) fn answer(self, key: &str) {
        let (listener, greeting) = (self.listener, format!("{key}\n"));
        thread::spawn(move || {
            // The socket's file stays as long.
            let _dir = self.dir;
            let mut open = Vec::new();
            while let Ok((socket, _)) = listener.accept() {
                let _ = (&socket).write_all(greeting.as_bytes());
                open.push(socket);
            }
        });
    }

    /// The address as a socket address, if it is TCP.
    pub(crate) fn socket_address(&self) -> SocketAddr {
        self.address.parse().unwrap()
    }
}
