//! Which backends of a source pass their checks.

mod record;
mod settings;
mod steer;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
    time::Duration,
};

use self::record::Record;
pub use self::settings::{CheckSettings, WhenNone};
use crate::{BackendSet, BadEntries, BadEntry, Target, Update, intake::PAUSE, spread::fraction};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The backend may be used.
    Pass,
    /// The backend has answered that it may not, for this reason in words: "503 from /primary".
    Fail(Arc<str>),
    /// It hasn't answered, for this reason: "no answer within 1s", "connection refused".
    None(Arc<str>),
    /// It couldn't be asked, through no fault of its own ([`Fault::Ours`](crate::Fault::Ours)), for this
    /// reason: "too many open files". That says nothing of the backend: its verdict and all counts stay,
    /// and it is asked again when its next check is due.
    Ours(Arc<str>),
}

/// Identifies one check of one [`Verdicts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckId(u64);

/// A check to begin: see [`Verdicts::start`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the target is checked no more before the answer is given"]
pub struct Check<T> {
    /// Its number.
    pub id: CheckId,
    /// The target to check.
    pub target: T,
}

/// What the checks of a backend say of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictState {
    /// Nothing yet: it hasn't passed, and hasn't failed often enough. It isn't used.
    Undecided,
    /// It may be used.
    Passing,
    /// It may not.
    Failing,
}

impl VerdictState {
    /// Its name in lower case, for metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Undecided => "undecided",
            Self::Passing => "passing",
            Self::Failing => "failing",
        }
    }
}

/// What is known of a target of the source's newest set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict<T> {
    /// The target.
    pub target: T,
    /// Whether it passes.
    pub state: VerdictState,
    /// When this state began: when the target appeared, or at an answer.
    pub since: Duration,
    /// What the last check found, unless it passed. A backend that passes may have a reason: it
    /// hasn't failed often enough, or couldn't be asked.
    pub reason: Option<Arc<str>>,
}

/// A target passes from now on, or no longer passes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerdictChange<T> {
    /// The target.
    pub target: T,
    /// What it was before: [`VerdictState::Undecided`] if this is the first verdict on it.
    pub was: VerdictState,
    /// Whether it passes from now on.
    pub is_passing: bool,
    /// Why it doesn't.
    pub reason: Option<Arc<str>>,
}

/// Narrows the sets of a source to the backends that pass their checks. Plain state, like the
/// balancer: it gets the source's updates, the answers and the time from outside, and says what to
/// check and what to report in place of the source.
///
/// After each call that changes something, and when [`Self::due`] comes, ask [`Self::start`] and
/// [`Self::next`] until both say that there is nothing more.
///
/// Before anything was reported, a set is awaited until a target passes, each has been checked once,
/// or [`CheckSettings::timeout`] has passed. After that, whatever changes is reported at once, but
/// for backends that pass from now on: those wait until 10 ms after the last report, since no set is
/// taken sooner. What the source reports never waits for a check.
pub struct Verdicts<T> {
    settings: CheckSettings,
    bad_entries: BadEntries,
    /// The source's newest set.
    inner: Option<BackendSet<T>>,
    /// One for each target of that set.
    records: BTreeMap<T, Record>,
    /// How many of them pass, and how many have never been heard of.
    passing: usize,
    unheard: usize,
    /// How often any has passed, ever.
    passes: u64,
    /// The next check of each target that has none under way.
    due: BTreeSet<(Duration, T)>,
    /// What is under way, by number and by target.
    checks: BTreeMap<CheckId, UnderWay<T>>,
    checked: BTreeMap<T, CheckId>,
    begun: u64,
    /// While backends that don't pass are used, since none passed.
    open: Open,
    /// How long the first set is awaited.
    awaited_until: Duration,
    /// The entries that the source's newest set lacks, until it has been reported.
    said: Option<Arc<[BadEntry]>>,
    /// Those of a set that was reported, when these couldn't be.
    owed: Option<Arc<[BadEntry]>>,
    /// A loss that is to be reported.
    lost: Option<Update<T>>,
    /// Backends that were in use before the first set.
    assumed: Option<BackendSet<T>>,
    /// What was last reported, and when.
    reported: Option<(Duration, BackendSet<T>)>,
    change: Change,
    changes: Vec<VerdictChange<T>>,
}

