//! Members that die, hang and lose each other.

use std::{net::SocketAddr, time::Duration};

use tinylb_tokio::EtcdOptions;
use tokio::time::Instant;

use super::harness::{Cluster, PREFIX, Process, Relay, Reports, eventually, own_host, say};

/// Three members, each behind a network of its own, and a source that uses them.
struct Three {
    cluster: Cluster,
    relays: Vec<Relay>,
    reports: Reports,
}

impl Three {
    /// Once the source has reported its first backend.
    async fn start() -> Option<Self> {
        let cluster = Cluster::start(3).await?;
        let mut relays = Vec::new();
        for place in 0..3 {
            relays.push(Relay::to(cluster.address(place)).await);
        }
        cluster.put("a", "127.0.0.1:1").await;
        let mut reports = Reports::by(EtcdOptions::new(relays.iter().map(Relay::url), PREFIX));
        reports.until("a=127.0.0.1:1").await;
        Some(Self { cluster, relays, reports })
    }

    /// The member that the source is connected to.
    async fn used(&self) -> usize {
        let used = async || self.relays.iter().position(|relay| relay.live() > 0);
        eventually("a connection", used).await
    }

    /// Sets another backend, by a member that answers, and waits until the source reports it.
    async fn goes_on(&mut self, what: &str) {
        let began = Instant::now();
        self.cluster.put("b", "127.0.0.1:2").await;
        let put = began.elapsed();
        self.reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
        let seen = began.elapsed();
        let lost = self.reports.lost();
        say(&format!("{what}: a put took {put:?}, it was reported after {seen:?}; a loss: {lost}"));
        assert!(seen < Duration::from_secs(12), "{seen:?}");
    }
}

#[tokio::test]
async fn a_leader_that_dies_stops_nothing() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    three.cluster.lead(used).await;
    three.cluster.kill(used);
    three.goes_on("the leader killed").await;
    three.cluster.restart(used);
    three.cluster.ready(used).await;
    three.cluster.delete("b").await;
    three.reports.until("a=127.0.0.1:1").await;
}

#[tokio::test]
async fn a_member_that_dies_costs_no_loss() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    // Else there would be no leader for a moment.
    three.cluster.lead((used + 1) % 3).await;
    three.cluster.kill(used);
    three.goes_on("a follower killed").await;
    assert!(!three.reports.lost(), "{:#?}", three.reports.all);
}

#[tokio::test]
async fn a_member_that_hangs_is_left_for_another() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    three.cluster.lead((used + 1) % 3).await;
    three.cluster.freeze(used);
    three.goes_on("a follower stopped").await;
    assert!(!three.reports.lost(), "{:#?}", three.reports.all);
    three.cluster.thaw(used);
}

#[tokio::test]
async fn a_leader_that_hangs_and_wakes_up_brings_nothing_old_back() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    three.cluster.lead(used).await;
    three.cluster.freeze(used);
    three.goes_on("the leader stopped").await;
    three.cluster.thaw(used);
    three.cluster.put("a", "127.0.0.1:3").await;
    three.reports.until("a=127.0.0.1:3 b=127.0.0.1:2").await;
    let sets: Vec<_> =
        three.reports.all.iter().filter(|report| !report.starts_with("lost")).collect();
    let before = ["a=127.0.0.1:1", "a=127.0.0.1:1 b=127.0.0.1:2"];
    let mut places = sets.iter().map(|set| before.iter().position(|b| b == *set).unwrap_or(2));
    assert!(places.by_ref().is_sorted(), "{:#?}", three.reports.all);
}

#[tokio::test]
async fn a_member_that_cannot_be_reached_any_more_is_left_for_another() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    three.relays[used].freeze();
    three.goes_on("the network to the member dead").await;
    assert!(!three.reports.lost(), "{:#?}", three.reports.all);
}

#[tokio::test]
async fn a_quiet_watch_stays_on_its_connection() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    // Longer than a member may be silent.
    three.reports.nothing_for(Duration::from_secs(8)).await;
    let live: Vec<_> = three.relays.iter().map(Relay::live).collect();
    assert_eq!(live, [0, 1, 2].map(|place| usize::from(place == used)));
}

/// It answers no request for a watch's progress, for one.
#[tokio::test]
async fn a_proxy_serves_as_a_member() {
    let Some(cluster) = Cluster::start(1).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    let at = SocketAddr::new(own_host().into(), 2379);
    let mut proxy = Process::proxy(&[cluster.address(0)], at);
    proxy.start().unwrap();
    let relay = Relay::to(at).await;
    let mut reports = Reports::by(EtcdOptions::new([relay.url()], PREFIX));
    reports.until("a=127.0.0.1:1").await;
    let losses = reports.all.len();
    reports.nothing_for(Duration::from_secs(8)).await;
    assert_eq!(relay.made(), 1, "a proxy that is quiet was left, and asked for all again");
    cluster.put("b", "127.0.0.1:2").await;
    reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
    cluster.delete("a").await;
    reports.until("b=127.0.0.1:2").await;
    assert_eq!(reports.all.len(), losses + 2, "{:#?}", reports.all);
    proxy.kill();
    reports.until_lost(&["unreachable"]).await;
}

#[tokio::test]
async fn without_a_majority_it_is_lost_with_the_causes_and_with_one_it_is_back() {
    let Some(mut three) = Three::start().await else { return };
    let used = three.used().await;
    let others = [(used + 1) % 3, (used + 2) % 3];
    for place in others {
        three.cluster.kill(place);
    }
    let began = Instant::now();
    let reason = three.reports.until_lost(&["no leader", "unreachable"]).await;
    say(&format!("lost {:?} after the majority was killed: {reason}", began.elapsed()));
    for relay in &three.relays {
        assert!(reason.contains(&relay.url()), "{reason}");
    }
    // While a member says so, it is asked often, however long that takes.
    for _ in 0..8 {
        let began = Instant::now();
        three.reports.until_lost(&["no leader"]).await;
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    }
    for place in others {
        three.cluster.restart(place);
    }
    three.cluster.put("b", "127.0.0.1:2").await;
    let began = Instant::now();
    three.reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
    let back = began.elapsed();
    say(&format!("right {back:?} after the majority took a change again"));
    assert!(back < Duration::from_secs(5), "{back:?}");
}

#[tokio::test]
async fn a_member_that_is_cut_off_from_the_others_is_lost() {
    let Some(cluster) = Cluster::start(3).await else { return };
    cluster.put("a", "127.0.0.1:1").await;
    let mut reports = Reports::by(EtcdOptions::new([cluster.url(0)], PREFIX));
    reports.until("a=127.0.0.1:1").await;
    // Such is a member without the others.
    cluster.freeze(1);
    cluster.freeze(2);
    let began = Instant::now();
    reports.until_lost(&["it has no quorum: no leader", &cluster.url(0)]).await;
    let lost = began.elapsed();
    say(&format!("lost {lost:?} after the member was cut off"));
    assert!(lost < Duration::from_secs(8), "{lost:?}");
    cluster.thaw(1);
    cluster.thaw(2);
    cluster.put("b", "127.0.0.1:2").await;
    reports.until("a=127.0.0.1:1 b=127.0.0.1:2").await;
}
