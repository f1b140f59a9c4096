//! The primary's PostgreSQL dies, and its Patroni doesn't.

use tokio::time::Instant;

use super::harness::{Balancer, Cluster, Entry, Judge, Poller, What, Writers, eventually, say};

/// Patroni starts PostgreSQL again at the same node, or another node takes over. Which one it is, is up
/// to Patroni.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_lost_when_postgresql_is_killed() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    let poller = Poller::start(&cluster);
    let writers = Writers::start(&cluster, tinylb.address(), 20).await;
    let old = cluster.settle().await;
    let began = Instant::now();
    cluster.nodes[old].kill_postgres();
    let host = cluster.nodes[old].host;
    let ended = async || {
        let judge = Judge(writers.record.entries());
        (judge.ends(host, began).len() == 20).then_some(())
    };
    eventually("the end of all connections to PostgreSQL", ended).await;
    let new = cluster.settle().await;
    writers.go_on(Instant::now()).await;
    let judge = Judge(writers.stop().await);
    judge.assert_one_primary();
    judge.assert_no_row_lost(&cluster, new).await;
    // Patroni answers that its node is the primary while it starts PostgreSQL there. Until that takes
    // writes again, clients can be refused by that node, but none is sent to a replica.
    let down = poller.first_unwritable(old, began).unwrap();
    let promotion = poller.promotion(&cluster, new, down).unwrap();
    let failed = judge.errors(began);
    let primaries = [old, new].map(|place| Some(cluster.nodes[place].host));
    let is_astray = |entry: &&&Entry| {
        matches!(entry.what, What::Refused(_)) && !primaries.contains(&entry.node)
    };
    let astray: Vec<_> = failed.iter().filter(is_astray).collect();
    assert!(astray.is_empty(), "clients wrote to a replica: {astray:#?}");
    // Once it takes writes, or once it was known that another node has to be used, nothing fails.
    let texts = ["no longer passes", &cluster.nodes[old].name, "503"];
    let known = tinylb.logged(&texts, began).unwrap_or(promotion.writable);
    judge.assert_only_resets(known.min(promotion.writable), host, &promotion);
    let whose = if new == old { "the same node" } else { "another one" };
    let (pause, failed) = (judge.longest_pause(began), failed.len());
    say(&format!(
        "PostgreSQL killed: {whose} is the primary, the longest pause of a writer {pause:?}; {failed} \
         attempts failed"
    ));
    tinylb.stop();
}
