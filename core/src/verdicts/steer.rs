use std::{mem, time::Duration};

use super::{Change, Open, Record, VerdictState, Verdicts, WhenNone};
use crate::{BackendSet, SettingsError, Target, spread::fraction};

/// What changes while backends are in use. None of it takes a backend out of use: only an answer
/// does, or the source.
impl<T: Target> Verdicts<T> {
    /// These backends are in use already. Those of them that the source's first set names are used
    /// until their checks say otherwise, and that set isn't awaited. Call it before the first update.
    ///
    /// With [`WhenNone::All`], if that set names none that isn't in use, all are used as if none had
    /// passed: until one passes, and the others had time to.
    pub fn assume(&mut self, in_use: BackendSet<T>) {
        debug_assert!(self.inner.is_none(), "what is in use is given before the first set");
        self.assumed = Some(in_use);
    }

    /// The record of each target of the first set that is in use already passes. Returns whether any
    /// backends were.
    pub(super) fn take_assumed(&mut self) -> bool {
        let Some(in_use) = self.assumed.take() else { return false };
        let is_in_use = |target: &T| in_use.target_index(target).is_some();
        let is_open = self.settings.when_none == WhenNone::All
            && self.records.keys().all(is_in_use)
            && !self.records.is_empty();
        if !is_open {
            for (_, record) in self.records.iter_mut().filter(|(target, _)| is_in_use(target)) {
                record.state = VerdictState::Passing;
                self.passing += 1;
            }
        }
        true
    }

    /// The checks ask something else from now on. Each verdict stays until the next answers say
    /// otherwise, and every backend is due. Checks that are under way no longer count: the caller has
    /// given them up.
    ///
    /// With [`WhenNone::All`], if all are used now, they are used as if none had passed.
    pub fn ask_anew(&mut self, now: Duration) {
        let is_open = self.settings.when_none == WhenNone::All
            && (self.open != Open::Closed || self.passing == self.records.len());
        self.checks.clear();
        self.checked.clear();
        self.due.clear();
        for (target, record) in &mut self.records {
            let state = if is_open { VerdictState::Undecided } else { record.state };
            let since = if state == record.state { record.since } else { now };
            let before = mem::replace(record, Record::new(now));
            (record.state, record.since, record.reason) = (state, since, before.reason);
            self.due.insert((now, target.clone()));
        }
        self.unheard = self.records.len();
        if is_open {
            self.passing = 0;
        }
        self.settle(now);
    }

