//! Backends that the program keeps registered: what becomes of their keys.

use std::{process::Command, thread, time::Duration};

use etcd_client::{EventType, WatchOptions};
use rustix::process::Signal;

use super::{
    harness::{Cluster, PREFIX, eventually, say},
    tinylb::harness::{Backend, Tinylb, binary, free_address, until},
};

/// `tinylb register`.
pub(crate) fn register(cluster: &Cluster, key: &str, address: &str, more: &[&str]) -> Tinylb {
    let mut command = Command::new(binary());
    command.args(["register", "--etcd", &cluster.endpoints(), "--prefix", PREFIX]);
    command.args(["--key", key, "--address", address]).args(more);
    Tinylb::start(command)
}

/// How many leases there are.
async fn leases(cluster: &Cluster) -> usize {
    cluster.client(0).await.leases().await.unwrap().leases().len()
}

#[tokio::test]
async fn a_backend_is_there_until_its_keeper_gets_the_signal_to_stop_and_leaves_nothing() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "60s"]);
    keeper.line("registered");
    assert_eq!(cluster.value("a").await.as_deref(), Some("127.0.0.1:1"));
    keeper.stop();
    assert_eq!(cluster.value("a").await, None);
    assert_eq!(leases(&cluster).await, 0);
}

#[tokio::test]
async fn a_key_that_is_taken_away_from_a_living_backend_comes_back() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "60s"]);
    keeper.line("registered");
    // By hand, or by somebody who cleans up too much.
    cluster.delete("a").await;
    keeper.lines(2, "registered");
    cluster.until("a", Some("127.0.0.1:1")).await;
    // As etcd before 3.4.31 may do of itself after a change of the leader.
    let mut client = cluster.client(0).await;
    let lease = client.leases().await.unwrap().leases()[0].id();
    client.lease_revoke(lease).await.unwrap();
    keeper.lines(3, "registered");
    cluster.until("a", Some("127.0.0.1:1")).await;
    assert_eq!(leases(&cluster).await, 1);
    keeper.stop();
}

#[tokio::test]
async fn a_backend_that_hung_for_longer_than_its_lease_is_there_again_when_it_goes_on() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "2s"]);
    keeper.line("registered");
    keeper.signal(Signal::STOP);
    cluster.until("a", None).await;
    keeper.signal(Signal::CONT);
    keeper.lines(2, "\"registered\"");
    assert_eq!(cluster.value("a").await.as_deref(), Some("127.0.0.1:1"));
    keeper.stop();
}

#[tokio::test]
async fn two_that_have_one_key_do_not_fight_and_who_is_left_has_it() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let first = register(&cluster, "a", "127.0.0.1:1", &[]);
    first.line("registered");
    let second = register(&cluster, "a", "127.0.0.1:2", &[]);
    first.line("another process has registered this key");
    second.line("\"registered\"");
    // Both find it as it is when they are back.
    cluster.kill(0);
    first.line("etcd lost");
    second.line("etcd lost");
    cluster.restart(0);
    first.lines(2, "another process has registered this key");
    second.lines(2, "\"registered\"");
    // Through a renewal of either lease.
    thread::sleep(Duration::from_secs(3));
    second.stop_and_log(|lines| {
        assert!(!lines.iter().any(|line| line.says("another process")), "{lines:?}");
    });
    first.lines(2, "\"registered\"");
    let history = history(&cluster, "a", from).await;
    let address = |port: u8| Some(format!("127.0.0.1:{port}"));
    assert_eq!(history, [address(1), address(2), None, address(1)]);
}

#[tokio::test]
async fn of_several_that_wait_for_a_key_one_has_it_when_it_is_free() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let mut keepers = Vec::new();
    for port in 1..=4 {
        let keeper = register(&cluster, "a", &format!("127.0.0.1:{port}"), &[]);
        keeper.line("\"registered\"");
        keepers.push(keeper);
    }
    for keeper in &keepers[..3] {
        keeper.line("another process has registered this key");
    }
    keepers.pop().unwrap().stop();
    let again = |keeper: &&Tinylb| {
        keeper.log().iter().filter(|line| line.says("\"registered\"")).count() == 2
    };
    until("another one that has it", || keepers.iter().any(|keeper| again(&keeper)));
    // Who waits looks at it when a renewal is due, at the latest.
    thread::sleep(Duration::from_secs(2));
    let history = history(&cluster, "a", from).await;
    let ports = history.iter().map(|value| value.as_ref().map(|v| v.rsplit(':').next().unwrap()));
    let ports: Vec<_> = ports.collect();
    assert_eq!(ports[..5], [Some("1"), Some("2"), Some("3"), Some("4"), None]);
    assert_eq!(ports.len(), 6, "{ports:?}");
    assert_eq!(keepers.iter().filter(again).count(), 1);
}

#[tokio::test]
async fn a_backend_that_was_killed_and_starts_again_is_there_at_once_and_stays() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let first = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "2s"]);
    first.line("registered");
    first.signal(Signal::KILL);
    let second = register(&cluster, "a", "127.0.0.1:2", &["--ttl", "2s"]);
    second.line("registered");
    assert_eq!(cluster.value("a").await.as_deref(), Some("127.0.0.1:2"));
    let gone = async || (leases(&cluster).await == 1).then_some(());
    eventually("the end of the first one's lease", gone).await;
    assert_eq!(cluster.value("a").await.as_deref(), Some("127.0.0.1:2"));
    second.stop();
}

