use std::{fmt, sync::Arc};

use crate::{BackendKey, SetError};

/// Where a backend is: plain data that a [`Dialer`](crate::Dialer) knows how to reach.
///
/// Implemented for every type that fits; nothing has to be written. Two backends with equal
/// targets are the same place, however different their keys.
pub trait Target: Ord + Clone + fmt::Display + Send + Sync + 'static {}

impl<T: Ord + Clone + fmt::Display + Send + Sync + 'static> Target for T {}

/// An immutable map from [`BackendKey`] to target, ordered by key. A clone shares its contents.
///
/// The key says which backend it is, the target where it is. Several keys may share a target.
pub struct BackendSet<T> {
    contents: Arc<Contents<T>>,
}

struct Contents<T> {
    /// By key, ascending, each with its target's place in `targets`.
    backends: Box<[(BackendKey, u32)]>,
    /// Each target once, ascending.
    targets: Box<[T]>,
    /// The places in `backends`, by target.
    places: Box<[u32]>,
    /// For each target, where its places begin in `places`; and the end of all.
    starts: Box<[u32]>,
}

impl<T: Target> BackendSet<T> {
    /// A set of these backends, in any order. O(n log n).
    ///
    /// # Errors
    /// [`SetError::EmptyKey`] or [`SetError::DuplicateKey`], naming the first backend at fault in
    /// key order. A set is taken as a whole or not at all.
    ///
    /// # Panics
    /// With 2^32 - 1 backends or more, which no machine this runs on can hold.
    pub fn new<K: Into<BackendKey>>(
        backends: impl IntoIterator<Item = (K, T)>,
    ) -> Result<Self, SetError> {
        let mut given: Vec<(BackendKey, T)> =
            backends.into_iter().map(|(key, target)| (key.into(), target)).collect();
        assert!(given.len() < u32::MAX as usize, "a set holds fewer than 2^32 - 1 backends");
        given.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some((key, target)) = given.first()
            && key.as_str().is_empty()
        {
            return Err(SetError::EmptyKey { target: target.to_string() });
        }
        if let Some(pair) = given.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            return Err(SetError::DuplicateKey { key: pair[0].0.clone() });
        }

        let mut by_target: Vec<u32> = (0..given.len() as u32).collect();
        by_target.sort_unstable_by(|&a, &b| {
            given[a as usize].1.cmp(&given[b as usize].1).then(a.cmp(&b))
        });
        let mut targets: Vec<T> = Vec::with_capacity(given.len());
        let mut target_of = vec![0; given.len()];
        let mut starts = Vec::with_capacity(given.len() + 1);
        for (rank, &place) in by_target.iter().enumerate() {
            let target = &given[place as usize].1;
            if targets.last() != Some(target) {
                targets.push(target.clone());
                starts.push(rank as u32);
            }
            target_of[place as usize] = targets.len() as u32 - 1;
        }
        starts.push(given.len() as u32);
        let backends = given.into_iter().map(|(key, _)| key).zip(target_of).collect();
        let (targets, starts) = (targets.into(), starts.into());
        let contents = Contents { backends, targets, places: by_target.into(), starts };
        Ok(Self { contents: Arc::new(contents) })
    }

    /// The set without backends: sessions that arrive are refused, and nothing is dialled.
    pub fn empty() -> Self {
        let (backends, targets, places) = (Box::new([]), Box::new([]), Box::new([]));
        let contents = Contents { backends, targets, places, starts: Box::new([0]) };
        Self { contents: Arc::new(contents) }
    }

    /// The backends whose target is kept: `keep` is asked for each of [`Self::targets`], in order.
    /// O(n).
    pub(crate) fn keep_targets(&self, mut keep: impl FnMut(&T) -> bool) -> Self {
        let old = &*self.contents;
        let mut targets = Vec::new();
        let mut place_of_target = |target: &T| {
            let is_kept = keep(target);
            is_kept.then(|| {
                targets.push(target.clone());
                targets.len() as u32 - 1
            })
        };
        let target_of: Vec<Option<u32>> = old.targets.iter().map(&mut place_of_target).collect();
        let (mut backends, mut place_of) = (Vec::new(), vec![0; old.backends.len()]);
        for ((key, target), place) in old.backends.iter().zip(&mut place_of) {
            if let Some(target) = target_of[*target as usize] {
                *place = backends.len() as u32;
                backends.push((key.clone(), target));
            }
        }
        let (mut places, mut starts) = (Vec::with_capacity(backends.len()), Vec::new());
        for target in (0..old.targets.len()).filter(|target| target_of[*target].is_some()) {
            starts.push(places.len() as u32);
            let kept = self.places_of(target as u32).iter();
            places.extend(kept.map(|place| place_of[*place as usize]));
        }
        starts.push(places.len() as u32);
        let (backends, targets) = (backends.into(), targets.into());
        let contents = Contents { backends, targets, places: places.into(), starts: starts.into() };
        Self { contents: Arc::new(contents) }
    }

    /// How many backends the set has.
    pub fn len(&self) -> usize {
        self.contents.backends.len()
    }

    /// Whether the set has no backend.
    pub fn is_empty(&self) -> bool {
        self.contents.backends.is_empty()
    }

    /// The backends, ascending by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&BackendKey, &T)> {
        self.contents
            .backends
            .iter()
            .map(|(key, target)| (key, &self.contents.targets[*target as usize]))
    }

    /// The target of a key. O(log n).
    pub fn get(&self, key: &str) -> Option<&T> {
        let place = self.contents.backends.binary_search_by(|(k, _)| k.as_str().cmp(key)).ok()?;
        Some(self.target_at(place))
    }

    /// Each distinct target once, ascending.
    pub fn targets(&self) -> &[T] {
        &self.contents.targets
    }

    /// The keys of the backends that have this target, ascending; none if the set lacks it. O(log n).
    pub fn keys_of(&self, target: &T) -> impl Iterator<Item = &BackendKey> {
        let places = self.target_index(target).map_or(&[][..], |index| self.places_of(index));
        places.iter().map(|place| self.key_at(*place as usize))
    }

    /// The key at a place in key order.
    pub(crate) fn key_at(&self, place: usize) -> &BackendKey {
        &self.contents.backends[place].0
    }

    /// The target at a place in key order.
    pub(crate) fn target_at(&self, place: usize) -> &T {
        &self.contents.targets[self.target_index_at(place) as usize]
    }

    /// Which of [`Self::targets`] the backend at a place in key order has.
    pub(crate) fn target_index_at(&self, place: usize) -> u32 {
        self.contents.backends[place].1
    }

    /// The places in key order of the backends that have the target at this index, ascending.
    pub(crate) fn places_of(&self, target: u32) -> &[u32] {
        let Contents { places, starts, .. } = &*self.contents;
        let (start, end) = (starts[target as usize], starts[target as usize + 1]);
        &places[start as usize..end as usize]
    }

    /// The place of the first key above this one, or `len()`. O(log n).
    pub(crate) fn first_above(&self, key: &BackendKey) -> usize {
        self.contents.backends.partition_point(|(k, _)| k <= key)
    }

    /// Which of [`Self::targets`] this is. O(log n).
    pub(crate) fn target_index(&self, target: &T) -> Option<u32> {
        self.contents.targets.binary_search(target).ok().map(|index| index as u32)
    }

    /// Whether both are clones of one set, without looking at the contents.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.contents, &other.contents)
    }
}

