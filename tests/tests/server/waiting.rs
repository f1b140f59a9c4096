//! Before the first set clients wait; with an empty one they are turned away.

use futures::stream;
use tinylb_core::{Conn, EndReason, Update};

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn clients_that_came_before_the_first_set_are_served_in_their_order() {
    let world = World::new(settings(|_| {}), ["A", "B", "C"]);
    let _clients: Vec<_> = (0..5).map(|_| world.client()).collect();
    pass(secs(9)).await;
    assert_eq!((world.snapshot().waiting, world.snapshot().live), (5, 5));
    assert_eq!(world.snapshot().set, None);
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    settle().await;
    let order: Vec<_> =
        world.log.like("dial").into_iter().map(|e| (e.session.unwrap_or(99), e.text)).collect();
    let dials = [(0, "dial a"), (1, "dial b"), (2, "dial c"), (3, "dial a"), (4, "dial b")];
    assert_eq!(order, dials.map(|(session, text)| (session, text.to_owned())));
    assert_eq!(world.log.times("connected"), [9000; 5]);
    assert_eq!(world.snapshot().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_comes_with_the_set_does_not_overtake_those_who_wait() {
    let world = World::new(settings(|_| {}), ["A", "B"]);
    let _waits = world.client();
    settle().await;
    let _replacement = world.replace(&[("a", "A"), ("b", "B")]);
    let _comes = world.client();
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected a", "connected b"]);
    assert_eq!(world.log.of(0)[0], "admitted a=A");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_first_set_revokes_what_had_no_time_to_dial() {
    let world = World::new(settings(|_| {}), ["A", "B"]);
    let _client = world.client();
    settle().await;
    drop(world.replace(&[("a", "A")]));
    let report = world.apply(&[("b", "B")]).await;
    assert_eq!(report.dials_revoked, 1);
    settle().await;
    assert_eq!(world.stats("A").dials_started, 0);
    assert_eq!(world.log.texts("connected"), ["connected b"]);
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait_and_the_next_is_cut_at_once() {
    let world = World::new(settings(|s| s.waiting_max = 2), ["A"]);
    let mut clients: Vec<_> = (0..3).map(|_| world.client()).collect();
    settle().await;
    let cut: Vec<_> = clients.iter_mut().map(is_cut).collect();
    assert_eq!(cut, [false, false, true]);
    assert_eq!(world.log.timed(2), ["0 ended waiting_full 0/0"]);
    // One goes, and there is a place; or the bound is raised.
    clients[0].abort();
    settle().await;
    assert_eq!(world.ended(EndReason::ClientFailed), 1);
    let _next = world.client();
    settle().await;
    world.handle.configure(settings(|s| s.waiting_max = 3)).expect("in range");
    let _one_more = world.client();
    settle().await;
    assert_eq!(world.snapshot().waiting, 3);
    assert_eq!(world.ended(EndReason::WaitingFull), 1);
}

#[tokio::test(start_paused = true)]
async fn they_wait_for_10_s_or_as_long_as_is_set() {
    let world = World::new(settings(|_| {}), []);
    let mut client = world.client();
    pass(secs(1)).await;
    world.handle.configure(settings(|s| s.waiting_timeout = secs(1))).expect("in range");
    let _later = world.client();
    within(world.log.until("ended", 2)).await;
    assert_eq!(world.log.timed(1), ["2000 ended waiting_timed_out 0/0"]);
    assert_eq!(world.log.timed(0), ["10000 ended waiting_timed_out 0/0"]);
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_cuts_clients_at_once_and_dials_nobody() {
    let world = World::new(settings(|_| {}), ["A"]);
    let mut waits = world.client();
    settle().await;
    world.apply(&[]).await;
    let mut comes = world.client();
    settle().await;
    assert!(is_cut(&mut waits) && is_cut(&mut comes));
    assert_eq!(world.log.texts("ended"), ["ended no_backends 0/0"; 2]);
    assert_eq!(world.log.times("ended"), [0, 0]);
    assert_eq!(world.stats("A").dials_started, 0);
    world.apply(&[("a", "A")]).await;
    let _served = world.client();
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected a"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_lost_before_the_first_set_leaves_clients_waiting() {
    let world = World::new(settings(|_| {}), ["A"]);
    let mut client = world.client();
    world.handle.follow(stream::iter([Update::Lost("no answer".into())]));
    pass(secs(9)).await;
    assert!(!is_cut(&mut client));
    let snapshot = world.snapshot();
    assert_eq!((snapshot.waiting, snapshot.set, snapshot.set_age), (1, None, None));
    assert!(snapshot.source_lost.is_some());
    world.apply(&[("a", "A")]).await;
    settle().await;
    assert_eq!(world.log.texts("connected"), ["connected a"]);
}
