use std::time::Duration;

use crate::SettingsError;

/// How the sets of a source are taken; see [`Handle::follow_with`](crate::Handle::follow_with).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceSettings {
    /// What becomes of a set with entries that can't be used. [`BadEntries::Reject`].
    pub bad_entries: BadEntries,
    /// How long the last set stays once the source is lost, 1 s to 365 days; then an empty one takes
    /// its place. `None`: for ever, which is the default.
    pub max_stale: Option<Duration>,
    /// How much of the set one other set may remove at once. `None`: all, which is the default.
    pub floor: Option<Floor>,
    /// How long to keep a target that the source no longer names, 1 s to 24 h. `None`: it goes at
    /// once, which is the default.
    ///
    /// This is for a source that names only some of its targets at a time. It delays each removal:
    /// a target that has really left is still dialled and keeps its connections for this long. This
    /// also holds if its key has another target now (the old one's key is then `KEY (TARGET)`), or
    /// if its entry is left out. The targets in force when the source first reports count as named.
    /// The time stands still while the source is lost. A [`floor`](Self::floor) counts a target
    /// when it is removed, after this time. Kept targets don't count towards
    /// [`Settings::backends_max`](crate::Settings::backends_max).
    pub keep_absent: Option<Duration>,
}

/// What becomes of a set with entries that can't be used: they can't be read, or the dialer refuses
/// them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BadEntries {
    /// The source counts as lost, with the first of them as the reason: the last set stays.
    #[default]
    Reject,
    /// The set is taken without them. If none of its entries can be used, the source counts as
    /// lost: it hasn't stated that there are no backends.
    LeaveOut,
}

/// Guards against a source that fails: that is likelier than that this many backends have left in one
/// moment.
///
/// A source's first set is taken as it is. A later one that removes more than this share of the targets
/// in force is held. It takes effect once the source has given it, or others that remove too many as
/// well, for all of `hold`. A set that removes less takes effect at once. If the source is lost
/// meanwhile, the held set is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Floor {
    /// Percent of the targets that may go at once, 1 to 99.
    pub removed_percent_max: u8,
    /// How long a set that removes more is held, 1 ms to 7 days.
    pub hold: Duration,
}

/// A set that is held by a [`Floor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// How many targets it removes.
    pub removed: usize,
    /// How many are in force.
    pub targets: usize,
    /// How long it is held.
    pub hold: Duration,
}

impl SourceSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let day = Duration::from_secs(24 * 60 * 60);
        let floor = self.floor.unwrap_or(Floor { removed_percent_max: 50, hold: day });
        let percent = u64::from(floor.removed_percent_max);
        let times = [
            ("max_stale", self.max_stale.unwrap_or(day), SECOND, 365 * day, "1s to 365d, or off"),
            ("hold", floor.hold, MS, 7 * day, "1ms to 7d"),
            ("keep_absent", self.keep_absent.unwrap_or(day), SECOND, day, "1s to 24h, or off"),
        ];
        for (name, value, min, max, range) in times {
            if value < min || value > max {
                return Err(SettingsError { name, value: format!("{value:?}"), range });
            }
        }
        if !(1..=99).contains(&percent) {
            let (name, range) = ("removed_percent_max", "1 to 99");
            return Err(SettingsError { name, value: percent.to_string(), range });
        }
        Ok(())
    }
}

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_its_range_is_named() {
        let floor = |removed_percent_max, hold| SourceSettings {
            floor: Some(Floor { removed_percent_max, hold }),
            ..SourceSettings::default()
        };
        let stale = |max| SourceSettings { max_stale: Some(max), ..SourceSettings::default() };
        let name = |settings: SourceSettings| settings.validate().err().map(|error| error.name);
        assert_eq!(name(floor(1, MS)), None);
        assert_eq!(name(floor(0, SECOND)), Some("removed_percent_max"));
        assert_eq!(name(floor(100, SECOND)), Some("removed_percent_max"));
        assert_eq!(name(floor(50, Duration::ZERO)), Some("hold"));
        assert_eq!(name(stale(SECOND)), None);
        assert_eq!(name(stale(999 * MS)), Some("max_stale"));
        let keep = |time| SourceSettings { keep_absent: Some(time), ..SourceSettings::default() };
        let day = SECOND * 24 * 60 * 60;
        assert_eq!((name(keep(SECOND)), name(keep(day))), (None, None));
        for time in [999 * MS, day + MS] {
            assert_eq!(name(keep(time)), Some("keep_absent"));
        }
    }
}
