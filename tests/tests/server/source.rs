//! Where sets come from, and sets that are no good.

use futures::{StreamExt, stream};
use tinylb_contract::pipe::DialScript;
use tinylb_core::{BadEntries, BadEntry, Floor, Server, SetError, Update, publisher};

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
    pass(secs(1)).await;
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
    assert_eq!(world.log.texts("back"), ["back after 7s"]);
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
            _ => panic!("the source panics, as a test wants it to"),
        }
    }));
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!(snapshot.set, Some(set(&[("a", "A")])));
    assert!(snapshot.source_lost.is_some(), "nobody learns that the set is not kept up to date");
}

#[tokio::test(start_paused = true)]
async fn a_source_that_begins_anew_keeps_its_set_for_as_long_as_it_is_fine_again() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    let mut lives = 0;
    let source = tinylb_tokio::restarting(move || {
        lives += 1;
        let life = lives;
        let says = stream::iter(0..2).then(move |step| async move {
            match (life, step) {
                (1, 1) => {
                    pass(secs(3)).await;
                    panic!("the source panics, as a test wants it to")
                }
                (2, 1) => {
                    pass(secs(60)).await;
                    Update::Set(set(&[("b", "B")]))
                }
                _ => Update::Set(set(&[("a", "A")])),
            }
        });
        says.chain(stream::pending())
    });
    let stale = source_settings(|s| s.max_stale = Some(secs(5)));
    world.handle.follow_with(source, stale).expect("in range");
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    pass(secs(30)).await;
    talk(&mut client, &mut backend).await;
    let cause =
        "the source panicked: the source panics, as a test wants it to; it will be restarted";
    assert_eq!(world.log.texts("lost"), [format!("lost: {cause}")]);
    assert_eq!(world.log.texts("back").len(), 1);
    pass(secs(60)).await;
    assert!(is_cut(&mut client), "its next set counts");
    let _next = world.client();
    let _backend = world.accept("B").await;
}

