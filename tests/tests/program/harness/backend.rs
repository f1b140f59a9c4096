use std::{
    io::{self, Read, Write},
    net::TcpListener,
    os::unix::net::UnixListener,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use rustix::net::listen;

use super::{DEADLINE, End, Socket};

/// A backend that greets with its key and a newline, and does what it was made for.
pub(crate) struct Backend {
    pub(crate) key: String,
    pub(crate) address: String,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    accepted: AtomicUsize,
    ends: Mutex<Vec<End>>,
}

impl Backend {
    /// Echoes what it gets, until the end of the stream.
    pub(crate) fn echo(key: &str) -> Self {
        Self::echo_at(key, "127.0.0.1:0")
    }

    /// The same at an address: `HOST:PORT` or `unix:/PATH`.
    pub(crate) fn echo_at(key: &str, address: &str) -> Self {
        Self::start(key, address, echo)
    }

    /// Does this with each connection, after the greeting.
    pub(crate) fn with(
        key: &str,
        serve: impl Fn(&mut Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start(key, "127.0.0.1:0", serve)
    }

    fn start(
        key: &str,
        address: &str,
        serve: impl Fn(&mut Socket) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let seen = Arc::new(Seen::default());
        let greeting = format!("{key}\n");
        let begin = {
            let (seen, serve) = (Arc::clone(&seen), Arc::new(serve));
            move |mut socket: Socket| {
                let (seen, serve) = (Arc::clone(&seen), Arc::clone(&serve));
                let greeting = greeting.clone();
                socket.limit_time(DEADLINE);
                seen.accepted.fetch_add(1, SeqCst);
                thread::spawn(move || {
                    let served = socket.write_all(greeting.as_bytes());
                    let end = End::from(served.and_then(|()| serve(&mut socket)));
                    seen.ends.lock().unwrap().push(end);
                });
            }
        };
        let address = match address.strip_prefix("unix:") {
            Some(path) => {
                let listener = UnixListener::bind(path).unwrap();
                thread::spawn(move || {
                    listener.incoming().flatten().map(Socket::Unix).for_each(begin)
                });
                address.to_string()
            }
            None => {
                let listener = TcpListener::bind(address).unwrap();
                // As many as a test may have come at once: of what overflows the queue of 128 that std
                // gives it, the kernel resets some after it was connected.
                listen(&listener, 4096).unwrap();
                let address = listener.local_addr().unwrap().to_string();
                thread::spawn(move || {
                    listener.incoming().flatten().map(Socket::Tcp).for_each(begin)
                });
                address
            }
        };
        Self { key: key.into(), address, seen }
    }

    /// As an argument: `KEY=ADDRESS`.
    pub(crate) fn argument(&self) -> String {
        format!("{}={}", self.key, self.address)
    }

    /// Connections that came so far.
    pub(crate) fn accepted(&self) -> usize {
        self.seen.accepted.load(SeqCst)
    }

    /// How the connections ended that did.
    pub(crate) fn ends(&self) -> Vec<End> {
        self.seen.ends.lock().unwrap().clone()
    }
}

fn echo(socket: &mut Socket) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    loop {
        match socket.read(&mut buffer)? {
            0 => return Ok(()),
            count => socket.write_all(&buffer[..count])?,
        }
    }
}
