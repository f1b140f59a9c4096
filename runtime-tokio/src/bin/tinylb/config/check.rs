use std::{net::IpAddr, num::NonZeroU16, ops::RangeInclusive, time::Duration};

use clap::Args;
use tinylb_core::{CheckSettings, WhenNone};
use tinylb_tokio::{Address, Checker, HttpCheck, HttpCheckError, TcpCheck};
use toml::de::DeValue;

use super::{
    Backends,
    reader::{Reader, Value},
    values::{count, duration, kind, list, switch, text, time},
};

/// How the backends of a service are checked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct CheckConfig {
    pub(crate) question: Question,
    /// Where backends are asked, if not at their own ports.
    pub(crate) port: Option<NonZeroU16>,
    /// The core's settings. The program sets `checks_max` and `seed`.
    pub(crate) settings: CheckSettings,
    /// The connections that are kept from one check to the next, at most. The program sets it.
    pub(crate) connections_max: usize,
}

/// What a backend is asked.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    /// A page, and which statuses pass.
    Http { path: String, host: Option<String>, statuses: Vec<RangeInclusive<u16>> },
    /// Whether it accepts connections.
    Tcp,
}

impl Question {
    /// The page at a path, which has to be there.
    fn page(path: String) -> Self {
        Self::Http { path, host: None, statuses: vec![200..=200] }
    }

    /// What becomes of the set if no backend passes, unless that is configured. An answer that means no
    /// is evidence, and nobody may pass for a primary without one. If no backend accepts connections, the
    /// fault is most likely on this side.
    fn when_none(&self) -> WhenNone {
        match self {
            Self::Http { .. } => WhenNone::Empty,
            Self::Tcp => WhenNone::All,
        }
    }
}

impl CheckConfig {
    /// Whether connections are kept from one check to the next.
    pub(crate) fn keeps_connections(&self) -> bool {
        matches!(self.question, Question::Http { .. })
    }

    /// A check over TCP.
    #[cfg(test)]
    pub(crate) fn tcp(settings: CheckSettings) -> Self {
        Self { question: Question::Tcp, port: None, settings, connections_max: 0 }
    }

    /// What asks the backends, from these addresses of this machine.
    ///
    /// # Errors
    /// A part of the question is none of HTTP, with a remedy.
    pub(crate) fn checker(&self, dial_from: &[IpAddr]) -> Result<Box<dyn Checker>, HttpCheckError> {
        let dial_from = dial_from.to_vec();
        Ok(match &self.question {
            Question::Http { path, host, statuses } => {
                let mut check = HttpCheck::new(path)?
                    .with_status(statuses.iter().cloned())?
                    .with_connections_max(self.connections_max)
                    .with_dial_from(dial_from);
                if let Some(host) = host {
                    check = check.with_host(host)?;
                }
                Box::new(match self.port {
                    Some(port) => check.with_port(port),
                    None => check,
                })
            }
            Question::Tcp => {
                let check = TcpCheck::new().with_dial_from(dial_from);
                Box::new(match self.port {
                    Some(port) => check.with_port(port),
                    None => check,
                })
            }
        })
    }
}

/// Every key of a check.
const KEYS: [&str; 11] = [
    "http",
    "tcp",
    "port",
    "host",
    "status",
    "interval",
    "timeout",
    "rise",
    "fall",
    "fall_unanswered",
    "when_none",
];

/// The keys that only `http` has.
const HTTP_KEYS: [&str; 2] = ["host", "status"];

const REMEDY: &str = "write for example { http = \"/primary\", port = 8008 } or { tcp = true }";

/// What is read of a check, key by key.
#[derive(Default)]
struct Draft {
    http: Option<String>,
    tcp: bool,
    port: Option<NonZeroU16>,
    host: Option<String>,
    statuses: Option<Vec<RangeInclusive<u16>>>,
    settings: CheckSettings,
    when_none: Option<WhenNone>,
    /// One of the keys was most likely meant to be another one.
    is_misspelt: bool,
}

