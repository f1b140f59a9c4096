//! Scenarios on the driver, in turmoil's network: the balancer that ships breaks no law.
//!
//! `TINYLB_SIM_SEED` is the first seed, `TINYLB_SIM_CASES` how many there are.

use std::env;

use tinylb_sim::{Counts, Profile, Scenario, Sometimes, world};

fn setting(name: &str, default: u64) -> u64 {
    env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}

fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = setting("TINYLB_SIM_SEED", 0);
    first..first + setting("TINYLB_SIM_CASES", count)
}

#[test]
fn the_balancer_that_ships_breaks_no_law_and_is_led_everywhere() {
    for profile in [Profile::FAST, Profile::SMALL_WINDOW] {
        let mut counts = Counts::default();
        for seed in seeds(100) {
            let scenario = Scenario::from_seed(&profile, seed);
            let outcome = world::run(&scenario, false);
            let first = outcome.violations.first();
            assert!(first.is_none(), "TINYLB_SIM_SEED={seed}: {}\n{scenario}", first.unwrap());
            counts.merge(&outcome.counts);
        }
        // Only threads could bring that about.
        let reached = Sometimes::ALL.iter().copied().filter(|what| *what != Sometimes::LateConnect);
        let reached: Vec<_> = reached.collect();
        let never: Vec<_> = counts.never(&reached).map(Sometimes::name).collect();
        assert!(never.is_empty(), "{}: these never happened: {never:?}", profile.name);
    }
}

#[test]
fn a_seed_gives_one_trace_and_another_seed_another() {
    let hash = |seed| {
        let scenario = Scenario::from_seed(&Profile::FAST, seed);
        world::run(&scenario, seed % 2 == 0).trace.hash()
    };
    for seed in seeds(5) {
        assert_eq!(hash(seed), hash(seed));
        assert_eq!(
            Ok(hash(seed)),
            std::thread::scope(|s| s.spawn(|| hash(seed)).join()).map_err(drop)
        );
        assert_ne!(hash(seed), hash(seed + 1));
    }
}
