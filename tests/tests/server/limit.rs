//! The limit of connections.

use tinylb_contract::pipe::{DialScript, Pipe};
use tinylb_core::{Conn, SharedBudget};

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

#[tokio::test(start_paused = true)]
async fn a_limit_is_reported_once_and_left_when_nobody_has_waited_for_10_s() {
    let mut world = World::new(settings(|s| s.max_connections = 2), ["A"]);
    world.apply(&[("a", "A")]).await;
    let mut clients: Vec<_> = (0..6).map(|_| world.client()).collect();
    // The four that wait are let in one after the other.
    for client in &mut clients {
        pass(secs(9)).await;
        assert!(world.snapshot().limit_reached.is_some());
        let mut backend = world.accept("A").await;
        end(client).await;
        end(&mut backend).await;
    }
    within(world.log.until("LimitLeft", 1)).await;
    assert_eq!(world.log.texts("Limit"), ["LimitReached(Own(2))", "LimitLeft"]);
    // When the last but one has left, there is room again and nobody waits.
    assert_eq!(world.log.times("Limit"), [0, 9_000 * 5 + 10_000]);
    assert_eq!(world.snapshot().limit_reached, None);
    // And once more.
    let _clients: Vec<_> = (0..3).map(|_| world.client()).collect();
    settle().await;
    assert_eq!(world.log.texts("LimitReached").len(), 2);
}

/// Worlds whose servers share a budget, each with a backend.
async fn sharing<const N: usize>(budget: &SharedBudget, minimums: [usize; N]) -> [World; N] {
    let worlds = minimums.map(|minimum| {
        let world = World::new(settings(|_| {}), ["A"]);
        world.handle.share(budget, minimum);
        drop(world.replace(&[("a", "A")]));
        world
    });
    settle().await;
    worlds
}

fn clients(world: &World, count: usize) -> Vec<Pipe> {
    (0..count).map(|_| world.client()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_busy_server_gets_what_the_others_do_not_need_and_they_keep_their_minimum() {
    let budget = SharedBudget::new(10);
    let worlds = sharing(&budget, [2, 2, 2]).await;
    let mut held = clients(&worlds[0], 20);
    settle().await;
    assert_eq!((worlds[0].snapshot().live, budget.in_use()), (6, 6));
    for world in &worlds[1..] {
        held.extend(clients(world, 20));
        settle().await;
        assert_eq!(world.snapshot().live, 2);
    }
    assert_eq!((budget.in_use(), budget.total()), (10, 10));
    assert_eq!(worlds[0].log.texts("Limit"), ["LimitReached(Shared(10))"]);
    assert!(!held.iter_mut().any(is_cut), "who finds no room waits");
    budget.set_total(12);
    settle().await;
    assert_eq!(budget.in_use(), 12);
}

#[tokio::test(start_paused = true)]
async fn room_that_comes_free_goes_in_turn_to_the_servers_that_wait() {
    let budget = SharedBudget::new(4);
    let [mut busy, other] = sharing(&budget, [0, 0]).await;
    let mut held = clients(&busy, 20);
    settle().await;
    // Of two listeners, one has no client.
    let _second = other.listen("second");
    held.extend(clients(&other, 20));
    settle().await;
    assert_eq!((busy.snapshot().accepted, other.snapshot().accepted), (4, 0));
    for round in 1..=4 {
        let mut backend = busy.accept("A").await;
        end(&mut held[round - 1]).await;
        end(&mut backend).await;
        settle().await;
        let accepted = busy.snapshot().accepted - 4 + other.snapshot().accepted;
        assert_eq!((budget.in_use(), accepted), (4, round as u64));
        assert!(other.snapshot().accepted.abs_diff(busy.snapshot().accepted - 4) <= 1);
    }
    assert_eq!(other.snapshot().live, 2);
}

/// A server that waits for room, and another behind it that waits with clients. All room is in use,
/// two by the latter.
async fn one_behind_the_other(budget: &SharedBudget, first: &World, behind: &World) -> Vec<Pipe> {
    let mut held = clients(behind, 2);
    settle().await;
    // It takes the last room, and asks for more.
    held.extend(clients(first, 1));
    settle().await;
    held.extend(clients(behind, 5));
    settle().await;
    assert_eq!((budget.in_use(), behind.snapshot().live, first.snapshot().live), (3, 2, 1));
    held
}

#[tokio::test(start_paused = true)]
async fn a_server_without_clients_holds_up_none_that_waits() {
    let budget = SharedBudget::new(3);
    let [busy, idle] = sharing(&budget, [0, 0]).await;
    let mut held = one_behind_the_other(&budget, &idle, &busy).await;
    // It is the turn of the one that has no client left.
    held[2].abort();
    settle().await;
    assert_eq!((busy.snapshot().live, idle.snapshot().live), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_server_at_its_own_limit_holds_up_none_that_waits() {
    let budget = SharedBudget::new(3);
    let [busy, small] = sharing(&budget, [0, 0]).await;
    let mut held = one_behind_the_other(&budget, &small, &busy).await;
    held.extend(clients(&small, 3));
    small.handle.configure(settings(|s| s.max_connections = 1)).expect("in range");
    held[0].abort();
    settle().await;
    assert_eq!((busy.snapshot().live, busy.snapshot().accepted), (2, 3));
    assert_eq!(small.snapshot().accepted, 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_shuts_down_counts_until_its_last_session_has_ended() {
    let budget = SharedBudget::new(4);
    let [mut stays, mut leaves] = sharing(&budget, [1, 2]).await;
    let mut gone = leaves.client();
    let mut backend = leaves.accept("A").await;
    let held = clients(&stays, 5);
    settle().await;
    assert_eq!((stays.snapshot().live, budget.in_use()), (2, 3));
    let shutdown = leaves.handle.shutdown(secs(100));
    settle().await;
    // What it was guaranteed and didn't use is free for others.
    assert_eq!((stays.snapshot().live, budget.in_use()), (3, 4));
    end(&mut gone).await;
    end(&mut backend).await;
    within(shutdown).await;
    settle().await;
    assert_eq!((stays.snapshot().live, budget.in_use()), (4, 4));
    drop((leaves.server.take(), leaves));
    drop(stays.server.take());
    settle().await;
    assert_eq!(budget.in_use(), 0);
    drop(held);
}
