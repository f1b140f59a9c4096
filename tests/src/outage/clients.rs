use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until},
};

/// What a client noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// When it came, counted from the first client.
    pub came: Duration,
    /// Time from then until it was greeted or gave up.
    pub waited: Duration,
    /// The number of the backend that greeted it. `None`: its connection was closed or reset.
    pub backend: Option<u8>,
}

/// Connects and reads the backend's number. The connection stays open until it is dropped.
///
/// # Errors
/// Why no backend has greeted.
pub async fn visit(address: SocketAddr) -> io::Result<(TcpStream, u8)> {
    let mut stream = TcpStream::connect(address).await?;
    let number = stream.read_u8().await?;
    Ok((stream, number))
}

/// Clients that come at a steady rate, however long those before them wait, and leave once they are
/// greeted. In the order in which they came.
pub async fn at_rate(address: SocketAddr, count: u32, per_second: u32) -> Vec<Outcome> {
    let began = Instant::now();
    let mut clients = JoinSet::new();
    for turn in 0..count {
        let came = Duration::from_secs(1) * turn / per_second;
        clients.spawn(client(address, began, came));
    }
    let mut outcomes = clients.join_all().await;
    outcomes.sort_by_key(|outcome| outcome.came);
    outcomes
}

/// Clients that all come at one moment.
pub async fn at_once(address: SocketAddr, count: u32) -> Vec<Outcome> {
    let (began, mut clients) = (Instant::now(), JoinSet::new());
    for _ in 0..count {
        clients.spawn(client(address, began, Duration::ZERO));
    }
    clients.join_all().await
}

/// Clients each of which comes when the one before it has been greeted or has failed.
pub async fn one_by_one(address: SocketAddr, count: u32) -> Vec<Outcome> {
    let (began, mut outcomes) = (Instant::now(), Vec::new());
    for _ in 0..count {
        outcomes.push(client(address, began, began.elapsed()).await);
    }
    outcomes
}

async fn client(address: SocketAddr, began: Instant, came: Duration) -> Outcome {
    sleep_until(began + came).await;
    let visit = visit(address).await;
    let waited = began.elapsed() - came;
    Outcome { came, waited, backend: visit.ok().map(|(_, number)| number) }
}
