//! A replacement that is applied has left nothing at a removed target.

use std::sync::{Arc, OnceLock};

use futures::FutureExt;
use tinylb_contract::pipe::{DialScript, PipeNetwork};
use tinylb_core::{EndReason, Event};

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn the_report_says_what_the_replacement_did() {
    let world = World::new(settings(|_| {}), ["A", "B", "C", "D", "E"]);
    world.net.script("C", DialScript::Hang);
    let first = world.apply(&[("a", "A"), ("b", "B"), ("c", "C"), ("e", "E")]).await;
    assert_eq!((first.generation.number(), first.is_change, first.backends), (1, true, 4));
    let _clients: Vec<_> = (0..5).map(|_| world.client()).collect();
    settle().await;
    let report = world.apply(&[("b", "D"), ("d", "D"), ("e", "E")]).await;
    assert_eq!((report.generation.number(), report.is_change, report.backends), (2, true, 3));
    assert_eq!(report.added, ["d".into()]);
    assert_eq!(report.removed, ["a".into(), "c".into()]);
    assert_eq!(report.retargeted, ["b".into()]);
    assert_eq!(report.sessions_cut, 3, "two of a, and the one of b's old target");
    assert_eq!((report.dials_revoked, report.sessions_draining), (1, 0));
    assert_eq!(world.ended(EndReason::BackendRemoved), 3);
    assert_eq!(world.load("E"), (0, 1), "who isn't concerned is kept");
}

#[tokio::test(start_paused = true)]
async fn the_same_set_again_cuts_nobody() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    settle().await;
    let report = world.apply(&[("a", "A")]).await;
    assert_eq!((report.generation.number(), report.is_change), (2, false));
    let renamed = world.apply(&[("z", "A")]).await;
    assert_eq!((renamed.is_change, renamed.sessions_cut), (true, 0));
    settle().await;
    assert!(!is_cut(&mut client));
    assert_eq!(world.log.texts("set"), ["set 1", "set 3"]);
}

