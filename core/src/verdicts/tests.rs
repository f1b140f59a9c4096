use super::*;

const INTERVAL: Duration = Duration::from_secs(1);

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn pass() -> Answer {
    Answer::Pass
}

fn no() -> Answer {
    Answer::Fail("503 from /primary".into())
}

fn nothing() -> Answer {
    Answer::None("no answer within 1s".into())
}

fn ours() -> Answer {
    Answer::Ours("too many open files".into())
}

/// Backends whose key is their target.
fn set(targets: &[u32]) -> BackendSet<u32> {
    BackendSet::new(targets.iter().map(|target| (target.to_string(), *target))).unwrap()
}

fn entries() -> Arc<[BadEntry]> {
    [BadEntry { key: "x".into(), reason: "no address".into() }].into()
}

/// Verdicts, and the check of each target that is under way.
struct Run {
    verdicts: Verdicts<u32>,
    checks: BTreeMap<u32, CheckId>,
}

impl Run {
    fn new(change: impl FnOnce(&mut CheckSettings)) -> Self {
        Self::with(BadEntries::LeaveOut, change)
    }

    fn with(bad_entries: BadEntries, change: impl FnOnce(&mut CheckSettings)) -> Self {
        let mut settings = CheckSettings::default();
        change(&mut settings);
        Self { verdicts: Verdicts::new(settings, bad_entries), checks: BTreeMap::new() }
    }

    /// The targets of the checks that begin at a moment.
    fn starts(&mut self, now: Duration) -> Vec<u32> {
        let mut targets = Vec::new();
        while let Some(Check { id, target }) = self.verdicts.start(now) {
            self.checks.insert(target, id);
            targets.push(target);
        }
        targets
    }

    /// What is reported at a moment, in words.
    fn at(&mut self, now: Duration) -> Vec<String> {
        let mut reports = Vec::new();
        while let Some(update) = self.verdicts.next(now) {
            reports.push(match update {
                Update::Set(set) => format!("set {:?}", set.targets()),
                Update::Partial(set, bad) => {
                    format!("set {:?} without {}", set.targets(), bad.len())
                }
                Update::Lost(reason) => format!("lost: {reason}"),
                Update::Narrowed(set) => format!("narrowed {:?}", set.targets()),
            });
        }
        reports
    }

    fn says(&mut self, now: Duration, update: Update<u32>) -> Vec<String> {
        self.verdicts.update(now, update);
        self.starts(now);
        self.at(now)
    }

    fn says_set(&mut self, now: Duration, targets: &[u32]) -> Vec<String> {
        self.says(now, Update::Set(set(targets)))
    }

    fn answers(&mut self, now: Duration, target: u32, answer: Answer) -> Vec<String> {
        let id = self.checks.remove(&target).expect("a check of it is under way");
        self.verdicts.answered(now, id, answer);
        self.at(now)
    }

    /// The state of a target after each of these answers, an interval and a half apart.
    fn states(&mut self, target: u32, answers: &[Answer]) -> Vec<VerdictState> {
        let mut now = Duration::ZERO;
        let state = |answer: &Answer| {
            self.starts(now);
            self.answers(now, target, answer.clone());
            now += INTERVAL * 3 / 2;
            let mut known = self.verdicts.verdicts();
            known.find(|it| it.target == target).expect("it is in the set").state
        };
        answers.iter().map(state).collect()
    }
}

#[test]
fn a_new_backend_is_used_from_its_first_pass_on() {
    let mut run = Run::new(|settings| settings.rise = 3);
    assert!(run.says_set(ms(0), &[1, 2]).is_empty(), "nobody has been checked");
    assert_eq!(run.answers(ms(5), 1, pass()), ["set [1]"]);
    assert!(run.answers(ms(6), 2, pass()).is_empty(), "no set is taken sooner");
    assert_eq!(run.verdicts.due(), Some(ms(15)));
    assert_eq!(run.at(ms(15)), ["narrowed [1, 2]"]);
    // One that joins is used only after its check, and a removal waits for none.
    assert_eq!(run.says_set(ms(100), &[2, 3]), ["set [2]"]);
    assert_eq!(run.answers(ms(120), 3, pass()), ["narrowed [2, 3]"]);
}

