use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::harness::{Cluster, Entry, Judge, Poller, Reader, What, Writers, eventually};

/// The clients of a balancer, and what came of each switchover.
pub struct Side {
    pub name: &'static str,
    writers: Writers,
    /// Where readers connect.
    replicas: SocketAddr,
    pub rounds: Vec<Round>,
}

/// What came of one switchover.
pub struct Round {
    /// Negative if that was before.
    reset: f64,
    left: Duration,
    readers: Duration,
    promoted: Duration,
    named: Duration,
    first_row: Duration,
    last_writer: Duration,
    pause: Duration,
    read_only: usize,
    failed: usize,
}

/// What is reported of a switchover.
#[derive(Clone, Copy)]
pub enum Figure {
    Reset,
    Left,
    Readers,
    Promoted,
    Named,
    FirstRow,
    LastWriter,
    Pause,
    ReadOnly,
    Failed,
}

impl Figure {
    pub const ALL: [Self; 10] = [
        Self::Promoted,
        Self::Reset,
        Self::Left,
        Self::FirstRow,
        Self::LastWriter,
        Self::Pause,
        Self::ReadOnly,
        Self::Failed,
        Self::Readers,
        Self::Named,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Promoted => "until the new primary takes writes, s",
            Self::Reset => "until the last connection to the old primary has ended, s",
            Self::Left => "until no client is sent to the old primary any more, s",
            Self::Readers => {
                "from the promoted replica's first 503 until its last reader is reset, s"
            }
            Self::Named => "from Patroni's first 200 until the new primary takes writes, s",
            Self::FirstRow => "until the first row at the new primary, s",
            Self::LastWriter => "until every client has written a row there, s",
            Self::Pause => "longest time between two rows of a client, s",
            Self::ReadOnly => "rows refused, because the node was read-only",
            Self::Failed => "connections that failed",
        }
    }
}

impl Round {
    pub fn value(&self, figure: Figure) -> f64 {
        match figure {
            Figure::Promoted => self.promoted.as_secs_f64(),
            Figure::Reset => self.reset,
            Figure::Left => self.left.as_secs_f64(),
            Figure::Readers => self.readers.as_secs_f64(),
            Figure::Named => self.named.as_secs_f64(),
            Figure::FirstRow => self.first_row.as_secs_f64(),
            Figure::LastWriter => self.last_writer.as_secs_f64(),
            Figure::Pause => self.pause.as_secs_f64(),
            Figure::ReadOnly => self.read_only as f64,
            Figure::Failed => self.failed as f64,
        }
    }
}

impl Side {
    pub async fn start(
        name: &'static str,
        cluster: &Cluster,
        [primary, replicas]: [SocketAddr; 2],
        clients: u32,
    ) -> Self {
        let writers = Writers::start(cluster, primary, clients as usize).await;
        Self { name, writers, replicas, rounds: Vec::new() }
    }
}

/// One switchover, once all clients write; ends when they do so again.
pub async fn switch_over(cluster: &Cluster, sides: &mut [Side]) {
    let old = cluster.settle().await;
    let mut readers = Vec::new();
    for side in &*sides {
        side.writers.go_on(Instant::now()).await;
        readers.push(connect(side.replicas, cluster, old).await);
    }
    let [poller, of_replicas] = ["/primary", "/replica"].map(|path| Poller::ask(cluster, path));
    let began = Instant::now();
    cluster.switch_over(old).await;
    let new = cluster.settle().await;
    for side in &*sides {
        side.writers.arrive(cluster.nodes[new].host, began).await;
    }
    let demoted = poller.first(old, 503, began).unwrap_or(began);
    let promoted = of_replicas.first(new, 503, began).unwrap_or(began);
    let promotion = poller.promotion(cluster, new, began).expect("it takes writes");
    let (old, new) = (cluster.nodes[old].host, cluster.nodes[new].host);
    for (side, readers) in sides.iter_mut().zip(readers) {
        let mut judge = Judge(side.writers.record.entries());
        judge.0.retain(|entry| entry.at >= began);
        let since = |at: Option<Instant>| at.unwrap_or(demoted).saturating_duration_since(demoted);
        let reset = judge.ends(old, began).into_values().max().unwrap_or(demoted);
        let refused = |entry: &&Entry| match &entry.what {
            What::Refused(why) => why.contains("read-only"),
            _ => false,
        };
        let failed = |entry: &&Entry| matches!(entry.what, What::Failed(_));
        side.rounds.push(Round {
            reset: seconds(demoted, reset),
            left: since(last_seen(&judge, old)),
            readers: last_end(readers, new).await.saturating_duration_since(promoted),
            promoted: promotion.writable.saturating_duration_since(demoted),
            named: promotion.time(),
            first_row: since(judge.first_row(new, demoted)),
            last_writer: since(last_arrival(&judge, new)),
            pause: judge.longest_pause(began),
            read_only: judge.0.iter().filter(refused).count(),
            failed: judge.0.iter().filter(failed).count(),
        });
    }
}

/// Readers, once there is one at each replica: one of these is promoted.
async fn connect(address: SocketAddr, cluster: &Cluster, primary: usize) -> Vec<Reader> {
    eventually("readers at all replicas", async || {
        let readers = Reader::several(address, 4).await;
        let others = cluster.nodes.iter().enumerate().filter(|(place, _)| *place != primary);
        let is_used = |host| readers.iter().any(|reader| reader.node == host);
        let are_all_used = others.map(|(_, node)| node.host).all(is_used);
        are_all_used.then_some(readers)
    })
    .await
}

/// When the last of the readers of a node was reset.
async fn last_end(readers: Vec<Reader>, node: Ipv4Addr) -> Instant {
    let mut last = None;
    for reader in readers.into_iter().filter(|reader| reader.node == node) {
        last = last.max(Some(reader.end().await));
    }
    last.expect("each replica has a reader")
}

fn seconds(from: Instant, to: Instant) -> f64 {
    to.saturating_duration_since(from).as_secs_f64()
        - from.saturating_duration_since(to).as_secs_f64()
}

/// When a client last noticed anything of a node.
fn last_seen(judge: &Judge, node: Ipv4Addr) -> Option<Instant> {
    judge.0.iter().filter(|entry| entry.node == Some(node)).map(|entry| entry.at).max()
}

/// When the last of the clients had its first row acknowledged by a node.
fn last_arrival(judge: &Judge, node: Ipv4Addr) -> Option<Instant> {
    let mut first = BTreeMap::new();
    for entry in judge.0.iter().filter(|entry| entry.node == Some(node)) {
        if matches!(entry.what, What::Acknowledged { .. }) {
            first.entry(entry.client).or_insert(entry.at);
        }
    }
    first.into_values().max()
}
