//! What a side sent before it failed reaches the other, and what doesn't isn't counted.

use std::future::pending;

use async_trait::async_trait;
use tinylb_contract::pipe::Pipe;
use tinylb_core::{CopyRelay, Direction, Progress, Relay, RelayError, Settings, Side};

use super::harness::*;

/// Bytes that each stage on the way holds: a connection, the relay, another connection.
const STAGE: usize = 10;
const ANSWER: &str = "all that the backend had to say";

/// A session whose backend has answered and failed, which the balancer knows, and whose client has
/// read nothing. The answer is on its way, if the stages can hold it.
async fn failed(settings: Settings, is_lossy: bool) -> (World, Pipe, Pipe) {
    let mut world = World::new(settings, ["A", "B"]);
    if is_lossy {
        world.net.lose_by_aborts();
    } else {
        world.net.set_capacity(STAGE);
    }
    let listener = world.net.listen("small");
    drop(world.server().listen(listener, CopyRelay::new(STAGE), world.runtime.clone()));
    world.apply(&[("a", "A")]).await;
    let mut client = world.client_of("small");
    let mut backend = world.accept("A").await;
    settle().await;
    let answer = if is_lossy { ANSWER } else { &ANSWER[..3 * STAGE] };
    for piece in answer.as_bytes().chunks(STAGE) {
        write(&mut backend, std::str::from_utf8(piece).expect("ASCII")).await;
        settle().await;
    }
    tinylb_core::Conn::abort(&mut backend);
    write(&mut client, "and then?").await;
    settle().await;
    (world, client, backend)
}

fn last(world: &World) -> String {
    world.log.timed(0).last().cloned().unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_answer_whose_backend_has_failed_waits_for_a_slow_client() {
    let (world, mut client, _backend) = failed(settings(|_| {}), false).await;
    assert_eq!(world.snapshot().live, 1);
    pass(secs(29)).await;
    expect(&mut client, &ANSWER[..3 * STAGE]).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(last(&world), "29000 ended backend_failed 0/30");
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_not_given_up_before_the_clients_system_has_it() {
    let (world, mut client, _backend) = failed(settings(|_| {}), true).await;
    pass(secs(10)).await;
    assert_eq!(world.snapshot().live, 1);
    expect(&mut client, ANSWER).await;
    // The system is queried again soon, however long that took.
    pass(ms(100)).await;
    assert_eq!(world.log.texts("ended"), [format!("ended backend_failed 0/{}", ANSWER.len())]);
    assert!(is_cut(&mut client));
}

/// Finds that the backend has failed, passes on an end 10 s later, and delivers for ever.
struct LateEnd;

#[async_trait]
impl Relay<Pipe, Pipe> for LateEnd {
    async fn relay(
        &self,
        _: &mut Pipe,
        _: &mut Pipe,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        progress.fail(Side::Backend);
        tokio::time::sleep(secs(10)).await;
        progress.end(Direction::ToClient);
        pending().await
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_passes_on_an_end_has_no_more_time_than_any_other() {
    let world = World::new(settings(|s| s.half_close_timeout = None), ["A"]);
    let listener = world.net.listen("late");
    drop(world.server().listen(listener, LateEnd, world.runtime.clone()));
    world.apply(&[("a", "A")]).await;
    let _client = world.client_of("late");
    within(world.log.until("ended", 1)).await;
    assert_eq!(last(&world), "30000 ended backend_failed 0/0");
}

#[tokio::test(start_paused = true)]
async fn a_slow_delivery_costs_little() {
    for (seconds, queries_max) in [(10, 110), (30, 230), (3600, 4000)] {
        let settings = settings(|s| s.delivery_timeout = secs(seconds));
        let (world, _client, _backend) = failed(settings, true).await;
        within(world.log.until("ended", 1)).await;
        assert_eq!(last(&world), format!("{seconds}000 ended backend_failed 0/0"));
        let queries = world.stats("small").accepted.queries;
        assert!(queries <= queries_max, "{queries} in {seconds} s");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delivery_has_30_s_in_all_and_what_is_lost_then_is_not_counted() {
    for is_lossy in [false, true] {
        let (world, mut client, _backend) = failed(settings(|_| {}), is_lossy).await;
        pass(secs(20)).await;
        expect(&mut client, "all").await;
        within(world.log.until("ended", 1)).await;
        // What the other end's system holds was passed on, unless an abort discards it.
        let passed_on = if is_lossy { 3 } else { STAGE + 3 };
        assert_eq!(last(&world), format!("30000 ended backend_failed 0/{passed_on}"));
        assert!(is_cut(&mut client));
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_of_a_delivery_is_a_setting_and_no_other_limit_applies() {
    for is_lossy in [false, true] {
        let settings = settings(|s| {
            s.delivery_timeout = secs(7);
            s.idle_timeout = Some(secs(1));
            s.half_close_timeout = Some(secs(1));
        });
        let (world, _client, _backend) = failed(settings, is_lossy).await;
        within(world.log.until("ended", 1)).await;
        assert!(last(&world).starts_with("7000 ended backend_failed"), "{}", last(&world));
    }
}

#[tokio::test(start_paused = true)]
async fn a_removal_cuts_a_delivery_at_once_and_so_does_the_end_of_a_shutdown() {
    for is_lossy in [false, true] {
        let passed_on = if is_lossy { 0 } else { STAGE };
        let (world, mut client, _backend) = failed(settings(|_| {}), is_lossy).await;
        let report = world.apply(&[("b", "B")]).await;
        assert_eq!(report.sessions_cut, 1);
        assert!(is_cut(&mut client));
        assert_eq!(last(&world), format!("0 ended backend_removed 0/{passed_on}"));

        let (world, mut client, _backend) = failed(settings(|_| {}), is_lossy).await;
        within(world.handle.shutdown(secs(2))).await;
        assert!(is_cut(&mut client));
        assert_eq!(last(&world), format!("2000 ended shutdown 0/{passed_on}"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_fails_too_ends_its_delivery() {
    for is_lossy in [false, true] {
        let (world, mut client, _backend) = failed(settings(|_| {}), is_lossy).await;
        pass(secs(3)).await;
        tinylb_core::Conn::abort(&mut client);
        pass(ms(100)).await;
        assert_eq!(world.log.texts("ended").len(), 1, "nobody is left to wait for");
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_client_reach_a_slow_backend_and_no_end_follows_them() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.lose_by_aborts();
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    settle().await;
    write(&mut client, "last words").await;
    settle().await;
    tinylb_core::Conn::abort(&mut client);
    pass(secs(5)).await;
    assert_eq!(world.snapshot().live, 1);
    expect(&mut backend, "last words").await;
    assert!(read_to_end(&mut backend).await.is_err(), "a cut is no end");
    assert_eq!(world.log.texts("ended"), ["ended client_failed 10/0"]);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_removal_discards_are_not_counted() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.lose_by_aborts();
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    write(&mut client, "question").await;
    write(&mut backend, "answer").await;
    settle().await;
    expect(&mut client, "ans").await;
    world.apply(&[]).await;
    assert_eq!(world.log.texts("ended"), ["ended backend_removed 0/3"]);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.bytes_to_backends, snapshot.bytes_to_clients), (0, 3));
}
