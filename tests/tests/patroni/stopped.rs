//! The primary's machine hangs, and comes back.

use tokio::time::Instant;

use super::harness::{Balancer, Cluster, Judge, Poller, Writers, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_that_wakes_up_after_a_failover_gets_no_client() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    let poller = Poller::start(&cluster);
    let writers = Writers::start(&cluster, tinylb.address(), 20).await;
    let old = cluster.settle().await;
    let began = Instant::now();
    cluster.nodes[old].stop();
    let new = cluster.successor(old).await;
    writers.arrive(cluster.nodes[new].host, began).await;
    let woken = Instant::now();
    cluster.nodes[old].go_on();
    assert_eq!(cluster.settle().await, new, "the old primary has taken over again");
    writers.go_on(Instant::now()).await;

    let judge = Judge(writers.stop().await);
    judge.assert_one_primary();
    judge.assert_no_row_lost(&cluster, new).await;
    let writable = poller.first_writable(new, began).unwrap();
    let (old, new) = (&cluster.nodes[old], &cluster.nodes[new]);
    let known = tinylb.logged(&["no longer passes", &old.name, "no answer within 1s"], began);
    let known = known.expect("a line that says why the primary is no longer used");
    assert!(known < woken);
    let wrong = judge.connections(old.host, known);
    assert!(wrong.is_empty(), "clients were sent to the old primary: {wrong:#?}");
    let (errors, early) = judge.errors_but_early(known, new.host, writable);
    assert!(errors.is_empty(), "once the verdict was known, clients saw errors: {errors:#?}");
    let ends = judge.ends(old.host, began);
    assert_eq!(ends.len(), 20, "each writer had a connection to the old primary");
    let cut = *ends.values().max().unwrap() - began;
    assert!(began + cut < woken, "connections to the old primary outlived its absence");
    let (promoted, pause) = (writable - began, judge.longest_pause(began));
    say(&format!(
        "a primary that hangs: all cut after {cut:?}, another one after {promoted:?}, the longest pause \
         of a writer {pause:?}; {early} came before the new primary took writes"
    ));
    tinylb.stop();
}
