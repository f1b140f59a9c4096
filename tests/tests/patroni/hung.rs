//! The primary's REST API hangs, and its PostgreSQL doesn't.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::harness::{Balancer, Cluster, Judge, Poller, Visitors, Writers, eventually, say};

/// Another node takes over although the old one's PostgreSQL is still up and takes writes. Nobody
/// but the balancer keeps clients away from it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_primary_without_patroni_is_left_before_another_takes_over() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    let poller = Poller::start(&cluster);
    let writers = Writers::start(&cluster, tinylb.address(), 20).await;
    let old = cluster.settle().await;
    let direct = cluster.client(old).await;
    let began = Instant::now();
    cluster.nodes[old].stop_patroni();
    let new = cluster.successor(old).await;
    writers.arrive(cluster.nodes[new].host, began).await;
    let recovery = direct.query_one("SELECT pg_is_in_recovery()", &[]).await.unwrap();
    assert!(!recovery.get::<_, bool>(0), "the old primary has noticed");
    sleep(Duration::from_secs(1)).await; // Clients have time to go astray.
    let (visitors, woken) = (Visitors::start(tinylb.address()), Instant::now());
    cluster.nodes[old].go_on();
    let awake = async || poller.first(old, 503, woken);
    eventually("an answer of the old primary", awake).await;
    sleep(Duration::from_secs(1)).await; // Again.
    let (visits, at_new) = (visitors.stop().await, Some(cluster.nodes[new].host));
    assert!(visits.iter().all(|node| *node == at_new), "clients were sent astray: {visits:?}");
    assert_eq!(cluster.successor(old).await, new, "a third node has taken over");
    writers.go_on(Instant::now()).await;

    let judge = Judge(writers.stop().await);
    judge.assert_one_primary();
    judge.assert_no_row_lost(&cluster, new).await;
    let promotion = poller.promotion(&cluster, new, began).unwrap();
    let named = poller.first_successor(old, began).unwrap();
    let old = &cluster.nodes[old];
    let known = tinylb.logged(&["no longer passes", &old.name, "no answer within 1s"], began);
    let known = known.expect("a line that says why the primary is no longer used");
    let wrong = judge.connections(old.host, known);
    assert!(wrong.is_empty(), "clients were sent to the old primary: {wrong:#?}");
    let again = tinylb.logged(&["passes again", &old.name], known);
    assert!(again.is_none(), "the old primary is used again");
    let early = judge.assert_only_resets(known, old.host, &promotion);
    let ends = judge.ends(old.host, began);
    assert_eq!(ends.len(), 20, "each writer had a connection to the old primary");
    let cut = *ends.values().max().unwrap() - began;
    assert!(began + cut < named, "another primary was named before the old one was left");
    let (promoted, named) = (promotion.writable - began, promotion.time());
    let pause = judge.longest_pause(began);
    say(&format!(
        "a primary without Patroni: all cut after {cut:?}, another one after {promoted:?}, the longest \
         pause of a writer {pause:?}; named the primary {named:?} before it took writes, and {early} rows \
         came in that time"
    ));
    tinylb.stop();
}

/// Unless the machine is so slow that another node takes over, the same one is used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_wait_for_a_primary_whose_api_hangs_for_a_moment() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    let poller = Poller::start(&cluster);
    let writers = Writers::start(&cluster, tinylb.address(), 20).await;
    let old = cluster.settle().await;
    let began = Instant::now();
    cluster.nodes[old].stop_patroni();
    let name = cluster.nodes[old].name.clone();
    let texts = ["no longer passes", name.as_str(), "no answer within 1s"];
    let known = eventually("a verdict", async || tinylb.logged(&texts, began)).await;
    let named = poller.first_successor(old, began);
    assert!(named.is_none(), "another primary was named before the old one was left");
    cluster.nodes[old].go_on();
    let new = cluster.settle().await;
    let promotion = async || poller.promotion(&cluster, new, known);
    let promotion = eventually("a primary that takes writes", promotion).await;
    writers.go_on(Instant::now()).await;

    let judge = Judge(writers.stop().await);
    judge.assert_one_primary();
    judge.assert_no_row_lost(&cluster, new).await;
    judge.assert_only_resets(known, cluster.nodes[old].host, &promotion);
    let ends = judge.ends(cluster.nodes[old].host, began);
    assert_eq!(ends.len(), 20, "each writer had a connection to the primary, which was cut");
    let (cut, pause) = (known - began, judge.longest_pause(began));
    let whose = if new == old { "the same node" } else { "another one" };
    say(&format!(
        "an API that hangs: cut after {cut:?}, then {whose} is used; the longest pause {pause:?}"
    ));
    tinylb.stop();
}
