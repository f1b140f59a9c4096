use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tinylb_core::{EmptySet, Removal, SettingsError};
use tinylb_tokio::Address;
use toml::de::DeValue;

use super::{
    ServiceConfig,
    reader::{Reader, Value},
    values::{count, kind, list, switch, text, time, time_or_off},
};

/// A setting of a service: its key, what is written there, and where it goes. Ranges are checked
/// by [`ServiceConfig::check_ranges`].
pub(super) struct Field {
    name: &'static str,
    set: Set,
}

enum Set {
    Time(fn(&mut ServiceConfig, Duration)),
    TimeOrOff(fn(&mut ServiceConfig, Option<Duration>)),
    Count(fn(&mut ServiceConfig, usize)),
    Switch(fn(&mut ServiceConfig, bool)),
    Empty(fn(&mut ServiceConfig, EmptySet)),
    Removal(fn(&mut ServiceConfig, Removal)),
    Addresses(fn(&mut ServiceConfig, Vec<IpAddr>)),
}

/// Every setting. A new one is a line here.
const FIELDS: &[Field] = &[
    field("dial_timeout", Set::Time(|s, time| s.settings.dial_timeout = time)),
    field("dial_patience", Set::TimeOrOff(|s, time| s.settings.dial_patience = time)),
    field("dial_attempts_max", Set::Count(|s, n| s.settings.dial_attempts_max = n)),
    field("dial_time_max", Set::Time(|s, time| s.settings.dial_time_max = time)),
    field("ejection", Set::Switch(|s, on| s.settings.ejection = on)),
    field("probe_interval_min", Set::Time(|s, time| s.settings.probe_interval_min = time)),
    field("probe_interval_max", Set::Time(|s, time| s.settings.probe_interval_max = time)),
    field("probes_max", Set::Count(|s, n| s.settings.probes_max = n)),
    field("cut_silent", Set::TimeOrOff(|s, time| s.settings.cut_silent = time)),
    field("empty", Set::Empty(|s, empty| s.settings.empty = empty)),
    field("waiting_max", Set::Count(|s, n| s.settings.waiting_max = n)),
    field("waiting_timeout", Set::Time(|s, time| s.settings.waiting_timeout = time)),
    field("half_close_timeout", Set::TimeOrOff(|s, time| s.settings.half_close_timeout = time)),
    field("idle_timeout", Set::TimeOrOff(|s, time| s.settings.idle_timeout = time)),
    field("delivery_timeout", Set::Time(|s, time| s.settings.delivery_timeout = time)),
    field(
        "max_connections",
        Set::Count(|s, n| {
            s.settings.max_connections = n;
            s.max_connections = Some(n);
        }),
    ),
    field("removal", Set::Removal(|s, removal| s.settings.removal = removal)),
    field("backends_max", Set::Count(|s, n| s.settings.backends_max = n)),
    field(
        "start",
        Set::Count(|s, n| {
            s.settings.start = n as u64;
            s.start = Some(n as u64);
        }),
    ),
    field(
        "seed",
        Set::Count(|s, n| {
            s.settings.seed = n as u64;
            s.seed = Some(n as u64);
        }),
    ),
    field("peer_timeout", Set::TimeOrOff(|s, time| s.peer_timeout = time)),
    field("dial_from", Set::Addresses(|s, addresses| s.dial_from = addresses)),
    field("shutdown_timeout", Set::Time(|s, time| s.shutdown_timeout = time)),
];

const fn field(name: &'static str, set: Set) -> Field {
    Field { name, set }
}

/// Every key of a service.
pub(super) fn known() -> Vec<&'static str> {
    ["listen", "backends", "source", "check"]
        .into_iter()
        .chain(FIELDS.iter().map(|field| field.name))
        .collect()
}

pub(super) fn is_known(key: &str) -> bool {
    known().contains(&key)
}

/// The known key that an earlier version had under this name.
pub(super) fn renamed(key: &str) -> Option<&'static str> {
    (key == "tcp_user_timeout").then_some("peer_timeout")
}

/// The setting of this name.
pub(super) fn find(key: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.name == key)
}

