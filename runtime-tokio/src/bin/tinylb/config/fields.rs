use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use tinylb_core::Removal;
use tinylb_tokio::Address;
use toml::de::DeValue;

use super::{
    Service,
    document::{Reader, Value},
    source::{list, text},
};

/// A setting of a service: its key, what is written there, and where it goes. Ranges are checked
/// by [`Service::check_ranges`].
pub(super) struct Field {
    name: &'static str,
    set: Set,
}

enum Set {
    Time(fn(&mut Service, Duration)),
    TimeOrOff(fn(&mut Service, Option<Duration>)),
    Count(fn(&mut Service, usize)),
    Removal(fn(&mut Service, Removal)),
    Addresses(fn(&mut Service, Vec<IpAddr>)),
}

/// Every setting. A new one is a line here.
const FIELDS: &[Field] = &[
    field("dial_timeout", Set::Time(|s, time| s.settings.dial_timeout = time)),
    field("dial_attempts_max", Set::Count(|s, n| s.settings.dial_attempts_max = n)),
    field("dial_time_max", Set::Time(|s, time| s.settings.dial_time_max = time)),
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
    field("peer_timeout", Set::TimeOrOff(|s, time| s.peer_timeout = time)),
    field("dial_from", Set::Addresses(|s, addresses| s.dial_from = addresses)),
    field("shutdown_timeout", Set::Time(|s, time| s.shutdown_timeout = time)),
];

const fn field(name: &'static str, set: Set) -> Field {
    Field { name, set }
}

/// Every key of a service.
pub(super) fn known() -> Vec<&'static str> {
    ["listen", "backends", "source"]
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
    pub(super) fn read(&self, reader: &mut Reader<'_>, value: &Value<'_>, service: &mut Service) {
        let mut changed = service.clone();
        // What is blamed if the range is wrong.
        let mut blamed = value;
        let name = self.name;
        let result = match self.set {
            Set::Time(set) => time(value, "").map(|time| set(&mut changed, time)),
            Set::TimeOrOff(set) => time_or_off(value).map(|time| set(&mut changed, time)),
            Set::Count(set) => count(value).map(|count| set(&mut changed, count)),
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
            Ok(()) => match changed.check_ranges() {
                Ok(()) => *service = changed,
                Err(error) => reader.wrong(blamed, error.to_string()),
            },
        }
    }
}

pub(super) fn time_or_off(value: &Value<'_>) -> Result<Option<Duration>, String> {
    match value.get_ref().as_str() {
        Some("off") => Ok(None),
        _ => time(value, ", or \"off\"").map(Some),
    }
}

pub(super) fn time(value: &Value<'_>, or: &str) -> Result<Duration, String> {
    let wanted =
        format!("write a number with its unit in quotes, such as \"3s\", \"500ms\" or \"5m\"{or}");
    let Some(text) = value.get_ref().as_str() else {
        return Err(format!("is {}: {wanted}", kind(value.get_ref())));
    };
    duration(text).map_err(|cause| format!("is \"{text}\", {cause}: {wanted}"))
}

/// Reads a length of time: whole numbers, each with `ms`, `s`, `m` (or `min`), `h` or `d`, as in
/// `1h 30m`.
///
/// # Errors
/// The problem, as the end of a sentence.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut rest = text.trim();
    let mut sum: Option<Duration> = None;
    while !rest.is_empty() {
        let (number, after) = split(rest, |c| c.is_ascii_digit());
        let (unit, after) = split(after.trim_start(), char::is_alphabetic);
        rest = after.trim_start();
        let is_number = !number.is_empty() && (!unit.is_empty() || rest.is_empty());
        let number: u64 = match number.parse() {
            Ok(number) if is_number => number,
            _ => return Err("which is not a length of time".into()),
        };
        let seconds = match unit {
            "ms" => None,
            "s" => Some(1),
            "m" | "min" => Some(60),
            "h" => Some(60 * 60),
            "d" => Some(24 * 60 * 60),
            "" if text.trim() == "0" => Some(0),
            "" => return Err("without a unit".into()),
            other => return Err(not_a_unit(number, other)),
        };
        let part = match seconds {
            None => Some(Duration::from_millis(number)),
            Some(seconds) => number.checked_mul(seconds).map(Duration::from_secs),
        };
        let so_far = sum.unwrap_or_default();
        sum = part.and_then(|part| so_far.checked_add(part));
        if sum.is_none() {
            return Err("which is too long".into());
        }
    }
    sum.ok_or("which is not a length of time".into())
}

/// Splits a text after its leading characters of this kind.
fn split(text: &str, is_one: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !is_one(c)).unwrap_or(text.len()))
}

/// Says what was probably meant.
fn not_a_unit(number: u64, unit: &str) -> String {
    let meant = match unit {
        "M" | "mins" | "minute" | "minutes" => "m",
        "S" | "sec" | "secs" | "second" | "seconds" => "s",
        "H" | "hr" | "hrs" | "hour" | "hours" => "h",
        "D" | "day" | "days" => "d",
        "MS" | "Ms" | "msec" | "millis" | "milliseconds" => "ms",
        _ => return "which is not a length of time".into(),
    };
    format!("and `{unit}` is not a unit (did you mean \"{number}{meant}\"?)")
}

pub(super) fn count(value: &Value<'_>) -> Result<usize, String> {
    let DeValue::Integer(given) = value.get_ref() else {
        return Err(format!(
            "must be a whole number without quotes; this is {}",
            kind(value.get_ref())
        ));
    };
    usize::from_str_radix(given.as_str(), given.radix())
        .map_err(|_| format!("is {given}; it must be a whole number from 0 to {}", usize::MAX))
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

/// What a value is, for people.
pub(super) fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The known key that was probably meant: the first of the nearest that are at most two slips,
/// and less than half of the key, away.
pub(super) fn nearest(given: &str, known: &[&'static str]) -> Option<&'static str> {
    let length = given.chars().count();
    known
        .iter()
        .filter(|known| length.abs_diff(known.len()) <= 2)
        .map(|known| (slips(given, known), *known))
        .filter(|(slips, _)| *slips <= 2 && 2 * slips < length)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, known)| known)
}

/// How many letters were left out, added or changed (Levenshtein's distance).
fn slips(given: &str, known: &str) -> usize {
    // For each length of the beginning of `known`, the slips from what was read of `given`.
    let mut row: Vec<usize> = (0..=known.chars().count()).collect();
    for (read, from) in given.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = read + 1;
        for (place, to) in known.chars().enumerate() {
            let changed = diagonal + usize::from(from != to);
            diagonal = row[place + 1];
            row[place + 1] = changed.min(diagonal + 1).min(row[place] + 1);
        }
    }
    row[row.len() - 1]
}