impl Reader<'_> {
    pub(super) fn check(&mut self, value: &Value<'_>) -> Option<CheckConfig> {
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind(value.get_ref());
            self.wrong(value, format!("`check` must be a table; this is {kind}: {REMEDY}"));
            return None;
        };
        let mut draft = Draft::default();
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let read = match name {
                name if KEYS.contains(&name) => draft.read(name, value),
                _ => {
                    draft.is_misspelt |= self.unknown(key, "in `check`", &KEYS).is_some();
                    Ok(())
                }
            };
            if let Err(message) = read {
                self.wrong(value, message);
            }
        }
        let has = |key: &str| table.contains_key(key);
        match (has("http"), has("tcp")) {
            (true, true) => {
                self.wrong(value, "`check` has both `http` and `tcp`: keep one of them");
            }
            (false, false) if !draft.is_misspelt => {
                let message = format!("`check` has neither `http` nor `tcp`: {REMEDY}");
                self.missing(value.span().start, message);
            }
            (false, true) => {
                let for_http = |key: &&str| HTTP_KEYS.contains(key);
                for (key, _) in table.iter().filter(|(key, _)| for_http(&&**key.get_ref())) {
                    self.wrong(key, format!("`{}` is for `http`: remove it", key.get_ref()));
                }
            }
            _ => {}
        }
        draft.finish()
    }
}

impl CheckConfig {
    /// Why these backends can't be checked so, if they can't: something would keep a backend in force
    /// whose check says no, or a backend has no ports.
    pub(crate) fn misfit(&self, backends: &Backends) -> Option<String> {
        match backends {
            Backends::Given(set) => {
                let port = self.port?;
                let is_unix = |target: &Address| matches!(target, Address::Unix(_));
                let (key, _) = set.iter().find(|(_, target)| is_unix(target))?;
                Some(format!(
                    "`check` asks at port {port}, but {key} is a Unix socket, which has no ports: \
                     check it without a port, in a service of its own"
                ))
            }
            Backends::Followed(followed) if followed.settings.keep_absent.is_some() => Some(
                "`keep_absent` of the source would keep backends that no longer pass the `check`: \
                 remove one of the two"
                    .into(),
            ),
            Backends::Followed(followed) => {
                let holds = followed.settings.floor.is_some();
                (holds && self.settings.when_none == WhenNone::Empty).then(|| {
                    "`floor` of the source would keep backends that no longer pass the `check`: \
                     remove one of the two, or set when_none = \"all\""
                        .into()
                })
            }
        }
    }
}

impl Draft {
    /// Reads one key, or returns what is wrong with it.
    fn read(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        // What the checker itself knows of HTTP.
        let checked = |result: Result<HttpCheck, HttpCheckError>| {
            result.map(drop).map_err(|error| error.to_string())
        };
        let page = || HttpCheck::new("/");
        let in_key = |cause: String| format!("`{name}` {cause}");
        let read = match name {
            "http" => {
                let path = text(value).map_err(in_key)?;
                checked(HttpCheck::new(path))?;
                self.http = Some(path.into());
                Ok(())
            }
            "host" => {
                let host = text(value).map_err(in_key)?;
                checked(page().and_then(|page| page.with_host(host)))?;
                self.host = Some(host.into());
                Ok(())
            }
            "status" => {
                let statuses = list(value, status).map_err(in_key)?;
                checked(page().and_then(|page| page.with_status(statuses.clone())))?;
                self.statuses = Some(statuses);
                Ok(())
            }
            "tcp" => switch(value).and_then(|on| match on {
                true => {
                    self.tcp = true;
                    Ok(())
                }
                false => Err("is false: write tcp = true, or http = \"/PATH\" instead".into()),
            }),
            "port" => port(value).map(|port| self.port = Some(port)),
            "when_none" => when_none(value).map(|what| self.when_none = Some(what)),
            _ => return self.read_setting(name, value),
        };
        read.map_err(in_key)
    }

    fn read_setting(&mut self, name: &str, value: &Value<'_>) -> Result<(), String> {
        // A number that doesn't fit is out of range as well.
        let small = |value| count(value).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
        let mut settings = self.settings.clone();
        let read = match name {
            "interval" => time(value, "").map(|time| settings.interval = time),
            "timeout" => time(value, "").map(|time| settings.timeout = time),
            "rise" => small(value).map(|count| settings.rise = count),
            "fall" => small(value).map(|count| settings.fall = count),
            _ => small(value).map(|count| settings.fall_unanswered = count),
        };
        read.map_err(|cause| format!("`{name}` {cause}"))?;
        settings.validate().map_err(|error| error.to_string())?;
        self.settings = settings;
        Ok(())
    }

    /// The check, if there is one.
    fn finish(self) -> Option<CheckConfig> {
        let mut question = match self.http {
            Some(path) => Question::page(path),
            None if self.tcp => Question::Tcp,
            None => return None,
        };
        if let Question::Http { host, statuses, .. } = &mut question {
            *host = self.host;
            *statuses = self.statuses.unwrap_or(std::mem::take(statuses));
        }
        let mut settings = self.settings;
        settings.when_none = self.when_none.unwrap_or(question.when_none());
        Some(CheckConfig { question, port: self.port, settings, connections_max: 0 })
    }
}

