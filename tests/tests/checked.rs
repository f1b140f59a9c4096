//! A server that follows [`Checked`], on tokio and real sockets: what clients notice of a verdict.
//!
//! Every wait is for a condition, with a deadline that only a hang can reach.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tinylb_core::{BackendSet, CheckSettings, Handle, Publisher, Server, Settings, publisher};
use tinylb_tokio::{
    Address, AddressDialer, Checked, HttpCheck, SocketRelay, TcpListener, TcpOptions, TokioRuntime,
    VerdictBoard,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

/// Only a hang takes as long as that.
const DEADLINE: Duration = Duration::from_secs(30);

/// The status of a backend that doesn't answer its check.
const HANGS: u16 = 0;

/// A backend: a server of bytes at one port, and of its role at another.
struct Backend {
    number: u8,
    address: SocketAddr,
    /// What it answers when it is asked for its role.
    status: Arc<AtomicU16>,
    /// Checks that it left without an answer.
    unanswered: Arc<AtomicUsize>,
    tasks: [JoinHandle<()>; 2],
}

impl Backend {
    /// The backend with this number, at 127.0.0.NUMBER. `role`: the port where it is asked.
    async fn start(number: u8, role: &mut Option<u16>, status: u16) -> Self {
        let status = Arc::new(AtomicU16::new(status));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let bind = async |port: u16| {
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, number], port))).await
        };
        let clients = bind(0).await.unwrap();
        let address = clients.local_addr().unwrap();
        let clients = tokio::spawn(async move {
            while let Ok((mut stream, _)) = clients.accept().await {
                tokio::spawn(async move {
                    stream.write_all(&[number]).await?;
                    let (mut reader, mut writer) = stream.split();
                    tokio::io::copy(&mut reader, &mut writer).await
                });
            }
        });
        let asked = bind(role.unwrap_or(0)).await.unwrap();
        *role = Some(asked.local_addr().unwrap().port());
        let (role, left) = (Arc::clone(&status), Arc::clone(&unanswered));
        let asked = tokio::spawn(async move {
            while let Ok((stream, _)) = asked.accept().await {
                tokio::spawn(tell_role(stream, Arc::clone(&role), Arc::clone(&left)));
            }
        });
        Self { number, address, status, unanswered, tasks: [clients, asked] }
    }

    fn answers(&self, status: u16) {
        self.status.store(status, SeqCst);
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn tell_role(
    mut stream: TcpStream,
    status: Arc<AtomicU16>,
    unanswered: Arc<AtomicUsize>,
) -> io::Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        match status.load(SeqCst) {
            HANGS => {
                unanswered.fetch_add(1, SeqCst);
                stream.read_u8().await?;
            }
            status => {
                let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                stream.write_all(answer.as_bytes()).await?;
            }
        }
    }
}

/// A server whose backends are checked.
struct World {
    backends: Vec<Backend>,
    publisher: Publisher<Address>,
    board: VerdictBoard,
    handle: Handle<Address>,
    /// Where clients connect.
    address: SocketAddr,
    _server: Server<AddressDialer>,
}

impl World {
    /// As many backends as there are statuses, which they answer with. Their numbers begin with 2.
    async fn start(statuses: &[u16], change: impl FnOnce(&mut CheckSettings)) -> Self {
        let (mut backends, mut role) = (Vec::new(), None);
        for (number, &status) in (2..).zip(statuses) {
            backends.push(Backend::start(number, &mut role, status).await);
        }
        let mut settings = CheckSettings::default();
        settings.interval = Duration::from_millis(100);
        // So that a slow machine is no reason for a verdict.
        settings.timeout = Duration::from_secs(20);
        change(&mut settings);
        let check = HttpCheck::new("/primary").unwrap();
        let check = check.with_port(role.unwrap().try_into().unwrap());
        let checked = Checked::new(check, settings).unwrap();
        let (board, (publisher, source)) = (checked.board(), publisher());

        let runtime = TokioRuntime::current();
        let server = Server::new(AddressDialer::default(), runtime.clone(), Settings::default());
        let server = server.unwrap();
        let handle = server.handle();
        let options = TcpOptions::default();
        let listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let address = listener.local_address().unwrap();
        server.listen(listener, SocketRelay::default(), runtime);
        handle.follow(checked.updates(source));
        let world = Self { backends, publisher, board, handle, address, _server: server };
        world.publisher.publish(world.set(|_| true));
        world
    }

