//! Where sets come from, and sets that are no good.

use futures::{StreamExt, stream};
use tinylb_core::{Server, SetError, Update, publisher};
use tinylb_tests::pipe::DialScript;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn the_server_follows_what_is_published() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    let (publisher, source) = publisher();
    world.handle.follow(source);
    publisher.publish(set(&[("a", "A")]));
    let mut client = world.client();
    let _backend = world.accept("A").await;
    publisher.publish(set(&[("b", "B")]));
    settle().await;
    assert!(is_cut(&mut client));
    assert_eq!(world.snapshot().set, Some(set(&[("b", "B")])));
}

#[tokio::test(start_paused = true)]
async fn a_lost_source_keeps_the_set_and_its_age_can_be_asked_for() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let (publisher, source) = publisher();
    world.handle.follow(source);
    publisher.publish(set(&[("a", "A")]));
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    assert_eq!(world.snapshot().source_lost, None);
    pass(secs(5)).await;
    publisher.lose("the registry is away");
    pass(secs(7)).await;
    let snapshot = world.snapshot();
    assert_eq!(snapshot.source_lost.as_deref(), Some("the registry is away"));
    assert_eq!((snapshot.set, snapshot.set_age), (Some(set(&[("a", "A")])), Some(secs(12))));
    talk(&mut client, &mut backend).await;
    let _next = world.client();
    settle().await;
    assert_eq!(world.load("A"), (0, 2));
    publisher.publish(set(&[("a", "A")]));
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!((snapshot.source_lost, snapshot.set_age), (None, Some(secs(0))));
    assert_eq!(world.log.texts("lost"), ["lost: the registry is away"]);
}

#[tokio::test(start_paused = true)]
async fn a_source_that_ends_is_lost_and_closes_nothing() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.handle.follow(stream::iter([Update::Set(set(&[("a", "A")]))]));
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    talk(&mut client, &mut backend).await;
    assert_eq!(world.log.texts("lost"), ["lost: the source has ended"]);
    assert!(world.snapshot().source_lost.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_panics_is_lost() {
    let world = World::new(settings(|_| {}), ["A"]);
    let mut polls = 0;
    world.handle.follow(stream::poll_fn(move |_| {
        polls += 1;
        match polls {
            1 => std::task::Poll::Ready(Some(Update::Set(set(&[("a", "A")])))),
            _ => panic!("the source panics, as told by a test"),
        }
    }));
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!(snapshot.set, Some(set(&[("a", "A")])));
    assert!(snapshot.source_lost.is_some(), "nobody learns that the set is not kept up to date");
}

#[tokio::test(start_paused = true)]
async fn a_rejected_set_changes_nothing_and_the_next_one_counts() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.script("X", DialScript::Invalid("it is the server itself".into()));
    let (publisher, source) = publisher();
    world.handle.follow(source);
    publisher.publish(set(&[("a", "A")]));
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    pass(secs(3)).await;
    publisher.publish(set(&[("b", "A"), ("x", "X")]));
    settle().await;
    talk(&mut client, &mut backend).await;
    let rejected = "rejected: the target X of x is invalid: it is the server itself";
    assert_eq!(world.log.texts("rejected"), [rejected]);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.set, snapshot.generation.number()), (Some(set(&[("a", "A")])), 1));
    assert_eq!(snapshot.set_age, Some(secs(3)), "it's the age of the set that is in force");
    publisher.publish(set(&[]));
    settle().await;
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn an_error_of_a_set_names_the_key_at_fault() {
    let world = World::new(settings(|s| s.backends_max = 2), ["A"]);
    world.net.script("X", DialScript::Invalid("port 0".into()));
    let three = set(&[("a", "A"), ("b", "A"), ("c", "A")]);
    let error = world.handle.replace(three.clone()).err();
    assert_eq!(error, Some(SetError::TooManyBackends { count: 3, max: 2, key: "c".into() }));
    let error = world.handle.replace(set(&[("a", "A"), ("x", "X")])).err();
    let (key, target, reason) = ("x".into(), "X".into(), "port 0".into());
    assert_eq!(error, Some(SetError::InvalidTarget { key, target, reason }));
    assert_eq!(world.snapshot().set, None);
    assert!(world.log.all().is_empty());
    world.handle.configure(settings(|s| s.backends_max = 3)).expect("in range");
    assert!(world.handle.replace(three).is_ok());
}

#[tokio::test(start_paused = true)]
async fn bad_settings_change_nothing() {
    let world = World::new(settings(|s| s.dial_attempts_max = 7), []);
    let error = world.handle.configure(settings(|s| s.dial_timeout = secs(0)));
    assert_eq!(error.map_err(|e| e.name), Err("dial_timeout"));
    assert_eq!(world.snapshot().settings.dial_attempts_max, 7);
}

#[tokio::test(start_paused = true)]
async fn a_server_with_bad_settings_does_not_begin() {
    let world = World::new(settings(|_| {}), []);
    let bad = settings(|s| s.dial_attempts_max = 0);
    let server = Server::new(world.net.dialer(), world.runtime.clone(), bad);
    assert_eq!(server.err().map(|e| e.name), Some("dial_attempts_max"));
}

#[tokio::test(start_paused = true)]
async fn a_source_is_let_go_with_the_server() {
    let mut world = World::new(settings(|_| {}), []);
    let alive = std::sync::Arc::new(());
    let held = std::sync::Arc::clone(&alive);
    world.handle.follow(stream::pending().inspect(move |_| drop(std::sync::Arc::clone(&held))));
    settle().await;
    assert_eq!(std::sync::Arc::strong_count(&alive), 2);
    drop(world.server.take());
    settle().await;
    assert_eq!((std::sync::Arc::strong_count(&alive), world.runtime.tasks()), (1, 0));
}
