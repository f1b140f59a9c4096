//! Balancers that follow etcd, with their clients and backends.

mod churn;

use std::{io, time::Duration};

use tokio::time::{Instant, timeout};

use super::harness::{Backends, Balancer, Client, Cluster, DEADLINE, Talker, eventually, say};

/// How long a change may take to be in force once all is well.
const LAG_MAX: Duration = Duration::from_secs(5);

/// Waits until each of these has been heard so much oftener.
async fn all_go_on(talkers: &[Talker]) {
    const ROUNDS: usize = 100;
    let before: Vec<_> = talkers.iter().map(Talker::rounds).collect();
    eventually("talk of every client", async || {
        for talker in talkers {
            assert!(!talker.is_over(), "a client of {} was cut", talker.backend);
        }
        talkers.iter().zip(&before).all(|(t, before)| t.rounds() >= before + ROUNDS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn traffic_flows_while_etcd_has_no_majority_and_what_changed_arrives_when_it_has_one() {
    let Some(mut cluster) = Cluster::start(3).await else { return };
    let backends = Backends::start().await;
    let [a, b, other] = [1, 2, 3].map(|number| backends.address(number));
    cluster.put("a", &a.to_string()).await;
    cluster.put("b", &b.to_string()).await;
    let balancer = Balancer::following(cluster.options());
    let mut talkers = Vec::new();
    for _ in 0..6 {
        talkers.push(Talker::connect(balancer.front()).await.unwrap());
    }
    all_go_on(&talkers).await;

    cluster.kill(0);
    cluster.kill(1);
    let began = Instant::now();
    let lost = async || balancer.snapshot().source_lost;
    let reason = eventually("a loss", lost).await;
    say(&format!("the majority killed: lost after {:?}: {reason}", began.elapsed()));
    all_go_on(&talkers).await;
    for _ in 0..6 {
        talkers.push(Talker::connect(balancer.front()).await.unwrap());
    }
    all_go_on(&talkers).await;
    for backend in [a, b] {
        assert_eq!(talkers.iter().filter(|t| t.backend == backend).count(), 6, "{backend}");
    }
    let snapshot = balancer.snapshot();
    assert!(snapshot.source_lost.is_some(), "it is back without a majority");
    assert_eq!(balancer.seen().in_force.len(), 1);

    cluster.restart(0);
    cluster.restart(1);
    cluster.put("a", &other.to_string()).await;
    let began = Instant::now();
    let (moved, stayed): (Vec<_>, Vec<_>) = talkers.into_iter().partition(|t| t.backend == a);
    for talker in moved {
        let end = timeout(DEADLINE, talker.end()).await.expect("a client of the old target is cut");
        assert_eq!(end, io::ErrorKind::ConnectionReset);
    }
    let lag = began.elapsed();
    say(&format!("a majority again: a change was in force {lag:?} after etcd took it"));
    assert!(lag < LAG_MAX, "{lag:?}");
    all_go_on(&stayed).await;
    let mut served = Vec::new();
    for _ in 0..2 {
        served.push(Client::connect(balancer.front()).await.unwrap().backend);
    }
    served.sort();
    assert_eq!(served, [b, other]);
    assert_eq!(balancer.snapshot().source_lost, None);
}
