//! Fairness, judged from what happened: a log of turns and sets, and no notion of an anchor.

use super::naive::{Assignment, Key, Place};

#[derive(Default)]
pub struct Turns {
    log: Vec<Entry>,
}

enum Entry {
    Turn(Key),
    Set(Vec<Key>),
}

impl Turns {
    pub fn set(&mut self, set: &Assignment) {
        self.log.push(Entry::Set(set.keys().copied().collect()));
    }

    /// The rotation begins anew: what was before binds nobody.
    pub fn reset(&mut self, set: Option<&Assignment>) {
        self.log.clear();
        if let Some(set) = set {
            self.set(set);
        }
    }

    /// Logs a turn, which must be one of a key in the set, and the first turn of that key since
    /// each key that was in the set all the while had exactly one.
    pub fn turn(&mut self, key: Key) -> Result<(), String> {
        let set = self.log.iter().rev().find_map(Entry::set).unwrap_or_default();
        if !set.contains(&key) {
            return Err(format!("a turn of {key}, which is not in the set {set:?}"));
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

    /// The backend whose turn it is by the log: the first key above the last that had a turn.
    pub fn due(&self, set: &Assignment, start: usize) -> Option<(Key, Place)> {
        let last = self.log.iter().rev().find_map(Entry::turn);
        let mut keys = set.iter().map(|(key, place)| (*key, *place));
        match last {
            _ if set.is_empty() => None,
            None => keys.nth(start % set.len()),
            Some(last) => keys.clone().find(|(key, _)| *key > last).or_else(|| keys.next()),
        }
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
