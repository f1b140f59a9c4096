use std::time::Duration;

use tinylb_core::{
    BadEntries, CheckSettings, EmptySet, Floor, Removal, Settings, SourceSettings, WhenNone,
};

use super::plan::Manner;

/// What there is in a run. Every field is a number within bounds, see [`CONFIG_FIELDS`]; times are
/// in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Backends, each a host of its own.
    pub backends: u32,
    /// Clients that connect again and again.
    pub clients: u32,
    /// When faults stop and the set is fixed; what is left open then has to come right.
    pub duration: u32,
    /// A message's time on its way, at least.
    pub latency_min: u32,
    /// A message's time on its way, at most.
    pub latency_max: u32,
    /// Bytes that one direction of a connection holds.
    pub window: u32,
    /// Bytes that the balancer holds for one direction of a session.
    pub buffer: u32,
    /// The longest read or write, in bytes; lengths are drawn up to it.
    pub chunk_max: u32,
    /// In how many of a hundred cases a task that could go on has to wait for the others.
    pub yields: u32,
    /// The longest pause of a looping client between two connections.
    pub pause: u32,
    /// The most bytes that looping clients plan for each direction.
    pub bytes: u32,
    /// The longest pace that looping clients plan.
    pub pace: u32,
    /// How often looping clients choose each [`Manner`], relative to each other.
    pub manners: [u32; Manner::ALL.len()],
    /// Whether sets come from a source (1) or from the handle (0).
    pub source: u32,
    /// A source's [`Floor::removed_percent_max`]; 0: no floor.
    pub floor: u32,
    /// [`Floor::hold`].
    pub hold: u32,
    /// A source's [`SourceSettings::max_stale`]; 0: none.
    pub stale: u32,
    /// A source's [`SourceSettings::keep_absent`]; 0: none. With it, whatever key a step names,
    /// each place has eight keys of its own: no key goes to another place while the old one is
    /// kept.
    pub keep_absent: u32,
    /// A source's [`SourceSettings::bad_entries`]: whether they are left out (1) or not (0).
    pub leave_out: u32,
    /// Whether a source's backends are checked (1) or not (0). Where absent backends are kept, none
    /// is.
    pub check: u32,
    /// [`CheckSettings::interval`].
    pub check_interval: u32,
    /// [`CheckSettings::timeout`].
    pub check_timeout: u32,
    /// [`CheckSettings::rise`].
    pub rise: u32,
    /// [`CheckSettings::fall`].
    pub fall: u32,
    /// [`CheckSettings::fall_unanswered`].
    pub fall_unanswered: u32,
    /// [`CheckSettings::when_none`]: all backends (1), or none (0). With a floor, all.
    pub check_all: u32,
    /// [`CheckSettings::checks_max`].
    pub checks: u32,
    /// Whether a check goes on when its backend leaves (1), or is given up (0).
    pub checks_linger: u32,
    /// [`Settings::dial_timeout`].
    pub dial_timeout: u32,
    /// [`Settings::dial_patience`]; 0: none. One below 10 counts as 10.
    pub patience: u32,
    /// [`Settings::ejection`] (1 or 0).
    pub ejection: u32,
    /// [`Settings::probe_interval_min`].
    pub probe_min: u32,
    /// [`Settings::probe_interval_max`]; no less than the other.
    pub probe_max: u32,
    /// [`Settings::probes_max`].
    pub probes: u32,
    /// [`Settings::cut_silent`]; 0: none. A time below a second counts as one.
    pub cut_silent: u32,
    /// [`Settings::empty`]: whether clients wait while the set is empty (1) or not (0).
    pub empty_waits: u32,
    /// [`Settings::dial_attempts_max`].
    pub dial_attempts: u32,
    /// [`Settings::dial_time_max`].
    pub dial_time: u32,
    /// [`Settings::waiting_max`].
    pub waiting: u32,
    /// [`Settings::waiting_timeout`].
    pub waiting_timeout: u32,
    /// [`Settings::half_close_timeout`]; 0: none.
    pub half_close_timeout: u32,
    /// [`Settings::idle_timeout`]; 0: none.
    pub idle_timeout: u32,
    /// [`Settings::delivery_timeout`].
    pub delivery_timeout: u32,
    /// [`Settings::max_connections`].
    pub connections: u32,
    /// [`Settings::removal`]: the time to drain; 0: abort.
    pub drain: u32,
    /// [`Settings::start`], and [`Settings::seed`] too.
    pub start: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backends: 5,
            clients: 20,
            duration: 9_500,
            latency_min: 1,
            latency_max: 10,
            window: 64 << 10,
            buffer: 4_096,
            chunk_max: 4_000,
            yields: 0,
            pause: 700,
            bytes: 2_500,
            pace: 20,
            manners: [6, 2, 2, 1, 1, 1, 1],
            source: 0,
            floor: 0,
            hold: 500,
            stale: 0,
            keep_absent: 0,
            leave_out: 0,
            check: 0,
            check_interval: 150,
            check_timeout: 100,
            rise: 1,
            fall: 1,
            fall_unanswered: 3,
            check_all: 0,
            checks: 256,
            checks_linger: 0,
            dial_timeout: 300,
            patience: 100,
            ejection: 1,
            probe_min: 40,
            probe_max: 400,
            probes: 32,
            cut_silent: 0,
            empty_waits: 0,
            dial_attempts: 3,
            dial_time: 800,
            waiting: 64,
            waiting_timeout: 500,
            half_close_timeout: 1_000,
            idle_timeout: 0,
            delivery_timeout: 2_000,
            connections: 1_000,
            drain: 0,
            start: 0,
        }
    }
}