impl<T> Clone for BackendSet<T> {
    fn clone(&self) -> Self {
        Self { contents: Arc::clone(&self.contents) }
    }
}

impl<T: Target> PartialEq for BackendSet<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_same(other) || self.iter().eq(other.iter())
    }
}

impl<T: Target> Eq for BackendSet<T> {}

impl<T: fmt::Debug> fmt::Debug for BackendSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Contents { backends, targets, .. } = &*self.contents;
        let entries = backends.iter().map(|(key, at)| (key, &targets[*at as usize]));
        f.debug_map().entries(entries).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_come_in_key_order_and_targets_once() {
        let set = BackendSet::new([("b", 7), ("a", 9), ("c", 7)]).unwrap();
        let pairs: Vec<_> = set.iter().map(|(key, target)| (key.as_str(), *target)).collect();
        assert_eq!(pairs, [("a", 9), ("b", 7), ("c", 7)]);
        assert_eq!(set.targets(), [7, 9]);
        assert_eq!(set.get("a"), Some(&9));
        assert_eq!(set.get("d"), None);
        assert_eq!((set.places_of(0), set.places_of(1)), (&[1, 2][..], &[0][..]));
        let keys = |target| set.keys_of(&target).map(BackendKey::as_str).collect::<Vec<_>>();
        assert_eq!((keys(7), keys(9), keys(8)), (vec!["b", "c"], vec!["a"], vec![]));
    }

    #[test]
    fn a_part_of_a_set_is_the_set_that_has_only_those_targets() {
        let backends = [("b", 7), ("a", 9), ("c", 7), ("e", 3), ("d", 8), ("f", 9)];
        let whole = BackendSet::new(backends).unwrap();
        for kept in 0..16 {
            let keeps = |target: &i32| kept >> whole.target_index(target).unwrap() & 1 == 1;
            let part = whole.keep_targets(keeps);
            let anew = BackendSet::new(backends.into_iter().filter(|(_, it)| keeps(it))).unwrap();
            assert_eq!((part.targets(), &part), (anew.targets(), &anew));
            for index in 0..part.targets().len() as u32 {
                assert_eq!(part.places_of(index), anew.places_of(index));
            }
        }
    }

    #[test]
    fn a_bad_set_is_rejected_whole_and_names_the_backend() {
        let empty = BackendSet::new([("a", 1), ("", 2)]).unwrap_err();
        assert_eq!(empty, SetError::EmptyKey { target: "2".into() });
        let twice = BackendSet::new([("b", 1), ("a", 2), ("b", 3)]).unwrap_err();
        assert_eq!(twice, SetError::DuplicateKey { key: "b".into() });
    }

    #[test]
    fn two_sets_are_equal_if_they_say_the_same() {
        let set =
            |backends: &[(&'static str, u32)]| BackendSet::new(backends.iter().copied()).unwrap();
        let one = set(&[("a", 1), ("b", 2)]);
        assert_eq!(one, one.clone());
        assert_eq!(one, set(&[("b", 2), ("a", 1)]));
        assert_ne!(one, set(&[("a", 1)]));
        assert_ne!(one, set(&[("a", 1), ("c", 2)]));
        assert_ne!(one, set(&[("a", 1), ("b", 1)]));
    }

    #[test]
    fn a_set_shows_its_backends_to_who_debugs() {
        let set = BackendSet::new([("b", 7), ("a", 9)]).unwrap();
        assert_eq!(format!("{set:?}"), r#"{"a": 9, "b": 7}"#);
    }
}
