//! Targets that don't accept connections: what they cost, and how they return.

use std::io::ErrorKind;

use tinylb_contract::pipe::DialScript;
use tinylb_core::{EmptySet, EndReason, Fault, Settings};

use super::harness::*;

const THREE: [(&str, &str); 3] = [("a", "A"), ("b", "B"), ("c", "C")];

/// What the log has of targets.
fn health(world: &World) -> Vec<String> {
    let texts = ["ejected", "probed", "returned"].map(|what| world.log.like(what));
    let mut all: Vec<_> = texts.into_iter().flatten().collect();
    all.sort_by_key(|entry| entry.number);
    all.into_iter().map(|entry| format!("{} {}", entry.at.as_millis(), entry.text)).collect()
}

fn ejected(world: &World) -> Vec<String> {
    world.snapshot().ejected.into_iter().map(|ejected| ejected.target.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_costs_one_client_a_quarter_of_a_second() {
    let world = World::new(settings(|_| {}), ["B", "C"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&THREE).await;
    let _first = world.client();
    within(world.log.until("connected", 1)).await;
    let story = [
        "0 admitted a=A",
        "0 dial a",
        "250 failed a: no answer yet",
        "250 admitted b=B",
        "250 dial b",
        "250 connected b",
    ];
    assert_eq!(world.log.timed(0), story);
    let _others = [world.client(), world.client(), world.client()];
    settle().await;
    assert_eq!(
        world.log.texts("connected"),
        ["connected b", "connected c", "connected b", "connected c"]
    );
    assert_eq!(world.log.times("connected"), [250; 4]);
    assert_eq!(health(&world), ["250 ejected A: timed_out"]);
}

#[tokio::test(start_paused = true)]
async fn clients_that_wait_for_one_backend_at_once_all_go_on_and_eject_it_once() {
    let world = World::new(settings(|_| {}), ["B", "C"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&THREE).await;
    let _clients: Vec<_> = (0..30).map(|_| world.client()).collect();
    within(world.log.until("connected", 30)).await;
    let times = world.log.times("connected");
    assert_eq!(times.iter().filter(|at| **at == 0).count(), 20);
    assert_eq!(times.iter().filter(|at| **at == 250).count(), 10);
    assert_eq!(health(&world), ["250 ejected A: timed_out"]);
    assert_eq!(world.stats("A").dials_in_flight, 1, "the probe");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_refuses_is_probed_until_it_accepts_and_has_turns_again() {
    let mut world = World::new(settings(|_| {}), ["B", "C"]);
    world.apply(&THREE).await;
    let _first = world.client();
    pass(secs(2)).await;
    let probes = world.log.times("probed");
    assert_eq!(probes[0], 0, "the first is at once");
    for (place, pause) in [250, 500, 1000].into_iter().enumerate().take(probes.len() - 1) {
        let passed = probes[place + 1] - probes[place];
        assert!((pause / 2..=pause + 1).contains(&passed), "{probes:?}");
    }
    assert!(probes.len() >= 3, "{probes:?}");
    let before = world.stats("A").dials_started;
    world.backend("A");
    within(world.log.until("returned", 1)).await;
    assert_eq!(world.stats("A").dials_started, before + 1);
    let _next: Vec<_> = (0..3).map(|_| world.client()).collect();
    settle().await;
    let dials = world.log.texts("dial");
    assert_eq!(dials, ["dial a", "dial b", "dial c", "dial a", "dial b"]);
    assert_eq!(ejected(&world), [""; 0]);
    let lines = health(&world);
    assert_eq!(lines[0], "0 ejected A: refused");
    assert_eq!(lines.iter().filter(|line| line.contains("ejected")).count(), 1, "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_dial_is_overdue_goes_to_the_backend_that_comes() {
    let world = World::new(settings(|_| {}), ["B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    pass(ms(500)).await;
    world.apply(&[("a", "A"), ("b", "B")]).await;
    settle().await;
    let story = [
        "0 admitted a=A",
        "0 dial a",
        "500 failed a: no answer yet",
        "500 admitted b=B",
        "500 dial b",
        "500 connected b",
    ];
    assert_eq!(world.log.timed(0), story);
    assert_eq!(world.stats("A").dials_in_flight, 1, "the probe");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_is_overdue_and_succeeds_returns_its_backend() {
    let world = World::new(settings(|_| {}), ["A"]);
    let slow = DialScript::After(std::sync::Arc::new(|| Box::pin(tokio::time::sleep(ms(400)))));
    world.net.script("A", slow);
    world.apply(&[("a", "A")]).await;
    let _clients = [world.client(), world.client()];
    within(world.log.until("connected", 2)).await;
    assert_eq!(health(&world), ["250 ejected A: timed_out", "400 returned A after 150"]);
    // Its patience is three times as long as its connect now.
    let _next = world.client();
    pass(secs(2)).await;
    assert_eq!(world.log.times("connected"), [400, 400, 800]);
    assert_eq!(health(&world).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_connect_whose_first_packet_was_lost_says_nothing_of_the_next_one() {
    let world = World::new(settings(|_| {}), ["A"]);
    let slow = DialScript::After(std::sync::Arc::new(|| Box::pin(tokio::time::sleep(ms(1_020)))));
    world.net.script("A", slow);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    within(world.log.until("returned", 1)).await;
    world.net.script("A", DialScript::Hang);
    let began = world.log.times("returned")[0];
    let _next = world.client();
    within(world.log.until("ejected", 2)).await;
    assert_eq!(world.log.times("ejected")[1] - began, 250);
}

#[tokio::test(start_paused = true)]
async fn dials_are_given_up_eight_times_and_take_no_time_to_dial() {
    let world = World::new(settings(|s| s.dial_attempts_max = 1), []);
    world.net.script("A", DialScript::Hang);
    world.net.script("B", DialScript::Hang);
    world.apply(&THREE[..2]).await;
    let _client = world.client();
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("failed")[..8], [250, 500, 750, 1000, 1250, 1500, 1750, 2000]);
    assert_eq!(world.log.times("ended"), [5000]);
    assert_eq!(world.log.texts("ended"), ["ended dial_failed 0/0"]);
}

#[tokio::test(start_paused = true)]
async fn our_own_errors_eject_nobody() {
    let world = World::new(settings(|s| s.dial_attempts_max = 1), ["B"]);
    world.net.script("A", DialScript::Fail(ErrorKind::AddrNotAvailable));
    world.apply(&[("a", "A"), ("b", "B")]).await;
    for _ in 0..10 {
        let _client = world.client();
        settle().await;
    }
    assert_eq!(world.ended(EndReason::DialFailed), 5);
    assert_eq!(health(&world), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn while_all_accept_no_connection_is_opened_but_those_of_clients() {
    let mut world = World::new(settings(|_| {}), ["A", "B", "C"]);
    world.apply(&THREE).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    pass(secs(3600)).await;
    let dials = THREE.map(|(_, name)| world.stats(name).dials_started);
    assert_eq!(dials, [1, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_removal_waits_for_the_probe_of_its_target_and_nothing_is_dialled_after_it() {
    let world = World::new(settings(|_| {}), ["B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    within(world.log.until("connected", 1)).await;
    settle().await;
    assert_eq!(world.stats("A").dials_in_flight, 1, "the probe");
    let replacement = world.replace(&[("b", "B")]);
    assert_eq!(world.snapshot().probes, 1, "it hasn't let go");
    within(replacement).await;
    assert_eq!((world.stats("A").dials_in_flight, world.snapshot().probes), (0, 0));
    let dials = world.stats("A").dials_started;
    pass(secs(60)).await;
    assert_eq!(world.stats("A").dials_started, dials);
    assert_eq!(ejected(&world), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn an_ejected_target_stays_so_across_replacements_and_returns_as_before() {
    let mut world = World::new(settings(|_| {}), ["B", "C"]);
    world.apply(&THREE).await;
    let _client = world.client();
    settle().await;
    world.apply(&THREE[..2]).await;
    world.apply(&[("a", "A"), ("a2", "A"), ("b", "B")]).await;
    assert_eq!(ejected(&world), ["A"]);
    let _next = [world.client(), world.client()];
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected b"; 3]);
    world.backend("A");
    within(world.log.until("returned", 1)).await;
    let _more = [world.client(), world.client(), world.client()];
    settle().await;
    let connected = world.log.texts("connected");
    assert_eq!(connected[3..], ["connected a", "connected a2", "connected b"]);
}

#[tokio::test(start_paused = true)]
async fn all_that_were_ejected_have_turns_soon_after_the_first_returns() {
    let mut world = World::new(settings(|_| {}), []);
    for (_, name) in THREE {
        world.net.script(name, DialScript::Hang);
    }
    world.apply(&THREE).await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        clients.push(world.client());
        pass(ms(100)).await;
    }
    assert_eq!(ejected(&world), ["A", "B", "C"]);
    for (_, name) in THREE {
        world.backend(name);
        world.net.script(name, DialScript::Connect);
    }
    within(world.log.until("returned", 3)).await;
    let returned = world.log.times("returned");
    assert!(returned[2] - returned[0] <= 101, "{returned:?}");
}

#[tokio::test(start_paused = true)]
async fn a_dialer_that_panics_at_a_probe_costs_that_probe() {
    let mut world = World::new(settings(|_| {}), ["B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    settle().await;
    world.net.script("A", DialScript::Panic);
    pass(secs(2)).await;
    let panicked = |line: &String| line.contains("the dialer panicked");
    assert!(health(&world).iter().any(panicked), "{:?}", health(&world));
    world.net.script("A", DialScript::Connect);
    world.backend("A");
    within(world.log.until("returned", 1)).await;
}

/// A session of each of two backends, of which the first then falls silent.
async fn silence(change: impl FnOnce(&mut Settings)) -> World {
    let world = World::new(settings(change), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let clients = [world.client(), world.client()];
    settle().await;
    world.net.script("A", DialScript::Hang);
    let third = world.client();
    pass(secs(60)).await;
    drop((clients, third));
    world
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_silent_target_are_cut_only_if_that_is_asked_for() {
    let world = silence(|_| {}).await;
    assert_eq!(world.log.texts("ended"), [""; 0]);
    let world = silence(|s| s.cut_silent = Some(secs(10))).await;
    assert_eq!(world.log.texts("ended"), ["ended backend_silent 0/0"]);
    assert_eq!(world.log.times("ended"), [10_250]);
    assert_eq!(world.ended(EndReason::BackendSilent), 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_refuses_is_not_silent_and_neither_is_the_only_one() {
    let cut_silent = || settings(|s| s.cut_silent = Some(secs(10)));
    let world = World::new(cut_silent(), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _clients = [world.client(), world.client()];
    settle().await;
    world.net.script("A", DialScript::Fail(ErrorKind::ConnectionRefused));
    let _third = world.client();
    pass(secs(60)).await;
    assert_eq!(world.log.texts("ended"), [""; 0]);

    let world = World::new(cut_silent(), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    world.net.script("A", DialScript::Hang);
    let _second = world.client();
    pass(secs(5)).await;
    assert_eq!(ejected(&world), ["A"]);
    pass(secs(60)).await;
    assert_eq!(world.ended(EndReason::BackendSilent), 0);
}

#[tokio::test(start_paused = true)]
async fn without_ejection_nobody_is_ejected_and_those_who_are_return_at_once() {
    let world = World::new(settings(|_| {}), ["B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!((snapshot.ejected.len(), snapshot.ejected[0].fault), (1, Fault::Refused));
    world.handle.configure(settings(|s| s.ejection = false)).expect("in range");
    settle().await;
    assert_eq!(world.log.texts("returned"), ["returned A after 0"]);
    let dials = world.stats("A").dials_started;
    pass(secs(60)).await;
    let _others = [world.client(), world.client()];
    settle().await;
    assert_eq!(world.stats("A").dials_started, dials + 1, "its turn, and no probe");
    assert_eq!(ejected(&world), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn shorter_pauses_between_probes_hold_for_those_who_are_ejected_already() {
    let an_hour = settings(|s| {
        s.probe_interval_min = secs(3600);
        s.probe_interval_max = secs(3600);
    });
    let mut world = World::new(an_hour, ["B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    settle().await;
    world.backend("A");
    pass(secs(60)).await;
    assert_eq!(world.log.times("probed"), [0]);
    world.handle.configure(settings(|_| {})).expect("in range");
    pass(secs(5)).await;
    assert_eq!(ejected(&world), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_with_its_last_probe() {
    for grace in [0, 60] {
        let world = World::new(settings(|_| {}), ["B"]);
        world.net.script("A", DialScript::Hang);
        world.apply(&[("a", "A"), ("b", "B")]).await;
        let mut client = world.client();
        within(world.log.until("connected", 1)).await;
        settle().await;
        assert_eq!(world.snapshot().probes, 1);
        let shutdown = world.handle.shutdown(secs(grace));
        settle().await;
        tinylb_core::Conn::abort(&mut client);
        within(shutdown).await;
        assert_eq!((world.snapshot().probes, world.stats("A").dials_in_flight), (0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn clients_wait_for_a_set_with_backends_if_that_is_asked_for() {
    let mut world = World::new(settings(|s| s.empty = EmptySet::Wait), ["A", "B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    // Its dial is revoked, and it waits like one that comes later.
    let mut first = world.client();
    settle().await;
    world.apply(&[]).await;
    let mut second = world.client();
    pass(secs(5)).await;
    assert_eq!(world.snapshot().waiting, 2);
    assert_eq!(world.log.texts("ended"), [""; 0]);
    world.apply(&[("b", "B")]).await;
    let mut backends = [world.accept("B").await, world.accept("B").await];
    talk(&mut first, &mut backends[0]).await;
    talk(&mut second, &mut backends[1]).await;

    world.apply(&[]).await;
    let mut third = world.client();
    pass(secs(20)).await;
    assert_eq!(world.ended(EndReason::WaitingTimedOut), 1);
    assert!(is_cut(&mut third));
    let mut fourth = world.client();
    settle().await;
    world.handle.configure(settings(|_| {})).expect("in range");
    settle().await;
    assert!(is_cut(&mut fourth), "the settings let nobody wait any more");
    assert_eq!(world.ended(EndReason::NoBackends), 1);
}

#[tokio::test(start_paused = true)]
async fn as_many_clients_wait_for_a_set_with_backends_as_may_wait_for_the_first() {
    let limits = settings(|s| {
        s.empty = EmptySet::Wait;
        s.waiting_max = 1;
    });
    let world = World::new(limits, ["A"]);
    world.apply(&[]).await;
    let _clients = [world.client(), world.client()];
    settle().await;
    assert_eq!((world.snapshot().waiting, world.ended(EndReason::WaitingFull)), (1, 1));
}
