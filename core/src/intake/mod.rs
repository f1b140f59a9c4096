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
        // What was given before the loss counts, unless it is held or would be. What only narrows
        // the last set counts in any case, and needs no haste.
        if let Some(given) = self.next.take_if(|_| !self.only_narrows)
            && self.held_since.take().is_none()
        {
            let next = self.absence.complete(now, set, &given);
            if self.holds(set, &next).is_none() {
                self.take(now, given, next);
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

    fn take(&mut self, now: Duration, given: BackendSet<T>, set: BackendSet<T>) {
        self.taken_at = Some(now);
        let absent = self.absence.taken(given, &set);
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
            && let Some(given) = self.next.clone()
        {
            let next = self.absence.complete(now, set, &given);
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
                    self.take(now, given, next);
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
mod tests;
