use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};

use futures::{
    StreamExt,
    channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::harness::DEADLINE;

/// One server that is as many backends as are wanted, since all of 127.0.0.0/8 leads to this
/// machine: it answers at each address, with that address.
pub struct Backends {
    pub port: u16,
    sender: UnboundedSender<End>,
    ends: UnboundedReceiver<End>,
}

/// Clients' connections through a balancer to those backends.
pub struct Connections {
    backends: Backends,
    balancer: SocketAddr,
    /// The backend of each, the oldest connection first.
    open: VecDeque<Ipv4Addr>,
}

/// A client or a backend has seen its connection end.
struct End {
    backend: Ipv4Addr,
    at: Instant,
}

impl Backends {
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("0.0.0.0:0").await?;
        let port = listener.local_addr()?.port();
        let (sender, ends) = unbounded();
        let seen = sender.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, seen.clone()));
            }
        });
        Ok(Self { port, sender, ends })
    }
}

impl Connections {
    /// None yet.
    pub fn by(balancer: SocketAddr, backends: Backends) -> Self {
        Self { backends, balancer, open: VecDeque::new() }
    }

    /// Opens one more, to the backend whose turn it is.
    pub async fn open(&mut self) -> io::Result<()> {
        let connect = async {
            let mut stream = TcpStream::connect(self.balancer).await?;
            // A dial's handshake ends with the first bytes.
            stream.write_all(b"?").await?;
            let mut octets = [0; 4];
            stream.read_exact(&mut octets).await?;
            io::Result::Ok((stream, Ipv4Addr::from(octets)))
        };
        let (stream, backend) = timeout(DEADLINE, connect).await??;
        self.open.push_back(backend);
        tokio::spawn(watch(stream, backend, self.backends.sender.clone()));
        Ok(())
    }

    /// The backend of the oldest one.
    pub fn oldest(&self) -> io::Result<Ipv4Addr> {
        let oldest = self.open.front().copied();
        oldest.ok_or_else(|| io::Error::other("no connection is open"))
    }

    /// Waits until all connections to a backend have ended for both their clients and the backend.
    /// Gives how many they were, and when the last end was seen.
    ///
    /// # Errors
    /// Another backend's has ended, or this takes for ever.
    pub async fn cut(&mut self, backend: Ipv4Addr) -> io::Result<(usize, Instant)> {
        let before = self.open.len();
        self.open.retain(|of| *of != backend);
        let cut = before - self.open.len();
        let mut last = None;
        for _ in 0..2 * cut {
            let end = timeout(DEADLINE, self.backends.ends.next()).await?;
            let end = end.ok_or_else(|| io::Error::other("the backends are gone"))?;
            if end.backend != backend {
                let error = format!("{} has lost a connection, and not {backend}", end.backend);
                return Err(io::Error::other(error));
            }
            last = last.max(Some(end.at));
        }
        let last = last.ok_or_else(|| io::Error::other(format!("nobody uses {backend}")))?;
        Ok((cut, last))
    }
}

async fn answer(mut stream: TcpStream, ends: UnboundedSender<End>) -> io::Result<()> {
    let IpAddr::V4(backend) = stream.local_addr()?.ip() else { return Ok(()) };
    stream.read_exact(&mut [0]).await?;
    stream.write_all(&backend.octets()).await?;
    watch(stream, backend, ends).await;
    Ok(())
}

async fn watch(mut stream: TcpStream, backend: Ipv4Addr, ends: UnboundedSender<End>) {
    while stream.read(&mut [0]).await.is_ok_and(|length| length > 0) {}
    let _ = ends.unbounded_send(End { backend, at: Instant::now() });
}
