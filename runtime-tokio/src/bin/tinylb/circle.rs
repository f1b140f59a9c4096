//! Which services lead to each other, and which way would bring a connection back to where it came
//! from. Plain state and decisions.

use std::collections::{BTreeMap, BTreeSet};

use tinylb_core::{BackendKey, BackendSet};
use tinylb_tokio::{Address, TcpTarget};

/// Where all services listen, to look up which of them an address leads to.
pub(crate) struct Fronts<'a> {
    tcp: BTreeMap<u16, Vec<(&'a str, &'a Address)>>,
    other: BTreeMap<&'a Address, &'a str>,
}

impl<'a> Fronts<'a> {
    /// The fronts of services by name, with the ports that were taken.
    pub(crate) fn new(own: impl IntoIterator<Item = (&'a str, &'a Address)>) -> Self {
        let mut fronts = Self { tcp: BTreeMap::new(), other: BTreeMap::new() };
        for (name, address) in own {
            match address {
                Address::Tcp(TcpTarget { port, .. }) => {
                    fronts.tcp.entry(*port).or_default().push((name, address));
                }
                Address::Unix(_) => drop(fronts.other.insert(address, name)),
            }
        }
        fronts
    }

    /// The service that an address leads to, as far as its text shows. O(services at one port).
    fn at(&self, target: &Address) -> Option<&'a str> {
        match target {
            Address::Tcp(TcpTarget { port, .. }) => {
                let mut fronts = self.tcp.get(port)?.iter();
                fronts.find(|(_, front)| front.leads_to(target)).map(|(name, _)| *name)
            }
            Address::Unix(_) => self.other.get(target).copied(),
        }
    }

    /// The services that a set leads to, each with a backend that leads there. O(backends).
    pub(crate) fn reached(&self, set: &BackendSet<Address>) -> BTreeMap<String, BackendKey> {
        let mut reached = BTreeMap::new();
        for (key, target) in set.iter() {
            if let Some(name) = self.at(target)
                && !reached.contains_key(name)
            {
                reached.insert(name.to_string(), key.clone());
            }
        }
        reached
    }
}

/// The ways from service to service. The open ones never form a circle: one that would close it is
/// kept apart until others have gone.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Ways {
    open: BTreeMap<String, BTreeSet<String>>,
    closing: BTreeSet<(String, String)>,
}

impl Ways {
    /// Sets where a service leads. If ways form a circle, the latest one closes it.
    pub(crate) fn set(&mut self, from: &str, to: impl IntoIterator<Item = String>) {
        let to: BTreeSet<String> = to.into_iter().filter(|to| to != from).collect();
        let open = self.open.entry(from.into()).or_default();
        let new: Vec<String> = to.difference(open).cloned().collect();
        open.retain(|name| to.contains(name));
        self.closing.retain(|(other, _)| other != from);
        // Ways that were kept apart come first, since they are older.
        let waiting = std::mem::take(&mut self.closing);
        for (from, to) in waiting.into_iter().chain(new.into_iter().map(|to| (from.into(), to))) {
            if self.leads(&to, &from) {
                self.closing.insert((from, to));
            } else {
                self.open.entry(from).or_default().insert(to);
            }
        }
    }

    /// Keeps only these services.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        let gone: Vec<String> = self.open.keys().filter(|name| !is_there(name)).cloned().collect();
        for name in gone {
            self.set(&name, []);
            self.open.remove(&name);
        }
    }

    /// Whether a way between two services would close a circle.
    pub(crate) fn would_close(&self, from: &str, to: &str) -> bool {
        from != to && self.leads(to, from)
    }

    /// The services from which a connection may come here, directly or not.
    pub(crate) fn behind(&self, to: &str) -> BTreeSet<&str> {
        let names = self.open.keys().map(String::as_str);
        names.filter(|from| *from != to && self.leads(from, to)).collect()
    }

    /// The ways that would close a circle, from service to service.
    pub(crate) fn closing(&self) -> &BTreeSet<(String, String)> {
        &self.closing
    }

    fn leads(&self, from: &str, to: &str) -> bool {
        let (mut seen, mut next) = (BTreeSet::from([from]), vec![from]);
        while let Some(name) = next.pop() {
            if name == to {
                return true;
            }
            let ways = self.open.get(name).into_iter().flatten().map(String::as_str);
            next.extend(ways.filter(|way| seen.insert(way)));
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ways(given: &[(&str, &[&str])]) -> Ways {
        let mut ways = Ways::default();
        for (from, to) in given {
            ways.set(from, to.iter().map(ToString::to_string));
        }
        ways
    }

    fn closing(ways: &Ways) -> Vec<(&str, &str)> {
        ways.closing().iter().map(|(from, to)| (from.as_str(), to.as_str())).collect()
    }

    #[test]
    fn a_chain_and_a_fork_that_joins_again_are_no_circle() {
        let ways = ways(&[("x", &["y", "z"]), ("y", &["z"]), ("z", &[])]);
        assert_eq!(closing(&ways), []);
        assert_eq!(ways.behind("z"), ["x", "y"].into());
        assert_eq!(ways.behind("x"), [].into());
        assert!(ways.would_close("z", "x") && !ways.would_close("x", "z"));
    }

    #[test]
    fn the_way_that_comes_last_closes_the_circle_until_another_has_gone() {
        let mut ways = ways(&[("x", &["y"]), ("y", &["z"]), ("z", &["x", "w"])]);
        assert_eq!(closing(&ways), [("z", "x")]);
        ways.set("y", []);
        assert_eq!(closing(&ways), []);
        // Now the other one is the latest.
        ways.set("y", ["z".into()]);
        assert_eq!(closing(&ways), [("y", "z")]);
        ways.retain(|name| name != "x");
        assert_eq!(closing(&ways), []);
    }

    #[test]
    fn a_set_reaches_the_services_that_its_addresses_lead_to() {
        let own = [("x", "127.0.0.1:80"), ("y", "0.0.0.0:81"), ("u", "unix:/run/u")];
        let own = own.map(|(name, address)| (name, address.parse::<Address>().unwrap()));
        let fronts = Fronts::new(own.iter().map(|(name, address)| (*name, address)));
        let set = |targets: &[&str]| {
            let targets = targets.iter().map(|target| (*target, target.parse().unwrap()));
            BackendSet::new(targets).unwrap()
        };
        let set =
            set(&["127.0.0.1:80", "127.0.0.1:81", "localhost:81", "10.0.0.1:80", "unix:/run/u"]);
        let reached = fronts.reached(&set);
        let by: Vec<_> = reached.iter().map(|(name, key)| (name.as_str(), key.as_str())).collect();
        assert_eq!(by, [("u", "unix:/run/u"), ("x", "127.0.0.1:80"), ("y", "127.0.0.1:81")]);
    }
}
