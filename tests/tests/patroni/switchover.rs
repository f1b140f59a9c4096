//! The primary hands over to a replica, as an operator asks.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::{BOUND, Balancer, Cluster, Judge, Poller, Writers, say};

/// A machine that pauses for longer says nothing about the program.
const PAUSE_MAX: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_leave_the_old_primary_in_time_and_no_row_is_lost() {
    let Some(cluster) = Cluster::start().await else { return };
    let tinylb = Balancer::primary(&cluster);
    for attempt in 1.. {
        let poller = Poller::start(&cluster);
        let writers = Writers::start(&cluster, tinylb.address(), 20).await;
        let old = cluster.settle().await;
        let began = Instant::now();
        cluster.switch_over(old).await;
        let new = cluster.settle().await;
        writers.go_on(Instant::now()).await;
        let judge = Judge(writers.stop().await);

        judge.assert_one_primary();
        judge.assert_no_row_lost(&cluster, new).await;
        let demoted = poller.first(old, 503, began).unwrap();
        let writable = poller.first_writable(new, began).unwrap();
        let (old, new) = (&cluster.nodes[old], &cluster.nodes[new]);
        let known = tinylb.logged(&["no longer passes", &old.name, "503"], began).unwrap();
        let wrong = judge.connections(old.host, known);
        assert!(wrong.is_empty(), "clients were sent to the old primary: {wrong:#?}");
        let (errors, early) = judge.errors_but_early(known, new.host, writable);
        assert!(errors.is_empty(), "once the verdict was known, clients saw errors: {errors:#?}");

        let ends = judge.ends(old.host, began);
        assert_eq!(ends.len(), 20, "each writer had a connection to the old primary");
        let last = *ends.values().max().unwrap();
        let cut = last.saturating_duration_since(demoted);
        let row = judge.first_row(new.host, demoted).unwrap() - demoted;
        let pause = judge.longest_pause(began);
        say(&format!(
            "a switchover: all cut {cut:?} after the first 503, the first row after {row:?}, the longest \
             pause of a writer {pause:?}; {early} came before the new primary took writes"
        ));
        if poller.longest_pause(began, last + BOUND) <= PAUSE_MAX {
            assert!(cut <= BOUND, "{cut:?}");
            break;
        }
        assert!(attempt < 5, "this machine pauses all the time");
    }
    tinylb.stop();
}