    /// The backends that are wanted, by their numbers.
    fn set(&self, is_wanted: impl Fn(u8) -> bool) -> BackendSet<Address> {
        let wanted = self.backends.iter().filter(|backend| is_wanted(backend.number));
        BackendSet::new(wanted.map(|b| (format!("n{}", b.number), b.address.into()))).unwrap()
    }

    /// Waits until these backends are in force.
    async fn until(&self, backends: &[u8]) {
        let wanted = self.set(|number| backends.contains(&number));
        let is_in_force = || self.handle.snapshot().set.as_ref() == Some(&wanted);
        self.eventually("the set", is_in_force).await;
    }

    async fn eventually(&self, about: &str, holds: impl Fn() -> bool) {
        let began = Instant::now();
        while !holds() {
            assert!(began.elapsed() < DEADLINE, "this never came: {about}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A client, and the number of the backend that serves it.
    async fn client(&self) -> (TcpStream, u8) {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        let number = timeout(DEADLINE, client.read_u8()).await.unwrap().unwrap();
        (client, number)
    }
}

/// Waits until a client's connection is reset.
async fn cut(client: &mut TcpStream) {
    let read = timeout(DEADLINE, client.read_u8()).await.expect("the connection goes on");
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
}

/// Sends a byte there and back.
async fn talk(client: &mut TcpStream) {
    client.write_all(b"?").await.unwrap();
    assert_eq!(timeout(DEADLINE, client.read_u8()).await.unwrap().unwrap(), b'?');
}

#[tokio::test]
async fn a_change_of_roles_cuts_the_sessions_of_the_old_primary() {
    let world = World::start(&[200, 503], |_| {}).await;
    world.until(&[2]).await;
    let (mut client, number) = world.client().await;
    assert_eq!(number, 2);
    talk(&mut client).await;
    // It steps down before the other takes over.
    world.backends[0].answers(503);
    cut(&mut client).await;
    world.until(&[]).await;
    world.backends[1].answers(200);
    world.until(&[3]).await;
    assert_eq!(world.client().await.1, 3);
}

#[tokio::test]
async fn a_removal_by_the_source_cuts_while_all_checks_hang() {
    let world = World::start(&[200, 200], |_| {}).await;
    world.until(&[2, 3]).await;
    let mut clients = [world.client().await, world.client().await];
    clients.sort_by_key(|(_, number)| *number);
    for backend in &world.backends {
        backend.answers(HANGS);
    }
    let all_hang = || world.backends.iter().all(|backend| backend.unanswered.load(SeqCst) > 0);
    world.eventually("checks that hang", all_hang).await;
    let before = world.board.verdicts();
    world.publisher.publish(world.set(|number| number == 3));
    cut(&mut clients[0].0).await;
    talk(&mut clients[1].0).await;
    // No verdict has come in between.
    assert_eq!(before.len(), 2);
    let hung = |backend: &Backend| backend.unanswered.load(SeqCst);
    assert_eq!(world.backends.iter().map(hung).collect::<Vec<_>>(), [1, 1]);
}

#[tokio::test]
async fn a_loss_of_the_source_keeps_the_set_and_a_verdict_still_takes_effect() {
    let world = World::start(&[200, 200], |_| {}).await;
    world.until(&[2, 3]).await;
    let mut clients = [world.client().await, world.client().await];
    clients.sort_by_key(|(_, number)| *number);
    world.publisher.lose("no quorum");
    let is_lost = || world.handle.snapshot().source_lost.is_some();
    world.eventually("the loss", is_lost).await;
    for (client, _) in &mut clients {
        talk(client).await;
    }
    world.backends[0].answers(503);
    cut(&mut clients[0].0).await;
    talk(&mut clients[1].0).await;
    assert!(is_lost(), "a verdict says nothing of the source");
    world.backends[0].answers(200);
    world.until(&[2, 3]).await;
    assert!(is_lost());
}
