use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{
    BackendSet, BadEntries, BadEntry, Held, SourceSettings, Target, Update,
    absence::{Absence, Absentees},
};

/// Time from one set that is taken to the next, at least: of a burst, only the newest counts. The
/// first of it is taken at once.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Which of a source's sets are taken, and when. Plain state, like the balancer: it gets the
/// source's updates and decides what to do, both with the time from outside.
pub(crate) struct Intake<T> {
    settings: SourceSettings,
    /// What is to be done first, in this order.
    decided: VecDeque<Decision<T>>,
    /// The source's newest set, while it isn't taken yet.
    next: Option<BackendSet<T>>,
    /// That set only narrows one that was taken: a loss doesn't drop it.
    only_narrows: bool,
    taken_at: Option<Duration>,
    held_since: Option<Duration>,
    lost: Option<Lost>,
    left_out: Arc<[BadEntry]>,
    absence: Absence<T>,
}

struct Lost {
    since: Duration,
    reason: Arc<str>,
    /// The last set was given up.
    is_stale: bool,
}

/// What is to be done.
pub(crate) enum Decision<T> {
    /// Replace the set by this one. The source doesn't name these of its backends.
    Take(BackendSet<T>, Absentees),
    /// Report that a set is held.
    Hold(Held),
    /// Note that the source is lost, and report it if that is news.
    Lose { reason: Arc<str>, is_news: bool },
    /// Report that the source is back, and how long it was lost.
    Recover(Duration),
    /// Report the entries that sets lack from now on: perhaps none.
    LeaveOut(Arc<[BadEntry]>),
    /// Replace the set by an empty one, and report why.
    Expire(Arc<str>),
}

impl<T: Target> Intake<T> {
    pub(crate) fn new(settings: SourceSettings) -> Self {
        let absence = Absence::new(settings.keep_absent);
        Self {
            settings,
            decided: VecDeque::new(),
            next: None,
            only_narrows: false,
            taken_at: None,
            held_since: None,
            lost: None,
            left_out: Arc::default(),
            absence,
        }
    }

    /// The source says something. `set`: the set in force.
    pub(crate) fn update(&mut self, now: Duration, update: Update<T>, set: Option<&BackendSet<T>>) {
        let (next, left_out) = match update {
            Update::Set(next) => (next, Arc::default()),
            Update::Partial(next, entries) => match entries.first() {
                Some(entry) if self.settings.bad_entries == BadEntries::Reject => {
                    return self.lose(now, entry.to_string().into(), set);
                }
                // The source hasn't stated that there are no backends.
                Some(entry) if next.is_empty() => {
                    let count = entries.len();
                    let reason =
                        format!("none of {count} entries is a backend; the first: {entry}");
                    return self.lose(now, reason.into(), set);
                }
                _ => (next, entries),
            },
            Update::Lost(reason) => return self.lose(now, reason, set),
            Update::Narrowed(next) => return self.narrow(next),
        };
        if let Some(lost) = self.lost.take() {
            self.absence.pause(lost.since, now);
            self.decided.push_back(Decision::Recover(now.saturating_sub(lost.since)));
        }
        self.absence.mention(&next);
        if self.left_out != left_out {
            self.decided.push_back(Decision::LeaveOut(Arc::clone(&left_out)));
            self.left_out = left_out;
        }
        (self.next, self.only_narrows) = (Some(next), false);
    }

    /// Of the last set, these backends are to be used. That is no word of the source: a loss goes
    /// on, and nothing is mentioned.
    fn narrow(&mut self, next: BackendSet<T>) {
        if self.lost.as_ref().is_some_and(|lost| lost.is_stale) {
            return;
        }
        self.only_narrows |= self.next.is_none();
        self.next = Some(next);
    }

    fn lose(&mut self, now: Duration, reason: Arc<str>, set: Option<&BackendSet<T>>) {
        // What was said before the loss counts, unless it is held or would be. What only narrows
        // the last set counts in any case, and needs no haste.
        if let Some(said) = self.next.take_if(|_| !self.only_narrows)
            && self.held_since.take().is_none()
        {
            let next = self.absence.complete(now, set, &said);
            if self.holds(set, &next).is_none() {
                self.take(now, said, next);
            }
        }
        let is_news = self.lost.is_none();
        let lost = self.lost.get_or_insert(Lost {
            since: now,
            reason: Arc::clone(&reason),
            is_stale: false,
        });
        lost.reason = Arc::clone(&reason);
        self.decided.push_back(Decision::Lose { reason, is_news });
    }

    fn take(&mut self, now: Duration, said: BackendSet<T>, set: BackendSet<T>) {
        self.taken_at = Some(now);
        let absent = self.absence.taken(said, &set);
        self.decided.push_back(Decision::Take(set, absent));
    }

    /// What is to be done now; to be asked until that is nothing. `set`: the set in force.
    pub(crate) fn decide(
        &mut self,
        now: Duration,
        set: Option<&BackendSet<T>>,
    ) -> Option<Decision<T>> {
        if self.decided.is_empty() {
            self.consider(now, set);
        }
        self.decided.pop_front()
    }

