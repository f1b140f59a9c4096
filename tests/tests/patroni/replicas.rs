//! A second service, for reads.

use std::{collections::BTreeSet, net::SocketAddr};

use tokio::time::Instant;

use super::harness::{BOUND, Balancer, Cluster, PAUSE_MAX, Poller, Reader, eventually, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_are_spread_over_the_replicas_whichever_they_are() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::replicas(&cluster);
    let address = tinylb.address();
    for attempt in 1.. {
        let old = cluster.settle().await;
        assert_spread(&cluster, old, address).await;
        let readers = Reader::several(address, 6).await;
        let poller = Poller::ask(&cluster, "/replica");
        let began = Instant::now();
        cluster.switch_over(old).await;
        let new = cluster.settle().await;
        assert_spread(&cluster, new, address).await;
        let (old, promoted) = (&cluster.nodes[old], &cluster.nodes[new]);
        let known = tinylb.logged(&["no longer passes", &promoted.name, "503"], began);
        assert!(known.is_some(), "nothing was logged of the new primary");

        // PostgreSQL itself keeps its readers when it is promoted.
        let mut last = None;
        for reader in readers {
            if reader.node == promoted.host {
                last = last.max(Some(reader.end().await));
            } else if reader.node != old.host {
                assert!(reader.is_connected(), "the reader of a replica that stayed one was cut");
            }
        }
        let last = last.expect("a reader of the node that was promoted");
        let demoted = poller.first(new, 503, began).unwrap();
        let cut = last.saturating_duration_since(demoted);
        say(&format!("a replica is promoted: its readers cut {cut:?} after the first 503"));
        if poller.longest_pause(began, last) <= PAUSE_MAX {
            assert!(cut <= BOUND, "{cut:?}");
            break;
        }
        assert!(attempt < 5, "this machine pauses all the time");
    }
    tinylb.stop();
}

/// Clients are sent to all nodes but the primary, and to nobody else.
async fn assert_spread(cluster: &Cluster, primary: usize, address: SocketAddr) {
    let others = cluster.nodes.iter().enumerate().filter(|(place, _)| *place != primary);
    let replicas: BTreeSet<_> = others.map(|(_, node)| node.host).collect();
    eventually("readers at both replicas", async || {
        let readers = Reader::several(address, 4).await;
        let nodes: BTreeSet<_> = readers.iter().map(|reader| reader.node).collect();
        (nodes == replicas && readers.iter().all(|reader| reader.is_replica)).then_some(())
    })
    .await;
}
