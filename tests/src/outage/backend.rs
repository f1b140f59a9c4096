use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::{JoinHandle, JoinSet},
};

/// A backend that greets with its number and stays until its client leaves.
#[derive(Debug)]
pub struct Backend {
    /// What it greets with.
    pub number: u8,
    /// Where it listens, or did.
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    /// Accepts, and owns what it has accepted.
    task: Option<JoinHandle<()>>,
}

impl Backend {
    /// Starts it at a port of its own.
    ///
    /// # Errors
    /// The system's.
    pub fn start(number: u8) -> io::Result<Self> {
        let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)))?;
        let address = listener.local_addr()?;
        let mut backend = Self { number, address, accepted: Arc::default(), task: None };
        backend.accept(listener);
        Ok(backend)
    }

    /// Starts as many, numbered from 0.
    ///
    /// # Errors
    /// The system's.
    pub fn several(count: u8) -> io::Result<Vec<Self>> {
        (0..count).map(Self::start).collect()
    }

    /// Ends it as the end of its process would: it refuses, and its connections are closed.
    pub async fn stop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ = task.await;
        }
    }

    /// Starts it again at the same address.
    ///
    /// # Errors
    /// The system's.
    pub fn restart(&mut self) -> io::Result<()> {
        self.accept(listen(self.address)?);
        Ok(())
    }

    /// Connections that its `accept` has returned, ever.
    pub fn accepted(&self) -> usize {
        self.accepted.load(SeqCst)
    }

    fn accept(&mut self, listener: TcpListener) {
        let (number, accepted) = (self.number, Arc::clone(&self.accepted));
        self.task = Some(tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                accepted.fetch_add(1, SeqCst);
                connections.spawn(serve(stream, number));
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}

/// Listens with a backlog that a burst doesn't fill.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(4096)
}

/// However a connection ends is the client's affair.
async fn serve(mut stream: TcpStream, number: u8) -> io::Result<()> {
    stream.write_all(&[number]).await?;
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}
