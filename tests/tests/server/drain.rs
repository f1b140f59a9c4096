//! Removal with the policy to drain: connected sessions get time, nothing new goes there.

use tinylb_contract::pipe::DialScript;
use tinylb_core::{Removal, Settings};

use super::harness::*;

fn draining() -> Settings {
    settings(|s| s.removal = Removal::Drain(secs(10)))
}

#[tokio::test(start_paused = true)]
async fn a_session_that_drains_goes_on_until_the_deadline_and_is_cut_then() {
    let mut world = World::new(draining(), ["A", "B"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    let report = world.apply(&[("b", "B")]).await;
    assert_eq!((report.sessions_cut, report.sessions_draining), (0, 1));
    assert_eq!(world.log.all().last().map(|e| e.at), Some(ms(0)), "it doesn't wait for drains");
    let load = &world.snapshot().loads[0];
    assert_eq!((load.connected, load.is_draining), (1, true));
    let _new = world.client();
    pass(ms(9_999)).await;
    talk(&mut client, &mut backend).await;
    assert_eq!((world.load("A"), world.load("B")), ((0, 1), (0, 1)));
    pass(ms(1)).await;
    assert!(is_cut(&mut client) && is_cut(&mut backend));
    assert_eq!(
        world.log.timed(0).last().map(String::as_str),
        Some("10000 ended drain_expired 8/6")
    );
    assert_eq!((world.load("A"), world.load("B")), ((0, 0), (0, 1)));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_finishes_while_it_drains_has_finished() {
    let mut world = World::new(draining(), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    world.apply(&[]).await;
    end(&mut client).await;
    end(&mut backend).await;
    pass(secs(20)).await;
    assert_eq!(world.log.texts("ended"), ["ended finished 0/0"]);
    assert_eq!(read_to_end(&mut client).await, Ok(String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_target_that_comes_back_keeps_its_sessions() {
    let mut world = World::new(draining(), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    world.apply(&[]).await;
    pass(secs(9)).await;
    let report = world.apply(&[("other key", "A")]).await;
    assert_eq!((report.sessions_cut, report.sessions_draining), (0, 0));
    assert!(!world.snapshot().loads[0].is_draining);
    pass(secs(1000)).await;
    talk(&mut client, &mut backend).await;
}

#[tokio::test(start_paused = true)]
async fn a_second_removal_gives_the_full_time_again() {
    let mut world = World::new(draining(), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    world.apply(&[]).await;
    pass(secs(5)).await;
    world.apply(&[("a", "A")]).await;
    pass(secs(3)).await;
    world.apply(&[]).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("ended"), [18_000]);
}

#[tokio::test(start_paused = true)]
async fn replacing_the_rest_of_the_set_does_not_prolong_a_drain() {
    let mut world = World::new(draining(), ["A", "B"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    world.apply(&[("b", "B")]).await;
    pass(secs(6)).await;
    assert_eq!(world.apply(&[]).await.sessions_draining, 0);
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("ended"), [10_000]);
}

#[tokio::test(start_paused = true)]
async fn dials_are_revoked_at_once_even_so() {
    let world = World::new(draining(), ["A", "B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    let report = world.apply(&[("b", "B")]).await;
    assert_eq!((report.dials_revoked, report.sessions_draining), (1, 0));
    assert_eq!(world.stats("A").dials_in_flight, 0);
    settle().await;
    assert_eq!(world.log.times("connected"), [0]);
}

#[tokio::test(start_paused = true)]
async fn the_policy_can_be_changed_while_the_server_runs() {
    let mut world = World::new(draining(), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let (mut at_a, mut at_b) = (world.client(), world.client());
    let _backends = [world.accept("A").await, world.accept("B").await];
    world.apply(&[("b", "B")]).await;
    world.handle.configure(settings(|s| s.removal = Removal::Abort)).expect("in range");
    let report = world.apply(&[]).await;
    assert_eq!((report.sessions_cut, report.sessions_draining), (1, 0));
    assert!(is_cut(&mut at_b) && is_cut(&mut at_a), "what drains already is cut as well");
    within(world.log.until("ended", 2)).await;
    assert_eq!(world.log.texts("ended"), ["ended drain_expired 0/0", "ended backend_removed 0/0"]);
    assert_eq!(world.log.times("ended"), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn sets_that_leave_nobody_to_drain_leave_no_deadline_to_wait_for() {
    let world = World::new(draining(), ["A"]);
    settle().await;
    let before = world.runtime.tasks();
    for _ in 0..10 {
        world.apply(&[("a", "A")]).await;
        world.apply(&[]).await;
    }
    assert_eq!(world.runtime.tasks(), before);
}

/// A session that drains since the beginning, for 10 s, and when and how it ends if the removal is
/// changed after 2 s.
async fn changed_after_2_s(removal: Removal) -> Vec<String> {
    let mut world = World::new(draining(), ["A", "B"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    world.apply(&[("b", "B")]).await;
    let mut other = world.client();
    let mut other_backend = world.accept("B").await;
    pass(secs(2)).await;
    talk(&mut client, &mut backend).await;
    world.handle.configure(settings(|s| s.removal = removal)).expect("in range");
    within(world.log.until("ended", 1)).await;
    assert!(is_cut(&mut client) && is_cut(&mut backend));
    // What doesn't drain goes on, and no deadline is left.
    pass(secs(100)).await;
    talk(&mut other, &mut other_backend).await;
    world.log.timed(0).into_iter().filter(|line| line.contains("ended")).collect()
}

#[tokio::test(start_paused = true)]
async fn a_shorter_time_to_drain_reaches_sessions_that_drain_already() {
    let ended = changed_after_2_s(Removal::Drain(secs(5))).await;
    assert_eq!(ended, ["5000 ended drain_expired 8/6"]);
    let ended = changed_after_2_s(Removal::Drain(secs(1))).await;
    assert_eq!(ended, ["2000 ended drain_expired 8/6"]);
}

#[tokio::test(start_paused = true)]
async fn a_longer_time_to_drain_reaches_sessions_that_drain_already() {
    let ended = changed_after_2_s(Removal::Drain(secs(30))).await;
    assert_eq!(ended, ["30000 ended drain_expired 8/6"]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_aborts_from_now_on_cuts_sessions_that_drain_already() {
    let ended = changed_after_2_s(Removal::Abort).await;
    assert_eq!(ended, ["2000 ended drain_expired 8/6"]);
}

#[tokio::test(start_paused = true)]
async fn each_removal_keeps_its_own_deadline_when_the_time_changes_and_changes_back() {
    let mut world = World::new(draining(), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _clients = [world.client(), world.client()];
    let _backends = (world.accept("A").await, world.accept("B").await);
    world.apply(&[("b", "B")]).await;
    pass(secs(3)).await;
    world.apply(&[]).await;
    for time in [20, 5, 10] {
        world.handle.configure(settings(|s| s.removal = Removal::Drain(secs(time)))).expect("ok");
        settle().await;
    }
    let tasks = world.runtime.tasks();
    within(world.log.until("ended", 2)).await;
    assert_eq!(world.log.times("ended"), [10_000, 13_000]);
    settle().await;
    // Two sessions, two deadlines.
    assert_eq!(world.runtime.tasks(), tasks - 4);
}

#[tokio::test(start_paused = true)]
async fn other_settings_leave_a_drain_alone() {
    let mut world = World::new(draining(), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    world.apply(&[]).await;
    pass(secs(9)).await;
    let mut other = draining();
    other.dial_attempts_max = 1;
    world.handle.configure(other).expect("in range");
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("ended"), [10_000]);
}
