use std::{fs, io, net::SocketAddr, sync::mpsc, thread};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
};

use crate::load::current_thread;

/// Bytes that the ends of a bulk transfer write and read at once.
pub const CHUNK: usize = 256 << 10;

/// What a backend does with a connection.
#[derive(Clone, Copy)]
pub enum Backend {
    /// Sends back what comes.
    Echo,
    /// Sends for ever.
    Source,
    /// Reads for ever.
    Sink,
    /// Sends [`GREETING`] and closes.
    Greeter,
}

/// The first port that a backend tries.
const PORT_MIN: u16 = 20_000;

/// Bytes of a greeting.
pub const GREETING: usize = 64;

impl Backend {
    /// Starts so many, on a thread of their own, for as long as the program runs.
    pub fn start(self, count: usize) -> Vec<SocketAddr> {
        let (bound, addresses) = mpsc::channel();
        thread::spawn(move || {
            current_thread().block_on(async {
                for _ in 0..count {
                    let listener = listen_below_ephemeral().expect("a free port");
                    let _ = bound.send(listener.local_addr().expect("its address"));
                    tokio::task::spawn_local(self.accept(listener));
                }
                drop(bound);
                std::future::pending::<()>().await;
            });
        });
        addresses.iter().collect()
    }

    async fn accept(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => drop(tokio::task::spawn_local(self.serve(stream))),
                Err(error) => panic!("the backend can't accept: {error}"),
            }
        }
    }

    /// However a connection ends is the client's affair.
    async fn serve(self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        match self {
            Self::Echo => {
                let mut buffer = [0; 4 << 10];
                loop {
                    let length = stream.read(&mut buffer).await?;
                    if length == 0 {
                        return Ok(());
                    }
                    stream.write_all(&buffer[..length]).await?;
                }
            }
            Self::Source => {
                let chunk = vec![0; CHUNK];
                loop {
                    stream.write_all(&chunk).await?;
                }
            }
            Self::Sink => {
                let mut buffer = vec![0; CHUNK];
                while stream.read(&mut buffer).await? > 0 {}
                Ok(())
            }
            Self::Greeter => stream.write_all(&[0; GREETING]).await,
        }
    }
}

/// Listens on a port below those that the system gives to clients.
fn listen_below_ephemeral() -> io::Result<TcpListener> {
    let ports = (PORT_MIN..ephemeral_port_min()).chain([0]);
    let listeners = ports.map(|port| listen(SocketAddr::from(([127, 0, 0, 1], port))));
    let is_taken = |error: &io::Error| error.kind() == io::ErrorKind::AddrInUse;
    let mut others = listeners.skip_while(|listener| listener.as_ref().is_err_and(is_taken));
    others.next().unwrap_or_else(|| Err(io::ErrorKind::AddrInUse.into()))
}

/// The first port that the system gives to clients, or 0 where it doesn't say so.
fn ephemeral_port_min() -> u16 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(0)
}

/// Listens with a backlog that a burst doesn't fill.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}
