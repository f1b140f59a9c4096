use std::{collections::BTreeMap, sync::Arc, time::Duration};

use crate::{BackendKey, BackendSet, Target};

/// A backend that its source mentions no more, and that is kept for a time
/// ([`SourceSettings::keep_absent`](crate::SourceSettings::keep_absent)).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Absent {
    /// Its key in the set.
    pub key: BackendKey,
    /// For how long it has been absent.
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

    /// Them at a moment.
    pub(crate) fn at(&self, now: Duration) -> Vec<Absent> {
        let absent = |(key, since): &(BackendKey, Duration)| Absent {
            key: key.clone(),
            time: now.saturating_sub(*since),
        };
        self.0.iter().map(absent).collect()
    }
}

/// Which targets are kept though the source mentions them no more. Plain state.
pub(crate) struct Absence<T> {
    keep: Option<Duration>,
    /// The source's set that was taken last, as it was said.
    said: Option<BackendSet<T>>,
    /// The targets in force that it lacks, and since when.
    since: BTreeMap<T, Duration>,
}

impl<T: Target> Absence<T> {
    pub(crate) fn new(keep: Option<Duration>) -> Self {
        Self { keep, said: None, since: BTreeMap::new() }
    }

    /// The source says this set, whether it is taken or not.
    pub(crate) fn mention(&mut self, said: &BackendSet<T>) {
        self.since.retain(|target, _| said.target_index(target).is_none());
    }

    /// The source was lost for a time, in which it could mention nothing: that doesn't count.
    pub(crate) fn pause(&mut self, lost_for: Duration) {
        self.since.values_mut().for_each(|since| *since += lost_for);
    }

    /// What takes the place of the set in force when the source says a set: this, and what is in
    /// force and kept.
    ///
    /// Each keeps its key, unless the source has given that to another target: `KEY (TARGET)` then.
    pub(crate) fn complete(
        &mut self,
        now: Duration,
        set: Option<&BackendSet<T>>,
        said: &BackendSet<T>,
    ) -> BackendSet<T> {
        let Some((keep, set)) = self.keep.zip(set) else { return said.clone() };
        let is_absent = |target: &T| said.target_index(target).is_none();
        self.since.retain(|target, _| set.target_index(target).is_some() && is_absent(target));
        let mut kept = BTreeMap::new();
        for (key, target) in set.iter().filter(|(_, target)| is_absent(target)) {
            let since = *self.since.entry(target.clone()).or_insert(now);
            if since + keep <= now {
                continue;
            }
            let mut key = key.clone();
            while said.get(key.as_str()).is_some() || kept.contains_key(&key) {
                key = format!("{key} ({target})").into();
            }
            kept.insert(key, target.clone());
        }
        if kept.is_empty() {
            return said.clone();
        }
        let said = said.iter().map(|(key, target)| (key.clone(), target.clone()));
        BackendSet::new(said.chain(kept)).expect("each key is there once, and none is empty")
    }

    /// A set of the source is taken, and in force with what is kept. Returns which backends
    /// these are.
    pub(crate) fn taken(&mut self, said: BackendSet<T>, set: &BackendSet<T>) -> Absentees {
        if self.keep.is_none() {
            return Absentees::default();
        }
        self.since.retain(|target, _| set.target_index(target).is_some());
        self.said = Some(said);
        let since =
            |(key, target): (&BackendKey, &T)| Some((key.clone(), *self.since.get(target)?));
        Absentees(set.iter().filter_map(since).collect())
    }

    /// Nothing is in force any more.
    pub(crate) fn clear(&mut self) {
        (self.said, self.since) = (None, BTreeMap::new());
    }

    /// The set that was said last, once something has been absent for long enough.
    pub(crate) fn over(&self, now: Duration) -> Option<BackendSet<T>> {
        self.due().filter(|due| *due <= now).and_then(|_| self.said.clone())
    }

    /// When the first of what is kept has been absent for long enough.
    pub(crate) fn due(&self) -> Option<Duration> {
        Some(*self.since.values().min()? + self.keep?)
    }
}
