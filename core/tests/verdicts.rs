//! Random sources, answers and times, given to `Verdicts` and to a naive model of it.
//!
//! As in `replacement`, the steps are plain data, and every subsequence of them is valid.

mod checks;

use std::{
    cell::{Cell, RefCell},
    env,
    hash::{BuildHasher, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

use proptest::{
    collection::{btree_map, vec},
    prelude::*,
    test_runner::{Config, RngSeed, TestError, TestRunner},
};

use crate::checks::{Backends, Found, Seen, Setup, Step, World};

const CASES: u32 = 32768;

/// How often each rare thing must happen in that many cases.
const SEEN_MIN: u64 = 30;

fn backends() -> impl Strategy<Value = Backends> {
    btree_map(0..5u8, 1..5u8, 0..=4)
}

fn found() -> impl Strategy<Value = Found> {
    prop_oneof![
        6 => Just(Found::Pass),
        4 => Just(Found::Fail),
        4 => Just(Found::None),
        1 => Just(Found::Ours),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (backends(), prop::bool::weighted(0.2)).prop_map(|(set, lacks)| Step::Say(set, lacks)),
        2 => Just(Step::Rename),
        1 => (0..16u8).prop_map(Step::Narrow),
        4 => Just(Step::Lose),
        24 => (0..8usize, found()).prop_map(|(at, found)| Step::Answer(at, found)),
        2 => found().prop_map(|found| Step::AnswerAll([found; 4])),
        5 => prop::array::uniform4(found()).prop_map(Step::AnswerAll),
        1 => found().prop_map(Step::AnswerAgain),
        24 => prop::sample::select(&[1, 5, 10, 60, 100, 160][..]).prop_map(Step::Pass),
    ]
}

fn setup() -> impl Strategy<Value = Setup> {
    let counts = (1..4u32, 1..4u32, 1..5u32, 1..5usize);
    (counts, any::<bool>(), any::<bool>()).prop_map(|(counts, opens, leaves_out)| {
        let (rise, fall, fall_unanswered, checks_max) = counts;
        Setup { rise, fall, fall_unanswered, opens, leaves_out, checks_max }
    })
}

fn run(setup: &Setup, steps: &[(Step, bool)], seen: &mut Seen) -> Result<(), String> {
    let mut world = World::new(setup);
    for (at, (step, asks)) in steps.iter().enumerate() {
        let done = world.apply(step, *asks);
        done.map_err(|message| format!("step {at}, {step:?}: {message}"))?;
    }
    seen.add(&world.seen);
    Ok(())
}

#[test]
fn no_backend_is_used_against_its_checks_or_its_source() {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    let seed = match config.rng_seed {
        RngSeed::Fixed(seed) => seed,
        RngSeed::Random => std::hash::RandomState::new().build_hasher().finish(),
    };
    config.rng_seed = RngSeed::Fixed(seed);
    let cases = config.cases;

    let (tried, has_failed) = (Cell::new(0), Cell::new(false));
    let seen = RefCell::new(Seen::default());
    let input = (setup(), vec((step(), prop::bool::weighted(0.85)), 1..60));
    let result = TestRunner::new(config).run(&input, |(setup, steps)| {
        // What comes after the first failure is shrinking.
        tried.set(tried.get() + u32::from(!has_failed.get()));
        let was_failed = has_failed.replace(true);
        let seen = &mut seen.borrow_mut();
        let ran = catch_unwind(AssertUnwindSafe(|| run(&setup, &steps, seen)));
        let panicked = |_| Err("panicked: see above".into());
        ran.unwrap_or_else(panicked).map_err(TestCaseError::fail)?;
        has_failed.set(was_failed);
        Ok(())
    });
    let tried = tried.get();
    let replay = format!(
        "replay: PROPTEST_RNG_SEED={seed} PROPTEST_CASES={cases} \
         cargo test -p tinylb-core --test verdicts"
    );
    match result {
        Ok(()) => {}
        Err(TestError::Fail(reason, (setup, steps))) => {
            panic!("found after {tried} cases: {reason}\n{setup:?}, steps {steps:#?}\n{replay}")
        }
        Err(abort) => panic!("{abort}\n{replay}"),
    }
    // A few cases may miss something; thousands that do mean that the steps have lost their grip.
    let missing = seen.borrow().fewer_than(SEEN_MIN);
    assert!(cases < CASES || missing.is_empty(), "too rare: {missing:?}\n{replay}");
}
