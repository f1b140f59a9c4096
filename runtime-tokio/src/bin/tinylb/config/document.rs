use std::{
    collections::{BTreeMap, btree_map::Entry},
    mem,
    path::{Component, Path},
};

use tinylb_core::{BackendSet, SetError};
use tinylb_tokio::{Address, AddressError, Host, TcpTarget};
use toml::de::{DeTable, DeValue};

use crate::circle::{Fronts, Ways};

use super::{
    Backends, Config, ServiceConfig, WORKERS_MAX, fields,
    problem::{self, Problem},
    reader::{Key, Reader, Value, nearest},
    syntax::Syntax,
    values::{count, kind},
};

/// The configuration that a text describes, or everything that is wrong with it.
pub(super) fn read(text: &str) -> Result<Config, Vec<Problem>> {
    let is_blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(is_blank) {
        let message = "the file is empty: write [services.NAME] with `listen` and `backends`";
        return Err(problem::locate(text, vec![(0, message.into())]));
    }
    let (config, reader) = Syntax::read(text, |tree, syntax| {
        let mut reader =
            Reader { text, syntax, found: Vec::new(), listens: Vec::new(), kept: Vec::new() };
        let config = Config { workers: reader.workers(tree), services: reader.root(tree) };
        reader.check_circles(tree, &config.services);
        reader.check_listens();
        reader.check_kept();
        (config, reader)
    });
    let Reader { syntax, mut found, .. } = reader;
    found.retain(|(at, _)| !syntax.is_doubtful(*at));
    found.extend(syntax.errors);
    match found.is_empty() {
        true => Ok(config),
        false => Err(problem::locate(text, found)),
    }
}

