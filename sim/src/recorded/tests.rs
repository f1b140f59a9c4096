use std::time::Duration;

use proptest::{prelude::*, sample::Index};
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
fn a_service_without_any_backend_is_judged() {
    let refused = "5 0 set 1 0 0 0\n2 0 accept 0\n1 0 end 0 no_backends 0 0\n";
    let shut_down = "2 0 accept 0\n1 0 shutdown\n1 0 closed\n0 0 end 0 shutdown 0 0\n1 0 over\n";
    for lines in [refused, shut_down] {
        let text = format!("tinylb-recording 1\nservice 0 s\n0 0 settings\n{lines}");
        let recording = Recording::read(text.as_bytes()).unwrap();
        let judgement = judge(&recording, Duration::from_secs(1)).unwrap();
        assert!(!judgement.is_broken(), "{judgement:?}");
        assert_eq!((judgement.services[0].sessions, judgement.services[0].open), (1, 0));
    }
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

/// A recording in which everything happens.
const WHOLE: &str = "\
1 0 accept 0\n0 0 pick 0 1 1\n0 0 dial 0 1\n9 0 connect 0 1\n1 0 accept 1\n0 0 pick 1 0 0\n\
0 0 dial 1 0\n9 0 fail 1 0 refused\n0 0 eject 0 refused\n0 0 pick 1 1 1\n0 0 dial 1 1\n5 0 connect 1 1\n\
5 0 probe 0 refused\n5 0 probe 0 ok\n0 0 return 0 10\n2 0 half 0 client\n2 0 half 0 backend\n\
1 0 end 0 finished 1 2\n5 0 set 2 1 0 0 0:0\n1 0 end 1 backend_removed 1 2\n1 0 lost\n1 0 stale\n\
1 0 set 3 0 0 0\n1 0 back\n1 0 set 4 0 0 0 0:0\n1 0 accept 2\n0 0 pick 2 0 0\n0 0 dial 2 0\n\
1 0 settings max_connections=5 drain=off\n2 0 connect 2 0\n1 0 tick\n1 0 shutdown\n1 0 closed\n\
0 0 end 2 shutdown 0 0\n1 0 over\n1 0 full\n";

/// What is done to a line, whose place is given.
#[derive(Clone, Debug)]
enum Damage {
    Loses(Index),
    Repeats(Index, Index),
    /// One of its numbers is another one.
    Changes(Index, Index, u64),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<Index>;
    let number = prop_oneof![0..4_u64, Just(65_535), Just(u64::from(u32::MAX)), Just(u64::MAX)];
    prop_oneof![
        place().prop_map(Damage::Loses),
        (place(), place()).prop_map(|(from, to)| Damage::Repeats(from, to)),
        (place(), place(), number)
            .prop_map(|(line, word, number)| Damage::Changes(line, word, number)),
    ]
}

fn damaged(mut lines: Vec<String>, damage: &Damage) -> Vec<String> {
    match damage {
        Damage::Loses(line) => drop(lines.remove(line.index(lines.len()))),
        Damage::Repeats(from, to) => {
            let line = lines[from.index(lines.len())].clone();
            lines.insert(to.index(lines.len()), line);
        }
        Damage::Changes(line, word, number) => {
            let line = line.index(lines.len());
            let mut words: Vec<String> = lines[line].split(' ').map(String::from).collect();
            let is_number = |word: &String| word.parse::<u64>().is_ok();
            let numbers: Vec<_> = (0..words.len()).filter(|n| is_number(&words[*n])).collect();
            if !numbers.is_empty() {
                words[numbers[word.index(numbers.len())]] = number.to_string();
            }
            lines[line] = words.join(" ");
        }
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    /// Whatever a file says, the judge finds laws broken, or that it is no recording.
    #[test]
    fn a_recording_that_is_damaged_makes_nobody_panic(
        damages in proptest::collection::vec(damage(), 1..6)
    ) {
        let lines = format!("{BEGIN}{WHOLE}").lines().skip(1).map(String::from).collect();
        let lines = damages.iter().fold(lines, damaged);
        let text = format!("tinylb-recording 1\n{}\n", lines.join("\n"));
        if let Ok(recording) = Recording::read(text.as_bytes()) {
            let _ = judge(&recording, Duration::from_secs(1));
        }
    }
}

#[test]
fn a_recording_of_everything_breaks_no_law() {
    let judgement = judged(WHOLE);
    assert!(!judgement.is_broken() && judgement.is_full, "{judgement:#?}");
}
