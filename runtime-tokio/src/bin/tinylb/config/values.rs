//! Reads single values of a file. An error is the end of a sentence that begins with the key.

use std::time::Duration;

use toml::de::DeValue;

use super::reader::Value;

pub(super) fn text<'v>(value: &'v Value<'_>) -> Result<&'v str, String> {
    match value.get_ref().as_str() {
        Some("") => Err("is empty: give one, or leave it out".into()),
        Some(text) => Ok(text),
        None => Err(format!("must be a string; this is {}", kind(value.get_ref()))),
    }
}

/// One value, or a list of at least one.
pub(super) fn list<T>(
    value: &Value<'_>,
    read: impl Fn(&Value<'_>) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    match value.get_ref() {
        DeValue::Array(array) if array.is_empty() => Err("is empty: give at least one".into()),
        DeValue::Array(array) => array.iter().map(read).collect(),
        _ => Ok(vec![read(value)?]),
    }
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

pub(super) fn switch(value: &Value<'_>) -> Result<bool, String> {
    let is_on = value.get_ref().as_bool();
    is_on.ok_or_else(|| format!("must be true or false; this is {}", kind(value.get_ref())))
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

/// The end of a sentence, with the unit that was probably meant.
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
