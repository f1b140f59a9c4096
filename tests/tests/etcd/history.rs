//! What a watch alone would miss: compacted changes, lost deletions, a restored backup.

use std::time::Duration;

use etcd_client::CompactionOptions;
use tinylb_tokio::EtcdOptions;
use tokio::time::Instant;

use super::harness::{Cluster, PREFIX, Relay, Reports, eventually, say};

/// No comparison comes to help.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

fn options(relay: &Relay, resync: Duration) -> EtcdOptions {
    let mut options = EtcdOptions::new([relay.url()], PREFIX);
    options.resync = resync;
    options
}

async fn compact(cluster: &Cluster, revision: i64) {
    let options = CompactionOptions::new().with_physical();
    cluster.client(0).await.compact(revision, Some(options)).await.unwrap();
}

#[tokio::test]
async fn changes_that_are_compacted_before_they_are_watched_are_listed() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let relay = Relay::to(cluster.address(0)).await;
    cluster.put("a", "127.0.0.1:1").await;
    // The source has its list, and its watch doesn't reach the member yet.
    relay.hold_at("127.0.0.1:1");
    let mut reports = Reports::by(options(&relay, NEVER));
    eventually("a list", async || relay.is_held().then_some(())).await;
    cluster.put("b", "127.0.0.1:2").await;
    cluster.delete("a").await;
    compact(&cluster, cluster.put("c", "127.0.0.1:3").await).await;
    relay.release();
    reports.until("b=127.0.0.1:2 c=127.0.0.1:3").await;
    cluster.delete("b").await;
    reports.until("c=127.0.0.1:3").await;
    assert!(!reports.lost(), "{:#?}", reports.all);
}

#[tokio::test]
async fn changes_that_are_compacted_while_there_is_no_connection_are_listed() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let relay = Relay::to(cluster.address(0)).await;
    cluster.put("a", "127.0.0.1:1").await;
    let mut reports = Reports::by(options(&relay, NEVER));
    reports.until("a=127.0.0.1:1").await;
    relay.set_cut(true);
    reports.until_lost(&[&relay.url()]).await;
    cluster.delete("a").await;
    compact(&cluster, cluster.put("b", "127.0.0.1:2").await).await;
    relay.set_cut(false);
    reports.until("b=127.0.0.1:2").await;
}

/// etcd before 3.4.34 and 3.5.16 doesn't report a deletion to a watch that begins at its very
/// revision, if that is the revision that is compacted (etcd's issue 18089).
#[tokio::test]
async fn a_deletion_that_etcd_forgets_is_found_by_the_next_comparison() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let relay = Relay::to(cluster.address(0)).await;
    for _ in 0..3 {
        cluster.put("k", "127.0.0.1:1").await;
    }
    relay.hold_at("127.0.0.1:1");
    let mut reports = Reports::by(options(&relay, Duration::from_secs(2)));
    eventually("a list", async || relay.is_held().then_some(())).await;
    let deleted = cluster.delete("k").await;
    cluster.put("b", "127.0.0.1:2").await;
    compact(&cluster, deleted).await;
    relay.release();
    reports.until("k=127.0.0.1:1").await;
    reports.until("b=127.0.0.1:2").await;
    let forgot = reports.all.contains(&"b=127.0.0.1:2 k=127.0.0.1:1".to_string());
    let status = cluster.client(0).await.status().await.unwrap();
    say(&format!("etcd {} forgot the deletion: {forgot}", status.version()));
}

#[tokio::test]
async fn what_a_watch_never_reports_is_found_by_the_next_comparison() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let relay = Relay::to(cluster.address(0)).await;
    cluster.put("k", "127.0.0.1:1").await;
    cluster.put("v", "127.0.0.1:2").await;
    let mut reports = Reports::by(options(&relay, Duration::from_secs(2)));
    reports.until("k=127.0.0.1:1 v=127.0.0.1:2").await;
    let lost = async |losses: usize| {
        eventually("a loss", async || (relay.lost() == losses).then_some(())).await;
    };

    // A deletion.
    relay.lose(Some("/lb/web/k"));
    cluster.delete("k").await;
    lost(1).await;
    relay.lose(None);
    cluster.put("c", "127.0.0.1:3").await;
    reports.until("c=127.0.0.1:3 v=127.0.0.1:2").await;

    // Another value of a key, which changes no count.
    relay.lose(Some("/lb/web/v"));
    cluster.put("v", "127.0.0.1:4").await;
    lost(2).await;
    relay.lose(None);
    cluster.put("c", "127.0.0.1:5").await;
    reports.until("c=127.0.0.1:5 v=127.0.0.1:4").await;
    assert!(!reports.lost(), "{:#?}", reports.all);
}

#[tokio::test]
async fn a_restored_backup_is_taken_but_not_at_once() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    for port in 1..20 {
        cluster.put("a", &format!("127.0.0.1:{port}")).await;
    }
    let mut reports = Reports::by(cluster.options());
    reports.until("a=127.0.0.1:19").await;
    cluster.kill(0);
    cluster.wipe(0);
    reports.until_lost(&["unreachable"]).await;
    cluster.restart(0);
    cluster.put("b", "127.0.0.1:2").await;
    reports.until_lost(&["is older than"]).await;
    let began = Instant::now();
    reports.until("b=127.0.0.1:2").await;
    say(&format!("a restored backup was taken {:?} after it was first refused", began.elapsed()));
    assert!(began.elapsed() > Duration::from_secs(9), "{:?}", began.elapsed());
}
