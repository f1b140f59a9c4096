//! Which targets answer nothing, not even with a refusal.

use super::{Health, Place, Stake};

/// A target answers nothing.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// Perhaps since then, and since then for sure.
    since: u64,
    certain_since: Option<u64>,
    /// When another one first answered after that.
    unlike_another_since: Option<u64>,
}

impl Silence {
    pub(super) fn since(since: u64) -> Self {
        Self { since, certain_since: Some(since), unlike_another_since: None }
    }

    /// It lasts at least since this time.
    pub(super) fn note_certain(&mut self, at: u64) {
        self.certain_since.get_or_insert(at);
    }
}

impl Health {
    /// The balancer may have looked at a dial of an ejected target since its patience was over, without
    /// a word. That begins a silence, if the target isn't silent already.
    pub(in crate::oracle) fn look_back(&mut self, stake: &Stake) {
        let overdue_at = stake.began + stake.patience.unwrap_or_default();
        let answered_at = self.answered_at;
        let is_unrefuted = self.is_unrefuted(stake);
        let Some(target) = self.targets.get_mut(&stake.place).filter(|_| is_unrefuted) else {
            return;
        };
        let since = overdue_at.max(target.answered_at);
        if let Some(ejected) = &mut target.ejected {
            // An answer at that very time is the target's own.
            let unlike_another_since = Some(answered_at).filter(|at| *at > since);
            let silence = Silence { since, certain_since: None, unlike_another_since };
            ejected.silence.get_or_insert(silence);
        }
    }

    /// A target has answered, so those that are silent are so not because of the balancer.
    pub(super) fn note_contrast(&mut self, at: u64) {
        let ejected = self.targets.values_mut().filter_map(|target| target.ejected.as_mut());
        let silences = ejected.filter_map(|ejected| ejected.silence.as_mut());
        silences.for_each(|silence| {
            silence.unlike_another_since.get_or_insert(at);
        });
        self.answered_at = at;
    }

    /// Whether the sessions of a target may be cut by `at`, since it answers nothing and another one
    /// does.
    pub(in crate::oracle) fn may_be_silent(&self, at: u64, place: Place) -> bool {
        self.has_been_silent(at, place, |silence| Some(silence.since))
    }

    /// Whether they have to be cut by then.
    pub(in crate::oracle) fn is_silent(&self, at: u64, place: Place) -> bool {
        self.has_been_silent(at, place, |silence| silence.certain_since)
    }

    fn has_been_silent(
        &self,
        at: u64,
        place: Place,
        since: impl FnOnce(Silence) -> Option<u64>,
    ) -> bool {
        let Some(time) = self.rules.cut_silent else { return false };
        let ejected = self.targets.get(&place).and_then(|target| target.ejected);
        ejected.and_then(|ejected| ejected.silence).is_some_and(|silence| {
            let answered = silence.unlike_another_since;
            let begins = since(silence).zip(answered);
            let from = self.rules.cut_silent_since;
            begins.is_some_and(|(since, answered)| at >= answered.max(since + time).max(from))
        })
    }
}

#[cfg(test)]
mod tests {
    use tinylb_core::Fault;

    use super::super::{
        Way,
        tests::{B0, B1, dial, health},
    };

    #[test]
    fn a_target_is_silent_beside_one_that_answers() {
        let mut health = health();
        let stake = dial(&health, 0);
        health.overdue(100_000, &stake);
        assert_eq!(health.eject(100_000, B0, Fault::TimedOut, true), Ok(false));
        assert!(!health.is_silent(5_000_000, B0), "no other has answered");
        health.succeeded(200_000, B1, 1_000, Way::Dial);
        assert!(!health.is_silent(1_099_999, B0) && health.is_silent(1_100_000, B0));
        health.dial_failed(300_000, &stake, Fault::Refused);
        assert!(!health.is_silent(5_000_000, B0), "a refusal is an answer");
    }
}
