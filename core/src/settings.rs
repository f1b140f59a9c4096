use std::time::Duration;

use crate::SettingsError;

/// What becomes of the sessions that are connected to a target when it leaves the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Removal {
    /// Both ends are aborted at once.
    #[default]
    Abort,
    /// They go on for at most this long (1 ms to 24 h) and are aborted then. If the target comes
    /// back first, they are simply kept. Dials are revoked at once all the same.
    Drain(Duration),
}

/// What becomes of clients while the set is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum EmptySet {
    /// They are reset at once.
    #[default]
    Reset,
    /// They wait for a set with backends, as they do before the first set
    /// ([`Settings::waiting_max`], [`Settings::waiting_timeout`]).
    Wait,
}

/// The settings of a server. All of them but `start` can be changed while it runs
/// ([`Handle::configure`](crate::Handle::configure)); sessions keep the time limits
/// that were in force when they began to dial (for dialling) or to relay (for the rest). `removal`
/// also applies to sessions that already drain: their time counts from their removal, and
/// [`Removal::Abort`] ends it at once.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Time for one attempt to dial, 1 ms to 1 h; shared among the addresses of a name. 3 s.
    pub dial_timeout: Duration,
    /// How long a dial may go unanswered before its session goes to another target, 10 ms to 1 h: this
    /// or three times what the target's last connect took, whichever is longer, and
    /// [`Self::dial_timeout`] at most. (A connect of a second or more doesn't count: its first packet
    /// was lost. One that took less than a third of this isn't remembered, in case this is shortened.)
    /// Such a move counts as no attempt, takes nothing of
    /// [`Self::dial_time_max`], and happens at most 8 times for each client. With no other target to
    /// go to, the dial goes on. `None`: never. 250 ms.
    pub dial_patience: Option<Duration>,
    /// Whether a target that doesn't accept connections is ejected: skipped by the rotation until a
    /// probe or a dial succeeds. Its sessions stay. True.
    pub ejection: bool,
    /// The pause between the first two probes of an ejected target, 10 ms to 1 h. It doubles from
    /// probe to probe. Each pause is scaled by a factor between 0.5 and 1. 250 ms.
    pub probe_interval_min: Duration,
    /// The longest pause between two probes, 10 ms to 1 h, and no shorter than the first. 5 s.
    pub probe_interval_max: Duration,
    /// Probes at one time, 1 to 1,024. Each needs a connection beyond [`Self::max_connections`]. 32.
    pub probes_max: usize,
    /// How long a target may answer no dial and no probe, not even with a refusal, while another
    /// target answers, before its sessions are cut: 1 s to 24 h. `None`: for ever, which is the
    /// default. Needs [`Self::ejection`], since nobody probes a target that isn't ejected.
    pub cut_silent: Option<Duration>,
    /// Spreads the pauses between probes. Give each of many servers another. 0.
    pub seed: u64,
    /// Attempts to dial for one client, 1 to 16. Each goes to a target that hasn't been tried; once
    /// all have been tried, they are tried again after a pause of 250 ms, since one lost packet may
    /// have been the only fault. A revoked dial doesn't count. 8.
    pub dial_attempts_max: usize,
    /// Time for all attempts of one client together, 1 ms to 1 h. 8 s.
    pub dial_time_max: Duration,
    /// What becomes of clients while the set is empty. [`EmptySet::Reset`].
    pub empty: EmptySet,
    /// Clients that may wait for a set, 0 to 1,000,000. 1,024.
    pub waiting_max: usize,
    /// How long each may wait each time, 1 ms to 1 h. 10 s.
    pub waiting_timeout: Duration,
    /// How long a session whose one direction has ended may move no byte in the other, 1 ms to 7
    /// days, counted from the later of that end and the last byte. `None`: for ever. 5 min.
    pub half_close_timeout: Option<Duration>,
    /// How long a session may move no byte in either direction, 1 ms to 7 days. `None`: for ever,
    /// which is the default.
    pub idle_timeout: Option<Duration>,
    /// How long a session may take, once one side has failed, to deliver what that side sent
    /// before, until the other side's system has confirmed it. 1 ms to 1 h. After that both sides
    /// are aborted. The other time limits don't apply meanwhile, and removals still cut at once. 30
    /// s.
    pub delivery_timeout: Duration,
    /// Live sessions at which the server stops accepting, 1 or more; the rest stays in the
    /// listeners' backlogs. (Where several listeners accept at once for the last room, each but one
    /// holds the client it accepted until there is room.) No limit.
    pub max_connections: usize,
    /// What becomes of sessions whose target is removed. [`Removal::Abort`].
    pub removal: Removal,
    /// Backends that a set may have, 1 to 10,000,000. 1,000,000.
    pub backends_max: usize,
    /// Where the rotation begins: the backend at this place in key order, modulo the length of
    /// the first set. Give each of many servers another. 0.
    pub start: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            dial_timeout: Duration::from_secs(3),
            dial_patience: Some(Duration::from_millis(250)),
            ejection: true,
            probe_interval_min: Duration::from_millis(250),
            probe_interval_max: Duration::from_secs(5),
            probes_max: 32,
            cut_silent: None,
            seed: 0,
            dial_attempts_max: 8,
            dial_time_max: Duration::from_secs(8),
            empty: EmptySet::Reset,
            waiting_max: 1024,
            waiting_timeout: Duration::from_secs(10),
            half_close_timeout: Some(Duration::from_secs(300)),
            idle_timeout: None,
            delivery_timeout: Duration::from_secs(30),
            max_connections: usize::MAX,
            removal: Removal::Abort,
            backends_max: 1_000_000,
            start: 0,
        }
    }
}