#[test]
fn the_first_set_is_awaited_until_all_are_checked_or_time_is_up() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    assert_eq!(run.verdicts.due(), Some(ms(1000)), "nothing else may come");
    assert!(run.answers(ms(5), 1, no()).is_empty());
    assert_eq!(run.answers(ms(6), 2, nothing()), ["set []"]);

    let mut run = Run::new(|_| {});
    assert_eq!(run.says(ms(0), Update::Lost("away".into())), ["lost: away"]);
    run.says_set(ms(100), &[1, 2]);
    run.answers(ms(105), 1, no());
    assert!(run.at(ms(1099)).is_empty());
    assert_eq!(run.at(ms(1100)), ["set []"]);

    let mut run = Run::new(|_| {});
    assert_eq!(run.says_set(ms(0), &[]), ["set []"], "there is nobody to check");
}

#[test]
fn a_passing_backend_fails_after_refusals_in_a_row_or_checks_that_did_not_pass() {
    use VerdictState::{Failing, Passing, Undecided};
    let run = |answers: &[Answer]| {
        let mut run = Run::new(|it| (it.fall, it.fall_unanswered) = (2, 4));
        run.says_set(ms(0), &[1]);
        run.states(1, answers)
    };
    assert_eq!(run(&[pass(), no(), pass(), no(), no()])[3..], [Passing, Failing]);
    assert_eq!(run(&[pass(), no(), nothing(), no()])[2..], [Passing, Failing]);
    let silent = [pass(), nothing(), nothing(), nothing(), nothing()];
    assert_eq!(run(&silent)[3..], [Passing, Failing]);
    assert_eq!(run(&[pass(), no(), nothing(), nothing(), nothing()])[3..], [Passing, Failing]);
    assert_eq!(run(&[no(), no()]), [Undecided, Failing]);
}

#[test]
fn a_backend_that_could_not_be_asked_keeps_its_verdict_and_every_count() {
    use VerdictState::{Failing, Passing, Undecided};
    let run = |answers: &[Answer]| {
        let mut run = Run::new(|it| (it.rise, it.fall, it.fall_unanswered) = (2, 2, 3));
        run.says_set(ms(0), &[1]);
        run.states(1, answers)
    };
    let often = [pass(), ours(), ours(), ours(), ours(), ours(), ours(), ours(), ours()];
    assert_eq!(run(&often), [Passing; 9]);
    // It neither counts as a miss, nor ends a row of them, nor a row of passes.
    let between = [pass(), nothing(), ours(), nothing(), ours(), nothing()];
    assert_eq!(run(&between)[3..], [Passing, Passing, Failing]);
    assert_eq!(run(&[no(), ours(), no()]), [Undecided, Undecided, Failing]);
    let rising = [no(), no(), pass(), ours(), pass()];
    assert_eq!(run(&rising)[2..], [Failing, Failing, Passing]);

    // No other backend's silence counts for it, and it is no verdict to wait for.
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, no());
    assert!(run.answers(ms(6), 2, ours()).is_empty(), "it hasn't been asked");
    let reasons = run.verdicts.verdicts().map(|it| it.reason);
    let reasons: Vec<_> = reasons.map(|reason| reason.unwrap().to_string()).collect();
    assert_eq!(reasons, ["503 from /primary", "too many open files"]);
    assert_eq!(run.starts(ms(999)), [1, 2], "each is asked again");
    assert_eq!(run.answers(ms(999), 2, pass()), ["set [2]"]);
    assert!(run.verdicts.verdicts().all(|it| it.target == 1 || it.reason.is_none()));
}

#[test]
fn a_failing_backend_passes_after_passes_in_a_row() {
    use VerdictState::{Failing, Passing};
    let mut run = Run::new(|settings| settings.rise = 2);
    run.says_set(ms(0), &[1]);
    let answers = [no(), pass(), no(), pass(), pass()];
    assert_eq!(run.states(1, &answers), [Failing, Failing, Failing, Failing, Passing]);
}