impl Reader<'_> {
    fn root(&mut self, root: &DeTable<'_>) -> BTreeMap<String, ServiceConfig> {
        let mut services = BTreeMap::new();
        let is_known = |key: &str| key == "services" || key == "workers";
        for (key, _) in root.iter().filter(|(key, _)| !is_known(key.get_ref())) {
            if fields::is_known(key.get_ref()) {
                let message = format!(
                    "`{}` belongs to a service: write [services.NAME] above it",
                    key.get_ref()
                );
                self.wrong(key, message);
            } else {
                self.unknown(key, "in the file", &["services", "workers"]);
            }
        }
        let (at, given) = match root.get_key_value("services") {
            Some((key, value)) => (key.span().start, Some(value)),
            None => (0, None),
        };
        match given.map(|value| (value, value.get_ref())) {
            Some((_, DeValue::Table(tables))) if !tables.is_empty() => {
                for (key, value) in tables.iter() {
                    let service = self.service(key, value);
                    services.insert(key.get_ref().to_string(), service);
                }
            }
            Some((value, other)) if !other.is_table() => {
                let kind = kind(other);
                self.wrong(
                    value,
                    format!("`services` must be tables [services.NAME]; this is {kind}"),
                );
            }
            // A misspelt header has been reported already.
            _ if self.found.is_empty() => {
                let message =
                    "there is no service: write [services.NAME] with `listen` and `backends`";
                self.missing(at, message);
            }
            _ => {}
        }
        services
    }

    fn workers(&mut self, root: &DeTable<'_>) -> Option<usize> {
        let value = root.get("workers")?;
        match count(value) {
            Ok(count) if (1..=WORKERS_MAX as usize).contains(&count) => return Some(count),
            Ok(count) => {
                self.wrong(value, format!("`workers` is {count}; it must be 1 to {WORKERS_MAX}"));
            }
            Err(cause) => self.wrong(value, format!("`workers` {cause}")),
        }
        None
    }

    fn service(&mut self, name: &Key<'_>, value: &Value<'_>) -> ServiceConfig {
        let mut service = ServiceConfig::new(Vec::new(), Backends::Given(BackendSet::empty()));
        self.check_name(name);
        let DeValue::Table(table) = value.get_ref() else {
            let (name_text, kind) = (name.get_ref(), kind(value.get_ref()));
            let message =
                format!("a service must be one table, [services.{name_text}]; this is {kind}");
            self.wrong(value, message);
            return service;
        };
        let mut misspelt = Vec::new();
        for (key, value) in table.iter() {
            match fields::find(key.get_ref()) {
                Some(field) => field.read(self, value, &mut service),
                None if key.get_ref() == "listen" => service.listen = self.listen(name, value),
                None if ["backends", "check", "source"].contains(&&**key.get_ref()) => {}
                None => misspelt.extend(self.unknown_in_service(key, value, name)),
            }
        }
        let (min, max) = (service.settings.probe_interval_min, service.settings.probe_interval_max);
        if min > max
            && let Some(value) =
                ["probe_interval_min", "probe_interval_max"].iter().find_map(|key| table.get(*key))
        {
            let message = format!(
                "`probe_interval_min` ({min:?}) is above `probe_interval_max` ({max:?}): raise the \
                 one or lower the other"
            );
            self.wrong(value, message);
        }
        // The backends come last: they are checked against the rest.
        if let Some((key, value)) = table.get_key_value("backends") {
            service.backends = Backends::Given(self.backends(key, value, &service));
        }
        if let Some((key, value)) = table.get_key_value("source") {
            if table.contains_key("backends") {
                self.wrong(key, "there are `backends` and a `source`: keep one of them");
            }
            service.backends = self.source(key, value).unwrap_or(service.backends);
            if let DeValue::Table(source) = value.get_ref()
                && let Some(value) = source.get("last_known")
                && let Some(path) = value.get_ref().as_str()
            {
                // The same file, written otherwise.
                let parts = Path::new(path).components().filter(|part| *part != Component::CurDir);
                let service = name.get_ref().to_string();
                self.kept.push((value.span().start, service, parts.collect()));
            }
        }
        if let Some(value) = table.get("check") {
            service.check = self.check(value);
            let check = service.check.as_ref();
            if let Some(message) = check.and_then(|check| check.misfit(&service.backends)) {
                self.wrong(value, message);
            }
        }
        for (key, remedy) in [
            ("listen", "write for example listen = \"127.0.0.1:8080\""),
            ("backends", "write a table of them, or backends = {} if there should be none"),
        ] {
            if key == "backends" && (table.contains_key("source") || misspelt.contains(&"source")) {
                continue;
            }
            if !table.contains_key(key) && !misspelt.contains(&key) {
                let message = format!("`{}` has no `{key}`: {remedy}", name.get_ref());
                self.missing(name.span().start, message);
            }
        }
        service
    }

    fn check_name(&mut self, name: &Key<'_>) {
        let text = name.get_ref();
        if text.is_empty() {
            self.wrong(name, "a service's name is empty: write [services.NAME]");
        } else if !text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
            self.wrong(
                name,
                format!("`{text}` can't name a service: use letters, digits, `-`, `_` and `.`"),
            );
        }
    }

    fn unknown_in_service(
        &mut self,
        key: &Key<'_>,
        value: &Value<'_>,
        service: &Key<'_>,
    ) -> Option<&'static str> {
        if let Some(name) = fields::renamed(key.get_ref()) {
            let message = format!(
                "`{}` is now `{name}`, the time after which a peer that doesn't answer counts as \
                 dead (\"60s\"): rename it",
                key.get_ref()
            );
            self.wrong(key, message);
            return Some(name);
        }
        let known = fields::known();
        if value.get_ref().is_table() && nearest(key.get_ref(), &known).is_none() {
            let (service, key_text) = (service.get_ref(), key.get_ref());
            let message = format!(
                "unknown table `{key_text}` in `{service}`: if the dot is part of the service's \
                 name, write [services.\"{service}.{key_text}\"]"
            );
            self.wrong(key, message);
            return None;
        }
        self.unknown(key, &format!("in `{}`", service.get_ref()), &known)
    }

    fn listen(&mut self, service: &Key<'_>, value: &Value<'_>) -> Vec<Address> {
        let given = match value.get_ref() {
            DeValue::Array(array) => array.iter().collect(),
            _ => vec![value],
        };
        if given.is_empty() {
            self.wrong(value, "`listen` is empty: give at least one address");
        }
        let mut addresses = Vec::new();
        for value in given {
            let Some(address) = self.address("`listen`", value) else { continue };
            match &address {
                Address::Tcp(TcpTarget { host: Host::Name(_), port }) => {
                    let message = format!(
                        "`{address}` is a name: listen at an IP address, such as 127.0.0.1:{port} \
                         or [::]:{port}"
                    );
                    self.wrong(value, message);
                }
                _ => {
                    let at = value.span().start;
                    self.listens.push((at, service.get_ref().to_string(), address.clone()));
                    addresses.push(address);
                }
            }
        }
        addresses
    }

    /// Finds two listeners at one address, or of which one covers the other: the second would fail.
    fn check_listens(&mut self) {
        self.listens.sort_by_key(|(at, ..)| *at);
        self.check_taken_in();
        let listens = mem::take(&mut self.listens).into_iter().map(|(at, service, address)| {
            // Port 0 is another port for each service.
            let takes_any_port = matches!(&address, Address::Tcp(TcpTarget { port: 0, .. }));
            let scope = takes_any_port.then(|| service.clone());
            (at, service, (scope, address))
        });
        self.check_own(listens.collect(), |other, line, (_, address)| {
            format!(
                "`{other}` listens at {address} already, line {line}: give each listener an \
                 address of its own"
            )
        });
    }

    /// Finds listeners that cover another one's address, since the system lets only one of them
    /// listen.
    fn check_taken_in(&mut self) {
        let mut by_port: BTreeMap<u16, Vec<&(usize, String, Address)>> = BTreeMap::new();
        let mut found = Vec::new();
        for listen in &self.listens {
            let (at, _, address) = listen;
            let Address::Tcp(TcpTarget { port, .. }) = address else { continue };
            let before = by_port.entry(*port).or_default();
            let taken = before.iter().find_map(|(first, service, other)| {
                let pairs = [(other, address), (address, other)];
                let (wide, narrow) = pairs
                    .into_iter()
                    .find(|(wide, narrow)| wide != narrow && wide.takes_in(narrow))?;
                let line = self.text[..*first].matches('\n').count() + 1;
                Some(format!(
                    "`{service}` listens at {other} already, line {line}, and {wide} covers {narrow}: \
                     keep one of them"
                ))
            });
            found.extend(taken.map(|message| (*at, message)));
            before.push(listen);
        }
        self.found.extend(found);
    }

    /// Finds services whose backends lead to each other in a circle. A connection would go round
    /// until the descriptors run out.
    fn check_circles(&mut self, tree: &DeTable<'_>, services: &BTreeMap<String, ServiceConfig>) {
        // A port that isn't bound yet is unknown.
        let has_port = |own: &Address| !matches!(own, Address::Tcp(TcpTarget { port: 0, .. }));
        let own = services.iter().flat_map(|(name, service)| {
            let own = service.listen.iter().filter(|own| has_port(own));
            own.map(|own| (name.as_str(), own))
        });
        let (fronts, mut ways) = (Fronts::new(own), Ways::default());
        for (name, service) in services {
            if let Backends::Given(backends) = &service.backends {
                ways.set(name, fronts.reached(backends).into_keys());
            }
        }
        for (from, to) in ways.closing() {
            let Backends::Given(backends) = &services[from].backends else { continue };
            let key = &fronts.reached(backends)[to];
            let Some(at) = backend_at(tree, from, key.as_str()) else { continue };
            let message = format!(
                "{key} leads to the service `{to}`, which leads back to `{from}`: give another \
                 address"
            );
            self.found.push((at, message));
        }
    }

    /// Two services with one file: each would write over what the other has kept.
    fn check_kept(&mut self) {
        let kept = mem::take(&mut self.kept);
        self.check_own(kept, |other, line, path| {
            let path = path.display();
            format!(
                "`{other}` keeps its backends in {path} already, line {line}: give each service a \
                 file of its own"
            )
        });
    }

    /// Checks things that no two services may share: offset in bytes, service, and the thing.
    /// `message` is given the service that had it first, and its line.
    fn check_own<T: Ord>(
        &mut self,
        mut all: Vec<(usize, String, T)>,
        message: impl Fn(&str, usize, &T) -> String,
    ) {
        all.sort_by_key(|(at, ..)| *at);
        let mut seen = BTreeMap::new();
        for (at, service, own) in &all {
            match seen.entry(own) {
                Entry::Vacant(entry) => {
                    entry.insert((*at, service));
                }
                Entry::Occupied(entry) => {
                    let (first, other) = *entry.get();
                    let line = self.text[..first].matches('\n').count() + 1;
                    self.found.push((*at, message(other, line, own)));
                }
            }
        }
    }

    fn backends(
        &mut self,
        at: &Key<'_>,
        value: &Value<'_>,
        service: &ServiceConfig,
    ) -> BackendSet<Address> {
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind(value.get_ref());
            let message = format!(
                "`backends` must be a table, such as {{ a = \"127.0.0.1:9001\" }}; this is {kind}"
            );
            self.wrong(value, message);
            return BackendSet::empty();
        };
        // A header might have lost its lines: only braces state that there are no backends.
        let is_explicit = self.text.get(value.span()).is_some_and(|text| text.starts_with('{'));
        if table.is_empty() && !is_explicit {
            let message = "`backends` is empty: write backends = {} if there should be none";
            self.missing(at.span().start, message);
        }
        let max = service.settings.backends_max;
        // The tree is in key order, as the set is.
        if let Some(key) = table.keys().nth(max) {
            let first = key.get_ref().as_ref().into();
            let error = SetError::TooManyBackends { count: table.len(), max, key: first };
            self.wrong(key, format!("{error}: remove some, or raise `backends_max`"));
        }
        let mut backends = Vec::with_capacity(table.len());
        for (key, value) in table.iter() {
            let name = key.get_ref().as_ref();
            if name.is_empty() {
                let target = value.get_ref().as_str().unwrap_or_default().to_string();
                self.wrong(key, SetError::EmptyKey { target }.to_string());
            }
            let Some(target) = self.address("a backend's address", value) else { continue };
            if let Err(reason) = target.validate_target(&service.listen) {
                let key = if name.is_empty() { "\"\"" } else { name }.into();
                let target = target.to_string();
                self.wrong(value, SetError::InvalidTarget { key, target, reason }.to_string());
            } else if !name.is_empty() {
                backends.push((name, target));
            }
        }
        BackendSet::new(backends).unwrap_or_else(|error| {
            self.wrong(at, error.to_string());
            BackendSet::empty()
        })
    }

    fn address(&mut self, what: &str, value: &Value<'_>) -> Option<Address> {
        let DeValue::String(text) = value.get_ref() else {
            let kind = kind(value.get_ref());
            let message = format!(
                "{what} must be a string, \"HOST:PORT\", \"[IPV6]:PORT\" or \"unix:/PATH\"; this \
                 is {kind}"
            );
            self.wrong(value, message);
            return None;
        };
        text.parse().map_err(|error: AddressError| self.wrong(value, error.to_string())).ok()
    }
}

/// The place of a backend's address in the text.
fn backend_at(tree: &DeTable<'_>, service: &str, key: &str) -> Option<usize> {
    let service = tree.get("services")?.get_ref().get(service)?;
    Some(service.get_ref().get("backends")?.get_ref().get(key)?.span().start)
}
