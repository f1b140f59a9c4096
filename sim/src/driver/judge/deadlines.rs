//! No client waits for longer than it may, and a shutdown completes.

use super::case::Case;
use crate::{
    Law,
    driver::payload::PIECE,
    scenario::{Plan, SILENCE},
    trace::Note,
};

/// Knows when each attempt began, since when there is room for clients, and when the server is to
/// be shut down.
#[derive(Default)]
pub(super) struct Deadlines {
    /// By attempt.
    attempts: Vec<Attempt>,
    /// Since when nothing but the balancer keeps clients from being accepted.
    room_since: u64,
    closes_at: Option<u64>,
    is_shut_down: bool,
}

struct Attempt {
    began: u64,
    connected_at: Option<u64>,
}

impl Deadlines {
    /// The next attempt of a client begins.
    pub(super) fn client_dials(&mut self, case: &Case) {
        self.attempts.push(Attempt { began: case.at(), connected_at: None });
    }

    pub(super) fn client_connected(&mut self, case: &Case, attempt: u32) {
        self.attempts[attempt as usize].connected_at = Some(case.at());
    }

    pub(super) fn is_connected(&self, attempt: u32) -> bool {
        self.attempts[attempt as usize].connected_at.is_some()
    }

    /// An accept has failed, and the next one comes after this pause.
    pub(super) fn accept_failed(&mut self, case: &Case, pause: u64) {
        self.room_since = self.room_since.max(case.at() + pause);
    }

    /// A session is about to end. That makes room, if there was none.
    pub(super) fn ends(&mut self, case: &Case) {
        if case.is_full() {
            self.room_since = self.room_since.max(case.at());
        }
    }

    /// The settings are about to change. That may make room, if there was none.
    pub(super) fn settings_change(&mut self, case: &Case) {
        self.ends(case);
    }

    /// The balancer begins its shutdown, with this many milliseconds of grace; a second time, it
    /// aborts at once.
    pub(super) fn closing(&mut self, case: &mut Case, grace: u32) {
        case.note(Note::Closing);
        let grace = if self.is_closing() { 0 } else { u64::from(grace) * 1000 };
        let at = case.at() + grace;
        self.closes_at = Some(at);
        case.ledger.closing(at);
    }

    pub(super) fn shut_down(&mut self, case: &mut Case) {
        case.note(Note::ShutDown);
        case.ledger.shut_down();
        self.is_shut_down = true;
    }

    pub(super) fn is_closing(&self) -> bool {
        self.closes_at.is_some()
    }

    pub(super) fn is_shut_down(&self) -> bool {
        self.is_shut_down
    }

    /// The shutdown completes in time. Returns whether it has to be complete by now.
    pub(super) fn check_shutdown(&self, case: &mut Case) -> bool {
        let is_due = self.closes_at.is_some_and(|at| case.at() > at + case.patience());
        if is_due && !self.is_shut_down {
            case.fail(Law::Shutdown, "the shutdown doesn't complete".into());
        }
        is_due
    }

    /// The law that is broken if an attempt takes any longer. `is_excused`: by the network.
    pub(super) fn is_late(
        &self,
        case: &Case,
        attempt: u32,
        plan: Plan,
        session: Option<u64>,
        is_excused: impl FnOnce() -> bool,
    ) -> Option<Law> {
        let connected_at = self.attempts[attempt as usize].connected_at?;
        let since = connected_at.max(self.room_since);
        if session.is_none() {
            let is_late = !case.is_full() && case.at() > since + case.patience();
            return is_late.then_some(Law::Accept);
        }
        let is_late = case.at() > since + time_max(case, plan);
        (is_late && !is_excused()).then_some(Law::Progress)
    }

    /// An attempt breaks this law by taking so long.
    pub(super) fn fail(
        &self,
        case: &mut Case,
        attempt: u32,
        plan: Plan,
        session: Option<u64>,
        law: Law,
    ) {
        let began = self.attempts[attempt as usize].began / 1000;
        let goal = if law == Law::Accept { "accepted" } else { "over" };
        let text = format!(
            "attempt {attempt} ({plan}) began at {began} ms and isn't {goal}; session {session:?}"
        );
        case.fail(law, text);
    }
}

/// How long an attempt may take once it is connected and there is room, in microseconds.
fn time_max(case: &Case, plan: Plan) -> u64 {
    let config = case.config();
    let silence = if plan.is_silent() { u64::from(SILENCE) * 1000 } else { 0 };
    let round_trip = u64::from(config.latency_max) * 4000 + case.patience();
    let window = u64::from(config.window.min(config.buffer)).max(1);
    let rounds = u64::from(plan.up.max(plan.down)) / window + 4;
    let pieces = u64::from(plan.up + plan.down) / PIECE as u64 + 2;
    let slackest = case.slackest();
    let dial = slackest.dial_time + slackest.waiting_timeout + slackest.moves_max();
    let dial = u64::from(dial) * 1000;
    let pace = u64::from(plan.pace) * 1000 + case.patience();
    dial + silence + pieces * pace + 2 * rounds * round_trip
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_completes_by_the_end_of_its_grace() {
        let (mut case, mut deadlines) = (Case::of(""), Deadlines::default());
        deadlines.closing(&mut case, 50);
        case.set_time(80_000);
        assert!(!deadlines.check_shutdown(&mut case));
        deadlines.closing(&mut case, 50);
        case.set_time(110_000);
        assert!(!deadlines.check_shutdown(&mut case), "a second shutdown leaves no grace");
        case.set_time(110_001);
        assert!(deadlines.check_shutdown(&mut case));
        assert_eq!(case.laws(), [Law::Shutdown]);
        deadlines.shut_down(&mut case);
        assert!(deadlines.check_shutdown(&mut case));
        assert_eq!(case.laws(), [Law::Shutdown]);
    }

    #[test]
    fn a_client_is_accepted_in_time_once_there_is_room() {
        let (mut case, mut deadlines) = (Case::of(""), Deadlines::default());
        deadlines.client_dials(&case);
        let late = |deadlines: &Deadlines, case: &Case| {
            deadlines.is_late(case, 0, Plan::default(), None, || false)
        };
        case.set_time(500_000);
        assert_eq!(late(&deadlines, &case), None, "it isn't connected yet");
        deadlines.client_connected(&case, 0);
        deadlines.accept_failed(&case, 100_000);
        case.set_time(630_000);
        assert_eq!(late(&deadlines, &case), None);
        case.set_time(630_001);
        assert_eq!(late(&deadlines, &case), Some(Law::Accept));
    }
}