impl Config {
    /// The settings of the balancer.
    pub fn settings(&self) -> Settings {
        let ms = |time: u32| Duration::from_millis(u64::from(time));
        let unless_zero = |time: u32| (time > 0).then(|| ms(time));
        let mut settings = Settings::default();
        settings.dial_timeout = ms(self.dial_timeout);
        settings.dial_patience = unless_zero(self.patience).map(|time| time.max(ms(10)));
        settings.ejection = self.ejection == 1;
        settings.probe_interval_min = ms(self.probe_min);
        settings.probe_interval_max = ms(self.probe_max.max(self.probe_min));
        settings.probes_max = self.probes as usize;
        settings.cut_silent = unless_zero(self.cut_silent).map(|time| time.max(ms(1_000)));
        settings.seed = u64::from(self.start);
        settings.empty = if self.empty_waits == 1 { EmptySet::Wait } else { EmptySet::Reset };
        settings.dial_attempts_max = self.dial_attempts as usize;
        settings.dial_time_max = ms(self.dial_time);
        settings.waiting_max = self.waiting as usize;
        settings.waiting_timeout = ms(self.waiting_timeout);
        settings.half_close_timeout = unless_zero(self.half_close_timeout);
        settings.idle_timeout = unless_zero(self.idle_timeout);
        settings.delivery_timeout = ms(self.delivery_timeout);
        settings.max_connections = self.connections as usize;
        settings.removal = removal(self.drain);
        settings.start = u64::from(self.start);
        settings
    }
}

impl Config {
    /// How long a client's dials that are given up may take in all, in milliseconds.
    pub(crate) fn moves_max(&self) -> u32 {
        8 * self.dial_timeout
    }

    /// How a source is followed. A `stale` or a `keep_absent` below a second counts as one.
    pub fn source_settings(&self) -> SourceSettings {
        let ms = |time: u32| Duration::from_millis(u64::from(time));
        let mut settings = SourceSettings::default();
        if self.leave_out == 1 {
            settings.bad_entries = BadEntries::LeaveOut;
        }
        settings.max_stale = (self.stale > 0).then(|| ms(self.stale.max(1_000)));
        settings.keep_absent = (self.keep_absent > 0).then(|| ms(self.keep_absent.max(1_000)));
        let removed_percent_max = self.floor as u8;
        settings.floor =
            (self.floor > 0).then(|| Floor { removed_percent_max, hold: ms(self.hold) });
        settings
    }

