//! Whose turn it is.

use super::{Ledger, Tried};
use crate::{
    Law, Sometimes,
    scenario::{Key, Place},
};

/// How a session comes to its next backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coming {
    /// It is new, or tries again.
    Asks,
    /// It has waited for a set.
    HasWaited,
    /// One or the other: nobody says that a session waits which has dialled before.
    Either,
}

impl Ledger {
    /// The pick is the next turn of the backends in rotation. For a session that tries again and has
    /// tried that turn's target, or has just given up a dial of it, it is the first one after it that
    /// will do; those that aren't in rotation come last.
    pub(super) fn check_turn(&mut self, serial: u64, key: Key, place: Place, coming: Coming) {
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
        let is_eligible = |(_, place): &(Key, Place)| self.health.is_eligible(*place);
        let Some(turn) = from_next.iter().copied().find(is_eligible) else { return };

        // All that the session may have tried by now, each with the pick that follows from it.
        let session = &self.sessions[serial as usize];
        let avoided = session.is_moving.then_some(session.place);
        let mut has_tried_all = false;
        let mut may_be = Vec::new();
        for tried in session.all_tried() {
            if coming != Coming::Asks {
                // What it had tried has left the set before.
                may_be.push((Tried::default(), turn));
            }
            if coming != Coming::HasWaited {
                let all = from_next.iter().all(|(_, place)| tried.has(*place));
                let tried = if all { Tried::default() } else { tried.clone() };
                has_tried_all |= all;
                may_be.extend(self.due(&from_next, &tried, avoided).map(|due| (tried, due)));
            }
        }
        if turn == (key, place) {
            self.anchor = Some(key);
        }
        let fits = |(_, due): &(Tried, (Key, Place))| *due == (key, place);
        let mut tried: Vec<_> =
            may_be.iter().filter(|it| fits(it)).map(|(tried, _)| tried.clone()).collect();
        tried.dedup();
        let Some(first) = tried.pop() else {
            let due: Vec<_> =
                may_be.iter().map(|(_, (key, place))| format!("{key}={place}")).collect();
            let text =
                format!("session {serial} was given {key}={place}, and it had to be {due:?}");
            return self.fail(Law::Fairness, text);
        };
        let session = &mut self.sessions[serial as usize];
        (session.tried, session.or_tried) = (first, tried);
        self.counts.add(Sometimes::TriedAgain, u64::from(has_tried_all));
        self.counts.add(Sometimes::TurnPassed, u64::from(turn != (key, place)));
    }

    /// The pick of a session that has tried these and just been at `avoided`. `from_next`: the set,
    /// from the first key above the one served last.
    fn due(
        &self,
        from_next: &[(Key, Place)],
        tried: &Tried,
        avoided: Option<Place>,
    ) -> Option<(Key, Place)> {
        let is_eligible = |(_, place): &(Key, Place)| self.health.is_eligible(*place);
        let is_untried = |(_, place): &(Key, Place)| !tried.has(*place);
        let is_wanted = |entry: &(Key, Place)| is_untried(entry) && Some(entry.1) != avoided;
        let find = |is_it: &dyn Fn(&(Key, Place)) -> bool| from_next.iter().copied().find(is_it);
        find(&|entry| is_eligible(entry) && is_wanted(entry))
            .or_else(|| find(&|entry| is_eligible(entry) && is_untried(entry)))
            .or_else(|| find(&is_wanted))
            .or_else(|| find(&is_untried))
    }

    pub(crate) fn reset_cycle(&mut self) {
        self.anchor = None;
    }
}
