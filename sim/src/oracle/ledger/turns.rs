//! Whose turn it is.

use super::Ledger;
use crate::{
    Law, Sometimes,
    scenario::{Key, Place},
};

impl Ledger {
    /// The pick is the next turn, or the first target after it that this session hasn't tried.
    pub(super) fn check_turn(&mut self, serial: u64, key: Key, place: Place, tried: u32) {
        let is_tried = |(_, place): &(Key, Place)| tried & 1 << place.0 != 0;
        if !self.set.contains(&(key, place)) {
            let text = format!("session {serial} was given {key}={place}, which isn't in the set");
            self.fail(Law::Pick, text);
            return;
        }
        if !self.is_fair {
            return;
        }
        let length = self.set.len();
        let next = match self.anchor {
            None => (self.start % length as u64) as usize,
            Some(anchor) => self.set.iter().position(|(key, _)| *key > anchor).unwrap_or(0),
        };
        let turn = self.set[next];
        if !is_tried(&turn) {
            self.anchor = Some(key);
            if turn != (key, place) {
                let text = format!(
                    "session {serial} was given {key}={place}, and it was the turn of {}={}",
                    turn.0, turn.1
                );
                self.fail(Law::Fairness, text);
            }
            return;
        }
        self.counts.add(Sometimes::TurnPassed, 1);
        let due = (1..length).map(|step| self.set[(next + step) % length]).find(|e| !is_tried(e));
        if due != Some((key, place)) {
            self.anchor = Some(key);
            let text = format!("session {serial} was given {key}={place} for a retry, not {due:?}");
            self.fail(Law::Fairness, text);
        }
    }

    pub(crate) fn reset_cycle(&mut self) {
        self.anchor = None;
    }
}
