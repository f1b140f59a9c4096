use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use tinylb_core::{BackendSet, BadEntries, Floor, SourceSettings};
use tinylb_tokio::{Address, DnsFamily, DnsName, DnsOptions};
use toml::de::DeValue;

use super::{
    etcd::Etcd,
    reader::{Key, Reader, Value},
    values::{count, kind, list, text, time, time_or_off},
};

/// Where a service's backends come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Backends {
    /// In the configuration itself; perhaps none, on purpose.
    Given(BackendSet<Address>),
    /// Elsewhere: they are looked up again and again.
    Followed(Box<Followed>),
}

/// Where backends are looked up.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Followed {
    pub(crate) place: Place,
    pub(crate) settings: SourceSettings,
    /// The file that keeps the last set for the next start.
    pub(crate) last_known: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Place {
    Dns(DnsName, DnsOptions),
    Etcd(Etcd),
    File(PathBuf),
}

impl Place {
    /// Whether this text once displayed the same place.
    pub(crate) fn was(&self, text: &str) -> bool {
        match self {
            Self::Etcd(etcd) => text.strip_prefix("etcd ").is_some_and(|text| etcd.was(text)),
            place => place.to_string() == text,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name, _) => write!(f, "dns {name}"),
            Self::Etcd(etcd) => write!(f, "etcd {etcd}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// Every key of a source. One of [`PLACES`] names its place.
const KEYS: [&str; 13] = [
    "dns",
    "etcd",
    "file",
    "servers",
    "family",
    "refresh_min",
    "refresh_max",
    "timeout",
    "bad_entries",
    "max_stale",
    "floor",
    "keep_absent",
    "last_known",
];

const PLACES: [&str; 3] = ["dns", "etcd", "file"];

/// The keys that only `dns` has.
const DNS_KEYS: [&str; 5] = ["servers", "family", "refresh_min", "refresh_max", "timeout"];

const PLACE_REMEDY: &str = "write for example { dns = \"db.example.org:5432\" }, \
    { file = \"backends.toml\" } or { etcd = { endpoints = [\"http://10.0.0.1:2379\"], \
    prefix = \"/lb/web/\" } }";

impl Followed {
    /// A source with the default settings.
    pub(crate) fn new(place: Place) -> Self {
        Self { place, settings: SourceSettings::default(), last_known: None }
    }

    /// Makes paths relative to where the configuration is, and reads what it needs of them.
    ///
    /// # Errors
    /// A file that is needed from the start can't be read.
    pub(super) fn resolve_paths(&mut self, directory: &Path) -> Result<(), (PathBuf, io::Error)> {
        if let Some(path) = &mut self.last_known {
            *path = directory.join(&*path);
        }
        match &mut self.place {
            Place::Dns(..) => {}
            Place::Etcd(etcd) => etcd.resolve_paths(directory)?,
            Place::File(path) => *path = directory.join(&*path),
        }
        Ok(())
    }
}

/// What is read of a source, key by key.
#[derive(Default)]
struct Draft {
    dns: Option<DnsName>,
    etcd: Option<Etcd>,
    file: Option<PathBuf>,
    options: DnsOptions,
    settings: SourceSettings,
    last_known: Option<PathBuf>,
    /// One of the keys was most likely meant to be another one.
    is_misspelt: bool,
}

impl Reader<'_> {
    pub(super) fn source(&mut self, at: &Key<'_>, value: &Value<'_>) -> Option<Backends> {
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind(value.get_ref());
            self.wrong(value, format!("`source` must be a table; this is {kind}: {PLACE_REMEDY}"));
            return None;
        };
        let mut draft = Draft::default();
        for (key, value) in table.iter() {
            let read = self.source_key(key, value, &mut draft);
            let checked = read.and_then(|()| {
                draft.settings.validate().map_err(|error| {
                    // So that the next key isn't blamed for it.
                    draft.settings = SourceSettings::default();
                    error.to_string()
                })
            });
            if let Err(message) = checked {
                self.wrong(value, message);
            }
        }
        let places = PLACES.iter().filter(|place| table.contains_key(**place)).count();
        if places > 1 {
            self.wrong(value, "`source` has several places: keep one of `dns`, `etcd` and `file`");
        } else if places == 1 && !table.contains_key("dns") {
            for (key, _) in table.iter().filter(|(key, _)| DNS_KEYS.contains(&&**key.get_ref())) {
                self.wrong(key, format!("`{}` is for `dns`: remove it", key.get_ref()));
            }
        }
        let Draft { dns, etcd, file, mut options, settings, last_known, is_misspelt } = draft;
        if options.refresh_min > options.refresh_max {
            let message = "`refresh_min` is above `refresh_max`: raise the one or lower the other";
            self.wrong(at, message);
        }
        let place = match (dns, etcd, file) {
            (Some(name), ..) => {
                // A part of an answer becomes stale like the whole.
                options.max_stale = settings.max_stale;
                Place::Dns(name, options)
            }
            (_, Some(etcd), _) => Place::Etcd(etcd),
            (.., Some(path)) => Place::File(path),
            (None, None, None) => {
                if places == 0 && !is_misspelt {
                    let at = value.span().start;
                    self.missing(at, format!("`source` has no place: {PLACE_REMEDY}"));
                }
                return None;
            }
        };
        if matches!(&place, Place::File(path) if Some(path) == last_known.as_ref()) {
            self.wrong(value, "`last_known` is the source itself: give another file");
        }
        Some(Backends::Followed(Box::new(Followed { place, settings, last_known })))
    }

    /// Reads one key of a source, or returns what is wrong with it.
    fn source_key(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        draft: &mut Draft,
    ) -> Result<(), String> {
        let name: &str = key.get_ref();
        let read = match name {
            "dns" => text(value)
                .and_then(|text| {
                    text.parse().map_err(|error| format!("isn't a valid name: {error}"))
                })
                .map(|name| draft.dns = Some(name)),
            "file" => text(value).map(|path| draft.file = Some(path.into())),
            "servers" => servers(value).map(|servers| draft.options.servers = servers),
            "family" => family(value).map(|family| draft.options.family = family),
            "refresh_min" => refresh(value).map(|time| draft.options.refresh_min = time),
            "refresh_max" => refresh(value).map(|time| draft.options.refresh_max = time),
            "timeout" => timeout(value).map(|time| draft.options.timeout = time),
            "bad_entries" => bad_entries(value).map(|entries| draft.settings.bad_entries = entries),
            "max_stale" => time_or_off(value).map(|time| draft.settings.max_stale = time),
            "keep_absent" => time_or_off(value).map(|time| draft.settings.keep_absent = time),
            "last_known" => text(value).map(|path| draft.last_known = Some(path.into())),
            // These report themselves what is wrong.
            "etcd" => {
                draft.etcd = self.etcd(value);
                Ok(())
            }
            "floor" => {
                draft.settings.floor = self.floor(value);
                Ok(())
            }
            _ => {
                draft.is_misspelt |= self.unknown(key, "in `source`", &KEYS).is_some();
                Ok(())
            }
        };
        read.map_err(|cause| format!("`{name}` {cause}"))
    }

    fn floor(&mut self, value: &Value<'_>) -> Option<Floor> {
        let remedy = "write { removed_percent_max = 50, hold = \"5m\" }";
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind(value.get_ref());
            self.wrong(value, format!("`floor` must be a table; this is {kind}: {remedy}"));
            return None;
        };
        let (mut percent, mut hold) = (None, None);
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let read = match name {
                "removed_percent_max" => count(value).map(|n| percent = Some(n)),
                "hold" => time(value, "").map(|time| hold = Some(time)),
                _ => {
                    self.unknown(key, "in `floor`", &["removed_percent_max", "hold"]);
                    Ok(())
                }
            };
            if let Err(cause) = read {
                self.wrong(value, format!("`{name}` {cause}"));
            }
        }
        for key in ["removed_percent_max", "hold"] {
            if !table.contains_key(key) {
                self.missing(value.span().start, format!("`floor` has no `{key}`: {remedy}"));
            }
        }
        // A number that doesn't fit is out of range as well.
        let removed_percent_max = u8::try_from(percent?).unwrap_or(u8::MAX);
        Some(Floor { removed_percent_max, hold: hold? })
    }
}

