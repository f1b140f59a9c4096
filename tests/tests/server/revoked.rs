//! A dial whose target is removed goes on with another backend.

use std::sync::Arc;

use tinylb_contract::pipe::{DialScript, Gate, PipeTarget};
use tinylb_core::Handle;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn a_client_whose_dial_was_revoked_is_served_by_another_backend() {
    let mut world = World::new(without_ejection(|s| s.dial_attempts_max = 1), ["A", "B"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    pass(secs(2)).await;
    assert_eq!(world.apply(&[("b", "B")]).await.dials_revoked, 1);
    let mut backend = world.accept("B").await;
    talk(&mut client, &mut backend).await;
    assert_eq!((world.stats("A").dials_dropped, world.stats("A").dials_in_flight), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn revoked_dials_use_up_no_attempt() {
    let world = World::new(settings(|s| s.dial_attempts_max = 2), ["A", "D"]);
    world.net.script("A", DialScript::Fail(std::io::ErrorKind::ConnectionRefused));
    world.net.script("B", DialScript::Hang);
    world.net.script("C", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    settle().await;
    world.apply(&[("a", "A"), ("c", "C")]).await;
    settle().await;
    world.apply(&[("a", "A"), ("d", "D")]).await;
    settle().await;
    let story = [
        "admitted a=A",
        "dial a",
        "failed a: connection refused",
        "admitted b=B",
        "dial b",
        "failed b: backend removed",
        "admitted c=C",
        "dial c",
        "failed c: backend removed",
        "admitted d=D",
        "dial d",
        "connected d",
    ];
    assert_eq!(world.log.of(0), story);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_was_removed_during_the_dial_may_be_dialled_when_it_is_back() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.net.script("A", DialScript::Hang);
    world.net.script("B", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    world.apply(&[("b", "B")]).await;
    settle().await;
    world.net.script("A", DialScript::Connect);
    world.apply(&[("a", "A")]).await;
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected a"]);
}

#[tokio::test(start_paused = true)]
async fn without_another_backend_the_client_is_cut_at_once() {
    let world = World::new(settings(|_| {}), []);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    settle().await;
    world.apply(&[]).await;
    assert_eq!(world.log.timed(0)[2..], ["0 failed a: backend removed", "0 ended no_backends 0/0"]);
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn revocations_do_not_stretch_the_time_that_a_client_waits() {
    let world = World::new(settings(|_| {}), []);
    for name in ["A", "B"] {
        world.net.script(name, DialScript::Hang);
    }
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    settle().await;
    for second in 1..=8 {
        pass(secs(1)).await;
        assert_eq!(is_cut(&mut client), second == 8, "after {second} s");
        world.apply(if second % 2 == 0 { &[("a", "A")] } else { &[("b", "B")] }).await;
    }
    assert_eq!(world.log.times("ended"), [8000]);
}

/// A dial that itself brings about its revocation, just before it succeeds.
fn revoking(handle: &Handle<PipeTarget>) -> DialScript {
    let handle = handle.clone();
    DialScript::After(Arc::new(move || {
        let handle = handle.clone();
        Box::pin(async move {
            drop(handle.replace(set(&[("b", "B")])));
        })
    }))
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_succeeds_in_the_moment_of_its_revocation_is_not_used() {
    let mut world = World::new(settings(|s| s.dial_attempts_max = 1), ["A", "B"]);
    world.net.script("A", revoking(&world.handle));
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    write(&mut client, "secret").await;
    let mut other = world.accept("B").await;
    expect(&mut other, "secret").await;
    let story = [
        "admitted a=A",
        "dial a",
        "failed a: backend removed",
        "admitted b=B",
        "dial b",
        "connected b",
    ];
    assert_eq!(world.log.of(0), story);
    let stats = world.stats("A").dialled;
    assert_eq!((stats.open, stats.aborted, stats.bytes_written), (0, 1, 0));
    let mut backend = world.accept("A").await;
    assert!(is_cut(&mut backend), "it is given up in a way that the backend sees");
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_succeeds_before_its_session_hears_of_the_removal_is_not_used() {
    let world = World::new(settings(|_| {}), ["A", "B"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    gate.open();
    world.apply(&[("b", "B")]).await;
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected b"]);
    assert_eq!((world.stats("A").dialled.open, world.stats("A").backlog), (0, 0));
}
