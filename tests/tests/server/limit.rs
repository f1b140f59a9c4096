//! The limit of connections.

use tinylb_tests::pipe::DialScript;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn at_the_limit_the_rest_stays_in_the_backlog_until_a_session_ends() {
    let mut world = World::new(settings(|s| s.max_connections = 2), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut clients: Vec<_> = (0..5).map(|_| world.client()).collect();
    pass(secs(100)).await;
    assert_eq!((world.snapshot().live, world.snapshot().accepted), (2, 2));
    assert_eq!(world.stats(FRONT).backlog, 3);
    let mut backend = world.accept("A").await;
    end(&mut clients[0]).await;
    end(&mut backend).await;
    settle().await;
    assert_eq!((world.snapshot().live, world.snapshot().accepted), (2, 3));
    assert_eq!(world.stats(FRONT).backlog, 2);
    assert!(!clients.iter_mut().any(is_cut));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_dial_or_wait_count_as_well() {
    let world = World::new(settings(|s| s.max_connections = 2), []);
    world.net.script("A", DialScript::Hang);
    let _clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    settle().await;
    assert_eq!((world.snapshot().waiting, world.stats(FRONT).backlog), (2, 2));
    world.apply(&[("a", "A")]).await;
    settle().await;
    assert_eq!((world.load("A"), world.stats(FRONT).backlog), ((2, 0), 2));
}

#[tokio::test(start_paused = true)]
async fn the_limit_holds_over_all_listeners() {
    let world = World::new(settings(|s| s.max_connections = 2), ["A"]);
    let names = [FRONT, "second", "third"];
    let _others = names[1..].iter().map(|name| world.listen(name)).collect::<Vec<_>>();
    world.apply(&[("a", "A")]).await;
    settle().await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.extend(names.map(|name| world.client_of(name)));
        settle().await;
    }
    assert_eq!(world.snapshot().live, 2);
    let backlog: usize = names.iter().map(|name| world.stats(name).backlog).sum();
    assert_eq!(backlog, 7);
    // All listeners go on once there is room.
    world.handle.configure(settings(|s| s.max_connections = 100)).expect("in range");
    settle().await;
    assert_eq!(world.snapshot().live, 9);
}

#[tokio::test(start_paused = true)]
async fn the_limit_can_be_changed_while_the_server_runs() {
    let world = World::new(settings(|s| s.max_connections = 1), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut clients: Vec<_> = (0..4).map(|_| world.client()).collect();
    settle().await;
    assert_eq!(world.snapshot().live, 1);
    world.handle.configure(settings(|s| s.max_connections = 3)).expect("in range");
    settle().await;
    assert_eq!(world.snapshot().live, 3);
    world.handle.configure(settings(|s| s.max_connections = 2)).expect("in range");
    settle().await;
    assert!(!clients.iter_mut().any(is_cut), "a lower limit cuts nobody");
}

#[tokio::test(start_paused = true)]
async fn a_listener_at_the_limit_can_be_stopped() {
    let mut world = World::new(settings(|s| s.max_connections = 1), ["A"]);
    world.apply(&[("a", "A")]).await;
    let _clients = [world.client(), world.client()];
    settle().await;
    let front = world.front.take().expect("it is there");
    front.stop();
    assert!(within(front).await.is_ok());
    assert_eq!(world.snapshot().live, 1);
}
