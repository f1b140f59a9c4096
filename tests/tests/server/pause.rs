//! A process that is stopped for longer than its time limits, and resumes: timers fire first, and
//! what arrived meanwhile is reported a moment later.

use tinylb_contract::pipe::{DialScript, Gate};
use tinylb_core::{Floor, publisher};
use tokio::time::advance;

use super::harness::*;

/// The process resumes after a pause. Every timer that is due has fired, and the reactor hasn't
/// been polled yet.
async fn go_on_after(pause: u64) {
    advance(secs(pause)).await;
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_outlives_a_pause_longer_than_the_limit_of_idle_ones() {
    let mut world = World::new(settings(|s| s.idle_timeout = Some(secs(60))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    settle().await;
    go_on_after(100).await;
    write(&mut client, "was waiting").await;
    expect(&mut backend, "was waiting").await;
    // From then on the limit starts again.
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended idle_timed_out 11/0"]);
    assert_eq!(world.log.times("ended"), [160_000]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_does_not_outlive_a_pause_by_more_than_a_look() {
    let mut world = World::new(settings(|s| s.idle_timeout = Some(secs(60))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    settle().await;
    go_on_after(100).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended idle_timed_out 0/0"]);
    assert_eq!(world.log.times("ended"), [100_010]);
}

#[tokio::test(start_paused = true)]
async fn a_busy_session_outlives_a_pause_that_begins_just_before_its_limit() {
    let mut world = World::new(settings(|s| s.idle_timeout = Some(secs(60))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    settle().await;
    pass(ms(59_995)).await;
    go_on_after(100).await;
    write(&mut client, "was waiting").await;
    expect(&mut backend, "was waiting").await;
    assert_eq!(world.snapshot().live, 1);
}

#[tokio::test(start_paused = true)]
async fn pauses_without_end_do_not_keep_an_idle_session() {
    let mut world = World::new(settings(|s| s.idle_timeout = Some(secs(60))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    settle().await;
    for _ in 0..4 {
        assert_eq!(world.snapshot().live, 1);
        go_on_after(100).await;
    }
    assert_eq!(world.log.texts("ended"), ["ended idle_timed_out 0/0"]);
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_session_outlives_a_pause_if_its_answer_has_come() {
    let mut world = World::new(settings(|s| s.half_close_timeout = Some(secs(60))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    end(&mut client).await;
    assert_eq!(read_to_end(&mut backend).await, Ok(String::new()));
    settle().await;
    go_on_after(100).await;
    write(&mut backend, "the answer").await;
    end(&mut backend).await;
    assert_eq!(read_to_end(&mut client).await, Ok("the answer".into()));
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended finished 0/10"]);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_has_come_through_in_a_pause_counts() {
    let world = World::new(settings(|_| {}), ["A"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    go_on_after(100).await;
    gate.open();
    settle().await;
    assert_eq!(world.log.of(0), ["admitted a=A", "dial a", "connected a"]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_takes_no_more_of_the_time_to_dial_than_an_attempt_may() {
    let world = World::new(without_ejection(|_| {}), ["B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    settle().await;
    go_on_after(100).await;
    within(world.log.until("connected", 1)).await;
    let story =
        ["admitted a=A", "dial a", "failed a: timed out", "admitted b=B", "dial b", "connected b"];
    assert_eq!(world.log.of(0), story);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_waits_is_served_if_the_first_set_came_in_a_pause() {
    let world = World::new(settings(|_| {}), ["A"]);
    let _client = world.client();
    settle().await;
    go_on_after(100).await;
    world.apply(&[("a", "A")]).await;
    settle().await;
    assert_eq!(world.log.of(0), ["admitted a=A", "dial a", "connected a"]);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_held_does_not_take_effect_if_another_came_in_a_pause() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    let floor = Floor { removed_percent_max: 10, hold: secs(60) };
    let (publisher, source) = publisher();
    let held = source_settings(|s| s.floor = Some(floor));
    world.handle.follow_with(source, held).expect("in range");
    let both = set(&[("a", "A"), ("b", "B")]);
    publisher.publish(both.clone());
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    publisher.publish(set(&[("b", "B")]));
    pass(secs(1)).await;
    assert!(world.snapshot().set_held.is_some());
    go_on_after(100).await;
    publisher.publish(both.clone());
    pass(secs(100)).await;
    talk(&mut client, &mut backend).await;
    assert_eq!(world.snapshot().set, Some(both));
}
