//! Scenarios on the relay that ships and a model of a system's sockets: no law is broken.
//!
//! `TINYLB_SIM_SEED` is the first seed, `TINYLB_SIM_CASES` how many there are.

mod common;

use std::collections::BTreeSet;

use common::seeds;
use proptest::prelude::*;
use tinylb_core::Side;
use tinylb_sim::{
    Bytes, Counts, Law, Level, Outcome, Sometimes, Trace, Violation,
    relay::{self, Operation, Scenario, minimize},
};

#[test]
fn the_relay_that_ships_breaks_no_law_and_is_led_everywhere() {
    let mut counts = Counts::default();
    for seed in seeds(20_000) {
        let scenario = Scenario::from_seed(seed);
        let outcome = relay::run(&scenario, false);
        let first = outcome.violations.first();
        assert!(first.is_none(), "TINYLB_SIM_SEED={seed}: {}\n{scenario}", first.unwrap());
        counts.merge(&outcome.counts);
    }
    let never: Vec<_> = counts.never(&Level::Relay.reaches()).map(Sometimes::name).collect();
    // Of fewer seeds that can't be asked.
    let is_whole = seeds(20_000).count() >= 20_000;
    assert!(never.is_empty() || !is_whole, "these never happened: {never:?}");
}

#[test]
fn a_seed_gives_one_trace_and_another_seed_another() {
    let hash = |seed| relay::run(&Scenario::from_seed(seed), seed % 2 == 0).trace.hash();
    let mut hashes = BTreeSet::new();
    for seed in seeds(200) {
        assert_eq!(hash(seed), hash(seed));
        assert_eq!(
            Ok(hash(seed)),
            std::thread::scope(|s| s.spawn(|| hash(seed)).join()).map_err(drop)
        );
        hashes.insert(hash(seed));
    }
    // A session that is killed before anything happens is like any other.
    let (different, all) = (hashes.len(), seeds(200).count());
    assert!(different > all / 2, "{different} traces of {all} seeds");
}

proptest! {
    #[test]
    fn no_bytes_lead_the_relay_to_break_a_law(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let scenario = Scenario::generate(&mut Bytes::new(&bytes));
        let outcome = relay::run(&scenario, false);
        prop_assert!(outcome.violations.is_empty(), "{:?}\n{scenario}", outcome.violations);
    }
}

/// A made-up bug: a client that sends 10 bytes or more must not abort after that.
fn made_up(scenario: &Scenario) -> Outcome {
    let is_long =
        |step: &relay::Step| matches!(step.operation, Operation::Send(Side::Client, 10..));
    let sent = scenario.steps.iter().position(is_long);
    let is_abort = |step: &relay::Step| step.operation == Operation::Abort(Side::Client);
    let aborted = scenario.steps.iter().rposition(is_abort);
    let is_broken = sent.zip(aborted).is_some_and(|(sent, aborted)| sent < aborted);
    let violation = Violation { at: 0, law: Law::Delivered, text: String::new() };
    Outcome {
        violations: is_broken.then_some(violation).into_iter().collect(),
        steps: 0,
        simulated: 0,
        counts: Counts::default(),
        trace: Trace::new(false),
    }
}

#[test]
fn only_what_a_bug_needs_is_left_of_its_scenario() {
    let text = "\
level relay
seed 5
splice 2
window 8
after 3 send backend 100
after 7 send client 100
after 0 stop backend
after 9 abort client
after 1 kill
";
    let large: Scenario = text.parse().unwrap();
    let small = minimize(&large, Law::Delivered, made_up).unwrap();
    let text = "\
level relay
seed 5
after 0 send client 12
after 0 abort client
";
    assert_eq!(small.scenario.to_string(), text);
    assert!(minimize(&large, Law::Bytes, made_up).is_none());
}