struct UnderWay<T> {
    target: T,
    /// Its target has been in the set all the time.
    is_wanted: bool,
}

/// Whether backends that don't pass are used ([`WhenNone::All`]).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    /// They aren't.
    Closed,
    /// They are, since none passes.
    Wide,
    /// They are until then, since one has passed and the others may be about to.
    Closing(Duration),
}

/// How what is to be used may differ from what was reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Change {
    Nothing,
    /// It has gained backends.
    Gain,
    /// It has lost some, or has changed otherwise.
    Other,
}

impl<T: Target> Verdicts<T> {
    /// Nothing is known yet. `bad_entries`: what the follower of the reports does with entries that
    /// can't be used ([`SourceSettings::bad_entries`](crate::SourceSettings::bad_entries)).
    ///
    /// # Panics
    /// If the settings are out of their ranges; see [`CheckSettings::validate`].
    pub fn new(settings: CheckSettings, bad_entries: BadEntries) -> Self {
        settings.validate().expect("settings are validated first");
        Self {
            settings,
            bad_entries,
            inner: None,
            records: BTreeMap::new(),
            passing: 0,
            unheard: 0,
            passes: 0,
            due: BTreeSet::new(),
            checks: BTreeMap::new(),
            checked: BTreeMap::new(),
            begun: 0,
            open: Open::Closed,
            awaited_until: Duration::ZERO,
            said: None,
            owed: None,
            lost: None,
            assumed: None,
            reported: None,
            change: Change::Nothing,
            changes: Vec::new(),
        }
    }

    /// The settings.
    pub fn settings(&self) -> &CheckSettings {
        &self.settings
    }

    /// The source's newest set, as it is before it is narrowed. `None` before the first.
    pub fn inner(&self) -> Option<&BackendSet<T>> {
        self.inner.as_ref()
    }

    /// The source reports something. O(n log n) in the size of the set.
    ///
    /// A set that counts as a loss ([`BadEntries::Reject`]) isn't used, but passed on.
    pub fn update(&mut self, now: Duration, update: Update<T>) {
        let (set, entries) = match update {
            Update::Set(set) => (set, Arc::default()),
            Update::Partial(set, entries) if self.is_usable(&set, &entries) => (set, entries),
            Update::Narrowed(set) => {
                self.adopt(now, set);
                return;
            }
            loss @ (Update::Lost(_) | Update::Partial(..)) => {
                self.lost = Some(loss);
                return;
            }
        };
        self.adopt(now, set);
        (self.said, self.lost) = (Some(entries), None);
    }

    /// Whether the intake would take a set that lacks these entries.
    fn is_usable(&self, set: &BackendSet<T>, entries: &[BadEntry]) -> bool {
        entries.is_empty() || self.bad_entries == BadEntries::LeaveOut && !set.is_empty()
    }

    fn adopt(&mut self, now: Duration, set: BackendSet<T>) {
        let is_gone = |target: &&T| set.target_index(target).is_none();
        let gone: Vec<T> = self.records.keys().filter(is_gone).cloned().collect();
        gone.iter().for_each(|target| self.forget(target));
        for target in set.targets() {
            if self.records.contains_key(target) {
                continue;
            }
            self.records.insert(target.clone(), Record::new(now));
            self.unheard += 1;
            // A check of the time before must end first, and its answer doesn't count.
            if !self.checked.contains_key(target) {
                self.due.insert((now, target.clone()));
            }
        }
        if self.inner.is_none() {
            // What is in use is used on, so nothing has to be awaited.
            let are_in_use = self.take_assumed();
            self.awaited_until = if are_in_use { now } else { now + self.settings.timeout };
        }
        self.inner = Some(set);
        self.change = Change::Other;
        self.settle(now);
    }

