//! A backend is picked when the client is accepted, and accepting waits for nobody.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tinylb_contract::pipe::{DialScript, Gate};
use tinylb_core::Event;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_delays_only_its_own_clients() {
    let world = World::new(settings(|_| {}), ["A", "B", "C"]);
    world.net.script("A", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    let _clients: Vec<_> = (0..6).map(|_| world.client()).collect();
    settle().await;
    let picked = ["admitted a=A", "admitted b=B", "admitted c=C"].repeat(2);
    assert_eq!(world.log.texts("admitted"), picked);
    let order: Vec<_> = world.log.like("admitted").iter().map(|e| e.session).collect();
    assert_eq!(order, (0..6).map(Some).collect::<Vec<_>>());
    assert_eq!(world.load("A"), (2, 0));
    assert_eq!((world.load("B"), world.load("C")), ((0, 2), (0, 2)));
    assert_eq!(world.log.times("connected"), [0; 4]);
}

#[tokio::test(start_paused = true)]
async fn the_rotation_is_by_acceptance_even_if_dials_finish_in_another_order() {
    let world = World::new(settings(|_| {}), ["A", "B", "C"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    let mut clients = vec![world.client(), world.client()];
    settle().await;
    gate.open();
    settle().await;
    clients.push(world.client());
    clients.push(world.client());
    settle().await;
    let picked = ["admitted a=A", "admitted b=B", "admitted c=C", "admitted a=A"];
    assert_eq!(world.log.texts("admitted"), picked);
    assert_eq!(
        world.log.texts("connected"),
        ["connected b", "connected a", "connected c", "connected a"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_reads_nothing_delays_nobody_else() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.set_capacity(64);
    world.apply(&[("a", "A")]).await;
    let slow = world.client();
    let mut flood = world.accept("A").await;
    loop {
        let taken = fill(&mut flood);
        settle().await;
        if taken == 0 {
            break;
        }
    }
    assert_eq!(slow.unread(), 64);
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    talk(&mut client, &mut backend).await;
    assert_eq!(world.log.times("connected"), [0, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_target_removed_between_pick_and_dial_is_never_dialled() {
    let is_first = Arc::new(AtomicBool::new(true));
    let world = World::with_hook(settings(|_| {}), ["A", "B"], move |handle, event| {
        if matches!(event, Event::Admitted { .. }) && is_first.swap(false, Ordering::SeqCst) {
            let replaced = handle.replace(set(&[("b", "B")])).expect("the set is valid");
            assert_eq!(replaced.report().dials_revoked, 1, "the pick is in the pool already");
        }
    });
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    assert_eq!(world.stats("A").dials_started, 0);
    let story =
        ["admitted a=A", "failed a: backend removed", "admitted b=B", "dial b", "connected b"];
    assert_eq!(world.log.of(0), story);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_counted_at_its_target_while_it_dials_and_no_longer_than_it_lives() {
    let world = World::new(settings(|_| {}), ["A"]);
    let gate = Gate::default();
    world.net.script("A", DialScript::Gate(gate.clone()));
    world.apply(&[("a", "A")]).await;
    let client = world.client();
    settle().await;
    assert_eq!(world.load("A"), (1, 0));
    gate.open();
    settle().await;
    assert_eq!(world.load("A"), (0, 1));
    drop(client);
    pass(secs(300)).await;
    assert!(world.snapshot().loads.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_rotation_begins_where_the_settings_say_and_can_begin_anew() {
    let world = World::new(settings(|s| s.start = 4), ["A", "B", "C"]);
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    let mut clients = vec![world.client(), world.client()];
    settle().await;
    world.handle.reset_cycle();
    clients.push(world.client());
    settle().await;
    let picked = ["admitted b=B", "admitted c=C", "admitted b=B"];
    assert_eq!(world.log.texts("admitted"), picked);
}
