//! What is under the prefix is what the source reports.

use std::time::Duration;

use etcd_client::{DeleteOptions, Txn, TxnOp};
use tokio::time::Instant;

use super::harness::{Cluster, PREFIX, Reports, say};

#[tokio::test]
async fn each_change_reaches_the_balancer() {
    let Some(cluster) = Cluster::start(1).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    let mut reports = Reports::by(cluster.options());
    reports.until("a=127.0.0.1:1").await;
    cluster.put("b", r#"{"address": "[::1]:2", "zone": "x"}"#).await;
    reports.until("a=127.0.0.1:1 b=[::1]:2").await;
    cluster.put("a", "unix:/run/a").await;
    reports.until("a=unix:/run/a b=[::1]:2").await;
    cluster.delete("a").await;
    reports.until("b=[::1]:2").await;
    cluster.delete("b").await;
    reports.until("").await;
    // And nothing else was reported.
    assert_eq!(reports.all.len(), 5, "{:#?}", reports.all);
}

#[tokio::test]
async fn what_is_beside_the_prefix_is_no_backend() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let mut reports = Reports::by(cluster.options());
    reports.until_lost(&["no key begins with /lb/web/"]).await;
    let mut client = cluster.client(0).await;
    for key in ["/lb/web", "/lb/web2/a", "/lb/we/a", "/lb/web0"] {
        client.put(key, "127.0.0.1:1", None).await.unwrap();
    }
    cluster.put("a", "127.0.0.1:2").await;
    reports.until("a=127.0.0.1:2").await;
    assert_eq!(reports.all.len(), 2, "{:#?}", reports.all);
}

#[tokio::test]
async fn a_prefix_is_empty_once_its_keys_are_deleted_and_not_where_they_never_were() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    cluster.put("b", "127.0.0.1:2").await;
    let mut reports = Reports::by(cluster.options());
    reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
    // All in one transaction, which somebody has asked for.
    let all = DeleteOptions::new().with_prefix();
    cluster.client(0).await.delete(PREFIX, Some(all)).await.unwrap();
    reports.until("").await;
    // A source that begins now knows of no deletion.
    let mut next = Reports::by(cluster.options());
    next.until_lost(&["no key begins with /lb/web/, and none was deleted"]).await;
    cluster.put("a", "127.0.0.1:1").await;
    reports.until("a=127.0.0.1:1").await;
    next.until("a=127.0.0.1:1").await;
    // What comes back without its data knows of none either.
    cluster.kill(0);
    cluster.wipe(0);
    reports.until_lost(&["unreachable"]).await;
    cluster.restart(0);
    reports.until_lost(&["no key begins with /lb/web/"]).await;
    assert_eq!(
        reports.all.iter().filter(|report| report.is_empty()).count(),
        1,
        "{:#?}",
        reports.all
    );
}

#[tokio::test]
async fn an_entry_that_is_no_address_is_reported_with_its_key() {
    let Some(cluster) = Cluster::start(1).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    cluster.put("bad", "127.0.0.1").await;
    let mut reports = Reports::by(cluster.options());
    let cause = "`127.0.0.1` has no port: write HOST:PORT, [IPV6]:PORT or unix:/PATH";
    reports.until(&format!("a=127.0.0.1:1 !bad: {cause}")).await;
    cluster.put("bad", "127.0.0.1:2").await;
    reports.until("a=127.0.0.1:1 bad=127.0.0.1:2").await;
}

#[tokio::test]
async fn every_set_of_a_burst_was_in_etcd_and_the_last_one_is_right() {
    const CHANGES: usize = 500;
    let Some(cluster) = Cluster::start(1).await else { return };
    cluster.put("0", "127.0.0.1:1").await;
    let mut reports = Reports::by(cluster.options());
    reports.until("0=127.0.0.1:1").await;
    let mut client = cluster.client(0).await;
    let key = |place: usize| format!("{PREFIX}{place}");
    let began = Instant::now();
    for place in 1..=CHANGES {
        // The one goes and the other comes at one revision: there is always one.
        let step =
            [TxnOp::delete(key(place - 1), None), TxnOp::put(key(place), "127.0.0.1:1", None)];
        client.txn(Txn::new().and_then(step)).await.unwrap();
    }
    let changed = began.elapsed();
    reports.until(&format!("{CHANGES}=127.0.0.1:1")).await;
    let lag = began.elapsed() - changed;
    let places = reports.all.iter().map(|set| {
        let place = set.strip_suffix("=127.0.0.1:1").and_then(|place| place.parse().ok());
        place.unwrap_or_else(|| panic!("this was never in etcd: {set:?}"))
    });
    let places: Vec<usize> = places.collect();
    assert!(places.is_sorted(), "{places:?}");
    let sets = places.len();
    say(&format!("{CHANGES} changes in {changed:?}: {sets} sets, the last {lag:?} later"));
    assert!(lag < Duration::from_secs(5), "{lag:?}");
}