    /// Changes the settings. A pause that is longer than the new interval ends earlier; counts go on,
    /// and the next answer is held against the new limits.
    ///
    /// # Errors
    /// A setting is out of its range. Nothing took effect.
    pub fn configure(
        &mut self,
        now: Duration,
        settings: super::CheckSettings,
    ) -> Result<(), SettingsError> {
        settings.validate()?;
        self.settings = settings;
        self.due.clear();
        let super::CheckSettings { interval, seed, .. } = self.settings;
        for (target, record) in &mut self.records {
            if record.due > now + interval {
                record.due = now + interval.mul_f64(fraction(seed, target, record.begun));
            }
            if !self.checked.contains_key(target) {
                self.due.insert((record.due, target.clone()));
            }
        }
        if self.settings.when_none == WhenNone::Empty && self.open != Open::Closed {
            self.open = Open::Closed;
            self.change = Change::Other;
        }
        self.settle(now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Answer, BadEntries, Check, CheckSettings, Update};

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn set(targets: &[u32]) -> BackendSet<u32> {
        BackendSet::new(targets.iter().map(|target| (target.to_string(), *target))).unwrap()
    }

    fn verdicts(when_none: WhenNone) -> Verdicts<u32> {
        let settings = CheckSettings { when_none, ..CheckSettings::default() };
        Verdicts::new(settings, BadEntries::default())
    }

    /// The targets of what is reported now; `None` if that is nothing.
    fn reported(verdicts: &mut Verdicts<u32>, now: Duration) -> Option<Vec<u32>> {
        let mut reported = None;
        while let Some(update) = verdicts.next(now) {
            match update {
                Update::Set(set) | Update::Partial(set, _) | Update::Narrowed(set) => {
                    reported = Some(set.targets().to_vec());
                }
                Update::Lost(_) => {}
            }
        }
        reported
    }

    fn started(verdicts: &mut Verdicts<u32>, now: Duration) -> Vec<Check<u32>> {
        std::iter::from_fn(|| verdicts.start(now)).collect()
    }

    /// Begins what is due, and answers one after the other that it's no. Nothing may follow from that.
    fn refuse(verdicts: &mut Verdicts<u32>, now: Duration) {
        for check in started(verdicts, now) {
            verdicts.answered(now, check.id, Answer::Fail("no".into()));
            assert_eq!(reported(verdicts, now), None, "the answer of {} took effect", check.target);
        }
    }

    /// Begins what is due, and answers it: these pass, and the others say no.
    fn answer(verdicts: &mut Verdicts<u32>, now: Duration, passing: &[u32]) {
        for check in started(verdicts, now) {
            let answer = match passing.contains(&check.target) {
                true => Answer::Pass,
                false => Answer::Fail("no".into()),
            };
            verdicts.answered(now, check.id, answer);
        }
    }

    #[test]
    fn who_is_in_use_when_checks_begin_stays_until_an_answer_says_no() {
        let mut run = verdicts(WhenNone::Empty);
        run.assume(set(&[1, 2, 9]));
        run.update(ms(0), Update::Set(set(&[1, 2, 3])));
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1, 2]), "3 hasn't passed, and 9 is gone");
        let checks = started(&mut run, ms(0));
        assert_eq!(checks.len(), 3);
        // One that passes isn't the only one of use.
        run.answered(ms(1), checks[2].id, Answer::Pass);
        assert_eq!(reported(&mut run, ms(20)), Some(vec![1, 2, 3]));
        run.answered(ms(21), checks[0].id, Answer::None("refused".into()));
        assert_eq!(reported(&mut run, ms(21)), None);
        run.answered(ms(22), checks[1].id, Answer::Fail("no".into()));
        assert_eq!(reported(&mut run, ms(22)), Some(vec![1, 3]));
        // If all are in use, that is no exception.
        let mut run = verdicts(WhenNone::Empty);
        run.assume(set(&[1, 2]));
        run.update(ms(0), Update::Set(set(&[1, 2])));
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1, 2]));
    }

    #[test]
    fn who_is_not_in_use_when_checks_begin_has_to_pass() {
        let mut run = verdicts(WhenNone::Empty);
        run.assume(set(&[]));
        run.update(ms(0), Update::Set(set(&[1])));
        assert_eq!(reported(&mut run, ms(0)), Some(vec![]));
        answer(&mut run, ms(20), &[1]);
        assert_eq!(reported(&mut run, ms(20)), Some(vec![1]));
    }

    #[test]
    fn a_check_that_nobody_passes_takes_nobody_out_who_is_in_use_if_all_are_to_be_used_then() {
        let mut run = verdicts(WhenNone::All);
        run.assume(set(&[1, 2, 3]));
        run.update(ms(0), Update::Set(set(&[1, 2])));
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1, 2]));
        for time in [0, 1000, 2000, 3000, 4000, 5000] {
            refuse(&mut run, ms(time));
        }
        // But if some passed before, the others weren't in use.
        let mut run = verdicts(WhenNone::All);
        run.assume(set(&[1]));
        run.update(ms(0), Update::Set(set(&[1, 2])));
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1]));
    }

    #[test]
    fn at_the_start_one_that_passes_is_enough_to_leave_out_who_does_not() {
        let mut run = verdicts(WhenNone::All);
        assert_eq!(reported(&mut run, ms(0)), None);
        run.update(ms(1), Update::Set(set(&[1, 2])));
        assert_eq!(reported(&mut run, ms(1)), None);
        answer(&mut run, ms(2), &[2]);
        assert_eq!(reported(&mut run, ms(2)), Some(vec![2]));
    }

    #[test]
    fn another_question_takes_nobody_out_before_its_first_answer() {
        let mut run = verdicts(WhenNone::Empty);
        run.update(ms(0), Update::Set(set(&[1, 2])));
        answer(&mut run, ms(0), &[1]);
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1]));
        let before = started(&mut run, ms(2000));
        assert_eq!(before.len(), 2);
        run.ask_anew(ms(2001));
        assert_eq!(reported(&mut run, ms(2001)), None);
        // The old question no longer counts.
        for check in before {
            run.answered(ms(2002), check.id, Answer::Fail("no".into()));
        }
        assert_eq!(reported(&mut run, ms(2002)), None);
        answer(&mut run, ms(2003), &[2]);
        assert_eq!(reported(&mut run, ms(2003)), Some(vec![2]));
    }

    #[test]
    fn another_question_that_nobody_passes_takes_nobody_out_if_all_are_to_be_used_then() {
        let mut run = verdicts(WhenNone::All);
        run.update(ms(0), Update::Set(set(&[1, 2])));
        answer(&mut run, ms(0), &[1, 2]);
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1, 2]));
        run.ask_anew(ms(1));
        for time in [1, 1000, 2000, 3000, 4000] {
            refuse(&mut run, ms(time));
        }
        // The first that passes gives the others time to do so.
        answer(&mut run, ms(6000), &[1]);
        assert_eq!(reported(&mut run, ms(6000)), None);
        assert_eq!(reported(&mut run, ms(8000)), Some(vec![1]));
    }

    #[test]
    fn settings_change_when_checks_come_and_what_their_answers_mean() {
        let mut run = verdicts(WhenNone::Empty);
        let slow = CheckSettings { interval: ms(3_600_000), fall: 2, ..CheckSettings::default() };
        run.configure(ms(0), slow.clone()).unwrap();
        run.update(ms(0), Update::Set(set(&[1])));
        answer(&mut run, ms(0), &[1]);
        assert_eq!(reported(&mut run, ms(0)), Some(vec![1]));
        assert!(started(&mut run, ms(1000)).is_empty());
        let fast = CheckSettings { interval: ms(100), ..slow };
        run.configure(ms(1000), fast.clone()).unwrap();
        assert!(run.due().is_some_and(|due| due <= ms(1100)), "{:?}", run.due());
        answer(&mut run, ms(1100), &[]);
        assert_eq!(reported(&mut run, ms(1100)), None, "that was once");
        run.configure(ms(1101), CheckSettings { fall: 1, ..fast.clone() }).unwrap();
        assert_eq!(reported(&mut run, ms(1101)), None, "a setting takes nobody out");
        answer(&mut run, ms(1300), &[]);
        assert_eq!(reported(&mut run, ms(1300)), Some(vec![]));
        // And who is used if nobody passes.
        let all = CheckSettings { when_none: WhenNone::All, ..fast.clone() };
        run.configure(ms(1400), all).unwrap();
        assert_eq!(reported(&mut run, ms(1400)), Some(vec![1]));
        run.configure(ms(1401), fast.clone()).unwrap();
        assert_eq!(reported(&mut run, ms(1401)), Some(vec![]));
        let bad = CheckSettings { rise: 0, ..fast };
        assert_eq!(run.configure(ms(1402), bad).unwrap_err().name, "rise");
    }
}
