//! The format of log lines.

use std::{error::Error, fmt};

use serde_json::Value;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::Writer,
        time::{FormatTime, SystemTime},
    },
    registry::LookupSpan,
};

/// The most keys that one line names.
const KEYS_MAX: usize = 10;

/// The first few of many keys or addresses, and how many more there are: a list in JSON, and text
/// for people.
///
/// `tracing` has no lists. This is passed as an error, because an error is the only kind of field
/// that keeps its type on the way to the line.
#[derive(Debug)]
pub(crate) struct Keys {
    named: Vec<String>,
    more: usize,
}

impl Keys {
    pub(crate) fn new(keys: &[impl ToString]) -> Self {
        let named: Vec<_> = keys.iter().take(KEYS_MAX).map(ToString::to_string).collect();
        let more = keys.len() - named.len();
        Self { named, more }
    }

    /// The keys as the value of a field.
    pub(crate) fn field(&self) -> &(dyn Error + 'static) {
        self
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = self.named.join(", ");
        match self.more {
            0 => write!(f, "[{named}]"),
            more => write!(f, "[{named}, and {more} more]"),
        }
    }
}

impl Error for Keys {}

/// Lines of JSON: time, level, and the fields in order.
pub(crate) struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = JsonLine::begin(*event.metadata().level())?;
        event.record(&mut line);
        writer.write_str(&line.end())
    }
}

/// A log line without an event.
pub(crate) fn json_line(level: Level, message: &str) -> String {
    let Ok(mut line) = JsonLine::begin(level) else { return String::new() };
    line.add("message", message.into());
    line.end()
}

struct JsonLine(String);

impl JsonLine {
    fn begin(level: Level) -> Result<Self, fmt::Error> {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut line = Self(String::from("{"));
        line.add("timestamp", time.into());
        line.add("level", level.as_str().into());
        Ok(line)
    }

    fn add(&mut self, name: &str, value: Value) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("{}:{value}", Value::from(name)));
    }

    fn end(mut self) -> String {
        self.0.push_str("}\n");
        self.0
    }
}

impl Visit for JsonLine {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field.name(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field.name(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field.name(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field.name(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field.name(), value.into());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        match value.downcast_ref::<Keys>() {
            Some(Keys { named, more }) => {
                self.add(field.name(), named.clone().into());
                if *more > 0 {
                    self.add(&format!("{}_more", field.name()), (*more).into());
                }
            }
            None => self.add(field.name(), value.to_string().into()),
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field.name(), format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use tinylb_core::BackendKey;

    use super::*;

    #[test]
    fn a_line_names_a_few_keys_and_counts_the_rest() {
        let many: Vec<BackendKey> = (0..12).map(|n| format!("k{n}").into()).collect();
        assert_eq!(Keys::new(&many[..0]).to_string(), "[]");
        assert_eq!(Keys::new(&many[..2]).to_string(), "[k0, k1]");
        assert!(Keys::new(&many).to_string().ends_with(", k9, and 2 more]"));
        assert_eq!(Keys::new(&many).named.len(), KEYS_MAX);
    }

    #[test]
    fn a_line_is_json_whatever_it_says() {
        let line = json_line(Level::ERROR, "\"quoted\"\n\u{1b}é");
        assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
        let value: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(value["message"], "\"quoted\"\n\u{1b}é");
        assert_eq!(value["level"], "ERROR");
    }
}
