//! The primary hands over to a replica, as an operator asks.

use std::time::Duration;

use tokio::time::Instant;

use super::harness::{BOUND, Balancer, Cluster, Judge, PAUSE_MAX, Poller, Writers, say};

/// Longer than the promotion takes, no writer may have to wait.
const WAIT: Duration = Duration::from_millis(2500);

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
        let promotion = poller.promotion(&cluster, new, began).unwrap();
        let old = &cluster.nodes[old];
        let known = tinylb.logged(&["no longer passes", &old.name, "503"], began);
        let known = known.expect("a line that says why the primary is no longer used");
        let wrong = judge.connections(old.host, known);
        assert!(wrong.is_empty(), "clients were sent to the old primary: {wrong:#?}");
        let again = tinylb.logged(&["passes again", &old.name], known);
        assert!(again.is_none(), "the old primary is used again");
        let early = judge.assert_only_resets(known, old.host, &promotion);

        let ends = judge.ends(old.host, began);
        assert_eq!(ends.len(), 20, "each writer had a connection to the old primary");
        let last = *ends.values().max().unwrap();
        let cut = last.saturating_duration_since(demoted);
        let row = judge.first_row(promotion.host, demoted).unwrap() - demoted;
        let (pause, named) = (judge.longest_pause(began), promotion.time());
        say(&format!(
            "a switchover: all cut {cut:?} after the first 503, the first row after {row:?}, the longest \
             pause of a writer {pause:?}; named the primary {named:?} before it took writes, and {early} \
             rows came in that time"
        ));
        if poller.longest_pause(began, last + BOUND) <= PAUSE_MAX {
            let known = known.saturating_duration_since(demoted);
            assert!(cut <= BOUND && known <= BOUND, "cut after {cut:?}, known after {known:?}");
            let pause_max = promotion.writable.saturating_duration_since(demoted) + WAIT;
            assert!(pause <= pause_max, "{pause:?}, of at most {pause_max:?}");
            break;
        }
        assert!(attempt < 5, "this machine pauses all the time");
    }
    tinylb.stop();
}