#[test]
fn if_all_are_silent_nobody_fails_but_one_that_is_silent_alone_does() {
    use VerdictState::{Failing, Passing};
    let mut run = Run::new(|settings| settings.when_none = WhenNone::All);
    run.says_set(ms(0), &[1, 2]);
    let states = |run: &Run| run.verdicts.verdicts().map(|it| it.state).collect::<Vec<_>>();
    for (round, answer_of_2, expected) in [
        (0, pass(), [Passing, Passing]),
        (1, nothing(), [Passing, Passing]),
        (2, nothing(), [Passing, Passing]),
        (3, nothing(), [Passing, Passing]),
        (4, nothing(), [Passing, Passing]),
        (5, pass(), [Passing, Passing]),
        (6, pass(), [Failing, Passing]),
    ] {
        let now = INTERVAL * 3 / 2 * round;
        run.starts(now);
        run.answers(now, 1, if round == 0 { pass() } else { nothing() });
        run.answers(now, 2, answer_of_2);
        assert_eq!(states(&run), expected, "round {round}");
    }
}

#[test]
fn a_log_gets_each_change_once_with_its_reason() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1]);
    run.states(1, &[pass(), pass(), no(), no(), pass()]);
    let since = run.verdicts.verdicts().next().map(|it| it.since);
    assert_eq!(since, Some(ms(6000)), "the last answer changed it");
    let changes = run.verdicts.take_changes().into_iter();
    let texts: Vec<_> = changes.map(|it| (it.was, it.is_passing, it.reason)).collect();
    let expected = [
        (VerdictState::Undecided, true, None),
        (VerdictState::Passing, false, Some("503 from /primary".into())),
        (VerdictState::Failing, true, None),
    ];
    assert_eq!(texts, expected);
    assert!(run.verdicts.take_changes().is_empty());
}

#[test]
fn a_backend_that_leaves_loses_its_verdict_and_one_that_is_renamed_keeps_it() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, pass());
    run.answers(ms(15), 2, pass());
    let renamed = BackendSet::new([("one", 1)]).unwrap();
    assert_eq!(run.says(ms(100), Update::Set(renamed)), ["set [1]"]);
    assert_eq!(run.says_set(ms(200), &[1, 2]), ["set [1]"]);
    assert_eq!(run.answers(ms(220), 2, pass()), ["narrowed [1, 2]"]);
}

#[test]
fn a_late_answer_says_nothing_of_a_backend_that_is_back() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, pass());
    let old = run.checks[&2];
    assert_eq!(run.says_set(ms(20), &[1]), ["set [1]"]);
    assert!(!run.verdicts.is_wanted(old));
    run.says_set(ms(40), &[1, 2]);
    assert_eq!(run.checks[&2], old, "it isn't checked twice at a time");
    assert!(run.answers(ms(60), 2, pass()).is_empty());
    run.verdicts.answered(ms(61), old, pass());
    assert!(run.at(ms(100)).is_empty());
    assert_eq!(run.starts(ms(61)), [2]);
    assert_eq!(run.answers(ms(120), 2, pass()), ["narrowed [1, 2]"]);
}

#[test]
fn checks_keep_no_step_and_their_limit_and_the_oldest_come_first() {
    let mut run = Run::new(|settings| settings.checks_max = 2);
    run.verdicts.update(ms(0), Update::Set(set(&[5, 6, 7])));
    assert_eq!(run.starts(ms(0)), [5, 6]);
    run.verdicts.update(ms(10), Update::Set(set(&[1, 5, 6, 7])));
    run.answers(ms(20), 5, pass());
    assert_eq!(run.starts(ms(20)), [7], "it has waited for longer than 1");
    run.answers(ms(30), 6, pass());
    assert_eq!(run.starts(ms(30)), [1]);

    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &(0..100).collect::<Vec<_>>());
    let mut second = BTreeSet::new();
    for target in 0..100 {
        run.answers(ms(1), target, pass());
    }
    for time in 0..=1000 {
        if !run.starts(ms(time)).is_empty() {
            second.insert(time);
        }
    }
    assert!(second.len() > 80, "the second checks are spread: {second:?}");
    assert_eq!(run.checks.len(), 100);
}

