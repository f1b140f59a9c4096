//! Dialling: bounded in time and attempts, and before any byte of the client's is read.

use std::io::ErrorKind;

use tinylb_contract::pipe::{DialScript, Gate};
use tinylb_core::Conn;

use super::harness::*;

const FOUR: [(&str, &str); 4] = [("a", "A"), ("b", "B"), ("c", "C"), ("d", "D")];

fn script_all(world: &World, script: DialScript) {
    for (_, name) in FOUR {
        world.net.script(name, script.clone());
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_3_s_for_each_of_3_backends_and_8_s_in_all() {
    let world = World::new(without_ejection(|_| {}), []);
    script_all(&world, DialScript::Hang);
    world.apply(&FOUR).await;
    let mut client = world.client();
    within(world.log.until("ended", 1)).await;
    let story = [
        "0 admitted a=A",
        "0 dial a",
        "3000 failed a: timed out",
        "3000 admitted b=B",
        "3000 dial b",
        "6000 failed b: timed out",
        "6000 admitted c=C",
        "6000 dial c",
        "8000 failed c: timed out",
        "8000 ended dial_timed_out 0/0",
    ];
    assert_eq!(world.log.timed(0), story);
    assert!(is_cut(&mut client));
    assert!(["A", "B", "C"].iter().all(|name| world.stats(name).dials_in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_one_attempt_can_be_set() {
    let world = World::new(without_ejection(|s| s.dial_timeout = ms(250)), ["B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    within(world.log.until("connected", 1)).await;
    assert_eq!((world.log.times("failed"), world.log.times("connected")), (vec![250], vec![250]));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_attempts_can_be_set() {
    let world = World::new(without_ejection(|s| s.dial_attempts_max = 2), []);
    script_all(&world, DialScript::Hang);
    world.apply(&FOUR).await;
    let _client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("dial"), ["dial a", "dial b"]);
    assert_eq!(world.log.texts("ended"), ["ended dial_failed 0/0"]);
    assert_eq!(world.log.times("ended"), [6000]);
}

#[tokio::test(start_paused = true)]
async fn the_time_of_all_attempts_can_be_set() {
    let limits = without_ejection(|s| {
        s.dial_time_max = secs(5);
        s.dial_attempts_max = 16;
    });
    let world = World::new(limits, []);
    script_all(&world, DialScript::Hang);
    world.apply(&FOUR).await;
    let _client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("dial"), ["dial a", "dial b"]);
    assert_eq!(world.log.times("failed"), [3000, 5000]);
    assert_eq!(world.log.texts("ended"), ["ended dial_timed_out 0/0"]);
    assert_eq!(world.log.times("ended"), [5000]);
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_time_is_over_takes_no_backends_turn() {
    let world = World::new(without_ejection(|s| s.dial_time_max = secs(3)), ["B", "C"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    let _first = world.client();
    within(world.log.until("ended", 1)).await;
    let _second = world.client();
    settle().await;
    assert_eq!(world.log.texts("admitted"), ["admitted a=A", "admitted b=B"]);
}

#[tokio::test(start_paused = true)]
async fn a_dead_backend_is_skipped_and_another_serves_the_client() {
    let mut world = World::new(settings(|_| {}), ["B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let mut client = world.client();
    let mut backend = world.accept("B").await;
    talk(&mut client, &mut backend).await;
    let story = [
        "admitted a=A",
        "dial a",
        "failed a: connection refused",
        "admitted b=B",
        "dial b",
        "connected b",
    ];
    assert_eq!(world.log.of(0), story);
}

#[tokio::test(start_paused = true)]
async fn a_dead_target_is_not_tried_again_under_another_key() {
    let world = World::new(without_ejection(|_| {}), ["C"]);
    world.apply(&[("a", "A"), ("b", "A"), ("c", "C")]).await;
    let _client = world.client();
    settle().await;
    assert_eq!(world.log.texts("dial"), ["dial a", "dial c"]);
    assert_eq!(world.stats("A").dials_started, 1);
}

#[tokio::test(start_paused = true)]
async fn when_every_backend_is_dead_the_client_is_cut_after_trying_each_once() {
    let world = World::new(without_ejection(|s| s.dial_attempts_max = 2), []);
    script_all(&world, DialScript::Fail(ErrorKind::HostUnreachable));
    world.apply(&FOUR[..2]).await;
    let mut client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(read_to_end(&mut client).await, Err(ErrorKind::ConnectionReset));
    assert_eq!((world.stats("A").dials_started, world.stats("B").dials_started), (1, 1));
    assert_eq!(world.log.texts("ended"), ["ended dial_failed 0/0"]);
    assert_eq!(world.log.times("ended"), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_single_backend_that_misses_one_dial_serves_the_client_all_the_same() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    pass(secs(1)).await;
    world.net.script("A", DialScript::Connect);
    within(world.log.until("connected", 1)).await;
    let story = [
        "0 admitted a=A",
        "0 dial a",
        "3000 failed a: timed out",
        "3250 admitted a=A",
        "3250 dial a",
        "3250 connected a",
    ];
    assert_eq!(world.log.timed(0), story);
}

#[tokio::test(start_paused = true)]
async fn backends_that_all_refuse_are_tried_again_after_a_pause_until_the_attempts_are_used_up() {
    let world = World::new(settings(|s| s.dial_attempts_max = 4), []);
    script_all(&world, DialScript::Fail(ErrorKind::ConnectionRefused));
    world.apply(&FOUR[..2]).await;
    let mut client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("dial"), ["dial a", "dial b", "dial a", "dial b"]);
    assert_eq!(world.log.times("dial"), [0, 0, 250, 250]);
    assert_eq!(world.log.texts("ended"), ["ended dial_failed 0/0"]);
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn the_time_to_dial_bounds_a_pause_as_well() {
    let world = World::new(settings(|s| s.dial_time_max = ms(3_100)), []);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended dial_timed_out 0/0"]);
    assert_eq!((world.log.times("dial"), world.log.times("ended")), (vec![0], vec![3_100]));
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_ends_early_takes_no_more_of_the_time_to_dial() {
    let world = World::new(settings(|s| s.dial_time_max = secs(1)), []);
    world.net.script("A", DialScript::Fail(ErrorKind::ConnectionRefused));
    world.net.script("B", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    pass(ms(100)).await;
    world.apply(&[("b", "B")]).await;
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("dial"), [0, 100]);
    assert_eq!(world.log.texts("ended"), ["ended dial_timed_out 0/0"]);
    assert_eq!(world.log.times("ended"), [1000]);
}

#[tokio::test(start_paused = true)]
async fn a_pause_between_attempts_ends_when_the_client_the_target_or_the_server_goes() {
    for end in ["client", "target", "server"] {
        let world = World::new(settings(|_| {}), ["B"]);
        world.net.script("A", DialScript::Fail(ErrorKind::ConnectionRefused));
        world.apply(&[("a", "A")]).await;
        let mut client = world.client();
        pass(ms(100)).await;
        let last = match end {
            "client" => {
                client.abort();
                "100 ended client_failed 0/0"
            }
            "target" => {
                world.apply(&[("b", "B")]).await;
                "100 connected b"
            }
            _ => {
                within(world.handle.shutdown(secs(0))).await;
                "100 ended shutdown 0/0"
            }
        };
        settle().await;
        assert_eq!(world.log.timed(0).last().map(String::as_str), Some(last));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_read_from_a_client_before_it_has_a_backend() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.net.set_capacity(4);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    settle().await;
    assert_eq!(fill(&mut client), 4);
    pass(secs(2)).await;
    assert_eq!(fill(&mut client), 0, "what it has written is still on its way");
    gate.open();
    let mut backend = world.accept("A").await;
    expect(&mut backend, "xxxx").await;
    assert_eq!(fill(&mut client), 4);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_resets_its_connection_cancels_the_dial() {
    let world = World::new(without_ejection(|_| {}), ["A"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    pass(secs(1)).await;
    client.abort();
    settle().await;
    assert_eq!(world.log.timed(0).last().map(String::as_str), Some("1000 ended client_failed 0/0"));
    assert_eq!((world.stats("A").dials_in_flight, world.stats("A").dials_dropped), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn no_connect_begins_for_a_client_that_has_reset_its_connection() {
    let world = World::new(settings(|_| {}), ["A"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    pass(secs(1)).await;
    // The dial could go on at the moment in which the client goes.
    gate.open();
    client.abort();
    settle().await;
    assert_eq!(world.log.texts("connected"), Vec::<String>::new());
    assert_eq!(world.log.timed(0).last().map(String::as_str), Some("1000 ended client_failed 0/0"));
    assert_eq!(world.stats("A").dials_dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closed_its_write_side_during_the_dial_is_answered() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    write(&mut client, "question").await;
    end(&mut client).await;
    pass(secs(2)).await;
    gate.open();
    let mut backend = world.accept("A").await;
    assert_eq!(read_to_end(&mut backend).await, Ok("question".into()));
    write(&mut backend, "a long answer").await;
    end(&mut backend).await;
    assert_eq!(read_to_end(&mut client).await, Ok("a long answer".into()));
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.texts("ended"), ["ended finished 8/13"]);
}

#[tokio::test(start_paused = true)]
async fn new_limits_are_for_the_clients_that_come_after() {
    let world = World::new(without_ejection(|s| s.dial_attempts_max = 2), []);
    script_all(&world, DialScript::Hang);
    world.apply(&FOUR).await;
    let _before = world.client();
    settle().await;
    let faster = without_ejection(|s| {
        s.dial_attempts_max = 2;
        s.dial_timeout = secs(1);
    });
    world.handle.configure(faster).expect("in range");
    let _after = world.client();
    within(world.log.until("ended", 2)).await;
    let ended = world.log.like("ended");
    let ended: Vec<_> = ended.iter().map(|e| (e.session, e.at)).collect();
    assert_eq!(ended, [(Some(1), secs(2)), (Some(0), secs(6))]);
}
