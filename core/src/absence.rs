use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{BackendKey, BackendSet, Target};

/// A backend that its source no longer names, and that is kept for a while
/// ([`SourceSettings::keep_absent`](crate::SourceSettings::keep_absent)).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Absent {
    /// Its key in the set.
    pub key: BackendKey,
    /// How long it has been absent.
    pub time: Duration,
}

/// The backends of a set that are absent, in key order, and since when.
#[derive(Clone, Default)]
pub(crate) struct Absentees(Arc<[(BackendKey, Duration)]>);

impl Absentees {
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The absent backends at a moment, with the time since each was last named.
    pub(crate) fn at(&self, now: Duration) -> Vec<Absent> {
        let absent = |(key, since): &(BackendKey, Duration)| Absent {
            key: key.clone(),
            time: now.saturating_sub(*since),
        };
        self.0.iter().map(absent).collect()
    }
}

/// Which targets to keep although the source no longer names them. Plain state.
pub(crate) struct Absence<T> {
    keep: Option<Duration>,
    /// The set that was last taken, as the source gave it.
    given: Option<BackendSet<T>>,
    /// The targets in force that the source's set lacks, and since when.
    since: BTreeMap<T, Duration>,
}

impl<T: Target> Absence<T> {
    pub(crate) fn new(keep: Option<Duration>) -> Self {
        Self { keep, given: None, since: BTreeMap::new() }
    }

    /// Notes what the source names, whether or not its set is taken.
    pub(crate) fn mention(&mut self, given: &BackendSet<T>) {
        self.since.retain(|target, _| given.target_index(target).is_none());
    }

    /// Discounts a time in which the source was lost and could name nothing.
    pub(crate) fn pause(&mut self, lost_since: Duration, now: Duration) {
        for since in self.since.values_mut() {
            *since += now.saturating_sub(lost_since.max(*since));
        }
    }

    /// The set to put in force when the source gives this one: it, and what is kept of the set in
    /// force.
    ///
    /// Each kept target has its old key, or `KEY (TARGET)` if the source has given that key to
    /// another target.
    pub(crate) fn complete(
        &mut self,
        now: Duration,
        set: Option<&BackendSet<T>>,
        given: &BackendSet<T>,
    ) -> BackendSet<T> {
        let Some((keep, set)) = self.keep.zip(set) else { return given.clone() };
        let is_absent = |target: &T| given.target_index(target).is_none();
        self.since.retain(|target, _| set.target_index(target).is_some() && is_absent(target));
        let mut kept = BTreeMap::new();
        for (key, target) in set.iter().filter(|(_, target)| is_absent(target)) {
            let since = *self.since.entry(target.clone()).or_insert(now);
            if since + keep <= now {
                continue;
            }
            let mut key = key.clone();
            while given.get(key.as_str()).is_some() || kept.contains_key(&key) {
                key = format!("{key} ({target})").into();
            }
            kept.insert(key, target.clone());
        }
        if kept.is_empty() {
            return given.clone();
        }
        let given = given.iter().map(|(key, target)| (key.clone(), target.clone()));
        BackendSet::new(given.chain(kept)).expect("each key is there once, and none is empty")
    }

    /// Notes that a set of the source is in force together with what is kept. Returns the kept
    /// backends.
    pub(crate) fn taken(&mut self, given: BackendSet<T>, set: &BackendSet<T>) -> Absentees {
        if self.keep.is_none() {
            return Absentees::default();
        }
        self.since.retain(|target, _| set.target_index(target).is_some());
        self.given = Some(given);
        let since =
            |(key, target): (&BackendKey, &T)| Some((key.clone(), *self.since.get(target)?));
        Absentees(set.iter().filter_map(since).collect())
    }

    /// Forgets everything: nothing is in force any more.
    pub(crate) fn clear(&mut self) {
        (self.given, self.since) = (None, BTreeMap::new());
    }

    /// The set that the source last gave, once some target has been absent for long enough.
    pub(crate) fn over(&self, now: Duration) -> Option<BackendSet<T>> {
        self.due().filter(|due| *due <= now).and_then(|_| self.given.clone())
    }

    /// When the first of the kept targets has been absent for long enough.
    pub(crate) fn due(&self) -> Option<Duration> {
        Some(*self.since.values().min()? + self.keep?)
    }
}
