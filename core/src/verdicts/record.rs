use std::{sync::Arc, time::Duration};

use super::{Answer, CheckSettings, VerdictState, WhenNone};

/// What is known of one target since it appeared.
pub(super) struct Record {
    pub(super) state: VerdictState,
    /// Since when it has this state.
    pub(super) since: Duration,
    /// What the last check found, unless it passed.
    pub(super) reason: Option<Arc<str>>,
    /// When the next check is due. It waits for the one that is under way.
    pub(super) due: Duration,
    /// How many checks have begun.
    pub(super) begun: u32,
    /// Whether a check has ended that says something of it.
    pub(super) is_heard: bool,
    /// Passes since the last check that didn't pass.
    passes: u32,
    /// Answers that mean no since the last pass, and all checks that didn't pass.
    refusals: u32,
    misses: u32,
    /// How often any target had passed when the first of those misses came.
    passes_before: u64,
}

impl Record {
    pub(super) fn new(now: Duration) -> Self {
        Self {
            state: VerdictState::Undecided,
            since: now,
            reason: None,
            due: now,
            begun: 0,
            is_heard: false,
            passes: 0,
            refusals: 0,
            misses: 0,
            passes_before: 0,
        }
    }

    /// Notes how a check ended; `passes`: how often any target has passed. Returns whether that
    /// changes the state.
    pub(super) fn hear(
        &mut self,
        now: Duration,
        answer: Answer,
        passes: u64,
        settings: &CheckSettings,
    ) -> bool {
        match answer {
            Answer::Pass => {
                self.passes = self.passes.saturating_add(1);
                (self.refusals, self.misses, self.reason) = (0, 0, None);
            }
            Answer::Fail(reason) => {
                self.refusals = self.refusals.saturating_add(1);
                self.miss(reason, passes);
            }
            Answer::None(reason) => self.miss(reason, passes),
            Answer::Ours(reason) => {
                self.reason = Some(reason);
                return false;
            }
        }
        self.is_heard = true;
        // If nothing passes, then the fault may be on this side.
        let is_certain = settings.when_none == WhenNone::Empty || passes > self.passes_before;
        let is_silent = self.misses >= settings.fall_unanswered && is_certain;
        let falls = self.refusals >= settings.fall || is_silent;
        let state = match self.state {
            VerdictState::Undecided if self.passes > 0 => VerdictState::Passing,
            VerdictState::Failing if self.passes >= settings.rise => VerdictState::Passing,
            VerdictState::Undecided | VerdictState::Passing if falls => VerdictState::Failing,
            state => state,
        };
        if state == self.state {
            return false;
        }
        (self.state, self.since) = (state, now);
        true
    }

    fn miss(&mut self, reason: Arc<str>, passes: u64) {
        if self.misses == 0 {
            self.passes_before = passes;
        }
        self.misses = self.misses.saturating_add(1);
        (self.passes, self.reason) = (0, Some(reason));
    }
}
