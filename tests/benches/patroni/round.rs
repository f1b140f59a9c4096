use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use tokio::time::Instant;

use crate::harness::{Cluster, Entry, Judge, Poller, What, Writers};

/// The clients of a balancer, and what came of each switchover.
pub struct Side {
    pub name: &'static str,
    writers: Writers,
    pub rounds: Vec<Round>,
}

/// What came of one switchover.
pub struct Round {
    cut: Duration,
    promoted: Duration,
    first_row: Duration,
    last_writer: Duration,
    pause: Duration,
    read_only: usize,
    failed: usize,
}

/// What is reported of a switchover.
#[derive(Clone, Copy)]
pub enum Figure {
    Cut,
    Promoted,
    FirstRow,
    LastWriter,
    Pause,
    ReadOnly,
    Failed,
}

impl Figure {
    pub const ALL: [Self; 7] = [
        Self::Promoted,
        Self::Cut,
        Self::FirstRow,
        Self::LastWriter,
        Self::Pause,
        Self::ReadOnly,
        Self::Failed,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Self::Promoted => "until the new primary takes writes, s",
            Self::Cut => "until the last client has left the old primary, s",
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
            Figure::Cut => self.cut.as_secs_f64(),
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
        address: SocketAddr,
        clients: u32,
    ) -> Self {
        let writers = Writers::start(cluster, address, clients as usize).await;
        Self { name, writers, rounds: Vec::new() }
    }
}

/// One switchover, once all clients write; ends when they do so again.
pub async fn switch_over(cluster: &Cluster, sides: &mut [Side]) {
    let old = cluster.settle().await;
    for side in &*sides {
        side.writers.go_on(Instant::now()).await;
    }
    let poller = Poller::start(cluster);
    let began = Instant::now();
    cluster.switch_over(old).await;
    let new = cluster.settle().await;
    for side in &*sides {
        side.writers.arrive(cluster.nodes[new].host, began).await;
    }
    let demoted = poller.first(old, 503, began).unwrap_or(began);
    let writable = poller.first_writable(new, began).unwrap_or(demoted);
    let (old, new) = (cluster.nodes[old].host, cluster.nodes[new].host);
    for side in sides {
        let mut judge = Judge(side.writers.record.entries());
        judge.0.retain(|entry| entry.at >= began);
        let since = |at: Option<Instant>| at.unwrap_or(demoted).saturating_duration_since(demoted);
        let refused = |entry: &&Entry| match &entry.what {
            What::Refused(why) => why.contains("read-only"),
            _ => false,
        };
        let failed = |entry: &&Entry| matches!(entry.what, What::Failed(_));
        side.rounds.push(Round {
            cut: since(last_seen(&judge, old)),
            promoted: writable.saturating_duration_since(demoted),
            first_row: since(judge.first_row(new, demoted)),
            last_writer: since(last_arrival(&judge, new)),
            pause: judge.longest_pause(began),
            read_only: judge.0.iter().filter(refused).count(),
            failed: judge.0.iter().filter(failed).count(),
        });
    }
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