    /// How a source's backends are checked, if they are.
    pub fn check_settings(&self) -> Option<CheckSettings> {
        let is_checked = self.source == 1 && self.check == 1 && self.keep_absent == 0;
        let ms = |time: u32| Duration::from_millis(u64::from(time));
        let mut settings = CheckSettings::default();
        settings.interval = ms(self.check_interval);
        settings.timeout = ms(self.check_timeout);
        (settings.rise, settings.fall) = (self.rise, self.fall);
        settings.fall_unanswered = self.fall_unanswered;
        let opens = self.check_all == 1 || self.floor > 0;
        settings.when_none = if opens { WhenNone::All } else { WhenNone::Empty };
        settings.checks_max = self.checks as usize;
        settings.seed = u64::from(self.start);
        is_checked.then_some(settings)
    }
}

/// What a time to drain stands for; 0: abort.
pub(crate) fn removal(drain: u32) -> Removal {
    match drain {
        0 => Removal::Abort,
        time => Removal::Drain(Duration::from_millis(u64::from(time))),
    }
}

/// One number of a [`Config`]: how it is written, and what it may be.
pub struct ConfigField {
    /// Its name in a scenario's text.
    pub name: &'static str,
    /// The smallest value.
    pub least: u32,
    /// The largest value.
    pub most: u32,
    /// Where it is.
    pub of: fn(&mut Config) -> &mut u32,
}

macro_rules! fields {
    ($($name:literal $least:literal $most:literal $($place:ident)+ $([$index:literal])?;)*) => {
        &[$(ConfigField {
            name: $name,
            least: $least,
            most: $most,
            of: |config| &mut config$(.$place)+$([$index])?,
        }),*]
    };
}

/// Every number of a [`Config`], in the order in which they are written.
pub const CONFIG_FIELDS: &[ConfigField] = fields! {
    "backends" 1 32 backends;
    "clients" 0 1000 clients;
    "duration" 100 600000 duration;
    "latency-min" 0 10000 latency_min;
    "latency-max" 0 10000 latency_max;
    "window" 1 1048576 window;
    "buffer" 1 1048576 buffer;
    "chunk-max" 1 65536 chunk_max;
    "yields" 0 90 yields;
    "pause" 1 60000 pause;
    "bytes" 0 1048576 bytes;
    "pace" 0 1000 pace;
    "ask" 0 100 manners [0];
    "both" 0 100 manners [1];
    "tell" 0 100 manners [2];
    "client-aborts" 0 100 manners [3];
    "backend-aborts" 0 100 manners [4];
    "stall" 0 100 manners [5];
    "idle" 0 100 manners [6];
    "source" 0 1 source;
    "floor" 0 99 floor;
    "hold" 1 60000 hold;
    "stale" 0 600000 stale;
    "keep-absent" 0 600000 keep_absent;
    "leave-out" 0 1 leave_out;
    "check" 0 1 check;
    "check-interval" 100 60000 check_interval;
    "check-timeout" 10 60000 check_timeout;
    "rise" 1 100 rise;
    "fall" 1 100 fall;
    "fall-unanswered" 1 100 fall_unanswered;
    "check-all" 0 1 check_all;
    "checks" 1 1000 checks;
    "checks-linger" 0 1 checks_linger;
    "dial-timeout" 1 60000 dial_timeout;
    "patience" 0 60000 patience;
    "ejection" 0 1 ejection;
    "probe-min" 10 60000 probe_min;
    "probe-max" 10 60000 probe_max;
    "probes" 1 1000 probes;
    "cut-silent" 0 60000 cut_silent;
    "empty-waits" 0 1 empty_waits;
    "dial-attempts" 1 16 dial_attempts;
    "dial-time" 1 60000 dial_time;
    "waiting" 0 1000 waiting;
    "waiting-timeout" 1 60000 waiting_timeout;
    "half-close-timeout" 0 60000 half_close_timeout;
    "idle-timeout" 0 60000 idle_timeout;
    "delivery-timeout" 1 60000 delivery_timeout;
    "connections" 1 1000000 connections;
    "drain" 0 60000 drain;
    "start" 0 1000 start;
};