const MS: Duration = Duration::from_millis(1);
const HOUR: Duration = Duration::from_secs(3600);

impl Settings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting, in the order of declaration, that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let week = HOUR * 24 * 7;
        check_time("dial_timeout", self.dial_timeout, HOUR, "1ms to 1h")?;
        if let Some(patience) = self.dial_patience {
            check_span("dial_patience", patience, MS * 10, HOUR, "10ms to 1h, or off")?;
        }
        let (min, max) = (self.probe_interval_min, self.probe_interval_max);
        check_span("probe_interval_min", min, MS * 10, HOUR, "10ms to 1h")?;
        check_span("probe_interval_max", max, MS * 10, HOUR, "10ms to 1h")?;
        check_span("probe_interval_max", max, min, HOUR, "probe_interval_min or longer")?;
        check_count("probes_max", self.probes_max, 1, 1024, "1 to 1024")?;
        if let Some(time) = self.cut_silent {
            check_span("cut_silent", time, MS * 1000, HOUR * 24, "1s to 24h, or off")?;
        }
        check_count("dial_attempts_max", self.dial_attempts_max, 1, 16, "1 to 16")?;
        check_time("dial_time_max", self.dial_time_max, HOUR, "1ms to 1h")?;
        check_count("waiting_max", self.waiting_max, 0, 1_000_000, "0 to 1000000")?;
        check_time("waiting_timeout", self.waiting_timeout, HOUR, "1ms to 1h")?;
        if let Some(timeout) = self.half_close_timeout {
            check_time("half_close_timeout", timeout, week, "1ms to 7d, or off")?;
        }
        if let Some(timeout) = self.idle_timeout {
            check_time("idle_timeout", timeout, week, "1ms to 7d, or off")?;
        }
        check_time("delivery_timeout", self.delivery_timeout, HOUR, "1ms to 1h")?;
        check_count("max_connections", self.max_connections, 1, usize::MAX, "1 or more")?;
        if let Removal::Drain(time) = self.removal {
            check_time("removal", time, HOUR * 24, "abort, or drain for 1ms to 24h")?;
        }
        check_count("backends_max", self.backends_max, 1, 10_000_000, "1 to 10000000")
    }
}

fn check_time(
    name: &'static str,
    value: Duration,
    max: Duration,
    range: &'static str,
) -> Result<(), SettingsError> {
    check_span(name, value, MS, max, range)
}

fn check_span(
    name: &'static str,
    value: Duration,
    min: Duration,
    max: Duration,
    range: &'static str,
) -> Result<(), SettingsError> {
    if value < min || value > max {
        return Err(SettingsError { name, value: format!("{value:?}"), range });
    }
    Ok(())
}

fn check_count(
    name: &'static str,
    value: usize,
    min: usize,
    max: usize,
    range: &'static str,
) -> Result<(), SettingsError> {
    if value < min || value > max {
        return Err(SettingsError { name, value: value.to_string(), range });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_a_bad_value_is_named() {
        assert_eq!(Settings::default().validate(), Ok(()));
        let bad = Settings { dial_attempts_max: 0, ..Settings::default() };
        let error = bad.validate().unwrap_err();
        assert_eq!(error.to_string(), "dial_attempts_max is 0; it must be 1 to 16");
        let bad = Settings { removal: Removal::Drain(Duration::ZERO), ..Settings::default() };
        assert_eq!(bad.validate().unwrap_err().name, "removal");
        let bad = Settings { idle_timeout: Some(HOUR * 200), ..Settings::default() };
        assert_eq!(bad.validate().unwrap_err().name, "idle_timeout");
    }
}