#[test]
fn a_check_that_outlives_its_interval_delays_the_next_and_nobody_else() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(1), 2, pass());
    assert_eq!(run.starts(ms(1500)), [2]);
    run.answers(ms(2500), 2, pass());
    assert_eq!(run.starts(ms(3000)), [2]);
    run.answers(ms(3001), 1, pass());
    assert_eq!(run.starts(ms(3001)), [1]);
}

#[test]
fn a_role_that_nobody_has_is_given_to_nobody() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, pass());
    run.answers(ms(15), 2, no());
    run.starts(ms(1500));
    assert_eq!(run.answers(ms(1501), 1, no()), ["narrowed []"], "at once");
}

#[test]
fn if_nobody_passes_all_are_used_until_each_could_be_checked() {
    let all = |settings: &mut CheckSettings| settings.when_none = WhenNone::All;
    let mut run = Run::new(all);
    run.says_set(ms(0), &[1, 2, 3]);
    run.answers(ms(5), 1, pass());
    run.answers(ms(15), 2, no());
    run.answers(ms(16), 3, no());
    run.starts(ms(1500));
    assert_eq!(run.answers(ms(1501), 1, no()), ["narrowed [1, 2, 3]"]);
    assert!(run.answers(ms(1502), 2, pass()).is_empty());
    assert!(run.answers(ms(1503), 3, nothing()).is_empty());
    run.starts(ms(3501));
    assert!(run.at(ms(3501)).is_empty());
    assert_eq!(run.verdicts.due(), Some(ms(3502)), "all are asked, so nothing else may come");
    assert_eq!(run.at(ms(3502)), ["narrowed [2]"]);

    let mut run = Run::new(all);
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, no());
    assert_eq!(run.answers(ms(6), 2, no()), ["set [1, 2]"]);
    run.starts(ms(1500));
    assert!(run.answers(ms(1501), 1, pass()).is_empty());
    assert!(run.answers(ms(1502), 2, pass()).is_empty(), "all pass: the set stays");
    run.starts(ms(3000));
    assert_eq!(run.answers(ms(3001), 1, no()), ["narrowed [2]"], "and it is over");
}

#[test]
fn a_loss_is_passed_on_at_once_and_checks_go_on() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.answers(ms(5), 1, pass());
    assert_eq!(run.says(ms(20), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!(run.answers(ms(40), 2, pass()), ["narrowed [1, 2]"]);
    run.starts(ms(1500));
    assert_eq!(run.answers(ms(1501), 1, no()), ["narrowed [2]"]);
    assert_eq!(run.says_set(ms(1600), &[1, 2]), ["set [2]"]);

    // A set that was still awaited then doesn't end the loss.
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1]);
    assert_eq!(run.says(ms(1), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!(run.answers(ms(5), 1, pass()), ["narrowed [1]"]);
}

#[test]
fn a_set_with_bad_entries_is_passed_on_or_narrowed_as_the_follower_takes_it() {
    let partial = |targets: &[u32]| Update::Partial(set(targets), entries());
    let mut run = Run::with(BadEntries::Reject, |_| {});
    run.says_set(ms(0), &[1]);
    run.answers(ms(5), 1, pass());
    assert_eq!(run.says(ms(20), partial(&[1, 2])), ["set [1, 2] without 1"]);
    assert_eq!(run.verdicts.inner(), Some(&set(&[1])));

    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1]);
    run.answers(ms(5), 1, pass());
    assert_eq!(run.says(ms(20), partial(&[])), ["set [] without 1"], "which is a loss");
    assert_eq!(run.verdicts.inner(), Some(&set(&[1])));
    // Without a backend that passes, it must not look like that.
    assert_eq!(run.says(ms(40), partial(&[2])), ["set []"]);
    assert_eq!(run.answers(ms(60), 2, pass()), ["set [2] without 1"]);
    assert_eq!(run.says(ms(80), partial(&[1, 2])), ["set [2] without 1"]);
    assert_eq!(run.answers(ms(100), 1, pass()), ["narrowed [1, 2]"]);
}