#[tokio::test(start_paused = true)]
async fn an_applied_replacement_has_let_go_of_both_ends_and_of_dials() {
    let net: Arc<OnceLock<PipeNetwork>> = Arc::default();
    let seen = Arc::clone(&net);
    let mut world = World::with_hook(settings(|_| {}), ["A", "B"], move |_, event| {
        // Nobody may hear of the end before the ends are free.
        if matches!(event, Event::Ended { .. }) {
            let net = seen.get().expect("the network is known");
            let (a, front) = (net.stats("A").dialled, net.stats(FRONT).accepted);
            assert_eq!((a.open + a.aborted, a.aborted), (2, front.aborted));
            assert!(a.aborted > 0);
        }
    });
    assert!(net.set(world.net.clone()).is_ok());
    world.apply(&[("a", "A")]).await;
    let mut clients = vec![world.client(), world.client()];
    let mut backends = [world.accept("A").await, world.accept("A").await];
    world.net.script("A", DialScript::Hang);
    clients.push(world.client());
    settle().await;

    let mut replacement = world.replace(&[("b", "B")]);
    assert_eq!((replacement.report().sessions_cut, replacement.report().dials_revoked), (2, 1));
    assert!((&mut replacement).now_or_never().is_none(), "the sessions hadn't their turn yet");
    assert_eq!((world.stats("A").dialled.open, world.stats("A").dials_in_flight), (2, 1));
    within(replacement).await;
    assert_eq!((world.stats("A").dialled.open, world.stats("A").dials_in_flight), (0, 0));
    assert_eq!((world.stats("A").dialled.aborted, world.stats("A").dials_dropped), (2, 1));
    assert!(backends.iter_mut().all(is_cut));
    let cut: Vec<_> = clients.iter_mut().map(is_cut).collect();
    assert_eq!(cut, [true, true, false], "who was only dialling is served by another");
    assert_eq!(world.log.texts("ended").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_barrier_waits_for_no_peer() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.set_capacity(4);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    for _ in 0..64 {
        fill(&mut client);
        fill(&mut backend);
        settle().await;
    }
    assert_eq!((client.unread(), backend.unread()), (4, 4), "neither reads");
    let began = tokio::time::Instant::now();
    let report = world.apply(&[]).await;
    assert_eq!((report.sessions_cut, began.elapsed()), (1, ms(0)));
    assert!(is_cut(&mut client) && is_cut(&mut backend));
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_nobody_awaits_takes_effect_all_the_same() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let _backend = world.accept("A").await;
    drop(world.replace(&[("b", "B")]));
    let mut polled = world.replace(&[("b", "B"), ("c", "B")]);
    assert!((&mut polled).now_or_never().is_none());
    drop(polled);
    settle().await;
    assert!(is_cut(&mut client));
    assert_eq!((world.stats("A").dialled.open, world.snapshot().live), (0, 0));
    let _next = world.client();
    settle().await;
    assert_eq!(world.load("B"), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_later_replacement_is_not_applied_before_an_earlier_one() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    let first = world.replace(&[("b", "B")]);
    let mut second = world.replace(&[("b", "B"), ("c", "B")]);
    let mut same = world.replace(&[("b", "B"), ("c", "B")]);
    assert_eq!(second.report().sessions_cut, 0);
    assert!((&mut second).now_or_never().is_none());
    assert!((&mut same).now_or_never().is_none(), "a set that says nothing new waits as well");
    within(second).await;
    assert_eq!(world.stats("A").dialled.open, 0);
    assert!(first.now_or_never().is_some());
    assert!(same.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn an_earlier_replacement_does_not_wait_for_a_later_one() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    let first = world.replace(&[("a", "A")]);
    let mut second = world.replace(&[]);
    assert!(first.now_or_never().is_some(), "nobody had a session at b");
    assert!((&mut second).now_or_never().is_none());
    within(second).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_on_its_way_at_the_removal_is_not_sent_after_it() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let _backend = world.accept("A").await;
    settle().await;
    write(&mut client, "too late").await;
    let replacement = world.replace(&[]);
    assert_eq!(world.stats("A").dialled.bytes_written, 0, "the session hadn't its turn yet");
    within(replacement).await;
    assert_eq!(world.stats("A").dialled.bytes_written, 0);
}

#[tokio::test(start_paused = true)]
async fn after_it_is_applied_a_removed_target_gets_no_dial_and_no_byte() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let mut clients = Vec::new();
    let mut backends = Vec::new();
    for _ in 0..10 {
        clients.push(world.client());
        clients.push(world.client());
        backends.push(world.accept("A").await);
    }
    for client in &mut clients {
        write(client, "before").await;
    }
    settle().await;
    for client in &mut clients {
        // On its way when the set is replaced.
        write(client, "during").await;
    }
    world.apply(&[("b", "B")]).await;
    let at_removal = world.stats("A");
    assert_eq!(at_removal.dialled.open, 0);
    for _ in 0..20 {
        let mut client = world.client();
        write(&mut client, "after").await;
        settle().await;
        clients.push(client);
    }
    for client in &mut clients {
        if !is_cut(client) {
            write(client, "more").await;
        }
    }
    pass(secs(10)).await;
    assert_eq!(world.stats("A"), at_removal);
    assert_eq!(world.load("B"), (0, 30));
    assert!(backends.iter_mut().all(is_cut), "no client's stream seems to have ended");
}

#[tokio::test(start_paused = true)]
async fn a_removal_during_a_shutdown_waits_for_what_the_shutdown_cuts() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    settle().await;
    drop(world.handle.shutdown(secs(0)));
    let mut replacement = world.replace(&[]);
    assert_eq!(world.stats("A").dialled.open, 1);
    assert!((&mut replacement).now_or_never().is_none());
    within(replacement).await;
    assert_eq!(world.stats("A").dialled.open, 0);
}
