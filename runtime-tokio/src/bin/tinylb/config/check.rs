use std::{net::IpAddr, num::NonZeroU16, ops::RangeInclusive, path::Path, time::Duration};

use clap::Args;
use tinylb_core::{CheckSettings, WhenNone};
use tinylb_tokio::{Address, Checker, HttpCheck, HttpCheckError, TcpCheck};
use toml::de::DeValue;

use super::{
    Backends, Tls,
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
    /// A page, and which statuses pass; over HTTPS if there is `tls`.
    Http {
        path: String,
        host: Option<String>,
        statuses: Vec<RangeInclusive<u16>>,
        tls: Option<Tls>,
    },
    /// Whether it accepts connections.
    Tcp,
}

impl Question {
    /// The page at a path, which has to be there.
    fn page(path: String) -> Self {
        Self::Http { path, host: None, statuses: vec![200..=200], tls: None }
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

    /// Makes the paths of a check over HTTPS relative to a directory, and reads the files.
    ///
    /// # Errors
    /// One can't be read or used: which, why, and a remedy.
    pub(super) fn read_files(&mut self, directory: &Path) -> Result<(), String> {
        match &mut self.question {
            Question::Http { tls: Some(tls), .. } => tls.read_files(directory),
            _ => Ok(()),
        }
    }

    /// What asks the backends, from these addresses of this machine.
    ///
    /// # Errors
    /// A part of the question is none of HTTP, or of TLS, with a remedy.
    pub(crate) fn checker(&self, dial_from: &[IpAddr]) -> Result<Box<dyn Checker>, String> {
        let dial_from = dial_from.to_vec();
        Ok(match &self.question {
            Question::Http { path, host, statuses, tls } => {
                let page = || {
                    let page = HttpCheck::new(path)?.with_status(statuses.iter().cloned())?;
                    match host {
                        Some(host) => page.with_host(host),
                        None => Ok(page),
                    }
                };
                let page = page().map_err(|error: HttpCheckError| error.to_string())?;
                let check =
                    page.with_connections_max(self.connections_max).with_dial_from(dial_from);
                #[cfg(feature = "tls")]
                let check = match tls {
                    Some(tls) => check.with_tls(tls.encryption()?),
                    None => check,
                };
                #[cfg(not(feature = "tls"))]
                debug_assert!(tls.is_none(), "it is refused without TLS");
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
const KEYS: [&str; 16] = [
    "http",
    "https",
    "tcp",
    "port",
    "host",
    "status",
    "ca",
    "certificate",
    "certificate_key",
    "domain",
    "interval",
    "timeout",
    "rise",
    "fall",
    "fall_unanswered",
    "when_none",
];

/// What can be asked.
const QUESTIONS: [&str; 3] = ["http", "https", "tcp"];

/// The keys that only `http` and `https` have, and those that only `https` has.
const HTTP_KEYS: [&str; 2] = ["host", "status"];
const HTTPS_KEYS: [&str; 4] = ["ca", "certificate", "certificate_key", "domain"];

const REMEDY: &str = "write for example { http = \"/primary\", port = 8008 } or { tcp = true }";

/// What is read of a check, key by key.
#[derive(Default)]
struct Draft {
    /// The path of `http` or `https`.
    http: Option<String>,
    is_encrypted: bool,
    tcp: bool,
    port: Option<NonZeroU16>,
    host: Option<String>,
    statuses: Option<Vec<RangeInclusive<u16>>>,
    tls: Tls,
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
        let given: Vec<_> = QUESTIONS.into_iter().filter(|key| table.contains_key(*key)).collect();
        match given[..] {
            [] if draft.is_misspelt => {}
            [] => {
                let message = format!("`check` has none of `http`, `https` and `tcp`: {REMEDY}");
                self.missing(value.span().start, message);
            }
            [one] => {
                for (key, _) in table.iter() {
                    let name: &str = key.get_ref();
                    if HTTP_KEYS.contains(&name) && one == "tcp" {
                        self.wrong(key, format!("`{name}` is for `http` and `https`: remove it"));
                    } else if HTTPS_KEYS.contains(&name) && one != "https" {
                        self.wrong(key, format!("`{name}` is for `https`: remove it"));
                    }
                }
            }
            [one, other, ..] => {
                self.wrong(
                    value,
                    format!("`check` has both `{one}` and `{other}`: keep one of them"),
                );
            }
        }
        if draft.is_encrypted
            && given == ["https"]
            && !draft.is_misspelt
            && let Err(message) = draft.tls.validate()
        {
            self.wrong(value, message);
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
            "http" | "https" => {
                let path = text(value).map_err(in_key)?;
                checked(HttpCheck::new(path))?;
                (self.http, self.is_encrypted) = (Some(path.into()), name == "https");
                Ok(())
            }
            "ca" => text(value).map(|path| self.tls.ca = Some(path.into())),
            "certificate" => text(value).map(|path| self.tls.certificate = Some(path.into())),
            "certificate_key" => {
                text(value).map(|path| self.tls.certificate_key = Some(path.into()))
            }
            "domain" => text(value).map(|name| self.tls.domain = Some(name.into())),
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
        if let Question::Http { host, statuses, tls, .. } = &mut question {
            *host = self.host;
            *tls = self.is_encrypted.then_some(self.tls);
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
    /// As `--check-http`, over HTTPS; needs `--check-ca`.
    #[arg(
        long = "check-https",
        id = "check_https",
        value_name = "PATH",
        conflicts_with_all = ["config", "check_tcp", "check_http"]
    )]
    https: Option<String>,
    #[command(flatten)]
    tls: Tls,
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
        if self.https.is_none() && self.tls != Tls::default() {
            let message = "`--check-ca`, `--check-certificate`, `--check-certificate-key` and \
                           `--check-domain` are for `--check-https PATH`: remove them";
            return Err(message.into());
        }
        let mut draft = Draft {
            http: self.https.clone().or(self.http.clone()),
            is_encrypted: self.https.is_some(),
            tls: self.tls.clone(),
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
        if draft.is_encrypted {
            draft.tls.validate()?;
            draft.tls.read_files(Path::new(""))?;
        }
        let Some(check) = draft.finish() else {
            return match *self == Self::default() {
                true => Ok(None),
                false => Err("`--check-…` needs something to ask: give `--check-http PATH`, \
                              `--check-https PATH` or `--check-tcp`"
                    .into()),
            };
        };
        check.checker(&[])?;
        Ok(Some(check))
    }
}

fn a_time(text: &str) -> Result<Duration, String> {
    duration(text).map_err(|cause| format!("`{text}`, {cause}: write for example 1s"))
}

#[cfg(test)]
mod tests;
