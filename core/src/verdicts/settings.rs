use std::time::Duration;

use crate::SettingsError;

/// How the backends of a source are checked; see [`Verdicts`](crate::Verdicts).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CheckSettings {
    /// Time from the start of one check of a backend to the start of the next, 100 ms to 1 h. Each
    /// is scaled by a factor between 0.95 and 1.05. A check that takes longer delays the next. 1 s.
    pub interval: Duration,
    /// How long a check may take, 10 ms to 1 min. The first set is also awaited for this long at
    /// most. 1 s.
    pub timeout: Duration,
    /// Passes in a row after which a failing backend passes, 1 to 100. 1.
    pub rise: u32,
    /// Answers in a row that mean no, after which a backend fails, 1 to 100. A check without an
    /// answer between them doesn't count. 1.
    pub fall: u32,
    /// Checks in a row that didn't pass, with or without an answer, after which a backend fails, 1 to
    /// 100. 3.
    pub fall_unanswered: u32,
    /// Which backends to use if none passes. [`WhenNone::Empty`].
    pub when_none: WhenNone,
    /// Checks under way at one time, 1 to 65,536. 256.
    pub checks_max: usize,
    /// Spreads the checks over the interval. Give each of many balancers another. 0.
    pub seed: u64,
}

/// Which backends are used if none passes its check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenNone {
    /// None: the set is empty on purpose. This is for checks of a role, such as "is the primary":
    /// without a primary nobody may be written to.
    #[default]
    Empty,
    /// All that the source names: that none of them passes is probably our own fault.
    ///
    /// Once one passes again, the others stay for [`CheckSettings::interval`] and
    /// [`CheckSettings::timeout`], or until all pass, so that each can be checked before it is
    /// removed. And a backend that doesn't answer fails only if another has passed since it last did;
    /// otherwise an outage on this side would remove one after the other, down to the last.
    All,
}

impl Default for CheckSettings {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            fall_unanswered: 3,
            when_none: WhenNone::Empty,
            checks_max: 256,
            seed: 0,
        }
    }
}

impl CheckSettings {
    /// Checks every range.
    ///
    /// # Errors
    /// The first setting, in the order of declaration, that is out of its range.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let ms = Duration::from_millis;
        let times = [
            ("interval", self.interval, ms(100), ms(3_600_000), "100ms to 1h"),
            ("timeout", self.timeout, ms(10), ms(60_000), "10ms to 1m"),
        ];
        for (name, value, min, max, range) in times {
            if value < min || value > max {
                return Err(SettingsError { name, value: format!("{value:?}"), range });
            }
        }
        let counts = [
            ("rise", self.rise as usize, 100, "1 to 100"),
            ("fall", self.fall as usize, 100, "1 to 100"),
            ("fall_unanswered", self.fall_unanswered as usize, 100, "1 to 100"),
            ("checks_max", self.checks_max, 65_536, "1 to 65536"),
        ];
        for (name, value, max, range) in counts {
            if !(1..=max).contains(&value) {
                return Err(SettingsError { name, value: value.to_string(), range });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_its_range_is_named() {
        assert_eq!(CheckSettings::default().validate(), Ok(()));
        let named = |change: &dyn Fn(&mut CheckSettings)| {
            let mut settings = CheckSettings::default();
            change(&mut settings);
            settings.validate().err().map(|error| error.name)
        };
        for (ms, name) in
            [(99, Some("interval")), (100, None), (3_600_000, None), (3_600_001, Some("interval"))]
        {
            assert_eq!(named(&|it| it.interval = Duration::from_millis(ms)), name);
        }
        for (ms, name) in
            [(9, Some("timeout")), (10, None), (60_000, None), (60_001, Some("timeout"))]
        {
            assert_eq!(named(&|it| it.timeout = Duration::from_millis(ms)), name);
        }
        for (count, is_bad) in [(0, true), (1, false), (100, false), (101, true)] {
            let bad = |name| is_bad.then_some(name);
            assert_eq!(named(&|it| it.rise = count), bad("rise"));
            assert_eq!(named(&|it| it.fall = count), bad("fall"));
            assert_eq!(named(&|it| it.fall_unanswered = count), bad("fall_unanswered"));
        }
        for (count, is_bad) in [(0, true), (1, false), (65_536, false), (65_537, true)] {
            assert_eq!(named(&|it| it.checks_max = count), is_bad.then_some("checks_max"));
        }
    }
}
