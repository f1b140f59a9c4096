//! Backends whose processes are gone: they refuse.

use tinylb_core::Fault;
use tinylb_tests::outage::{at_rate, one_by_one};

use crate::harness::{What, run, served, share};

#[test]
fn a_backend_that_restarts_fails_nobody_and_accepts_no_probe() {
    let test = "die::a_backend_that_restarts_fails_nobody_and_accepts_no_probe";
    run(
        test,
        3,
        |_| {},
        async |world| {
            let before = served(&one_by_one(world.address, 30).await);
            assert_eq!(share(&before, 1), 10);
            world.backends[1].stop().await;
            let meanwhile = served(&one_by_one(world.address, 300).await);
            assert_eq!(share(&meanwhile, 1), 0);
            assert_eq!(world.count_of(1, What::Failed), 1, "one client has asked it in vain");
            assert_eq!(world.count_of(1, What::Ejected(Fault::Refused)), 1);
            world.until(1, What::Probed(false), 2).await;
            world.backends[1].restart().unwrap();
            world.until(1, What::Returned, 1).await;
            let after = served(&one_by_one(world.address, 30).await);
            assert_eq!(share(&after, 1), 10);
            for backend in &world.backends {
                let connected = world.count_of(backend.number, What::Connected);
                assert_eq!(backend.accepted(), connected, "backend {}", backend.number);
            }
        },
    );
}

#[test]
fn with_five_adjacent_backends_of_ten_refusing_nobody_is_refused() {
    let test = "die::with_five_adjacent_backends_of_ten_refusing_nobody_is_refused";
    run(
        test,
        10,
        |_| {},
        async |world| {
            for backend in &mut world.backends[3..8] {
                backend.stop().await;
            }
            let served = served(&at_rate(world.address, 300, 300).await);
            assert!(served.iter().all(|number| !(3..8).contains(number)));
            for backend in 0..10 {
                let is_dead = (3..8).contains(&backend);
                assert_eq!(world.ejections(backend), usize::from(is_dead), "backend {backend}");
            }
        },
    );
}
