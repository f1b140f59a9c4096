//! A second service, for reads.

use std::{collections::BTreeSet, net::SocketAddr};

use tokio::time::Instant;
use tokio_postgres::{Client, NoTls};

use super::harness::{Balancer, CHECK, Cluster, eventually, service};

/// A client that reads.
struct Reader {
    client: Client,
    node: String,
    is_replica: bool,
}

impl Reader {
    /// `None`: no connection came about.
    async fn connect(address: SocketAddr) -> Option<Self> {
        let (host, port) = (address.ip(), address.port());
        let parameters = format!("host={host} port={port} user=postgres");
        let (client, connection) = tokio_postgres::connect(&parameters, NoTls).await.ok()?;
        tokio::spawn(connection);
        let query = "SELECT host(inet_server_addr()), pg_is_in_recovery()";
        let row = client.query_one(query, &[]).await.ok()?;
        let (node, is_replica) = (row.get(0), row.get(1));
        Some(Self { client, node, is_replica })
    }

    /// As many, each of which must be served.
    async fn several(address: SocketAddr, count: usize) -> Vec<Self> {
        let mut readers = Vec::new();
        for _ in 0..count {
            let connect = async || Self::connect(address).await;
            readers.push(eventually("a reader", connect).await);
        }
        readers
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_spread_over_the_replicas_whichever_they_are() {
    let Some(cluster) = Cluster::start().await else { return };
    let reads = service(&cluster, "reads", &CHECK.replace("/primary", "/replica"));
    let tinylb = Balancer::start(&reads);
    let address = tinylb.address();
    let old = cluster.settle().await;
    assert_spread(&cluster, old, address).await;

    let readers = Reader::several(address, 6).await;
    let began = Instant::now();
    cluster.switch_over(old).await;
    let new = cluster.settle().await;
    let promoted = &cluster.nodes[new];
    // PostgreSQL itself keeps its readers when it is promoted.
    for reader in readers.iter().filter(|reader| reader.node == promoted.host.to_string()) {
        let cut = async || reader.client.is_closed().then_some(());
        eventually("the end of a reader's connection to the new primary", cut).await;
    }
    let known = tinylb.logged(&["no longer passes", &promoted.name], began);
    assert!(known.is_some(), "nothing was logged of the new primary");
    assert_spread(&cluster, new, address).await;
    let kept = |reader: &&Reader| {
        reader.node != promoted.host.to_string()
            && reader.node != cluster.nodes[old].host.to_string()
    };
    for reader in readers.iter().filter(kept) {
        assert!(!reader.client.is_closed(), "a replica's reader was cut, though it stayed one");
    }
    tinylb.stop();
}

/// Clients are sent to all nodes but the primary, and to nobody else.
async fn assert_spread(cluster: &Cluster, primary: usize, address: SocketAddr) {
    let others = cluster.nodes.iter().enumerate().filter(|(place, _)| *place != primary);
    let replicas: BTreeSet<String> = others.map(|(_, node)| node.host.to_string()).collect();
    eventually("readers at both replicas", async || {
        let readers = Reader::several(address, 4).await;
        let nodes: BTreeSet<String> = readers.iter().map(|reader| reader.node.clone()).collect();
        (nodes == replicas && readers.iter().all(|reader| reader.is_replica)).then_some(())
    })
    .await;
}
