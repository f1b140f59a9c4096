//! Scenarios on the driver, in turmoil's network: the balancer that ships breaks no law.
//!
//! `TINYLB_SIM_SEED` is the first seed, `TINYLB_SIM_CASES` how many there are.

mod common;

use common::seeds;
use proptest::prelude::*;
use tinylb_core::EndReason;
use tinylb_sim::{
    Bytes, Counts, Level, Outcome, PacketFate, PacketKind, Profile, Scenario, Sometimes, driver,
    scenario::{AcceptError, Config, Key, Leaving, Link, Operation, Place, Step},
    trace::{Host, Note, Record, Sight},
};

#[test]
fn the_balancer_that_ships_breaks_no_law_and_is_led_everywhere() {
    for profile in [Profile::FAST, Profile::SMALL_WINDOW] {
        let mut counts = Counts::default();
        for seed in seeds(100) {
            let scenario = Scenario::from_seed(&profile, seed);
            let outcome = driver::run(&scenario, false);
            let first = outcome.violations.first();
            assert!(first.is_none(), "TINYLB_SIM_SEED={seed}: {}\n{scenario}", first.unwrap());
            counts.merge(&outcome.counts);
        }
        let never: Vec<_> = counts.never(&Level::Driver.reaches()).map(Sometimes::name).collect();
        // Of fewer seeds that can't be asked.
        let is_whole = seeds(100).count() >= 100;
        assert!(never.is_empty() || !is_whole, "{}: these never happened: {never:?}", profile.name);
    }
}

