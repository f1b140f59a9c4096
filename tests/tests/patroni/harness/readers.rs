use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::{Client, NoTls};

use super::{eventually, wait::DEADLINE};

/// A client that reads, and then keeps its connection.
pub(crate) struct Reader {
    _client: Client,
    pub(crate) node: Ipv4Addr,
    pub(crate) is_replica: bool,
    /// Ends when the connection does.
    end: JoinHandle<Instant>,
}

impl Reader {
    /// `None`: no connection came about.
    async fn connect(address: SocketAddr) -> Option<Self> {
        let (host, port) = (address.ip(), address.port());
        let parameters = format!("host={host} port={port} user=postgres");
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.ok()?;
        let end = tokio::spawn(async move {
            let _ = connection.await;
            Instant::now()
        });
        let query = "SELECT host(inet_server_addr()), pg_is_in_recovery()";
        let row = client.query_one(query, &[]).await.ok()?;
        let (node, is_replica) = (row.get::<_, &str>(0).parse().unwrap(), row.get(1));
        Some(Self { _client: client, node, is_replica, end })
    }

    /// As many, each of which must be served.
    pub(crate) async fn several(address: SocketAddr, count: usize) -> Vec<Self> {
        let mut readers = Vec::new();
        for _ in 0..count {
            let connect = async || Self::connect(address).await;
            readers.push(eventually("a reader", connect).await);
        }
        readers
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.end.is_finished()
    }

    /// Waits until somebody else ends the connection. Returns when that was.
    pub(crate) async fn end(self) -> Instant {
        let cut = async || self.end.is_finished().then_some(());
        eventually("the end of a reader's connection", cut).await;
        self.end.await.unwrap()
    }
}

/// Clients that come all the time, one after the other: if a node is used for a moment only, one of them
/// is sent there.
pub(crate) struct Visitors {
    stop: watch::Sender<bool>,
    task: JoinHandle<Vec<Option<Ipv4Addr>>>,
}

impl Visitors {
    pub(crate) fn start(address: SocketAddr) -> Self {
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move {
            let mut nodes = Vec::new();
            while !*stopped.borrow() {
                let reader = timeout(DEADLINE, Reader::connect(address)).await;
                nodes.push(reader.ok().flatten().map(|reader| reader.node));
                sleep(Duration::from_millis(20)).await;
            }
            nodes
        });
        Self { stop, task }
    }

    /// Ends them. Returns the node that each was sent to, `None` for one that wasn't served.
    pub(crate) async fn stop(self) -> Vec<Option<Ipv4Addr>> {
        self.stop.send(true).unwrap();
        self.task.await.unwrap()
    }
}