impl Field {
    /// Takes the setting over into the service if it is good.
    pub(super) fn read(
        &self,
        reader: &mut Reader<'_>,
        value: &Value<'_>,
        service: &mut ServiceConfig,
    ) {
        let mut changed = service.clone();
        // What is blamed if the range is wrong.
        let mut blamed = value;
        let name = self.name;
        let result = match self.set {
            Set::Time(set) => time(value, "").map(|time| set(&mut changed, time)),
            Set::TimeOrOff(set) => time_or_off(value).map(|time| set(&mut changed, time)),
            Set::Count(set) => count(value).map(|count| set(&mut changed, count)),
            Set::Switch(set) => switch(value).map(|on| set(&mut changed, on)),
            Set::Empty(set) => empty(value).map(|empty| set(&mut changed, empty)),
            Set::Addresses(set) => list(value, own_address).map(|all| set(&mut changed, all)),
            Set::Removal(set) => {
                match removal(reader, value) {
                    Some((removal, place)) => {
                        blamed = place;
                        set(&mut changed, removal);
                    }
                    None => return,
                }
                Ok(())
            }
        };
        match result {
            Err(cause) => reader.wrong(value, format!("`{name}` {cause}")),
            Ok(()) => match self.check_range(&changed) {
                Ok(()) => *service = changed,
                Err(error) => reader.wrong(blamed, error.to_string()),
            },
        }
    }

    /// Checks the range of this setting. Two settings limit each other: each of them is read as if the
    /// other one allowed everything, and they are compared once both have been read.
    fn check_range(&self, changed: &ServiceConfig) -> Result<(), SettingsError> {
        let mut alone = changed.clone();
        if self.name != "probe_interval_min" {
            alone.settings.probe_interval_min = Duration::from_millis(10);
        }
        if self.name != "probe_interval_max" {
            alone.settings.probe_interval_max = Duration::from_secs(60 * 60);
        }
        alone.check_ranges()
    }
}

/// What becomes of clients while the set is empty.
fn empty(value: &Value<'_>) -> Result<EmptySet, String> {
    match text(value)? {
        "reset" => Ok(EmptySet::Reset),
        "wait" => Ok(EmptySet::Wait),
        other => Err(format!("is \"{other}\": write \"reset\" or \"wait\"")),
    }
}

/// Reads an address of this machine, as far as its text shows.
fn own_address(value: &Value<'_>) -> Result<IpAddr, String> {
    let text = text(value)?;
    let ip: IpAddr = text.parse().map_err(|_| {
        format!("has \"{text}\": write an IP address of this machine, such as \"10.0.0.5\"")
    })?;
    // With any port: an address that can't be dialled can't be a source address either.
    Address::from(SocketAddr::new(ip, 1)).validate_target(&[]).map_err(|_| {
        format!("has \"{text}\", which is not the address of a machine: give one of this machine")
    })?;
    Ok(ip.to_canonical())
}

/// What is written and where its time stands, if it has one.
fn removal<'v, 'i>(
    reader: &mut Reader<'_>,
    value: &'v Value<'i>,
) -> Option<(Removal, &'v Value<'i>)> {
    let wanted = "write \"abort\" or { drain = \"30s\" }";
    let DeValue::Table(table) = value.get_ref() else {
        if value.get_ref().as_str() == Some("abort") {
            return Some((Removal::Abort, value));
        }
        let given = match value.get_ref().as_str() {
            Some(text) => format!("\"{text}\""),
            None => kind(value.get_ref()).into(),
        };
        reader.wrong(value, format!("`removal` is {given}: {wanted}"));
        return None;
    };
    let mut misspelt = false;
    for key in table.keys().filter(|key| key.get_ref() != "drain") {
        misspelt |= reader.unknown(key, "in `removal`", &["drain"]).is_some();
    }
    let Some(place) = table.get("drain") else {
        if !misspelt {
            reader.missing(value.span().start, format!("`removal` has no `drain`: {wanted}"));
        }
        return None;
    };
    match time(place, "") {
        Ok(time) => Some((Removal::Drain(time), place)),
        Err(cause) => {
            reader.wrong(place, format!("`drain` {cause}"));
            None
        }
    }
}
