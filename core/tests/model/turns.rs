//! Fairness, judged from what happened: a log of turns and of the keys that are in rotation, and no
//! notion of an anchor.

use super::naive::{Assignment, Key};

#[derive(Default)]
pub struct Turns {
    log: Vec<Entry>,
}

enum Entry {
    Turn(Key),
    Set(Vec<Key>),
}

impl Turns {
    /// These keys are in rotation from now on.
    pub fn rotation(&mut self, set: &Assignment) {
        let keys: Vec<Key> = set.keys().copied().collect();
        if self.in_rotation() != keys {
            self.log.push(Entry::Set(keys));
        }
    }

    fn in_rotation(&self) -> Vec<Key> {
        self.log.iter().rev().find_map(Entry::set).unwrap_or_default().to_vec()
    }

    /// The rotation begins anew: what was before binds nobody.
    pub fn reset(&mut self) {
        let keys = self.in_rotation();
        self.log.clear();
        self.log.push(Entry::Set(keys));
    }

    /// Logs a turn, which must be one of a key in rotation, and the first turn of that key since
    /// each key that was in rotation all the while had exactly one.
    pub fn turn(&mut self, key: Key) -> Result<(), String> {
        let set = self.log.iter().rev().find_map(Entry::set).unwrap_or_default();
        if !set.contains(&key) {
            return Err(format!("a turn of {key}, which is not in rotation: {set:?}"));
        }
        let before = self.log.iter().rposition(|entry| entry.turn() == Some(key));
        if let Some(before) = before {
            let base = self.log[..before].iter().rev().find_map(Entry::set).unwrap_or_default();
            let since = &self.log[before + 1..];
            let stayed = |key: &Key| since.iter().filter_map(Entry::set).all(|s| s.contains(key));
            let stayers = base.iter().copied().filter(stayed);
            if stayed(&key) {
                for other in stayers.filter(|other| *other != key) {
                    let turns = since.iter().filter(|entry| entry.turn() == Some(other)).count();
                    if turns != 1 {
                        return Err(format!(
                            "unfair: {other} had {turns} turns between two of {key}"
                        ));
                    }
                }
            }
        }
        self.log.push(Entry::Turn(key));
        Ok(())
    }

    /// The key whose turn it is by the log: the first one in rotation above the last that had a turn.
    pub fn due(&self, set: &Assignment, start: usize) -> Option<Key> {
        let last = self.log.iter().rev().find_map(Entry::turn);
        let mut keys: Vec<Key> = set.keys().copied().collect();
        let first = match last {
            _ if keys.is_empty() => 0,
            None => start % keys.len(),
            Some(last) => keys.iter().position(|key| *key > last).unwrap_or(0),
        };
        keys.rotate_left(first);
        let in_rotation = self.in_rotation();
        keys.into_iter().find(|key| in_rotation.contains(key))
    }
}

impl Entry {
    fn set(&self) -> Option<&[Key]> {
        match self {
            Self::Set(keys) => Some(keys),
            Self::Turn(_) => None,
        }
    }

    fn turn(&self) -> Option<Key> {
        match self {
            Self::Turn(key) => Some(*key),
            Self::Set(_) => None,
        }
    }
}
