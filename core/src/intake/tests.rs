use super::*;
use crate::Floor;

const HOLD: Duration = Duration::from_secs(60);
const STALE: Duration = Duration::from_secs(600);

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

/// Backends whose key is their target.
fn set(targets: &[u32]) -> BackendSet<u32> {
    BackendSet::new(targets.iter().map(|target| (target.to_string(), *target))).unwrap()
}

/// An intake and the set in force, asked after each word of the source.
struct Run {
    intake: Intake<u32>,
    set: Option<BackendSet<u32>>,
}

impl Run {
    fn new(change: impl FnOnce(&mut SourceSettings)) -> Self {
        let mut settings = SourceSettings::default();
        change(&mut settings);
        settings.validate().unwrap();
        Self { intake: Intake::new(settings), set: None }
    }

    /// What is done at a moment, in words.
    fn at(&mut self, now: Duration) -> Vec<String> {
        let mut done = Vec::new();
        while let Some(decision) = self.intake.decide(now, self.set.as_ref()) {
            done.push(match decision {
                Decision::Take(set, absent) => {
                    let text = match absent.len() {
                        0 => format!("take {:?}", set.targets()),
                        absent => format!("take {:?}, {absent} absent", set.targets()),
                    };
                    self.set = Some(set);
                    text
                }
                Decision::Hold(held) => format!("hold {} of {}", held.removed, held.targets),
                Decision::Lose { reason, is_news: true } => format!("lost: {reason}"),
                Decision::Lose { reason, is_news: false } => format!("still: {reason}"),
                Decision::Recover(after) => format!("back after {after:?}"),
                Decision::LeaveOut(entries) => format!("without {}", entries.len()),
                Decision::Expire(reason) => {
                    self.set = Some(BackendSet::empty());
                    format!("stale: {reason}")
                }
            });
        }
        done
    }

    fn says(&mut self, now: Duration, update: Update<u32>) -> Vec<String> {
        self.intake.update(now, update, self.set.as_ref());
        self.at(now)
    }

    fn says_set(&mut self, now: Duration, targets: &[u32]) -> Vec<String> {
        self.says(now, Update::Set(set(targets)))
    }
}

fn bad(key: &str) -> BadEntry {
    BadEntry { key: key.into(), reason: "no address".into() }
}

#[test]
fn of_a_burst_the_first_is_taken_at_once_and_the_newest_within_10_ms() {
    let mut run = Run::new(|_| {});
    assert_eq!(run.says_set(ms(0), &[1]), ["take [1]"]);
    for time in 1..10 {
        assert!(run.says_set(ms(time), &[2, time as u32 + 10]).is_empty());
        assert_eq!(run.intake.due(), Some(ms(10)));
    }
    assert_eq!(run.at(ms(10)), ["take [2, 19]"]);
    assert_eq!((run.at(ms(20)), run.intake.due()), (vec![], None));
    assert_eq!(run.says_set(ms(20), &[3]), ["take [3]"]);
}