#[tokio::test(start_paused = true)]
async fn a_set_at_which_the_dialer_panics_is_a_loss_and_the_next_one_counts() {
    let world = World::new(settings(|_| {}), ["A", "B"]);
    world.net.script("X", DialScript::PanicAtCheck);
    let (publisher, source) = publisher();
    world.handle.follow(source);
    publisher.publish(set(&[("a", "A")]));
    pass(secs(1)).await;
    publisher.publish(set(&[("x", "X")]));
    pass(secs(1)).await;
    assert_eq!(world.log.texts("lost"), ["lost: the check of its set panicked"]);
    assert_eq!(world.snapshot().set, Some(set(&[("a", "A")])));
    publisher.publish(set(&[("b", "B")]));
    pass(secs(1)).await;
    assert_eq!(world.snapshot().set, Some(set(&[("b", "B")])));
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_no_good_is_a_loss_and_the_next_one_counts() {
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
    let lost = "the target X of x is invalid: it is the server itself";
    assert_eq!(world.log.texts("lost"), [format!("lost: {lost}")]);
    let snapshot = world.snapshot();
    assert_eq!(snapshot.source_lost.as_deref(), Some(lost));
    assert_eq!((snapshot.set, snapshot.generation.number()), (Some(set(&[("a", "A")])), 1));
    assert_eq!(snapshot.set_age, Some(secs(3)), "it's the age of the set that is in force");
    publisher.publish(set(&[]));
    settle().await;
    assert!(is_cut(&mut client));
}

#[tokio::test(start_paused = true)]
async fn bad_entries_are_left_out_where_that_is_wanted() {
    let world = World::new(settings(|_| {}), ["A"]);
    world.net.script("X", DialScript::Invalid("it is the server itself".into()));
    let entry = BadEntry { key: "y".into(), reason: "no address".into() };
    let (a, ax) = (set(&[("a", "A")]), set(&[("a", "A"), ("x", "X")]));
    let updates = [Update::Partial(ax, [entry].into()), Update::Set(a.clone())];
    let source = stream::iter(updates).then(|update| async {
        pass(secs(1)).await;
        update
    });
    let leave_out = source_settings(|s| s.bad_entries = BadEntries::LeaveOut);
    world.handle.follow_with(source.chain(stream::pending()), leave_out).expect("in range");
    pass(secs(1)).await;
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!((snapshot.set, snapshot.left_out.len()), (Some(a), 2));
    pass(secs(1)).await;
    settle().await;
    assert_eq!(world.snapshot().left_out.len(), 0);
    let x = "x: the target X is invalid: it is the server itself";
    let logged = [format!("without: y: no address, {x}"), "without: ".into()];
    assert_eq!(world.log.texts("without"), logged);
    assert!(world.log.texts("lost").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_set_that_removes_too_much_is_held_while_connections_go_on() {
    let mut world = World::new(settings(|_| {}), ["A", "B"]);
    let (publisher, source) = publisher();
    let floor = Floor { removed_percent_max: 50, hold: secs(60) };
    let held = source_settings(|s| s.floor = Some(floor));
    world.handle.follow_with(source, held).expect("in range");
    publisher.publish(set(&[("a", "A")]));
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    publisher.publish(set(&[("b", "B")]));
    pass(secs(59)).await;
    talk(&mut client, &mut backend).await;
    assert_eq!(world.log.texts("held"), ["held: 1 of 1"]);
    assert_eq!(world.snapshot().set_held.map(|held| held.hold), Some(secs(60)));
    pass(secs(2)).await;
    settle().await;
    assert!(is_cut(&mut client));
    assert_eq!(world.snapshot().set_held, None);
}

#[tokio::test(start_paused = true)]
async fn a_set_that_is_stale_is_given_up_even_if_its_source_has_ended() {
    for ends in [false, true] {
        let mut world = World::new(settings(|_| {}), ["A"]);
        let first = stream::iter([Update::Set(set(&[("a", "A")]))]);
        let stale = source_settings(|s| s.max_stale = Some(secs(30)));
        let lost = stream::iter([Update::Lost("no answer".into())]).chain(stream::pending());
        let following = match ends {
            true => world.handle.follow_with(first, stale),
            false => world.handle.follow_with(first.chain(lost), stale),
        };
        following.expect("in range");
        let mut client = world.client();
        let mut backend = world.accept("A").await;
        pass(secs(29)).await;
        talk(&mut client, &mut backend).await;
        pass(secs(2)).await;
        settle().await;
        assert!(is_cut(&mut client));
        let reason = if ends { "the source has ended" } else { "no answer" };
        assert_eq!(world.log.texts("stale"), [format!("stale: {reason}")]);
        assert_eq!(world.snapshot().source_lost.as_deref(), Some(reason));
    }
}

#[tokio::test(start_paused = true)]
async fn a_source_that_is_followed_no_more_is_let_go() {
    let world = World::new(settings(|_| {}), []);
    let tasks = world.runtime.tasks();
    let (publisher, source) = publisher();
    let following = world.handle.follow(source);
    publisher.publish(set(&[("a", "A")]));
    settle().await;
    following.stop();
    settle().await;
    publisher.publish(set(&[("b", "B")]));
    pass(secs(1)).await;
    assert_eq!(world.snapshot().set, Some(set(&[("a", "A")])));
    assert!(world.log.texts("lost").is_empty());
    assert_eq!(world.runtime.tasks(), tasks);
}

#[tokio::test(start_paused = true)]
async fn a_source_with_bad_settings_is_not_followed() {
    let world = World::new(settings(|_| {}), []);
    let tasks = world.runtime.tasks();
    let bad = source_settings(|s| s.max_stale = Some(secs(0)));
    let error = world.handle.follow_with(stream::empty(), bad).err();
    assert_eq!(error.map(|e| e.name), Some("max_stale"));
    assert_eq!(world.runtime.tasks(), tasks);
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
