//! What an observer sees. (The order of the events is checked in every test: see the harness.)

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use futures::FutureExt;
use tinylb_contract::pipe::{PipeNetwork, PipeTarget};
use tinylb_core::{CopyRelay, EndReason, Event, Replacement, Server, Shutdown};

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn the_story_of_a_session_is_told_whole() {
    let mut world = World::new(without_ejection(|_| {}), ["B"]);
    world.apply(&[("a", "A"), ("b", "B")]).await;
    let mut client = world.client();
    let mut backend = world.accept("B").await;
    talk(&mut client, &mut backend).await;
    end(&mut client).await;
    settle().await;
    end(&mut backend).await;
    settle().await;
    let story: Vec<_> = world.log.all().into_iter().map(|entry| entry.text).collect();
    let expected = [
        "set 1",
        "accepted by 0 from client-1",
        "admitted a=A",
        "dial a",
        "failed a: connection refused",
        "admitted b=B",
        "dial b",
        "connected b",
        "half-closed by client",
        "ended finished 8/6",
    ];
    assert_eq!(story, expected);
    let snapshot = world.snapshot();
    assert_eq!((snapshot.accepted, snapshot.live, snapshot.ended.sum()), (1, 0, 1));
    assert_eq!(snapshot.ended.of(EndReason::Finished), 1);
    assert_eq!((snapshot.bytes_to_backends, snapshot.bytes_to_clients), (8, 6));
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_replace_the_set() {
    let world = World::with_hook(settings(|_| {}), ["A", "B"], |handle, event| {
        if let Event::Connected { pick, .. } = event
            && pick.key.as_str() == "a"
        {
            drop(handle.replace(set(&[("b", "B")])));
            assert!(handle.snapshot().set.is_some_and(|set| set.get("a").is_none()));
        }
    });
    world.apply(&[("a", "A")]).await;
    let (mut cut, mut kept) = (world.client(), world.client());
    settle().await;
    assert!(is_cut(&mut cut) && !is_cut(&mut kept));
    assert_eq!(world.log.of(0).last().map(String::as_str), Some("ended backend_removed 0/0"));
    assert_eq!(world.log.of(1).last().map(String::as_str), Some("connected b"));
    assert_eq!(world.log.texts("set"), ["set 1", "set 2"]);
}

#[tokio::test(start_paused = true)]
async fn what_an_observer_brings_about_is_reported_after_what_came_before() {
    let is_first = AtomicBool::new(true);
    let world = World::with_hook(settings(|_| {}), ["A", "B"], move |handle, event| {
        if matches!(event, Event::Accepted { .. }) && is_first.swap(false, Ordering::SeqCst) {
            drop(handle.replace(set(&[("b", "B")])));
        }
    });
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    let story: Vec<_> = world.log.all().into_iter().map(|entry| entry.text).collect();
    assert_eq!(story[1..4], ["accepted by 0 from client-1", "admitted a=A", "set 2"]);
}

#[tokio::test(start_paused = true)]
async fn a_panicking_observer_costs_only_that_event() {
    let net = PipeNetwork::new();
    let runtime = TestRuntime::current();
    let seen: Arc<Mutex<Vec<u64>>> = Arc::default();
    let observer = {
        let seen = Arc::clone(&seen);
        move |number, event: &Event<_>| {
            if matches!(event, Event::Admitted { .. } | Event::Ended { .. }) {
                panic!("the observer panics, as a test wants it to");
            }
            seen.lock().unwrap().push(number);
        }
    };
    let server =
        Server::with_observer(net.dialer(), runtime.clone(), settings(|_| {}), observer).unwrap();
    let _front = server.listen(net.listen(FRONT), CopyRelay::default(), runtime);
    let _backend = net.listen("A");
    within(server.handle().replace(set(&[("a", "A")])).unwrap()).await;
    let mut client = net.connect(FRONT).unwrap();
    settle().await;
    let report = within(server.handle().replace(set(&[])).unwrap()).await;
    assert_eq!(report.sessions_cut, 1);
    assert!(is_cut(&mut client));
    // Set, accepted, (admitted), dial, connected, set, (ended).
    assert_eq!(*seen.lock().unwrap(), [0, 1, 3, 4, 5]);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_nobody_observes_replaces_and_shuts_down_as_any_other() {
    let net = PipeNetwork::new();
    let runtime = TestRuntime::current();
    let server = Server::new(net.dialer(), runtime.clone(), settings(|_| {})).unwrap();
    let _front = server.listen(net.listen(FRONT), CopyRelay::default(), runtime);
    let (_a, _b) = (net.listen("A"), net.listen("B"));
    within(server.handle().replace(set(&[("a", "A")])).unwrap()).await;
    let mut client = net.connect(FRONT).unwrap();
    settle().await;
    let report = within(server.handle().replace(set(&[("b", "B")])).unwrap()).await;
    assert_eq!(report.sessions_cut, 1);
    assert!(is_cut(&mut client));
    let _next = net.connect(FRONT).unwrap();
    settle().await;
    within(server.handle().shutdown(secs(0))).await;
    assert_eq!(server.handle().snapshot().live, 0);
}

#[tokio::test(start_paused = true)]
async fn a_barrier_does_not_resolve_before_every_end_has_been_delivered() {
    let barrier: Arc<Mutex<Option<Replacement<PipeTarget>>>> = Arc::default();
    let watched = Arc::clone(&barrier);
    let world = World::with_hook(settings(|_| {}), ["A"], move |_, event| {
        if matches!(event, Event::Ended { .. }) {
            let mut barrier = watched.lock().unwrap();
            let barrier = barrier.as_mut().expect("it has begun");
            assert!(barrier.now_or_never().is_none(), "this end is being delivered just now");
        }
    });
    world.apply(&[("a", "A")]).await;
    let _clients: Vec<_> = (0..20).map(|_| world.client()).collect();
    settle().await;
    *barrier.lock().unwrap() = Some(world.replace(&[]));
    settle().await;
    assert_eq!(world.log.texts("ended").len(), 20);
    let barrier = barrier.lock().unwrap().take().expect("it has begun");
    assert_eq!(barrier.now_or_never().map(|report| report.sessions_cut), Some(20));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_is_not_over_before_every_end_has_been_delivered() {
    let shutdown: Arc<Mutex<Option<Shutdown<PipeTarget>>>> = Arc::default();
    let watched = Arc::clone(&shutdown);
    let mut world = World::with_hook(settings(|_| {}), ["A"], move |_, event| {
        if matches!(event, Event::Ended { .. }) {
            let mut shutdown = watched.lock().unwrap();
            let shutdown = shutdown.as_mut().expect("it has begun");
            assert!(shutdown.now_or_never().is_none(), "this end is being delivered just now");
        }
    });
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    *shutdown.lock().unwrap() = Some(world.handle.shutdown(secs(60)));
    settle().await;
    end(&mut client).await;
    end(&mut backend).await;
    settle().await;
    assert_eq!(world.log.texts("ended"), ["ended finished 0/0"]);
    let shutdown = shutdown.lock().unwrap().take().expect("it has begun");
    assert!(shutdown.now_or_never().is_some());
}

#[tokio::test(start_paused = true)]
async fn the_loads_of_all_targets_can_be_seen_in_order() {
    let world = World::new(settings(|_| {}), ["A", "B"]);
    world.net.script("C", tinylb_contract::pipe::DialScript::Hang);
    world.apply(&[("1", "C"), ("2", "A"), ("3", "B"), ("4", "A")]).await;
    let _clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    settle().await;
    let loads: Vec<_> = world.snapshot().loads;
    let loads: Vec<_> =
        loads.iter().map(|l| (l.target.to_string(), l.dialling, l.connected)).collect();
    assert_eq!(loads, [("A".into(), 0, 2), ("B".into(), 0, 1), ("C".into(), 1, 0)]);
}
