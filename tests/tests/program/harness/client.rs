use std::{
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};

use super::{Socket, until};

/// How a connection ended for one who was reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// End of stream.
    Clean,
    /// ECONNRESET.
    Reset,
    /// Anything else.
    Other(io::ErrorKind),
}

impl From<io::Result<()>> for End {
    fn from(result: io::Result<()>) -> Self {
        match result {
            Ok(()) => Self::Clean,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Self::Reset,
            // `read_exact` found the end.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Self::Clean,
            Err(error) => Self::Other(error.kind()),
        }
    }
}

/// A client that has been greeted.
pub(crate) struct Client {
    pub(crate) socket: Socket,
    /// The key of the backend that greeted.
    pub(crate) backend: String,
}

impl Client {
    pub(crate) fn connect(address: &str) -> Self {
        Self::try_connect(address).unwrap()
    }

    pub(crate) fn try_connect(address: &str) -> io::Result<Self> {
        Self::greeted(Socket::connect(address)?)
    }

    /// Reads the greeting.
    pub(crate) fn greeted(mut socket: Socket) -> io::Result<Self> {
        let mut backend = String::new();
        loop {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            if byte[0] == b'\n' {
                return Ok(Self { socket, backend });
            }
            backend.push(byte[0].into());
        }
    }

    /// As many clients, one after the other.
    pub(crate) fn several(address: &str, count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::connect(address)).collect()
    }

    /// Has each be greeted when its turn comes, whatever the order is, and then do something.
    pub(crate) fn each<R: Send>(
        sockets: Vec<Socket>,
        each: impl Fn(Self) -> R + Send + Sync,
    ) -> Vec<R> {
        let each = &each;
        thread::scope(|scope| {
            let client = |socket| scope.spawn(move || each(Self::greeted(socket).unwrap()));
            let threads: Vec<_> = sockets.into_iter().map(client).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    /// Sends a message and gets it back.
    pub(crate) fn echo(&mut self, message: u64) -> io::Result<()> {
        self.socket.write_all(&message.to_be_bytes())?;
        let mut answer = [0; 8];
        self.socket.read_exact(&mut answer)?;
        assert_eq!(u64::from_be_bytes(answer), message, "bytes came back changed");
        Ok(())
    }

    /// Whether the session is alive: a message comes back.
    pub(crate) fn is_served(&mut self) -> bool {
        self.echo(42).is_ok()
    }

    /// Reads to the end.
    pub(crate) fn end(&mut self) -> End {
        self.socket.read_to_end(&mut Vec::new()).map(|_| ()).into()
    }

    /// Ends the stream and reads to the end.
    pub(crate) fn finish(mut self) -> End {
        self.socket.shutdown_write();
        self.end()
    }
}

/// Clients that talk all the time.
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    clients: Vec<Talker>,
}

/// One of them.
struct Talker {
    backend: String,
    rounds: Arc<AtomicU64>,
    thread: JoinHandle<End>,
}

impl Load {
    pub(crate) fn start(address: &str, count: usize) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let clients = Client::several(address, count)
            .into_iter()
            .map(|client| {
                let (over, rounds) = (Arc::clone(&is_over), Arc::new(AtomicU64::new(0)));
                let (backend, counter) = (client.backend.clone(), Arc::clone(&rounds));
                let thread = thread::spawn(move || talk(client, &over, &counter));
                Talker { backend, rounds, thread }
            })
            .collect();
        let load = Self { is_over, clients };
        load.go_on(|_| true);
        load
    }

    /// Clients of these backends.
    pub(crate) fn count(&self, which: impl Fn(&str) -> bool) -> usize {
        self.clients.iter().filter(|client| which(&client.backend)).count()
    }

    /// Waits until each client of these backends has sent and got back some more.
    pub(crate) fn go_on(&self, which: impl Fn(&str) -> bool) {
        let clients = || self.clients.iter().filter(|client| which(&client.backend));
        let goals: Vec<_> = clients().map(|client| client.rounds.load(SeqCst) + 10).collect();
        until("more messages of every client", || {
            clients().zip(&goals).all(|(client, goal)| client.rounds.load(SeqCst) >= *goal)
        });
    }

    /// Waits until the clients of one backend have been ended by somebody else. Returns how.
    pub(crate) fn ends(&mut self, backend: &str) -> Vec<End> {
        let (ended, rest) =
            std::mem::take(&mut self.clients).into_iter().partition(|c| c.backend == backend);
        self.clients = rest;
        join(ended, backend)
    }

    /// Has the clients end. Returns how that went.
    pub(crate) fn finish(self) -> Vec<End> {
        self.is_over.store(true, SeqCst);
        join(self.clients, "any backend")
    }
}

/// Waits for the end of each. Returns how it came.
fn join(clients: Vec<Talker>, whose: &str) -> Vec<End> {
    until(&format!("the end of the clients of {whose}"), || {
        clients.iter().all(|client| client.thread.is_finished())
    });
    clients.into_iter().map(|client| client.thread.join().unwrap()).collect()
}

fn talk(mut client: Client, is_over: &AtomicBool, rounds: &AtomicU64) -> End {
    for round in 0.. {
        if is_over.load(SeqCst) {
            break;
        }
        if let Err(error) = client.echo(round) {
            return Err(error).into();
        }
        rounds.store(round + 1, SeqCst);
    }
    client.finish()
}
