//! Several listeners of one server.

use std::collections::BTreeMap;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn the_rotation_is_strict_over_all_listeners() {
    let world = World::new(settings(|_| {}), ["A", "B", "C"]);
    let _others = [world.listen("second"), world.listen("third")];
    world.apply(&[("a", "A"), ("b", "B"), ("c", "C")]).await;
    let mut clients = Vec::new();
    for round in 0..30 {
        clients.push(world.client_of([FRONT, "second", "third", "second"][round % 4]));
        settle().await;
    }
    assert_eq!(
        world.log.texts("admitted"),
        ["admitted a=A", "admitted b=B", "admitted c=C"].repeat(10)
    );
}

#[tokio::test(start_paused = true)]
async fn listeners_come_and_go_while_the_server_runs() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut client = world.client();
    let mut backend = world.accept("A").await;
    let second = world.listen("second");
    assert_eq!(second.id().map(|id| id.to_string()).as_deref(), Some("1"));
    let mut client_2 = world.client_of("second");
    let mut backend_2 = world.accept("A").await;
    talk(&mut client_2, &mut backend_2).await;

    let front = world.front.take().expect("it is there");
    front.stop_handle().stop();
    assert!(within(front).await.is_ok());
    assert!(world.net.connect(FRONT).is_err(), "it is closed");
    assert_eq!(world.snapshot().listeners, 1);
    talk(&mut client, &mut backend).await;
    talk(&mut client_2, &mut backend_2).await;
    // The name is free again.
    let _third = world.listen(FRONT);
    let _client_3 = world.client();
    settle().await;
    assert_eq!(world.load("A"), (0, 3));
    let by: Vec<_> = world.log.texts("accepted");
    let by: Vec<_> = by.iter().filter_map(|text| text.split(' ').nth(2)).collect();
    assert_eq!(by, ["0", "1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_handle_is_dropped_goes_on() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    drop(world.front.take());
    world.apply(&[("a", "A")]).await;
    let _client = world.client();
    settle().await;
    assert_eq!(world.load("A"), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_listeners_tasks_run_on_its_own_runtime() {
    let world = World::new(settings(|_| {}), ["A"]);
    let own = world.runtime.another();
    let listener = world.net.listen("own");
    let handle = world.server().listen(listener, tinylb_core::CopyRelay::default(), own.clone());
    world.apply(&[("a", "A")]).await;
    let before = world.runtime.tasks();
    let _clients: Vec<_> = (0..3).map(|_| world.client_of("own")).collect();
    settle().await;
    assert_eq!((own.tasks(), world.runtime.tasks()), (4, before));
    handle.stop();
    settle().await;
    assert_eq!(own.tasks(), 3);
    let mut counts = BTreeMap::new();
    for text in world.log.texts("accepted") {
        *counts.entry(text[..13].to_owned()).or_insert(0) += 1;
    }
    assert_eq!(counts, BTreeMap::from([("accepted by 1".to_owned(), 3)]));
}
