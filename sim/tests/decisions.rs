//! Scenarios on the decisions alone: the balancer that ships breaks no law, and one that is wrong
//! is found.
//!
//! `TINYLB_SIM_SEED` is the first seed, `TINYLB_SIM_CASES` how many there are.

mod common;

use std::time::Duration;

use common::seeds;
use proptest::prelude::*;
use tinylb_core::{EndReason, Fault as DialFault, Load, ProbeEnd, Removal, Settings};
use tinylb_sim::{
    Bytes, Counts, Level, Profile, Scenario, Sometimes,
    decisions::{self, Finding, Policy, Rotation, Taken, Verdict},
    minimize::minimize,
    scenario::{Backends, Place},
    timeline,
};

#[test]
fn the_balancer_that_ships_breaks_no_law_and_is_led_everywhere() {
    for profile in [Profile::FAST, Profile::SMALL_WINDOW] {
        let mut counts = Counts::default();
        for seed in seeds(2_000) {
            let scenario = Scenario::from_seed(&profile, seed);
            let outcome = decisions::run(&scenario, false);
            let first = outcome.violations.first();
            assert!(first.is_none(), "TINYLB_SIM_SEED={seed}: {}\n{scenario}", first.unwrap());
            counts.merge(&outcome.counts);
        }
        let never: Vec<_> =
            counts.never(&Level::Decisions.reaches()).map(Sometimes::name).collect();
        // Of fewer seeds that can't be asked.
        let is_whole = seeds(2_000).count() >= 2_000;
        assert!(never.is_empty() || !is_whole, "{}: these never happened: {never:?}", profile.name);
    }
}

#[test]
fn a_seed_gives_one_trace_and_another_seed_another() {
    let hash = |seed| {
        let scenario = Scenario::from_seed(&Profile::FAST, seed);
        decisions::run(&scenario, seed % 2 == 0).trace.hash()
    };
    for seed in seeds(20) {
        assert_eq!(hash(seed), hash(seed));
        assert_eq!(
            Ok(hash(seed)),
            std::thread::scope(|s| s.spawn(|| hash(seed)).join()).map_err(drop)
        );
        assert_ne!(hash(seed), hash(seed + 1));
    }
}

proptest! {
    #[test]
    fn no_bytes_lead_the_balancer_to_break_a_law(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let scenario = Scenario::generate(&Profile::FAST, &mut Bytes::new(&bytes));
        let outcome = decisions::run(&scenario, false);
        prop_assert!(outcome.violations.is_empty(), "{}\n{scenario}", outcome.violations[0]);
    }
}

/// The policy that ships, with one fault.
struct Faulty {
    inner: Rotation,
    fault: Fault,
    last: Option<Verdict>,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    ConnectsRevoked,
    ForgetsToCut,
    RepeatsATurn,
    FinishesLate,
    AppliedAtOnce,
    KeepsExpired,
    WaitsTooLong,
    StaysWhereItIs,
    EjectsInSilence,
    ProbesNobody,
}

impl Policy for Faulty {
    fn admit(&mut self, session: u32) -> Verdict {
        let verdict = self.inner.admit(session);
        match (self.fault, self.last) {
            (Fault::RepeatsATurn, Some(last)) if session % 50 == 49 => last,
            _ => {
                self.last = Some(verdict).filter(|v| matches!(v, Verdict::Dial(..)));
                verdict
            }
        }
    }

    fn connected(&mut self, session: u32, took: Duration, now: Duration) -> bool {
        self.inner.connected(session, took, now) || matches!(self.fault, Fault::ConnectsRevoked)
    }

    fn retry(&mut self, session: u32) -> Verdict {
        self.inner.retry(session)
    }

    fn finish(&mut self, session: u32, reason: EndReason) {
        if !matches!(self.fault, Fault::FinishesLate) || !session.is_multiple_of(20) {
            self.inner.finish(session, reason);
        }
    }

    fn replace(&mut self, set: &Backends, removal: Removal, now: Duration) -> Taken {
        let mut taken = self.inner.replace(set, removal, now);
        if matches!(self.fault, Fault::ForgetsToCut) {
            taken.cut.pop();
        }
        taken
    }

    fn drain_expired(&mut self, generation: u64) -> Vec<u32> {
        match self.fault {
            Fault::KeepsExpired => Vec::new(),
            _ => self.inner.drain_expired(generation),
        }
    }