    fn forget(&mut self, target: &T) {
        let Some(record) = self.records.remove(target) else { return };
        self.passing -= usize::from(record.state == VerdictState::Passing);
        self.unheard -= usize::from(!record.is_heard);
        match self.checked.get(target).and_then(|id| self.checks.get_mut(id)) {
            Some(check) => check.is_wanted = false,
            None => {
                self.due.remove(&(record.due, target.clone()));
            }
        }
    }

    /// A check to begin now; ask until there is none. It counts as under way until its answer is
    /// given to [`Self::answered`], which must happen once, within [`CheckSettings::timeout`].
    /// O(log n).
    pub fn start(&mut self, now: Duration) -> Option<Check<T>> {
        let is_due = self.due.first().is_some_and(|(due, _)| *due <= now);
        if !is_due || self.checks.len() >= self.settings.checks_max {
            return None;
        }
        let (_, target) = self.due.pop_first()?;
        let record = self.records.get_mut(&target)?;
        let CheckSettings { interval, seed, .. } = self.settings;
        let spread = fraction(seed, &target, record.begun);
        let factor = if record.begun == 0 { spread } else { 0.95 + spread / 10.0 };
        record.due = now + interval.mul_f64(factor);
        record.begun = record.begun.saturating_add(1);
        let id = CheckId(self.begun);
        self.begun += 1;
        self.checks.insert(id, UnderWay { target: target.clone(), is_wanted: true });
        let other = self.checked.insert(target.clone(), id);
        debug_assert!(other.is_none(), "a target with a check under way has none due");
        Some(Check { id, target })
    }

    /// Whether a check is under way whose answer counts. It doesn't if its target has left the set
    /// meanwhile. Then the check may be given up, with any answer at once. O(log n).
    pub fn is_wanted(&self, id: CheckId) -> bool {
        self.checks.get(&id).is_some_and(|check| check.is_wanted)
    }

    /// A check has ended. Its answer is ignored if the target has left the set meanwhile, even if it
    /// is back. A second answer is ignored as well. O(log n).
    pub fn answered(&mut self, now: Duration, id: CheckId, answer: Answer) {
        let Some(UnderWay { target, is_wanted }) = self.checks.remove(&id) else { return };
        self.checked.remove(&target);
        let Some(record) = self.records.get_mut(&target) else { return };
        self.due.insert((record.due, target.clone()));
        if !is_wanted {
            return;
        }
        let (was, was_heard) = (record.state, record.is_heard);
        self.passes += u64::from(answer == Answer::Pass);
        let has_changed = record.hear(now, answer, self.passes, &self.settings);
        self.unheard -= usize::from(record.is_heard && !was_heard);
        if !has_changed {
            return;
        }
        let is_passing = record.state == VerdictState::Passing;
        let reason = record.reason.clone();
        self.changes.push(VerdictChange { target, was, is_passing, reason });
        if is_passing {
            self.passing += 1;
            self.changes_by(Change::Gain);
        } else if was == VerdictState::Passing {
            self.passing -= 1;
            self.changes_by(Change::Other);
        }
        self.settle(now);
    }

    /// Notes a change of one backend. It makes no difference while all are used.
    fn changes_by(&mut self, change: Change) {
        if self.open == Open::Closed {
            self.change = self.change.max(change);
        }
    }

    /// Decides whether backends that don't pass are used.
    fn settle(&mut self, now: Duration) {
        if self.settings.when_none == WhenNone::Empty || self.is_awaiting(now) {
            return;
        }
        let CheckSettings { interval, timeout, .. } = self.settings;
        let open = match self.open {
            _ if self.passing == 0 => Open::Wide,
            Open::Wide => Open::Closing(now + interval + timeout),
            Open::Closing(until) if until <= now || self.passing == self.records.len() => {
                Open::Closed
            }
            open => open,
        };
        if (open == Open::Closed) != (self.open == Open::Closed) {
            self.change = Change::Other;
        }
        self.open = open;
    }

