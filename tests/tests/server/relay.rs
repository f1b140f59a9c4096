//! Sessions that move no byte: after one direction has ended, and before.

use tinylb_contract::pipe::Pipe;
use tinylb_core::{Conn, CopyRelay, Settings};

use super::harness::*;

/// A session that is connected: the world, the client and the backend.
async fn connected(settings: Settings) -> (World, Pipe, Pipe) {
    let mut world = World::new(settings, ["A"]);
    world.apply(&[("a", "A")]).await;
    let client = world.client();
    let backend = world.accept("A").await;
    settle().await;
    (world, client, backend)
}

const MONTH: u64 = 30 * 86_400;

#[tokio::test(start_paused = true)]
async fn an_end_is_passed_on_and_the_answer_still_arrives() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    write(&mut client, "question").await;
    end(&mut client).await;
    assert_eq!(read_to_end(&mut backend).await, Ok("question".into()));
    pass(secs(299)).await;
    write(&mut backend, "answer").await;
    drop(backend);
    assert_eq!(read_to_end(&mut client).await, Ok("answer".into()));
    settle().await;
    assert_eq!(world.log.texts("half-closed"), ["half-closed by client"]);
    assert_eq!(world.log.texts("ended"), ["ended finished 8/6"]);
    let stats = world.stats(FRONT).accepted;
    assert_eq!((stats.aborted, stats.dropped), (0, 1), "a clean end is no reset");
}

#[tokio::test(start_paused = true)]
async fn the_backend_may_end_first() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    end(&mut backend).await;
    assert_eq!(read_to_end(&mut client).await, Ok(String::new()));
    write(&mut client, "late").await;
    expect(&mut backend, "late").await;
    end(&mut client).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("half-closed"), ["half-closed by backend"]);
    assert_eq!(world.log.texts("ended"), ["ended finished 4/0"]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_one_side_resets_the_other() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    client.abort();
    within(world.log.until("ended", 1)).await;
    assert!(is_cut(&mut backend));
    assert_eq!(world.log.texts("ended"), ["ended client_failed 0/0"]);
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    backend.abort();
    within(world.log.until("ended", 1)).await;
    assert!(is_cut(&mut client));
    assert_eq!(world.log.texts("ended"), ["ended backend_failed 0/0"]);
}

#[tokio::test(start_paused = true)]
async fn a_reset_after_an_end_is_noticed_though_nothing_is_left_to_read() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    end(&mut client).await;
    settle().await;
    client.abort();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.timed(0).last().map(String::as_str), Some("0 ended client_failed 0/0"));
    assert!(is_cut(&mut backend));
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_side_that_resets_arrive_though_a_write_to_it_fails_first() {
    let (mut world, mut client, mut backend) = connected(settings(|_| {})).await;
    write(&mut client, "question").await;
    write(&mut backend, "last words").await;
    backend.abort();
    expect(&mut client, "last words").await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended backend_failed 0/10"]);
    assert!(is_cut(&mut client));

    // What the client says is more than the relay takes before it turns to the backend.
    let listener = world.net.listen("small");
    drop(world.server().listen(listener, CopyRelay::new(1), world.runtime.clone()));
    let mut client = world.client_of("small");
    let mut backend = world.accept("A").await;
    settle().await;
    write(&mut client, "twenty bytes of text").await;
    write(&mut backend, "answer").await;
    client.abort();
    expect(&mut backend, "twenty bytes of text").await;
    within(world.log.until("ended", 2)).await;
    assert_eq!(world.log.texts("ended")[1], "ended client_failed 20/0");
    assert!(is_cut(&mut backend));
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_session_that_stalls_is_cut_5_min_after_the_end() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    pass(secs(1000)).await;
    end(&mut client).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended half_close_timed_out 0/0"]);
    assert_eq!(world.log.times("ended"), [1_300_000]);
    assert!(is_cut(&mut client) && is_cut(&mut backend));
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_session_that_stalls_is_cut_5_min_after_the_last_byte() {
    let (world, mut client, mut backend) = connected(settings(|_| {})).await;
    end(&mut client).await;
    for _ in 0..10 {
        pass(secs(299)).await;
        write(&mut backend, "still here").await;
    }
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended half_close_timed_out 0/100"]);
    assert_eq!(world.log.times("ended"), [(2990 + 300) * 1000]);
}

#[tokio::test(start_paused = true)]
async fn bytes_before_the_end_do_not_prolong_the_stall() {
    let (world, mut client, mut backend) =
        connected(settings(|s| s.half_close_timeout = Some(secs(7)))).await;
    talk(&mut client, &mut backend).await;
    pass(secs(5)).await;
    end(&mut backend).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("ended"), [12_000]);
}

#[tokio::test(start_paused = true)]
async fn the_limit_of_half_closed_sessions_can_be_off() {
    let (world, mut client, mut backend) =
        connected(settings(|s| s.half_close_timeout = None)).await;
    end(&mut client).await;
    pass(secs(MONTH)).await;
    write(&mut backend, "answer").await;
    expect(&mut client, "answer").await;
    assert_eq!(world.snapshot().live, 1);
}

#[tokio::test(start_paused = true)]
async fn by_default_an_idle_session_lives_for_ever() {
    let (_world, mut client, mut backend) = connected(settings(|_| {})).await;
    pass(secs(MONTH)).await;
    talk(&mut client, &mut backend).await;
}

#[tokio::test(start_paused = true)]
async fn with_a_limit_an_idle_session_is_cut_that_long_after_its_last_byte() {
    let (world, mut client, mut backend) =
        connected(settings(|s| s.idle_timeout = Some(secs(60)))).await;
    pass(secs(59)).await;
    write(&mut client, "up").await;
    pass(secs(59)).await;
    write(&mut backend, "down").await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended idle_timed_out 2/4"]);
    assert_eq!(world.log.times("ended"), [178_000]);
    assert!(is_cut(&mut client) && is_cut(&mut backend));
}

#[tokio::test(start_paused = true)]
async fn of_both_limits_the_shorter_one_counts() {
    let both = |idle, half_close| {
        settings(|s| {
            s.idle_timeout = Some(secs(idle));
            s.half_close_timeout = Some(secs(half_close));
        })
    };
    let (world, mut client, _backend) = connected(both(60, 20)).await;
    pass(secs(30)).await;
    end(&mut client).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(
        world.log.timed(0).last().map(String::as_str),
        Some("50000 ended half_close_timed_out 0/0")
    );
    let (world, mut client, _backend) = connected(both(20, 60)).await;
    pass(secs(10)).await;
    end(&mut client).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(
        world.log.timed(0).last().map(String::as_str),
        Some("30000 ended idle_timed_out 0/0")
    );
}
