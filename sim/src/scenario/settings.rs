//! Settings of the balancer that change during a run.

use super::{
    CONFIG_FIELDS, Config, ConfigField, Operation,
    generate::{Draft, weighted},
};
use crate::Entropy;

/// A setting that a step can change. Its range is that of the [`Config`]'s number of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// [`Config::connections`].
    Connections,
    /// [`Config::dial_attempts`].
    DialAttempts,
    /// [`Config::dial_timeout`].
    DialTimeout,
    /// [`Config::dial_time`].
    DialTime,
    /// [`Config::patience`].
    Patience,
    /// [`Config::waiting`].
    Waiting,
    /// [`Config::waiting_timeout`].
    WaitingTimeout,
    /// [`Config::half_close_timeout`].
    HalfCloseTimeout,
    /// [`Config::idle_timeout`].
    IdleTimeout,
    /// [`Config::delivery_timeout`].
    DeliveryTimeout,
    /// [`Config::probe_min`]. More than [`Config::probe_max`] counts as that.
    ProbeMin,
    /// [`Config::probes`].
    Probes,
    /// [`Config::cut_silent`].
    CutSilent,
}

impl Setting {
    /// Every one, in the order of declaration.
    pub const ALL: [Self; 13] = [
        Self::Connections,
        Self::DialAttempts,
        Self::DialTimeout,
        Self::DialTime,
        Self::Patience,
        Self::Waiting,
        Self::WaitingTimeout,
        Self::HalfCloseTimeout,
        Self::IdleTimeout,
        Self::DeliveryTimeout,
        Self::ProbeMin,
        Self::Probes,
        Self::CutSilent,
    ];

    /// Its name in a scenario's text.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::DialAttempts => "dial-attempts",
            Self::DialTimeout => "dial-timeout",
            Self::DialTime => "dial-time",
            Self::Patience => "patience",
            Self::Waiting => "waiting",
            Self::WaitingTimeout => "waiting-timeout",
            Self::HalfCloseTimeout => "half-close-timeout",
            Self::IdleTimeout => "idle-timeout",
            Self::DeliveryTimeout => "delivery-timeout",
            Self::ProbeMin => "probe-min",
            Self::Probes => "probes",
            Self::CutSilent => "cut-silent",
        }
    }

    /// The configuration's number that says what it is in the beginning.
    pub fn field(self) -> &'static ConfigField {
        let field = CONFIG_FIELDS.iter().find(|field| field.name == self.name());
        field.expect("each setting is a number of the configuration")
    }
}

impl Config {
    /// Changes one setting.
    pub(crate) fn set(&mut self, setting: Setting, value: u32) {
        // So that the longest pause between two probes stays what it is.
        self.probe_max = self.probe_max.max(self.probe_min);
        let most = if setting == Setting::ProbeMin { self.probe_max } else { u32::MAX };
        *(setting.field().of)(self) = value.min(most);
    }

    /// Has each setting be what it is in another configuration.
    pub(crate) fn set_all(&mut self, of: &Self) {
        let mut of = of.clone();
        for setting in Setting::ALL {
            let value = *(setting.field().of)(&mut of);
            if *(setting.field().of)(self) != value {
                self.set(setting, value);
            }
        }
    }

    /// Has the limits of clients' waits and dials be the longest of its own and these.
    pub(crate) fn slacken(&mut self, by: &Self) {
        self.dial_timeout = self.dial_timeout.max(by.dial_timeout);
        self.dial_time = self.dial_time.max(by.dial_time);
        self.waiting_timeout = self.waiting_timeout.max(by.waiting_timeout);
    }
}

const WEIGHTS: &[(Setting, u32)] = &[
    (Setting::Connections, 5),
    (Setting::DialAttempts, 2),
    (Setting::DialTimeout, 2),
    (Setting::DialTime, 2),
    (Setting::Patience, 2),
    (Setting::Waiting, 1),
    (Setting::WaitingTimeout, 1),
    (Setting::HalfCloseTimeout, 1),
    (Setting::IdleTimeout, 1),
    (Setting::DeliveryTimeout, 1),
    (Setting::ProbeMin, 2),
    (Setting::Probes, 2),
    (Setting::CutSilent, 2),
];

impl<E: Entropy> Draft<'_, E> {
    /// Has settings change in some scenarios.
    pub(super) fn add_settings(&mut self) {
        if !self.entropy.chance(25) {
            return;
        }
        for _ in 0..self.entropy.between(1, 6) {
            let at = self.entropy.below(u64::from(self.config.duration)) as u32;
            let setting = weighted(WEIGHTS, self.entropy).unwrap_or(Setting::Connections);
            let value = self.value_of(setting);
            self.step(at, Operation::Set(setting, value));
            // Few clients come through for as long as there is little room.
            if setting == Setting::Connections {
                let later = (at + self.entropy.between(1, 1_500)).min(self.config.duration);
                let more = self.entropy.between(value, 100);
                self.step(later, Operation::Set(setting, more));
            }
        }
    }

    fn value_of(&mut self, setting: Setting) -> u32 {
        let off = self.entropy.chance(20);
        let (least, most) = match setting {
            Setting::Connections => (1, 30),
            Setting::DialAttempts => (1, 6),
            Setting::DialTimeout => (60, 600),
            Setting::DialTime => (100, 1_500),
            Setting::Patience if off => return 0,
            Setting::Patience => (10, 300),
            Setting::Waiting => (0, 10),
            Setting::WaitingTimeout => (50, 1_000),
            Setting::HalfCloseTimeout => (300, 1_500),
            Setting::IdleTimeout | Setting::CutSilent if off => return 0,
            Setting::IdleTimeout => (300, 1_500),
            Setting::DeliveryTimeout => (1_000, 3_000),
            Setting::ProbeMin => (10, 400),
            Setting::Probes => (1, 6),
            Setting::CutSilent => (1_000, 2_000),
        };
        self.entropy.between(least, most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_a_number_of_the_configuration_and_can_be_changed() {
        for setting in Setting::ALL {
            let (mut config, mut before) = (Config::default(), Config::default());
            let value = *(setting.field().of)(&mut before) + 1;
            config.set(setting, value);
            assert_eq!(*(setting.field().of)(&mut config), value, "{}", setting.name());
            config.set_all(&before);
            assert_eq!(config, before);
        }
    }

    #[test]
    fn the_longest_pause_between_probes_stays_what_it_is() {
        let mut config = Config { probe_min: 500, probe_max: 100, ..Config::default() };
        let longest = config.settings().probe_interval_max;
        config.set(Setting::ProbeMin, 10);
        assert_eq!(config.settings().probe_interval_max, longest);
        config.set(Setting::ProbeMin, 60_000);
        assert_eq!(config.settings().probe_interval_max, longest);
        assert_eq!(config.settings().probe_interval_min, longest);
    }
}
