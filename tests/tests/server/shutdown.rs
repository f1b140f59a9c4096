//! The end of a server.

use std::{io, sync::Arc, task::Wake};

use async_trait::async_trait;
use futures::{FutureExt, stream};
use tinylb_contract::pipe::{DialScript, Pipe, PipeListener, PipeTarget};
use tinylb_core::{CopyRelay, EndReason, Event, Handle, Listener, Removal};

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn sessions_may_finish_until_the_deadline_and_the_rest_is_cut() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let (mut one, mut two) = (world.client(), world.client());
    let (mut a_one, mut a_two) = (world.accept("A").await, world.accept("A").await);
    let mut shutdown = world.handle.shutdown(secs(30));
    settle().await;
    assert!(world.net.connect(FRONT).is_err(), "it accepts no more");
    assert!(world.snapshot().is_shutting_down);
    assert!((&mut shutdown).now_or_never().is_none());
    pass(secs(10)).await;
    talk(&mut one, &mut a_one).await;
    end(&mut one).await;
    end(&mut a_one).await;
    pass(ms(19_999)).await;
    talk(&mut two, &mut a_two).await;
    within(shutdown).await;
    assert!(is_cut(&mut two) && is_cut(&mut a_two) && !is_cut(&mut one));
    assert_eq!(world.log.texts("ended"), ["ended finished 8/6", "ended shutdown 8/6"]);
    assert_eq!(world.log.times("ended"), [10_000, 30_000]);
    assert!(within(world.front.take().expect("it is there")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_over_when_the_last_session_is() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.handle.follow(stream::pending());
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    let began = tokio::time::Instant::now();
    let shutdown = world.handle.shutdown(secs(3600));
    end(&mut client).await;
    end(&mut backend).await;
    within(shutdown).await;
    assert_eq!(began.elapsed(), ms(0));
    settle().await;
    assert_eq!(world.runtime.tasks(), 0, "the source and the deadline are waited for no more");
}

#[tokio::test(start_paused = true)]
async fn a_second_call_cuts_at_once() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let _backend = world.accept("A").await;
    let first = world.handle.shutdown(secs(3600));
    pass(secs(1)).await;
    assert!(!is_cut(&mut client));
    within(world.handle.shutdown(secs(3600))).await;
    assert!(is_cut(&mut client));
    assert!(first.now_or_never().is_some());
    assert_eq!(world.log.timed(0).last().map(String::as_str), Some("1000 ended shutdown 0/0"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_nobody_awaits_happens_all_the_same() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    drop(world.handle.shutdown(secs(2)));
    within(world.log.until("ended", 1)).await;
    assert_eq!(world.log.times("ended"), [2000]);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_without_grace_cuts_who_waits_dials_and_relays() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.net.script("B", DialScript::Hang);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let mut clients = [world.client(), world.client()];
    let _backend = world.accept("A").await;
    settle().await;
    within(world.handle.shutdown(secs(0))).await;
    assert!(clients.iter_mut().all(is_cut));
    assert_eq!((world.ended(EndReason::Shutdown), world.stats("B").dials_in_flight), (2, 0));
    let world = World::new(settings(|_| {}), []);
    let mut waits = world.client();
    settle().await;
    within(world.handle.shutdown(secs(0))).await;
    assert!(is_cut(&mut waits));
    assert_eq!(world.ended(EndReason::Shutdown), 1);
}

#[tokio::test(start_paused = true)]
async fn after_a_shutdown_nothing_listens_and_sets_do_no_harm() {
    let world = World::new(settings(|_| {}), ["A"]);
    within(world.handle.shutdown(secs(5))).await;
    assert!(world.net.connect(FRONT).is_err(), "every listener is closed by then");
    let late = world.listen("late");
    assert_eq!(late.id(), None);
    assert!(within(late).await.is_ok());
    assert!(world.net.connect("late").is_err());
    assert_eq!(world.apply(&[("a", "A")]).await.sessions_cut, 0);
    world.handle.follow(stream::pending());
    settle().await;
    assert_eq!(world.runtime.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_server_aborts_everything_and_leaks_nothing() {
    let mut world = World::new(settings(|s| s.removal = Removal::Drain(secs(60))), ["A", "B"]);
    let waits = World::new(settings(|_| {}), []);
    let _waiting = waits.client();
    world.net.script("H", DialScript::Hang);
    world.handle.follow(stream::pending());
    let _second = world.listen("second");
    let _third = world.listen("third");
    world.apply(&[("a", "A")]).await;
    let mut clients = vec![world.client()];
    let mut backends = vec![world.accept("A").await];
    world.apply(&[("b", "B"), ("h", "H")]).await;
    clients.extend([world.client_of("second"), world.client_of("second")]);
    backends.push(world.accept("B").await);
    settle().await;
    let snapshot = world.snapshot();
    assert_eq!(
        (snapshot.live, snapshot.loads.len()),
        (3, 3),
        "one drains, one is connected, one dials"
    );
    world.net.fail_accept("second", std::io::ErrorKind::OutOfMemory.into());
    settle().await;

    let mut worlds = [world, waits];
    for world in &mut worlds {
        drop(world.server.take());
        settle().await;
        assert_eq!((world.snapshot().live, world.snapshot().listeners), (0, 0));
        assert_eq!(world.runtime.tasks(), 0);
        for name in [FRONT, "second", "third", "A", "B", "H"] {
            let stats = world.stats(name);
            let balancers = if name.len() == 1 { stats.dialled } else { stats.accepted };
            assert_eq!((balancers.open, balancers.dropped), (0, 0), "at {name}");
            assert_eq!((stats.dials_in_flight, stats.backlog), (0, 0), "at {name}");
        }
    }
    assert!(clients.iter_mut().chain(&mut backends).all(is_cut));
    assert_eq!(worlds[0].ended(EndReason::Shutdown), 3);
}

#[tokio::test(start_paused = true)]
async fn a_handle_that_outlives_its_server_starts_nothing() {
    let mut world = World::new(settings(|_| {}), []);
    drop(world.server.take());
    settle().await;
    assert!(world.snapshot().is_shutting_down);
    world.handle.follow(stream::pending());
    settle().await;
    assert_eq!(world.runtime.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_keeps_its_deadline_during_the_grace() {
    let mut world = World::new(settings(|s| s.removal = Removal::Drain(secs(10))), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    world.apply(&[]).await;
    within(world.handle.shutdown(secs(60))).await;
    assert_eq!(
        world.log.timed(0).last().map(String::as_str),
        Some("10000 ended drain_expired 0/0")
    );
}

#[tokio::test(start_paused = true)]
async fn who_still_waits_for_the_first_set_is_served_during_the_grace() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let mut client = world.client();
    settle().await;
    let shutdown = world.handle.shutdown(secs(30));
    world.apply(&[("a", "A")]).await;
    let mut backend = world.accept("A").await;
    talk(&mut client, &mut backend).await;
    drop((client, backend));
    within(shutdown).await;
    assert_eq!(world.ended(EndReason::Finished), 1);
}

/// Shuts the server down in the moment in which it accepts.
struct ClosingListener(PipeListener, Handle<PipeTarget>);

#[async_trait]
impl Listener for ClosingListener {
    type Conn = Pipe;

    async fn accept(&mut self) -> io::Result<Pipe> {
        let conn = self.0.accept().await;
        drop(self.1.shutdown(secs(60)));
        conn
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_accepted_in_the_moment_of_shutdown_is_cut_and_not_served() {
    let world = World::new(settings(|_| {}), ["A"]);
    let listener = ClosingListener(world.net.listen("closing"), world.handle.clone());
    drop(world.server().listen(listener, CopyRelay::default(), world.runtime.clone()));
    world.apply(&[("a", "A")]).await;
    let mut client = world.client_of("closing");
    settle().await;
    assert!(is_cut(&mut client));
    assert_eq!((world.snapshot().accepted, world.stats("A").dials_started), (0, 0));
    assert_eq!(world.runtime.tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_admitted_in_the_moment_of_shutdown_is_cut_and_no_dial_of_it_fails() {
    let world = World::with_hook(settings(|_| {}), ["A"], |handle, event| {
        if matches!(event, Event::Admitted { .. }) {
            drop(handle.shutdown(secs(0)));
        }
    });
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    settle().await;
    assert!(is_cut(&mut client));
    assert_eq!(world.log.of(0), ["admitted a=A", "ended shutdown 0/0"]);
    assert_eq!(world.stats("A").dials_started, 0);
}

struct Nothing;

impl Wake for Nothing {
    fn wake(self: Arc<Self>) {}
}

#[tokio::test(start_paused = true)]
async fn futures_that_are_given_up_leave_no_waker_behind() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    let _backend = world.accept("A").await;
    let nothing = Arc::new(Nothing);
    let waker = Arc::clone(&nothing).into();
    let mut cx = std::task::Context::from_waker(&waker);
    let mut shutdown = world.handle.shutdown(secs(60));
    assert!(shutdown.poll_unpin(&mut cx).is_pending());
    let mut replacement = world.replace(&[]);
    assert!(replacement.poll_unpin(&mut cx).is_pending());
    assert_eq!(Arc::strong_count(&nothing), 4);
    drop((replacement, shutdown));
    assert_eq!(Arc::strong_count(&nothing), 2);
}