#[test]
fn a_loss_is_reported_once_and_its_end_too() {
    let mut run = Run::new(|_| {});
    assert_eq!(run.says(ms(0), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!(run.says(ms(1), Update::Lost("still away".into())), ["still: still away"]);
    assert_eq!(run.says_set(ms(2), &[1]), ["back after 2ms", "take [1]"]);
    assert_eq!(run.intake.due(), None, "the last set stays for ever");
}

#[test]
fn a_set_that_came_before_a_loss_counts() {
    let mut run = Run::new(|_| {});
    run.says_set(ms(0), &[1]);
    assert!(run.says_set(ms(5), &[2]).is_empty());
    assert_eq!(run.says(ms(6), Update::Lost("away".into())), ["take [2]", "lost: away"]);
}

#[test]
fn what_is_stale_for_too_long_is_given_up_once() {
    let mut run = Run::new(|settings| settings.max_stale = Some(STALE));
    run.says(ms(0), Update::Lost("away".into()));
    assert!(run.at(STALE).is_empty(), "there is no set to be given up");
    run.says_set(STALE, &[1]);
    let lost_at = STALE + ms(50);
    run.says(lost_at, Update::Lost("gone".into()));
    run.says(lost_at + ms(7), Update::Lost("gone for good".into()));
    assert_eq!(run.intake.due(), Some(lost_at + STALE));
    assert!(run.at(lost_at + STALE - ms(1)).is_empty());
    assert_eq!(run.at(lost_at + STALE), ["stale: gone for good"]);
    assert_eq!((run.at(lost_at + STALE * 9), run.intake.due()), (vec![], None));
    assert_eq!(run.says_set(lost_at + STALE * 9, &[1]), ["back after 5400s", "take [1]"]);
}

#[test]
fn a_set_that_removes_too_much_is_held_and_then_believed() {
    let floor = Floor { removed_percent_max: 50, hold: HOLD };
    let mut run = Run::new(|settings| settings.floor = Some(floor));
    assert_eq!(run.says_set(ms(0), &[1, 2, 3, 4]), ["take [1, 2, 3, 4]"]);
    assert_eq!(run.says_set(ms(20), &[3, 4]), ["take [3, 4]"], "a half may go");
    run.says_set(ms(40), &[1, 2, 3, 4]);
    assert_eq!(run.says_set(ms(60), &[4, 5, 6]), ["hold 3 of 4"]);
    assert!(run.says_set(ms(80), &[5, 6]).is_empty(), "the hold goes on from where it began");
    assert_eq!(run.intake.due(), Some(ms(60) + HOLD));
    assert!(run.at(ms(59) + HOLD).is_empty());
    assert_eq!(run.at(ms(60) + HOLD), ["take [5, 6]"]);
    assert_eq!(run.says_set(ms(80) + HOLD, &[]), ["hold 2 of 2"], "the next has one of its own");
}

#[test]
fn a_source_that_comes_to_its_senses_or_is_lost_ends_a_hold() {
    let floor = Floor { removed_percent_max: 50, hold: HOLD };
    let mut run = Run::new(|settings| settings.floor = Some(floor));
    run.says_set(ms(0), &[1, 2, 3, 4]);
    assert_eq!(run.says_set(ms(20), &[1]), ["hold 3 of 4"]);
    assert_eq!(run.says_set(ms(21), &[1, 2, 3]), ["take [1, 2, 3]"]);
    assert_eq!((run.at(HOLD * 2), run.intake.due()), (vec![], None));
    run.says_set(HOLD * 2, &[]);
    assert_eq!(run.says(HOLD * 2 + ms(1), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!((run.at(HOLD * 4), run.intake.due()), (vec![], None));
    assert_eq!(run.set, Some(set(&[1, 2, 3])));
    // Nor is it taken if the loss comes before it could be held.
    run.says_set(HOLD * 4, &[1, 2, 3]);
    assert!(run.says_set(HOLD * 4 + ms(1), &[]).is_empty());
    assert_eq!(run.says(HOLD * 4 + ms(2), Update::Lost("away".into())), ["lost: away"]);
}

const KEEP: Duration = Duration::from_secs(30);

fn keeping(change: impl FnOnce(&mut SourceSettings)) -> Run {
    Run::new(|settings| {
        settings.keep_absent = Some(KEEP);
        change(settings);
    })
}

#[test]
fn a_target_that_is_absent_for_less_than_it_is_kept_stays() {
    let mut run = keeping(|_| {});
    assert_eq!(run.says_set(ms(0), &[1, 2]), ["take [1, 2]"]);
    assert_eq!(run.says_set(ms(100), &[2, 3]), ["take [1, 2, 3], 1 absent"]);
    assert_eq!(run.says_set(ms(200), &[3, 4]), ["take [1, 2, 3, 4], 2 absent"]);
    assert_eq!(run.intake.due(), Some(ms(100) + KEEP));
    // It comes back, and its time begins anew when it is absent again.
    assert_eq!(run.says_set(ms(300), &[1, 3, 4]), ["take [1, 2, 3, 4], 1 absent"]);
    assert_eq!(run.says_set(ms(400), &[3, 4]), ["take [1, 2, 3, 4], 2 absent"]);
    assert!(run.at(ms(199) + KEEP).is_empty());
    assert_eq!(run.at(ms(200) + KEEP), ["take [1, 3, 4], 1 absent"]);
    assert_eq!(run.intake.due(), Some(ms(400) + KEEP));
    assert_eq!(run.at(ms(400) + KEEP), ["take [3, 4]"]);
    assert_eq!((run.at(KEEP * 9), run.intake.due()), (vec![], None));
    assert_eq!(run.says_set(KEEP * 9, &[]), ["take [3, 4], 2 absent"], "whatever the source names");
    assert_eq!(run.at(KEEP * 10), ["take []"]);
}

#[test]
fn a_mention_that_is_overtaken_counts() {
    let mut run = keeping(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.says_set(ms(20), &[1]);
    assert_eq!(run.says_set(KEEP, &[1]), ["take [1, 2], 1 absent"]);
    assert!(run.says_set(KEEP + ms(5), &[1, 2]).is_empty());
    assert!(run.says_set(KEEP + ms(6), &[1]).is_empty());
    assert_eq!(run.at(KEEP + ms(30)), ["take [1, 2], 1 absent"]);
    assert_eq!(run.intake.due(), Some(KEEP * 2 + ms(30)));
}

#[test]
fn the_time_of_what_is_absent_stands_still_while_the_source_is_lost() {
    let mut run = keeping(|settings| settings.max_stale = Some(STALE));
    run.says_set(ms(0), &[1, 2]);
    run.says_set(ms(20), &[1]);
    assert_eq!(run.says(ms(30), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!(run.intake.due(), Some(ms(30) + STALE), "nothing goes meanwhile");
    assert!(run.at(KEEP * 2).is_empty());
    let back = KEEP * 2 + ms(30);
    assert_eq!(run.says_set(back, &[1]), ["back after 60s", "take [1, 2], 1 absent"]);
    assert_eq!(run.intake.due(), Some(KEEP * 3 + ms(20)));
    assert_eq!(run.at(KEEP * 3 + ms(20)), ["take [1]"]);
    // What is given up is given up whole.
    run.says_set(KEEP * 4, &[2]);
    run.says(KEEP * 4 + ms(20), Update::Lost("gone".into()));
    assert_eq!(run.at(KEEP * 4 + ms(20) + STALE), ["stale: gone"]);
    let later = KEEP * 5 + STALE;
    assert_eq!(run.says_set(later, &[3])[1..], ["take [3]"]);
}

#[test]
fn a_floor_counts_what_goes_when_it_goes() {
    let floor = Floor { removed_percent_max: 50, hold: HOLD };
    let mut run = keeping(|settings| settings.floor = Some(floor));
    run.says_set(ms(0), &[1, 2, 3, 4]);
    assert_eq!(run.says_set(ms(20), &[1]), ["take [1, 2, 3, 4], 3 absent"]);
    assert_eq!(run.at(ms(20) + KEEP), ["hold 3 of 4"]);
    assert_eq!(run.intake.due(), Some(ms(20) + KEEP + HOLD));
    assert_eq!(run.at(ms(20) + KEEP + HOLD), ["take [1]"]);
    // Or it is mentioned again in time.
    run.says_set(HOLD * 2, &[2, 3, 4]);
    run.says_set(HOLD * 2 + ms(20), &[1]);
    assert_eq!(run.at(HOLD * 2 + ms(20) + KEEP), ["hold 3 of 4"]);
    let again = run.says_set(HOLD * 2 + ms(40) + KEEP, &[1, 2, 3, 4]);
    assert_eq!((again, run.intake.due()), (vec!["take [1, 2, 3, 4]".into()], None));
}

#[test]
fn a_key_with_another_target_keeps_the_old_one_under_another_key() {
    let mut run = keeping(|_| {});
    let said = |entries: &[(&str, u32)]| Update::Set(BackendSet::new(entries.to_vec()).unwrap());
    run.says(ms(0), said(&[("a", 1), ("b", 2), ("c", 2)]));
    run.says(ms(20), said(&[("a", 3), ("b", 2)]));
    let keys = |run: &Run| {
        let set = run.set.as_ref().unwrap();
        let entries: Vec<_> = set.iter().map(|(key, target)| format!("{key}={target}")).collect();
        entries.join(", ")
    };
    assert_eq!(keys(&run), "a=3, a (1)=1, b=2", "2 has lost a key, and is there");
    run.says(ms(40), said(&[("a", 4), ("a (1)", 5)]));
    assert_eq!(keys(&run), "a=4, a (1)=5, a (1) (1)=1, a (3)=3, b=2");
    run.at(ms(20) + KEEP);
    assert_eq!(keys(&run), "a=4, a (1)=5, a (3)=3, b=2");
    run.at(ms(40) + KEEP);
    assert_eq!(keys(&run), "a=4, a (1)=5");
}

#[test]
fn what_is_in_force_before_the_source_is_heard_counts_as_mentioned() {
    let mut run = keeping(|_| {});
    run.set = Some(set(&[1, 2]));
    assert_eq!(run.says_set(ms(0), &[2]), ["take [1, 2], 1 absent"]);
    assert_eq!(run.at(KEEP), ["take [2]"]);
}

#[test]
fn an_entry_that_is_left_out_leaves_its_target_absent() {
    let mut run = keeping(|settings| settings.bad_entries = BadEntries::LeaveOut);
    run.says_set(ms(0), &[1, 2]);
    let without_2 = Update::Partial(set(&[1]), [bad("2")].into());
    assert_eq!(run.says(ms(20), without_2), ["without 1", "take [1, 2], 1 absent"]);
}

#[test]
fn a_bad_entry_is_named_or_left_out() {
    let partial =
        |entries: &[&str]| Update::Partial(set(&[1]), entries.iter().map(|key| bad(key)).collect());
    let mut run = Run::new(|_| {});
    assert_eq!(run.says(ms(0), partial(&["x", "y"])), ["lost: x: no address"]);
    assert_eq!(run.says(ms(20), partial(&[])), ["back after 20ms", "take [1]"]);

    let mut run = Run::new(|settings| settings.bad_entries = BadEntries::LeaveOut);
    assert_eq!(run.says(ms(0), partial(&["x", "y"])), ["without 2", "take [1]"]);
    assert_eq!(run.says(ms(20), partial(&["x", "y"])), ["take [1]"], "which was reported");
    assert_eq!(run.says_set(ms(40), &[2]), ["without 0", "take [2]"]);
}

#[test]
fn a_set_of_which_nothing_is_left_is_no_empty_set() {
    let mut run = Run::new(|settings| settings.bad_entries = BadEntries::LeaveOut);
    assert_eq!(run.says_set(ms(0), &[1]), ["take [1]"]);
    let none = Update::Partial(set(&[]), [bad("x"), bad("y")].into());
    let lost = "lost: none of 2 entries is a backend; the first: x: no address";
    assert_eq!(run.says(ms(20), none), [lost]);
    let none_on_purpose = Update::Partial(set(&[]), Arc::default());
    assert_eq!(run.says(ms(40), none_on_purpose), ["back after 20ms", "take []"]);
}

fn narrowed(targets: &[u32]) -> Update<u32> {
    Update::Narrowed(set(targets))
}

#[test]
fn what_is_narrowed_is_taken_and_waits_for_the_pause() {
    let mut run = Run::new(|_| {});
    assert_eq!(run.says_set(ms(0), &[1, 2]), ["take [1, 2]"]);
    assert!(run.says(ms(3), narrowed(&[1])).is_empty());
    assert_eq!(run.intake.due(), Some(ms(10)));
    assert_eq!(run.at(ms(10)), ["take [1]"]);
    assert_eq!(run.says(ms(30), narrowed(&[1, 2])), ["take [1, 2]"]);
    // The newest counts, whichever it is.
    run.says(ms(31), narrowed(&[2]));
    run.says_set(ms(32), &[1, 3]);
    assert_eq!(run.at(ms(40)), ["take [1, 3]"]);
    run.says_set(ms(41), &[1, 2, 3]);
    run.says(ms(42), narrowed(&[2, 3]));
    assert_eq!(run.at(ms(50)), ["take [2, 3]"]);
}

#[test]
fn a_loss_goes_on_while_its_last_set_is_narrowed() {
    let mut run = Run::new(|settings| settings.max_stale = Some(STALE));
    run.says_set(ms(0), &[1, 2]);
    run.says(ms(20), Update::Lost("away".into()));
    assert_eq!(run.says(ms(40), narrowed(&[1])), ["take [1]"]);
    assert!(run.intake.is_lost());
    assert_eq!(run.says(ms(41), Update::Lost("away".into())), ["still: away"]);
    // One that waits for the pause outlasts a loss.
    assert!(run.says(ms(42), narrowed(&[2])).is_empty());
    assert_eq!(run.says(ms(43), Update::Lost("away".into())), ["still: away"]);
    assert_eq!(run.at(ms(50)), ["take [2]"]);
    assert_eq!(run.at(ms(20) + STALE), ["stale: away"]);
    assert!(run.says(STALE * 2, narrowed(&[1, 2])).is_empty());
    assert_eq!((run.at(STALE * 3), run.intake.due()), (vec![], None));
    assert_eq!(run.says_set(STALE * 3, &[1])[1..], ["take [1]"]);
}

#[test]
fn what_is_narrowed_just_before_it_is_stale_goes_with_the_rest() {
    let mut run = Run::new(|settings| settings.max_stale = Some(STALE));
    run.says_set(ms(0), &[1, 2]);
    run.says(ms(20), Update::Lost("away".into()));
    let end = ms(20) + STALE;
    assert_eq!(run.says(end - ms(5), narrowed(&[1])), ["take [1]"]);
    assert!(run.says(end - ms(1), narrowed(&[1, 2])).is_empty());
    assert_eq!(run.at(end), ["stale: away"]);
    assert_eq!((run.at(end + ms(10)), run.intake.due()), (vec![], None));
    // Even if there was nothing to give up before.
    run.says_set(end * 2, &[1]);
    run.says(end * 2 + ms(20), Update::Lost("gone".into()));
    run.says(end * 2 + ms(30), narrowed(&[]));
    run.intake.update(end * 3, narrowed(&[1]), run.set.as_ref());
    assert_eq!((run.at(end * 3), run.set.clone()), (vec![], Some(set(&[]))));
}

#[test]
fn a_floor_holds_what_is_narrowed_and_a_loss_does_not_end_that() {
    let floor = Floor { removed_percent_max: 50, hold: HOLD };
    let mut run = Run::new(|settings| settings.floor = Some(floor));
    run.says_set(ms(0), &[1, 2, 3]);
    assert_eq!(run.says(ms(20), narrowed(&[1])), ["hold 2 of 3"]);
    assert_eq!(run.says(ms(30), Update::Lost("away".into())), ["lost: away"]);
    assert!(run.intake.is_holding());
    assert_eq!(run.says(ms(40), Update::Lost("away".into())), ["still: away"]);
    assert_eq!(run.intake.due(), Some(ms(20) + HOLD));
    assert_eq!(run.at(ms(20) + HOLD), ["take [1]"]);
    // A loss still drops what the source itself said.
    run.says_set(HOLD * 2, &[1, 2, 3]);
    run.says_set(HOLD * 2 + ms(20), &[1]);
    run.says(HOLD * 2 + ms(30), narrowed(&[]));
    assert_eq!(run.says(HOLD * 2 + ms(40), Update::Lost("away".into())), ["lost: away"]);
    assert_eq!((run.at(HOLD * 4), run.set.clone()), (vec![], Some(set(&[1, 2, 3]))));
}

#[test]
fn entries_stay_left_out_while_the_set_is_narrowed() {
    let mut run = Run::new(|settings| settings.bad_entries = BadEntries::LeaveOut);
    let partial = || Update::Partial(set(&[1, 2]), [bad("x")].into());
    assert_eq!(run.says(ms(0), partial()), ["without 1", "take [1, 2]"]);
    assert_eq!(run.says(ms(20), narrowed(&[2])), ["take [2]"]);
    assert_eq!(run.says(ms(40), partial()), ["take [1, 2]"]);
}

#[test]
fn what_is_narrowed_mentions_nothing() {
    let mut run = keeping(|_| {});
    run.says_set(ms(0), &[1, 2]);
    assert_eq!(run.says(ms(20), narrowed(&[1])), ["take [1, 2], 1 absent"]);
    assert!(run.says(ms(21), narrowed(&[1, 2])).is_empty());
    assert!(run.says(ms(22), narrowed(&[1])).is_empty());
    assert_eq!(run.at(ms(30)), ["take [1, 2], 1 absent"]);
    assert_eq!(run.intake.due(), Some(ms(20) + KEEP));
    assert_eq!(run.at(ms(20) + KEEP), ["take [1]"]);
}

#[test]
fn the_time_of_what_is_narrowed_away_in_a_loss_begins_when_the_source_is_back() {
    let mut run = keeping(|_| {});
    run.says_set(ms(0), &[1, 2]);
    run.says(ms(20), Update::Lost("away".into()));
    run.says(KEEP, narrowed(&[1]));
    assert_eq!(run.says_set(KEEP * 3, &[1])[1..], ["take [1, 2], 1 absent"]);
    assert_eq!(run.intake.due(), Some(KEEP * 4));
}