#[test]
fn a_seed_gives_one_trace_and_another_seed_another() {
    let hash = |seed| {
        let scenario = Scenario::from_seed(&Profile::FAST, seed);
        driver::run(&scenario, seed % 2 == 0).trace.hash()
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

proptest! {
    // A case takes as long as ten simulated seconds do.
    #![proptest_config(ProptestConfig { cases: 30, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_lead_the_balancer_to_break_a_law(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let scenario = Scenario::generate(&Profile::FAST, &mut Bytes::new(&bytes));
        let outcome = driver::run(&scenario, false);
        prop_assert!(outcome.violations.is_empty(), "{}\n{scenario}", outcome.violations[0]);
    }
}

const B1: Place = Place(1);
const LINK: Link = Link::Backend(B1);

/// A calm run with one fault at half a second, and its repair at one second.
fn with(fault: Operation, repair: Option<Operation>) -> Outcome {
    // Bytes are under way at all times.
    let config = Config {
        duration: 1_500,
        pause: 50,
        bytes: 40_000,
        manners: [0, 1, 0, 0, 0, 0, 0],
        source: 1,
        drain: 100,
        // A dial shows what becomes of it.
        patience: 0,
        ..Config::default()
    };
    let set = (0..5).map(|number| (Key(number), Place(number))).collect();
    let mut steps = vec![Step { at: 0, operation: Operation::Replace(set) }];
    steps.push(Step { at: 500, operation: fault });
    steps.extend(repair.map(|operation| Step { at: 1_000, operation }));
    let scenario = Scenario { seed: 7, config, rules: Vec::new(), steps };
    let outcome = driver::run(&scenario, true);
    assert_eq!(outcome.violations, [], "{scenario}");
    outcome
}

/// How many records of this kind there are while the fault lasts.
fn count(outcome: &Outcome, is_one: impl Fn(&Note) -> bool) -> usize {
    let records = outcome.trace.records().iter();
    records.filter(|Record { at, note }| (500_000..1_000_000).contains(at) && is_one(note)).count()
}

/// The same for packets: from, to, kind, fate.
fn packets(
    outcome: &Outcome,
    is_one: impl Fn(Host, Host, PacketKind, PacketFate) -> bool,
) -> usize {
    count(outcome, |note| match *note {
        Note::Packet(from, _, to, _, kind, fate) => is_one(from, to, kind, fate),
        _ => false,
    })
}

#[test]
fn each_fault_of_a_link_bites_and_only_there() {
    const FAR: Host = Host::Backend(B1);
    let release = || Some(Operation::Release(LINK));
    let calm = with(Operation::Again, None);
    let is_whole = |_, _, _, fate| matches!(fate, PacketFate::Sent | PacketFate::Delivered);
    assert_eq!(packets(&calm, |a, b, c, d| !is_whole(a, b, c, d)), 0);
    for (fault, to, from) in [
        (Operation::Partition(LINK), true, true),
        (Operation::CutTo(LINK), true, false),
        (Operation::CutFrom(LINK), false, true),
    ] {
        let outcome = with(fault.clone(), release());
        let dropped = |host: fn(Host, Host) -> Host| {
            packets(&outcome, |a, b, _, fate| fate == PacketFate::Dropped && host(a, b) == FAR) > 0
        };
        assert_eq!((dropped(|_, to| to), dropped(|from, _| from)), (to, from), "{fault}");
        let elsewhere =
            packets(&outcome, |a, b, _, fate| fate == PacketFate::Dropped && a != FAR && b != FAR);
        assert_eq!(elsewhere, 0, "{fault}");
    }
    let held = with(Operation::Hold(LINK), release());
    assert!(packets(&held, |_, _, _, fate| fate == PacketFate::Held) > 0);
    assert_eq!(packets(&held, |_, _, _, fate| fate == PacketFate::Dropped), 0);
    let clients =
        with(Operation::Partition(Link::Clients), Some(Operation::Release(Link::Clients)));
    let is_lost = |a, b, fate| fate == PacketFate::Dropped && [a, b].contains(&Host::Clients);
    assert!(packets(&clients, |a, b, _, fate| is_lost(a, b, fate)) > 0);
}

#[test]
fn a_slow_link_is_slow() {
    let slowest = |outcome: &Outcome| {
        let mut sent = std::collections::BTreeMap::new();
        let mut slowest = 0;
        for Record { at, note } in outcome.trace.records() {
            match *note {
                Note::Packet(_, from, Host::Backend(B1), _, PacketKind::Syn, PacketFate::Sent) => {
                    sent.insert(from, *at);
                }
                Note::Packet(_, from, Host::Backend(B1), _, PacketKind::Syn, fate) => {
                    assert_eq!(fate, PacketFate::Delivered);
                    slowest = slowest.max(at - sent[&from]);
                }
                _ => {}
            }
        }
        slowest
    };
    let slow = with(Operation::Latency(LINK, 150), Some(Operation::Latency(LINK, 10)));
    assert!((150_000..200_000).contains(&slowest(&slow)), "{}", slowest(&slow));
    assert!(slowest(&with(Operation::Again, None)) < 50_000);
}

#[test]
fn a_crash_is_heard_of_and_a_loss_of_power_is_not() {
    let ends = |outcome: &Outcome| {
        packets(outcome, |from, _, kind, fate| {
            from == Host::Backend(B1)
                && matches!(kind, PacketKind::Fin | PacketKind::Rst)
                && fate == PacketFate::Delivered
        })
    };
    let boots = |outcome: &Outcome| {
        let records = outcome.trace.records().iter();
        records.filter(|record| matches!(record.note, Note::Greeted(_, B1, 2))).count()
    };
    let crash = with(Operation::Crash(B1), Some(Operation::Bounce(B1)));
    let refused = |outcome: &Outcome| outcome.counts.of(Sometimes::DialRefused);
    assert!(ends(&crash) > 0 && refused(&crash) > 0 && boots(&crash) > 0);
    assert_eq!(packets(&crash, |_, _, _, fate| fate == PacketFate::Dropped), 0);
    let power_loss = with(Operation::PowerLoss(B1), Some(Operation::Bounce(B1)));
    assert_eq!((ends(&power_loss), refused(&power_loss)), (0, 0));
    assert!(power_loss.counts.of(Sometimes::DialTimedOut) > 0 && boots(&power_loss) > 0);
}

#[test]
fn what_is_done_to_balancer_and_clients_bites() {
    let ended = |outcome: &Outcome, with: EndReason| {
        count(outcome, |note| matches!(note, Note::Ended(_, reason) if *reason == with))
    };
    let seen = |outcome: &Outcome, with: Sight| {
        count(outcome, |note| matches!(note, Note::ClientOver(.., sight) if *sight == with))
    };
    let keeps = (0..5).filter(|number| *number != 1).map(|number| (Key(number), Place(number)));
    let cut = with(Operation::Replace(keeps.collect()), None);
    let drains = |note: &Note| matches!(note, Note::Replaced(_, _, 0, _, drain) if *drain > 0);
    assert_eq!(count(&cut, drains), 1);
    let panicked = with(Operation::PanicDial(B1), None);
    assert_eq!(ended(&panicked, EndReason::Panicked), 1);
    let left = with(Operation::Leave(Leaving::Abort), None);
    let calm = with(Operation::Again, None);
    assert!(seen(&left, Sight::GivenUp) > seen(&calm, Sight::GivenUp));
    for (error, count_of) in [(AcceptError::Aborted, 3), (AcceptError::NoDescriptors, 3)] {
        let failed = with(Operation::FailAccept(3, error), None);
        assert_eq!(count(&failed, |note| *note == Note::AcceptFailed), count_of);
    }
    let lost = with(Operation::LoseSource, None);
    assert_eq!(count(&lost, |note| *note == Note::SourceLost), 1);
    let spoilt = with(Operation::Spoil, None);
    assert_eq!(count(&spoilt, |note| *note == Note::SourceLost), 1);
    let shut_down = with(Operation::Shutdown(10), None);
    assert_eq!(count(&shut_down, |note| *note == Note::ShutDown), 1);
    assert!(ended(&shut_down, EndReason::Shutdown) > 0);
}