/// All that ever happened to the key of a backend, from a revision on, up to a last value.
async fn history(cluster: &Cluster, name: &str, from: i64) -> Vec<Option<String>> {
    let options = WatchOptions::new().with_start_revision(from);
    let key = format!("{PREFIX}{name}");
    let mut stream = cluster.client(0).await.watch(key, Some(options)).await.unwrap();
    let last = Some("127.0.0.1:99".to_string());
    cluster.put(name, "127.0.0.1:99").await;
    let mut history = Vec::new();
    while history.last() != Some(&last) {
        for event in stream.message().await.unwrap().unwrap().events() {
            let is_put = event.event_type() == EventType::Put;
            history.push(is_put.then(|| event.kv().unwrap().value_str().unwrap().into()));
        }
    }
    history.pop();
    history
}

#[tokio::test]
async fn a_backend_stays_registered_when_members_hang_and_die() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "5s"]);
    keeper.line("registered");
    for place in 0..3 {
        // The leader stays: what happens to leases without one is the next test's.
        cluster.lead((place + 1) % 3).await;
        // Through more than the time of a lease.
        cluster.freeze(place);
        thread::sleep(Duration::from_secs(6));
        cluster.thaw(place);
        cluster.ready(place).await;
        cluster.kill(place);
        thread::sleep(Duration::from_secs(6));
        cluster.restart(place);
        cluster.ready(place).await;
    }
    let history = history(&cluster, "a", from).await;
    assert_eq!(history, [Some("127.0.0.1:1".into())], "{:?}", keeper.log());
}

/// etcd before 3.4.31 may revoke leases by a leader that hung and wakes up, as it doesn't know yet
/// that others have renewed them.
#[tokio::test]
async fn a_backend_is_registered_again_whatever_a_leader_that_hung_does_to_its_lease() {
    let Some(cluster) = Cluster::start(3).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "2s"]);
    keeper.line("registered");
    for place in 0..3 {
        cluster.lead(place).await;
        cluster.freeze(place);
        thread::sleep(Duration::from_secs(4));
        cluster.thaw(place);
        cluster.ready(place).await;
        cluster.until("a", Some("127.0.0.1:1")).await;
    }
    let history = history(&cluster, "a", from).await;
    say(&format!("leaders that hung: {history:?}"));
    let puts = history.iter().step_by(2).all(|put| put.as_deref() == Some("127.0.0.1:1"));
    let deletions = history.iter().skip(1).step_by(2).all(Option::is_none);
    assert!(puts && deletions && history.len() % 2 == 1, "{history:?}");
}

#[tokio::test]
async fn without_a_majority_a_keeper_waits_and_with_one_the_backend_is_still_there() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let keeper = register(&cluster, "a", "127.0.0.1:1", &["--ttl", "4s"]);
    keeper.line("registered");
    cluster.kill(0);
    cluster.kill(1);
    assert!(keeper.line("etcd lost").says("Connection refused"));
    // Its pauses have grown by then as far as they do, and its lease would be over.
    thread::sleep(Duration::from_secs(8));
    cluster.restart(0);
    cluster.restart(1);
    keeper.lines(2, "\"registered\"");
    cluster.ready(0).await;
    thread::sleep(Duration::from_secs(6));
    assert_eq!(history(&cluster, "a", from).await, [Some("127.0.0.1:1".into())]);
}

#[tokio::test]
async fn a_backend_that_was_away_only_while_etcd_was_is_not_cut() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let from = cluster.put("z", "127.0.0.1:9").await;
    let address = free_address();
    let listener = std::net::TcpListener::bind(&address).unwrap();
    let keeper = register(&cluster, "a", &address, &["--check", "tcp", "--ttl", "60s"]);
    keeper.line("\"registered\"");
    cluster.kill(0);
    drop(listener);
    keeper.line("accepts no connections");
    let _listener = std::net::TcpListener::bind(&address).unwrap();
    // It is looked at each second.
    thread::sleep(Duration::from_secs(3));
    cluster.restart(0);
    cluster.ready(0).await;
    keeper.lines(2, "\"registered\"");
    assert_eq!(history(&cluster, "a", from).await, [Some(address)]);
}

#[tokio::test]
async fn a_backend_is_registered_only_while_it_accepts_connections() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let address = free_address();
    let keeper = register(&cluster, "a", &address, &["--check", "tcp"]);
    assert!(keeper.line("accepts no connections").says("refused"));
    assert_eq!(cluster.value("a").await, None);
    let listener = std::net::TcpListener::bind(&address).unwrap();
    cluster.until("a", Some(&address)).await;
    drop(listener);
    cluster.until("a", None).await;
    keeper.lines(2, "accepts no connections");
    let _backend = Backend::echo_at("a", &address);
    cluster.until("a", Some(&address)).await;
    keeper.stop();
    assert_eq!(cluster.value("a").await, None);
}