    fn abort_all(&mut self) -> Vec<u32> {
        self.inner.abort_all()
    }

    fn is_applied(&self, generation: u64) -> bool {
        matches!(self.fault, Fault::AppliedAtOnce) || self.inner.is_applied(generation)
    }

    fn reset_cycle(&mut self) {
        self.inner.reset_cycle();
    }

    fn loads(&self) -> impl Iterator<Item = Load<Place>> {
        self.inner.loads()
    }

    fn counts(&self) -> (u64, usize, u64) {
        self.inner.counts()
    }

    fn ejects(&self) -> bool {
        self.inner.ejects()
    }

    fn patience(&self, session: u32) -> Option<Duration> {
        match self.fault {
            Fault::WaitsTooLong => None,
            _ => self.inner.patience(session),
        }
    }

    fn overdue(&mut self, session: u32, now: Duration) -> bool {
        self.inner.overdue(session, now) && !matches!(self.fault, Fault::StaysWhereItIs)
    }

    fn dial_failed(&mut self, session: u32, fault: DialFault, lasted: Duration, now: Duration) {
        self.inner.dial_failed(session, fault, lasted, now);
    }

    fn findings(&mut self) -> Vec<Finding> {
        let mut findings = self.inner.findings();
        if matches!(self.fault, Fault::EjectsInSilence) {
            findings.retain(|finding| !matches!(finding, Finding::Ejected(..)));
        }
        findings
    }

    fn due(&self) -> Option<Duration> {
        self.inner.due()
    }

    fn start_probe(&mut self, probe: u32, now: Duration) -> Option<Place> {
        match self.fault {
            Fault::ProbesNobody => None,
            _ => self.inner.start_probe(probe, now),
        }
    }

    fn probe_ended(&mut self, probe: u32, end: ProbeEnd, now: Duration) {
        self.inner.probe_ended(probe, end, now);
    }

    fn cut_silent(&mut self, now: Duration) -> Vec<u32> {
        self.inner.cut_silent(now)
    }

    fn configure(&mut self, settings: &Settings, now: Duration) {
        self.inner.configure(settings, now);
    }

    fn ejected(&self) -> (Vec<Place>, usize) {
        self.inner.ejected()
    }
}

#[test]
fn a_policy_with_a_fault_is_found_within_two_hundred_seeds() {
    for fault in [
        Fault::ConnectsRevoked,
        Fault::ForgetsToCut,
        Fault::RepeatsATurn,
        Fault::FinishesLate,
        Fault::AppliedAtOnce,
        Fault::KeepsExpired,
        Fault::WaitsTooLong,
        Fault::StaysWhereItIs,
        Fault::EjectsInSilence,
        Fault::ProbesNobody,
    ] {
        let found = (0..200).find(|seed| {
            let scenario = Scenario::from_seed(&Profile::FAST, *seed);
            let policy = Faulty { inner: Rotation::new(&scenario.config), fault, last: None };
            !decisions::run_policy(&scenario, policy, false).violations.is_empty()
        });
        assert!(found.is_some(), "{fault:?} was not found");
    }
}

#[test]
fn a_broken_law_can_be_made_small_and_looked_at() {
    let run = |scenario: &Scenario, keep_trace| {
        let inner = Rotation::new(&scenario.config);
        let policy = Faulty { inner, fault: Fault::ForgetsToCut, last: None };
        decisions::run_policy(scenario, policy, keep_trace)
    };
    let (scenario, law) = (0..200)
        .find_map(|seed| {
            let scenario = Scenario::from_seed(&Profile::FAST, seed);
            let law = run(&scenario, false).violations.first()?.law;
            Some((scenario, law))
        })
        .unwrap();
    let small = minimize(&scenario, law, |scenario| run(scenario, false)).unwrap().scenario;
    let items = |scenario: &Scenario| scenario.steps.len() + scenario.rules.len();
    assert!(items(&small) <= 3 && items(&small) < items(&scenario), "{small}");
    let read: Scenario = small.to_string().parse().unwrap();
    let outcome = run(&read, true);
    assert!(outcome.violations.iter().any(|violation| violation.law == law), "{small}");
    let page = timeline::page("<b>this & that</b>", &read, &outcome);
    assert!(page.contains(law.sentence()) && page.contains("class=violated"), "{page}");
    assert!(page.contains("&lt;b&gt;this &amp; that&lt;/b&gt;") && !page.contains("<b>this"));
}
