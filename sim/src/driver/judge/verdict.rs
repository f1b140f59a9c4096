//! The verdict on one backend, by all that its checks have found since it appeared.

use tinylb_core::{CheckSettings, VerdictState, WhenNone};

use crate::scenario::Reply;

/// A backend that the source names, in microseconds of the balancer's clock.
pub(super) struct Verdict {
    /// Since when it has been named.
    pub(super) appeared: u64,
    pub(super) state: VerdictState,
    /// What its checks have found, each with how often any backend had passed by then.
    found: Vec<(Reply, u64)>,
    /// When its last check began.
    pub(super) began: Option<u64>,
    /// When its last check ended, or one of the time before it appeared.
    pub(super) ended: u64,
}

impl Verdict {
    pub(super) fn new(now: u64) -> Self {
        Self {
            appeared: now,
            state: VerdictState::Undecided,
            found: Vec::new(),
            began: None,
            ended: now,
        }
    }

    /// A check has ended; `passes`: how often any backend has passed by now. Returns whether that
    /// turns the verdict.
    pub(super) fn hear(&mut self, reply: Reply, passes: u64, settings: &CheckSettings) -> bool {
        self.found.push((reply, passes));
        let is_pass = |found: &&(Reply, u64)| found.0 == Reply::Pass;
        let rises = self.found.iter().rev().take_while(is_pass).count();
        let misses: Vec<_> = self.found.iter().rev().take_while(|it| !is_pass(it)).collect();
        let refusals = misses.iter().filter(|(reply, _)| *reply == Reply::No).count();
        // If nothing passes, then the fault may be on this side.
        let has_other = misses.last().is_some_and(|(_, before)| passes > *before);
        let is_certain = settings.when_none == WhenNone::Empty || has_other;
        let is_silent = misses.len() >= settings.fall_unanswered as usize && is_certain;
        let falls = refusals >= settings.fall as usize || is_silent;
        let before = self.state;
        self.state = match before {
            VerdictState::Undecided if rises > 0 => VerdictState::Passing,
            VerdictState::Failing if rises >= settings.rise as usize => VerdictState::Passing,
            VerdictState::Undecided | VerdictState::Passing if falls => VerdictState::Failing,
            _ => before,
        };
        self.state != before
    }

    pub(super) fn is_heard(&self) -> bool {
        !self.found.is_empty()
    }

    pub(super) fn has_passed(&self) -> bool {
        self.found.iter().any(|(reply, _)| *reply == Reply::Pass)
    }

    pub(super) fn passes(&self) -> bool {
        self.state == VerdictState::Passing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The states after each of these, of a backend beside which another passes at all times.
    fn states(replies: &[Reply], settings: &CheckSettings, others: u64) -> String {
        let mut verdict = Verdict::new(0);
        let mut passes = 0;
        let name = |reply: &Reply| {
            passes += others + u64::from(*reply == Reply::Pass);
            verdict.hear(*reply, passes, settings);
            &verdict.state.as_str()[..1]
        };
        replies.iter().map(name).collect()
    }

    #[test]
    fn a_verdict_turns_after_as_many_answers_as_the_settings_say() {
        use Reply::{No, Nothing, Pass};
        let mut settings = CheckSettings::default();
        (settings.rise, settings.fall, settings.fall_unanswered) = (2, 2, 3);
        let of = |replies: &[Reply]| states(replies, &settings, 1);
        assert_eq!(of(&[Pass, No, No, Pass, Pass]), "ppffp");
        assert_eq!(of(&[Pass, No, Pass, No, Nothing, No]), "pppppf");
        assert_eq!(of(&[Nothing, Nothing, Pass, Nothing, Nothing, Nothing]), "uupppf");
        assert_eq!(of(&[No, No, Pass, No, Pass, Pass]), "uffffp");
    }

    #[test]
    fn silence_means_nothing_where_all_are_used_and_nobody_passes() {
        use Reply::{No, Nothing, Pass};
        let mut settings = CheckSettings::default();
        settings.when_none = WhenNone::All;
        let replies = [Pass, Nothing, Nothing, Nothing, Nothing, No];
        assert_eq!(states(&replies, &settings, 0), "pppppf");
        assert_eq!(states(&replies, &settings, 1), "pppfff");
    }
}
