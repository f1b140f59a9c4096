//! Whose turn it is.

use super::Ledger;
use crate::{
    Law, Sometimes,
    scenario::{Key, Place},
};

impl Ledger {
    /// The pick is the next turn of the backends in rotation. Except if it has waited for a set, for a session that has tried that
    /// turn's target, or has just given up a dial of it, it is the first one after it that will do;
    /// those that aren't in rotation come last.
    pub(super) fn check_turn(&mut self, serial: u64, key: Key, place: Place, has_waited: bool) {
        let tried = self.sessions[serial as usize].tried;
        let is_tried = |(_, place): &(Key, Place)| tried & 1 << place.0 != 0;
        let is_eligible = |(_, place): &(Key, Place)| self.health.is_eligible(*place);
        let session = &self.sessions[serial as usize];
        let is_avoided = |(_, place): &(Key, Place)| session.is_moving && *place == session.place;
        let is_wanted = |entry: &(Key, Place)| !is_tried(entry) && !is_avoided(entry);
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
        let from_next: Vec<_> = (0..length).map(|step| self.set[(next + step) % length]).collect();
        let Some(turn) = from_next.iter().copied().find(is_eligible) else { return };
        if has_waited || is_wanted(&turn) {
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
        let find = |is_it: &dyn Fn(&(Key, Place)) -> bool| from_next.iter().copied().find(is_it);
        let due = find(&|entry| is_eligible(entry) && is_wanted(entry))
            .or_else(|| find(&|entry| is_eligible(entry) && !is_tried(entry)))
            .or_else(|| find(&|entry| !is_tried(entry)));
        if due != Some((key, place)) {
            self.anchor = Some(key);
            let text = format!("session {serial} was given {key}={place} for a retry, not {due:?}");
            return self.fail(Law::Fairness, text);
        }
        match due == Some(turn) {
            true => self.anchor = Some(key),
            false => self.counts.add(Sometimes::TurnPassed, 1),
        }
    }

    pub(crate) fn reset_cycle(&mut self) {
        self.anchor = None;
    }
}
