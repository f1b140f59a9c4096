use std::cmp::Ordering;

use crate::{BackendKey, BackendSet, Target, pool::NONE};

/// The difference between two sets, and all that replacing one by the other needs: computed apart
/// from the balancer, so that a million backends are compared while sessions come and go.
pub struct Change<T> {
    pub(crate) base: Option<BackendSet<T>>,
    pub(crate) next: BackendSet<T>,
    /// For each target of the base, by index: its index in the next set, or [`NONE`].
    pub(crate) moved: Vec<u32>,
    /// A [`NONE`] for each target of the next set, for the pool to fill in.
    pub(crate) unfilled: Vec<u32>,
    pub(crate) added: Vec<BackendKey>,
    pub(crate) removed: Vec<BackendKey>,
    pub(crate) retargeted: Vec<BackendKey>,
}

impl<T: Target> Change<T> {
    /// The change from `base` (`None`: there has been no set yet) to `next`. O(n), in one pass
    /// over the keys and one over the targets.
    pub fn between(base: Option<BackendSet<T>>, next: BackendSet<T>) -> Self {
        let mut change = Self {
            moved: Vec::new(),
            unfilled: vec![NONE; next.targets().len()],
            added: Vec::new(),
            removed: Vec::new(),
            retargeted: Vec::new(),
            base,
            next,
        };
        let base = change.base.clone().unwrap_or_else(BackendSet::empty);
        change.compare_keys(&base);
        change.follow_targets(&base);
        change
    }

    /// Whether the next set says what the base says. The first set is always a change.
    pub fn is_none(&self) -> bool {
        self.base.is_some()
            && self.added.is_empty()
            && self.removed.is_empty()
            && self.retargeted.is_empty()
    }

    fn compare_keys(&mut self, base: &BackendSet<T>) {
        let (mut old, mut new) = (base.iter().peekable(), self.next.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some((was, _)), Some((is, _))) => was.cmp(is),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let was = if order.is_le() { old.next() } else { None };
            let is = if order.is_ge() { new.next() } else { None };
            match (was, is) {
                (Some((key, from)), Some((_, to))) if from != to => {
                    self.retargeted.push(key.clone());
                }
                (Some((key, _)), None) => self.removed.push(key.clone()),
                (None, Some((key, _))) => self.added.push(key.clone()),
                _ => {}
            }
        }
    }

    fn follow_targets(&mut self, base: &BackendSet<T>) {
        let next = self.next.targets();
        let mut place = 0;
        self.moved = Vec::with_capacity(base.targets().len());
        for target in base.targets() {
            while place < next.len() && next[place] < *target {
                place += 1;
            }
            let stays = place < next.len() && next[place] == *target;
            self.moved.push(if stays { place as u32 } else { NONE });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(backends: &[(&'static str, u32)]) -> BackendSet<u32> {
        BackendSet::new(backends.iter().copied()).unwrap()
    }

    #[test]
    fn tells_added_removed_and_retargeted_keys_apart() {
        let base = set(&[("a", 1), ("b", 2), ("c", 3), ("e", 5)]);
        let change = Change::between(Some(base), set(&[("b", 2), ("c", 4), ("d", 1), ("f", 3)]));
        assert_eq!(change.added, ["d".into(), "f".into()]);
        assert_eq!(change.removed, ["a".into(), "e".into()]);
        assert_eq!(change.retargeted, ["c".into()]);
        // Targets 1, 2, 3, 5 of the base; 1, 2, 3, 4 of the next.
        assert_eq!(change.moved, [0, 1, 2, NONE]);
        assert!(!change.is_none());
    }

    #[test]
    fn the_same_set_again_is_no_change_but_the_first_set_is() {
        let set = set(&[("a", 1)]);
        assert!(Change::between(Some(set.clone()), set.clone()).is_none());
        assert!(!Change::between(None, BackendSet::<u32>::empty()).is_none());
    }
}