fn port(value: &Value<'_>) -> Result<NonZeroU16, String> {
    let number = count(value)?;
    let port = u16::try_from(number).ok().and_then(NonZeroU16::new);
    port.ok_or_else(|| format!("is {number}; it must be 1 to 65535"))
}

fn when_none(value: &Value<'_>) -> Result<WhenNone, String> {
    match text(value)? {
        "empty" => Ok(WhenNone::Empty),
        "all" => Ok(WhenNone::All),
        other => Err(format!("is \"{other}\": write \"empty\" or \"all\"")),
    }
}

/// A number, or a range in quotes.
fn status(value: &Value<'_>) -> Result<RangeInclusive<u16>, String> {
    match value.get_ref() {
        DeValue::String(text) => statuses(text).map_err(|cause| format!("has \"{text}\", {cause}")),
        _ => {
            // What doesn't fit is no status either.
            let status = count(value).map(|status| u16::try_from(status).unwrap_or(u16::MAX))?;
            Ok(status..=status)
        }
    }
}

/// Reads `200` or `200-299`.
fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let number = |text: &str| text.trim().parse::<u16>().ok();
    let range = match text.split_once('-') {
        Some((first, last)) => number(first).zip(number(last)),
        None => number(text).map(|status| (status, status)),
    };
    match range {
        Some((first, last)) if first <= last => Ok(first..=last),
        _ => Err("which is no status: write for example 200, or \"200-299\"".into()),
    }
}

/// How the backends are checked, from arguments.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "Checks")]
pub(crate) struct CheckArgs {
    /// Use only backends that answer `GET PATH` with 200. If none does, none is used.
    #[arg(
        long = "check-http",
        id = "check_http",
        value_name = "PATH",
        conflicts_with = "config",
        conflicts_with = "check_tcp"
    )]
    http: Option<String>,
    /// Use only backends that accept connections. If none does, all are used.
    #[arg(long = "check-tcp", id = "check_tcp", conflicts_with = "config")]
    tcp: bool,
    /// Check at this port instead of the backend's own.
    #[arg(long = "check-port", id = "check_port", value_name = "PORT", conflicts_with = "config")]
    port: Option<NonZeroU16>,
    /// The Host header of `--check-http` [default: the address that is asked].
    #[arg(
        long = "check-host",
        id = "check_host",
        value_name = "HOST",
        conflicts_with = "config",
        conflicts_with = "check_tcp"
    )]
    host: Option<String>,
    /// The statuses that pass `--check-http`, such as 200,300-399 [default: 200].
    #[arg(long = "check-status", id = "check_status", value_name = "STATUS", value_delimiter = ',',
          value_parser = statuses, conflicts_with = "config", conflicts_with = "check_tcp")]
    status: Vec<RangeInclusive<u16>>,
    /// Time from one check of a backend to the next [default: 1s].
    #[arg(long = "check-interval", id = "check_interval", value_name = "TIME", value_parser = a_time,
          conflicts_with = "config")]
    interval: Option<Duration>,
    /// How long a backend may take to answer a check [default: 1s].
    #[arg(long = "check-timeout", id = "check_timeout", value_name = "TIME", value_parser = a_time,
          conflicts_with = "config")]
    timeout: Option<Duration>,
}

impl CheckArgs {
    /// The check that the arguments ask for; `None` if they ask for none.
    ///
    /// # Errors
    /// They are wrong; cause and remedy.
    pub(crate) fn read(&self) -> Result<Option<CheckConfig>, String> {
        let mut draft = Draft {
            http: self.http.clone(),
            tcp: self.tcp,
            port: self.port,
            host: self.host.clone(),
            statuses: (!self.status.is_empty()).then(|| self.status.clone()),
            ..Draft::default()
        };
        let settings = &mut draft.settings;
        settings.interval = self.interval.unwrap_or(settings.interval);
        settings.timeout = self.timeout.unwrap_or(settings.timeout);
        settings.validate().map_err(|error| format!("--check-{error}"))?;
        let Some(check) = draft.finish() else {
            return match *self == Self::default() {
                true => Ok(None),
                false => Err("`--check-…` needs something to ask: give `--check-http PATH` or \
                              `--check-tcp`"
                    .into()),
            };
        };
        check.checker(&[]).map_err(|error| error.to_string())?;
        Ok(Some(check))
    }
}

fn a_time(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|cause| format!("`{text}`, {cause}: write for example 1s"))
}

#[cfg(test)]
mod tests;