fn refresh(value: &Value<'_>) -> Result<Duration, String> {
    within(value, Duration::from_millis(100), Duration::from_secs(24 * 60 * 60), "100ms to 24h")
}

fn timeout(value: &Value<'_>) -> Result<Duration, String> {
    within(value, Duration::from_millis(10), Duration::from_secs(60), "10ms to 1m")
}

fn within(
    value: &Value<'_>,
    min: Duration,
    max: Duration,
    range: &str,
) -> Result<Duration, String> {
    match time(value, "")? {
        time if (min..=max).contains(&time) => Ok(time),
        time => Err(format!("is {time:?}; it must be {range}")),
    }
}

fn bad_entries(value: &Value<'_>) -> Result<BadEntries, String> {
    match text(value)? {
        "reject" => Ok(BadEntries::Reject),
        "leave_out" => Ok(BadEntries::LeaveOut),
        other => Err(format!("is \"{other}\": write \"reject\" or \"leave_out\"")),
    }
}

fn family(value: &Value<'_>) -> Result<DnsFamily, String> {
    match text(value)? {
        "both" => Ok(DnsFamily::Both),
        "ipv4" => Ok(DnsFamily::Ipv4),
        "ipv6" => Ok(DnsFamily::Ipv6),
        other => Err(format!("is \"{other}\": write \"ipv4\", \"ipv6\" or \"both\"")),
    }
}

fn servers(value: &Value<'_>) -> Result<Vec<SocketAddr>, String> {
    list(value, |value| {
        let text = text(value)?;
        let with_port = |ip: IpAddr| SocketAddr::new(ip, 53);
        text.parse().or_else(|_| text.parse().map(with_port)).map_err(|_| {
            format!(
                "has \"{text}\": write a server's IP address, such as \"10.0.0.2\" or \"[::1]:53\""
            )
        })
    })
}
