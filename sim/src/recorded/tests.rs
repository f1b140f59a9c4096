use std::time::Duration;

use tinylb_core::Recording;

use super::{Judgement, judge};
use crate::Law;

const BEGIN: &str = "tinylb-recording 1\nservice 0 s\n0 0 settings\nkey 0 b\nkey 1 a\n\
                     target 0 10.0.0.1:1\ntarget 1 10.0.0.2:1\n5 0 set 1 0 0 0 1:1 0:0\n";

fn judged(lines: &str) -> Judgement {
    let recording = Recording::read(format!("{BEGIN}{lines}").as_bytes()).unwrap();
    judge(&recording, Duration::from_secs(1)).unwrap()
}

/// The laws that are broken by what follows a set of `a`, at 10.0.0.2, and `b`, at 10.0.0.1.
fn laws(lines: &str) -> Vec<Law> {
    judged(lines).services[0].broken.iter().map(|broken| broken.law).collect()
}

const FIRST: &str = "1 0 accept 0\n0 0 pick 0 1 1\n0 0 dial 0 1\n9 0 connect 0 1\n";

#[test]
fn a_service_that_keeps_the_laws_is_told_from_one_that_breaks_them() {
    assert_eq!(laws(&format!("{FIRST}9 0 end 0 finished 1 2\n")), []);
    // The next turn is b's, whose number is the smaller one.
    assert_eq!(laws(&format!("{FIRST}1 0 accept 1\n0 0 pick 1 0 0\n")), []);
    assert_eq!(laws(&format!("{FIRST}1 0 accept 1\n0 0 pick 1 1 1\n")), [Law::Fairness]);
    // a leaves, and its session is cut.
    let cut = "5 0 set 2 1 0 0 0:0\n";
    assert_eq!(laws(&format!("{FIRST}{cut}1 0 end 0 backend_removed 1 2\n")), []);
    assert_eq!(laws(&format!("{FIRST}1 0 end 0 backend_removed 1 2\n")), [Law::Kept]);
    assert_eq!(laws(&format!("{FIRST}5 0 set 2 0 0 0 0:0\n")), [Law::Report]);
    let (early, late) = ("900000 0 tick\n", "900000 0 tick\n900000 0 tick\n");
    assert_eq!(laws(&format!("{FIRST}{cut}{early}")), []);
    assert_eq!(laws(&format!("{FIRST}{cut}{late}")), [Law::AppliedInTime]);
    assert_eq!(laws(&format!("{FIRST}1 0 shutdown\n1 0 closed\n1 0 over\n")), [Law::Shutdown]);
}

#[test]
fn a_broken_law_comes_with_its_time_and_the_names_of_the_backends() {
    let judgement = judged(&format!("{FIRST}1 0 accept 1\n0 0 pick 1 1 1\n"));
    let broken = &judgement.services[0].broken[0];
    assert_eq!(broken.at, Duration::from_micros(16));
    assert!(broken.text.contains("b1 is 10.0.0.2:1"), "{}", broken.text);
    assert!(broken.text.contains("k0 is a") && broken.text.contains("k1 is b"));
    assert!(judgement.is_broken());
}

#[test]
fn what_follows_a_gap_is_not_judged_and_raises_no_alarm() {
    let judgement = judged(&format!("{FIRST}1 0 dropped 7\n1 0 end 9 finished 0 0\n"));
    assert!(!judgement.is_broken());
    let (at, why) = judgement.services[0].stopped.clone().unwrap();
    assert_eq!((at, judgement.services[0].sessions), (Duration::from_micros(16), 1));
    assert!(why.contains("7 events"), "{why}");
}

#[test]
fn a_program_that_stood_still_may_be_as_late_as_that() {
    let cut = "5 0 set 2 1 0 0 0:0\n4000000 0 tick\n";
    assert_eq!(laws(&format!("{FIRST}{cut}")), []);
    assert!(judged(&format!("{FIRST}{cut}")).slack > Duration::from_secs(4));
}
