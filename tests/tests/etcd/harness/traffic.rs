use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::sleep,
};

/// Backends, as many as a test likes, each at an address of its own: it greets with that, and then
/// repeats what it reads.
pub(crate) struct Backends {
    port: u16,
    task: JoinHandle<()>,
}

impl Backends {
    pub(crate) async fn start() -> Self {
        // The whole of 127.0.0.0/8 leads here.
        let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(client));
            }
        });
        Self { port, task }
    }

    /// The address of the one with this number.
    pub(crate) fn address(&self, number: u16) -> SocketAddr {
        let [high, low] = number.to_be_bytes();
        SocketAddr::new(Ipv4Addr::new(127, 1, high, low).into(), self.port)
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut client: TcpStream) -> io::Result<u64> {
    let name = client.local_addr()?;
    client.write_all(format!("{name}\n").as_bytes()).await?;
    let (mut from_client, mut to_client) = client.split();
    copy(&mut from_client, &mut to_client).await
}

/// A client that was greeted.
pub(crate) struct Client {
    /// By this backend.
    pub(crate) backend: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects and waits for the greeting.
    pub(crate) async fn connect(front: SocketAddr) -> io::Result<Self> {
        let mut stream = BufReader::new(TcpStream::connect(front).await?);
        let mut greeting = String::new();
        stream.read_line(&mut greeting).await?;
        let backend = greeting.trim().parse().map_err(|_| io::ErrorKind::UnexpectedEof)?;
        Ok(Self { backend, stream })
    }

    /// Says something, and waits until it has come back.
    async fn talk(&mut self) -> io::Result<()> {
        self.stream.write_all(b"ping").await?;
        let mut back = [0; 4];
        self.stream.read_exact(&mut back).await?;
        assert_eq!(&back, b"ping", "bytes have changed on their way");
        Ok(())
    }
}

/// A client that talks all the time.
pub(crate) struct Talker {
    pub(crate) backend: SocketAddr,
    rounds: Arc<AtomicUsize>,
    task: JoinHandle<io::Error>,
}

impl Talker {
    pub(crate) async fn connect(front: SocketAddr) -> io::Result<Self> {
        let mut client = Client::connect(front).await?;
        let backend = client.backend;
        let rounds = Arc::<AtomicUsize>::default();
        let count = Arc::clone(&rounds);
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = client.talk().await {
                    return error;
                }
                count.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(5)).await;
            }
        });
        Ok(Self { backend, rounds, task })
    }

    /// How often it has said something and had it back.
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.load(Ordering::SeqCst)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.task.is_finished()
    }

    /// Waits for the end of its connection, and says how that was.
    pub(crate) async fn end(self) -> io::ErrorKind {
        self.task.await.unwrap().kind()
    }
}