    fn consider(&mut self, now: Duration, set: Option<&BackendSet<T>>) {
        self.give_up_stale(now, set);
        if self.next.is_none() && self.lost.is_none() {
            (self.next, self.only_narrows) = (self.absence.over(now), false);
        }
        if self.taken_at.is_none_or(|at| at + PAUSE <= now)
            && let Some(said) = self.next.clone()
        {
            let next = self.absence.complete(now, set, &said);
            let held = self.holds(set, &next);
            let is_over = |held: &Held| self.held_since.is_some_and(|at| at + held.hold <= now);
            match held {
                Some(held) if self.held_since.is_none() => {
                    self.held_since = Some(now);
                    self.decided.push_back(Decision::Hold(held));
                }
                Some(held) if !is_over(&held) => {}
                _ => {
                    (self.held_since, self.next) = (None, None);
                    self.take(now, said, next);
                }
            }
        }
    }

    /// Gives up the last set once the source has been lost for too long, and with it what narrows it.
    fn give_up_stale(&mut self, now: Duration, set: Option<&BackendSet<T>>) {
        if let (Some(lost), Some(max)) = (&mut self.lost, self.settings.max_stale)
            && lost.since + max <= now
            && !lost.is_stale
        {
            lost.is_stale = true;
            (self.next, self.held_since) = (None, None);
            self.absence.clear();
            if set.is_some_and(|set| !set.is_empty()) {
                self.decided.push_back(Decision::Expire(Arc::clone(&lost.reason)));
            }
        }
    }

    /// Whether the source is lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    /// Whether a set is held.
    pub(crate) fn is_holding(&self) -> bool {
        self.held_since.is_some()
    }

    /// How the floor holds the next set, if it does.
    fn holds(&self, set: Option<&BackendSet<T>>, next: &BackendSet<T>) -> Option<Held> {
        let (set, floor) = set.filter(|_| self.taken_at.is_some()).zip(self.settings.floor)?;
        let targets = set.targets().len();
        let goes = |target: &&T| next.target_index(target).is_none();
        let removed = set.targets().iter().filter(goes).count();
        let is_too_much = removed * 100 > targets * usize::from(floor.removed_percent_max);
        is_too_much.then_some(Held { removed, targets, hold: floor.hold })
    }

    /// When there may be something to do though the source says nothing.
    pub(crate) fn due(&self) -> Option<Duration> {
        let hold = self.held_since.zip(self.settings.floor).map(|(at, floor)| at + floor.hold);
        let pause = self.taken_at.map(|at| at + PAUSE);
        let next = self.next.as_ref().map(|_| hold.max(pause).unwrap_or_default());
        let lost = self.lost.as_ref().filter(|lost| !lost.is_stale);
        let stale = lost.zip(self.settings.max_stale).map(|(lost, max)| lost.since + max);
        let is_waited_for = self.next.is_none() && self.lost.is_none();
        let absent = self.absence.due().filter(|_| is_waited_for);
        let absent = absent.map(|due| due.max(pause.unwrap_or_default()));
        next.into_iter().chain(stale).chain(absent).min()
    }
}

#[cfg(test)]
mod tests {
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
    fn a_loss_is_told_once_and_its_end_too() {
        let mut run = Run::new(|_| {});
        assert_eq!(run.says(ms(0), Update::Lost("away".into())), ["lost: away"]);
        assert_eq!(run.says(ms(1), Update::Lost("still away".into())), ["still: still away"]);
        assert_eq!(run.says_set(ms(2), &[1]), ["back after 2ms", "take [1]"]);
        assert_eq!(run.intake.due(), None, "the last set stays for ever");
    }

    #[test]
    fn a_set_that_was_said_before_a_loss_counts() {
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
        assert_eq!(
            run.says_set(ms(80) + HOLD, &[]),
            ["hold 2 of 2"],
            "the next has one of its own"
        );
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
        assert_eq!(run.says_set(KEEP * 9, &[]), ["take [3, 4], 2 absent"], "whatever is said");
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
        let said =
            |entries: &[(&str, u32)]| Update::Set(BackendSet::new(entries.to_vec()).unwrap());
        run.says(ms(0), said(&[("a", 1), ("b", 2), ("c", 2)]));
        run.says(ms(20), said(&[("a", 3), ("b", 2)]));
        let keys = |run: &Run| {
            let set = run.set.as_ref().unwrap();
            let entries: Vec<_> =
                set.iter().map(|(key, target)| format!("{key}={target}")).collect();
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
        let partial = |entries: &[&str]| {
            Update::Partial(set(&[1]), entries.iter().map(|key| bad(key)).collect())
        };
        let mut run = Run::new(|_| {});
        assert_eq!(run.says(ms(0), partial(&["x", "y"])), ["lost: x: no address"]);
        assert_eq!(run.says(ms(20), partial(&[])), ["back after 20ms", "take [1]"]);

        let mut run = Run::new(|settings| settings.bad_entries = BadEntries::LeaveOut);
        assert_eq!(run.says(ms(0), partial(&["x", "y"])), ["without 2", "take [1]"]);
        assert_eq!(run.says(ms(20), partial(&["x", "y"])), ["take [1]"], "which was told");
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
}
