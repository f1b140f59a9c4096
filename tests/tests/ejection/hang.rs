//! Backends that drop SYNs.

use std::{collections::BTreeMap, time::Duration};

use tinylb_core::Fault;
use tinylb_tests::outage::{at_once, at_rate, one_by_one};
use tokio::time::sleep;

use crate::harness::{What, World, run, served, share};

/// No client has waited for more than one backend.
fn check_one_move_each(world: &World) {
    let mut moves = BTreeMap::new();
    for entry in world.log().iter().filter(|entry| entry.what == What::Moved) {
        *moves.entry(entry.session).or_insert(0) += 1;
    }
    assert!(moves.values().all(|count| *count == 1), "{moves:?}");
}

#[test]
fn a_backend_that_hangs_costs_only_the_clients_that_came_before_it_was_ejected() {
    let test = "hang::a_backend_that_hangs_costs_only_the_clients_that_came_before_it_was_ejected";
    run(
        test,
        3,
        |_| {},
        async |world| {
            world.hang(1);
            let outcomes = at_rate(world.address, 500, 100).await;
            assert_eq!(share(&served(&outcomes), 1), 0);
            assert!(world.check_moves(1) > 0);
            check_one_move_each(world);
            assert_eq!(world.ejections(0) + world.ejections(2), 0, "those that answer stay");
            assert_eq!(world.ejections(1), 1);
        },
    );
}

#[test]
fn of_a_thousand_clients_at_once_a_third_moves_and_of_the_next_thousand_nobody() {
    let test = "hang::of_a_thousand_clients_at_once_a_third_moves_and_of_the_next_thousand_nobody";
    run(
        test,
        3,
        |_| {},
        async |world| {
            world.hang(1);
            let first = at_once(world.address, 1000).await;
            assert_eq!(share(&served(&first), 1), 0);
            let moves = world.check_moves(1);
            assert!((1..=334).contains(&moves), "{moves}");
            check_one_move_each(world);
            let second = at_once(world.address, 1000).await;
            assert_eq!(share(&served(&second), 1), 0);
            assert_eq!(world.check_moves(1), moves);
            assert_eq!(world.count(What::Failed), 0);
        },
    );
}

#[test]
fn of_clients_one_by_one_only_the_first_waits_for_the_one_of_two_that_hangs() {
    let test = "hang::of_clients_one_by_one_only_the_first_waits_for_the_one_of_two_that_hangs";
    run(
        test,
        2,
        |_| {},
        async |world| {
            world.hang(0);
            let outcomes = one_by_one(world.address, 30).await;
            assert_eq!(share(&served(&outcomes), 1), 30);
            assert_eq!(world.check_moves(0), 1);
        },
    );
}

#[test]
fn a_backend_that_recovers_has_one_turn_in_each_round_and_no_more() {
    let test = "hang::a_backend_that_recovers_has_one_turn_in_each_round_and_no_more";
    run(
        test,
        3,
        |_| {},
        async |world| {
            world.hang(1);
            let hung = at_rate(world.address, 200, 100).await;
            assert_eq!(share(&served(&hung), 1), 0);
            let failed = world.count_of(1, What::Probed(false));
            world.heal(1);
            world.until(1, What::Returned, 1).await;
            // One at most may have begun, and lost its last SYN, before the backend recovered.
            assert!(world.count_of(1, What::Probed(false)) <= failed + 1);
            let served = served(&one_by_one(world.address, 300).await);
            assert_eq!([0, 1, 2].map(|number| share(&served, number)), [100; 3]);
            assert!(served.windows(3).all(|three| three[0] != three[1] && three[0] != three[2]));
            assert_eq!(world.ejections(1), 1);
            let connected = world.count_of(1, What::Connected);
            assert_eq!(world.backends[1].accepted(), connected, "`accept` sees no probe");
        },
    );
}

#[test]
fn nobody_is_refused_while_all_hang_for_less_than_clients_wait() {
    let test = "hang::nobody_is_refused_while_all_hang_for_less_than_clients_wait";
    run(
        test,
        3,
        |_| {},
        async |world| {
            (0..3).for_each(|backend| world.hang(backend));
            let address = world.address;
            let clients = tokio::spawn(at_rate(address, 200, 100));
            sleep(Duration::from_millis(1500)).await;
            (0..3).for_each(|backend| world.heal(backend));
            served(&clients.await.unwrap());
            for backend in 0..3 {
                let ejections = world.ejections(backend);
                assert!(ejections > 0);
                world.until(backend, What::Returned, ejections).await;
            }
            let served = served(&one_by_one(address, 30).await);
            assert_eq!([0, 1, 2].map(|number| share(&served, number)), [10; 3]);
        },
    );
}

#[test]
fn a_backend_that_flaps_is_ejected_once_each_time_and_no_client_moves_twice() {
    let test = "hang::a_backend_that_flaps_is_ejected_once_each_time_and_no_client_moves_twice";
    run(
        test,
        3,
        |_| {},
        async |world| {
            const TIMES: usize = 4;
            let clients = tokio::spawn(at_rate(world.address, 2 * TIMES as u32 * 100, 100));
            for _ in 0..TIMES {
                world.hang(1);
                sleep(Duration::from_secs(1)).await;
                world.heal(1);
                sleep(Duration::from_secs(1)).await;
            }
            served(&clients.await.unwrap());
            assert!((1..=TIMES).contains(&world.ejections(1)), "{}", world.ejections(1));
            assert_eq!(world.count(What::Ejected(Fault::TimedOut)), world.ejections(1));
            check_one_move_each(world);
        },
    );
}