    /// Whether no set has been reported yet, and it is too soon to do so.
    fn is_awaiting(&self, now: Duration) -> bool {
        let is_awaited = self.passing == 0 && self.unheard > 0 && now < self.awaited_until;
        self.inner.is_none() || self.reported.is_none() && is_awaited
    }

    /// What to report now in place of the source; ask until that is nothing. O(n), if a set is to be
    /// reported; O(1) otherwise.
    pub fn next(&mut self, now: Duration) -> Option<Update<T>> {
        self.settle(now);
        if self.is_awaiting(now) {
            let lost = self.lost.take()?;
            // The set that comes now doesn't end the loss.
            self.said = None;
            return Some(lost);
        }
        if let Some(entries) = self.said.take() {
            return Some(self.say(now, entries));
        }
        if let Some(lost) = self.lost.take() {
            self.owed = None;
            return Some(lost);
        }
        self.narrow(now)
    }

    /// Reports what the source has said, narrowed.
    fn say(&mut self, now: Duration, entries: Arc<[BadEntry]>) -> Update<T> {
        let set = self.usable();
        self.change = Change::Nothing;
        self.reported = Some((now, set.clone()));
        // Without a backend, it would count as a loss.
        let is_owed = set.is_empty() && !entries.is_empty();
        self.owed = is_owed.then(|| Arc::clone(&entries));
        if is_owed || entries.is_empty() { Update::Set(set) } else { Update::Partial(set, entries) }
    }

    /// Reports what the checks alone have changed.
    fn narrow(&mut self, now: Duration) -> Option<Update<T>> {
        match self.change {
            Change::Nothing => return None,
            Change::Gain if self.gain_due().is_some_and(|due| now < due) => return None,
            Change::Gain | Change::Other => {}
        }
        let set = self.usable();
        self.change = Change::Nothing;
        if self.reported.as_ref().is_some_and(|(_, before)| *before == set) {
            return None;
        }
        self.reported = Some((now, set.clone()));
        Some(match self.owed.take_if(|_| !set.is_empty()) {
            Some(entries) => Update::Partial(set, entries),
            None => Update::Narrowed(set),
        })
    }

    /// The backends that may be used.
    fn usable(&self) -> BackendSet<T> {
        let Some(inner) = &self.inner else { return BackendSet::empty() };
        if self.open != Open::Closed || self.passing == self.records.len() {
            return inner.clone();
        }
        // Both are in the targets' order.
        let mut records = self.records.iter();
        inner.keep_targets(|target| {
            let record = records.next().filter(|(other, _)| *other == target);
            debug_assert!(record.is_some(), "there is a record of each target");
            record.is_some_and(|(_, record)| record.state == VerdictState::Passing)
        })
    }

    /// The changes since the last call, in order, for a log.
    pub fn take_changes(&mut self) -> Vec<VerdictChange<T>> {
        mem::take(&mut self.changes)
    }

    /// When [`Self::start`] or [`Self::next`] next has something to do, though nothing happens.
    /// O(log n).
    pub fn due(&self) -> Option<Duration> {
        let may_check = self.checks.len() < self.settings.checks_max;
        let check = self.due.first().filter(|_| may_check).map(|(due, _)| *due);
        let first = (self.inner.is_some() && self.reported.is_none()).then_some(self.awaited_until);
        let closes = match self.open {
            Open::Closing(until) => Some(until),
            Open::Closed | Open::Wide => None,
        };
        let gain = self.gain_due().filter(|_| self.change == Change::Gain);
        check.into_iter().chain(first).chain(closes).chain(gain).min()
    }

    /// When backends that pass from now on are reported.
    fn gain_due(&self) -> Option<Duration> {
        self.reported.as_ref().map(|(at, _)| *at + PAUSE)
    }

    /// What is known of each target of the source's newest set, ascending.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict<T>> {
        self.records.iter().map(|(target, record)| Verdict {
            target: target.clone(),
            state: record.state,
            since: record.since,
            reason: record.reason.clone(),
        })
    }
}

#[cfg(test)]
mod tests;
