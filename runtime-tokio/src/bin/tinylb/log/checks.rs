//! Log lines and counts about the verdicts of checks.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tinylb_core::{BackendSet, VerdictChange, VerdictState};
use tinylb_tokio::Address;
use tracing::{info, warn};

use super::{format::Keys, lock};

/// At most this many lines a second: when a network fails, all backends fail.
const LINES_MAX: u32 = 20;
const PERIOD: Duration = Duration::from_secs(1);

/// How the verdicts on one service's backends have changed.
#[derive(Default)]
pub(crate) struct Verdicts {
    /// Backends that passed from then on, and backends that no longer did.
    pub(crate) passed: AtomicU64,
    pub(crate) failed: AtomicU64,
    lines: Mutex<Lines>,
    own_faults: Mutex<OwnFaults>,
}

#[derive(Default)]
struct Lines {
    /// When the current period began.
    began: Option<Instant>,
    /// Lines in it.
    count: u32,
    /// Changes without a line since the last line.
    spared: u64,
}

impl Verdicts {
    /// Logs a change. `set`: all backends that are checked.
    pub(super) fn changed(
        &self,
        service: &str,
        set: Option<&BackendSet<Address>>,
        change: &VerdictChange<Address>,
    ) {
        let count = if change.is_passing { &self.passed } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        let Some(spared) = lock(&self.lines).line(Instant::now()) else { return };
        let target = &change.target;
        let (backend, keys) = backend(set, target);
        let keys = Keys::new(&keys);
        let keys = keys.field();
        let reason = change.reason.as_deref().unwrap_or_default();
        match (change.was, change.is_passing) {
            (VerdictState::Failing, true) => {
                info!(service, keys, %target, spared, "{backend} passes again");
            }
            (_, true) => info!(service, keys, %target, spared, "{backend} passes"),
            (VerdictState::Passing, false) => {
                warn!(service, keys, %target, spared, "{backend} no longer passes: {reason}");
            }
            (_, false) => {
                info!(service, keys, %target, spared, "{backend} doesn't pass: {reason}");
            }
        }
    }
}

impl Verdicts {
    /// Logs that a backend couldn't be asked.
    pub(super) fn unasked(
        &self,
        service: &str,
        set: Option<&BackendSet<Address>>,
        target: &Address,
        reason: &str,
    ) {
        let Some(spared) = lock(&self.own_faults).line(Instant::now(), reason) else { return };
        let (backend, keys) = backend(set, target);
        let keys = Keys::new(&keys);
        let keys = keys.field();
        warn!(
            service,
            keys,
            %target,
            spared,
            "{backend} can't be checked, its verdict stays as it is: {reason}"
        );
    }
}

/// How a line names a target, and its keys.
fn backend(set: Option<&BackendSet<Address>>, target: &Address) -> (String, Vec<String>) {
    let keys = set.into_iter().flat_map(|set| set.keys_of(target));
    let keys: Vec<String> = keys.map(ToString::to_string).collect();
    let backend = match &keys[..] {
        [] => target.to_string(),
        [key] => format!("{key} ({target})"),
        [key, more @ ..] => format!("{key} and {} more ({target})", more.len()),
    };
    (backend, keys)
}

/// Which checks that could not be made are worth a line: the first, one after a minute if that lasts, and
/// any with another reason, though at most one a second.
#[derive(Default)]
pub(crate) struct OwnFaults {
    last: Option<(String, Instant)>,
    /// Those without a line since the last line.
    spared: u64,
}

impl OwnFaults {
    /// Time between two lines with the same reason.
    const PAUSE: Duration = Duration::from_secs(60);

    /// Whether a line may be logged now; if so, how many checks before it had none.
    pub(crate) fn line(&mut self, now: Instant, reason: &str) -> Option<u64> {
        let is_spared = self.last.as_ref().is_some_and(|(last, at)| {
            now < *at + if last == reason { Self::PAUSE } else { PERIOD }
        });
        if is_spared {
            self.spared += 1;
            return None;
        }
        self.last = Some((reason.into(), now));
        Some(std::mem::take(&mut self.spared))
    }
}

impl Lines {
    /// Whether a line may be logged now; if so, how many changes before it had none.
    fn line(&mut self, now: Instant) -> Option<u64> {
        if self.began.is_none_or(|began| began + PERIOD <= now) {
            (self.began, self.count) = (Some(now), 0);
        }
        if self.count == LINES_MAX {
            self.spared += 1;
            return None;
        }
        self.count += 1;
        Some(std::mem::take(&mut self.spared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_that_could_not_be_made_has_a_line_a_minute_and_another_reason_its_own() {
        let (mut faults, start) = (OwnFaults::default(), Instant::now());
        let mut line = |ms, reason| faults.line(start + Duration::from_millis(ms), reason);
        assert_eq!(line(0, "files"), Some(0));
        assert_eq!(line(1, "files"), None);
        assert_eq!(line(999, "ports"), None);
        assert_eq!(line(1000, "ports"), Some(2));
        assert_eq!(line(60_999, "ports"), None);
        assert_eq!(line(61_000, "ports"), Some(1));
    }

    #[test]
    fn a_change_has_a_line_and_thousands_at_once_have_twenty_with_the_rest_counted() {
        let (mut lines, now) = (Lines::default(), Instant::now());
        for burst in 0..3 {
            let now = now + burst * PERIOD;
            let logged: Vec<u64> = (0..10_000).filter_map(|_| lines.line(now)).collect();
            let spared_before = if burst == 0 { 0 } else { 9_980 };
            assert_eq!((logged.len(), logged[0]), (20, spared_before));
            assert!(logged[1..].iter().all(|spared| *spared == 0));
        }
        for second in 10..100 {
            assert!(lines.line(now + second * PERIOD).is_some(), "one a second is never too many");
        }
    }
}
