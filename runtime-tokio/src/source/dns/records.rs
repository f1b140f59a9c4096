use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use hickory_resolver::proto::rr::{Name, RData, Record, RecordType, rdata::SRV};
use tinylb_core::BackendSet;

use super::{failure::Failure, families::Known};
use crate::Address;

/// What the records of a response say of a name.
pub(super) struct Chain {
    /// The last name that the aliases lead to.
    pub(super) end: Name,
    /// Its records of the type that was asked for.
    pub(super) records: Records,
}

/// Records of one name and type. Without any there are none of this type (NODATA).
pub(super) struct Records {
    pub(super) data: Vec<RData>,
    /// For how many seconds they may be kept, they and the aliases that led to them.
    pub(super) ttl: u32,
}

/// The addresses of a host, at least one.
#[derive(Debug)]
pub(super) struct Addresses {
    pub(super) ips: Vec<IpAddr>,
    /// As of [`Records`].
    pub(super) ttl: u32,
}

/// The backends that DNS tells. Each is there once, however many records say it.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) backends: BTreeSet<SocketAddr>,
    /// For how many seconds all that led to them may be kept.
    pub(super) ttl: u32,
    /// Targets of a service that have no address, and why.
    pub(super) bad: Vec<(Name, Failure)>,
    /// The failure of a part, a family or a target, for which other parts make up.
    pub(super) failure: Option<Failure>,
    /// The last addresses, as known from now on.
    pub(super) known: Known,
}

/// How many aliases are followed from a name; a chain without end has more.
pub(super) const ALIASES_MAX: usize = 8;

impl Chain {
    /// Follows the aliases from a name, in whichever order the records stand. Those of other names
    /// or types are passed over.
    pub(super) fn follow(name: &Name, kind: RecordType, records: &[Record]) -> Self {
        let mut chain = Self { end: name.clone(), records: Records::none() };
        for _ in 0..=ALIASES_MAX {
            let Records { data, ttl } = &mut chain.records;
            for record in records.iter().filter(|record| record.name == chain.end) {
                if record.record_type() == kind {
                    data.push(record.data.clone());
                    *ttl = record.ttl.min(*ttl);
                }
            }
            if !data.is_empty() {
                break;
            }
            let alias = records.iter().find_map(|record| match &record.data {
                RData::CNAME(alias) if record.name == chain.end => Some((&alias.0, record.ttl)),
                _ => None,
            });
            let Some((alias, alias_ttl)) = alias else { break };
            chain.end = alias.clone();
            *ttl = alias_ttl.min(*ttl);
        }
        chain
    }
}

impl Records {
    pub(super) fn none() -> Self {
        Self { data: Vec::new(), ttl: u32::MAX }
    }
}

impl Answer {
    /// No backends yet.
    pub(super) fn new(ttl: u32) -> Self {
        let (backends, known) = (BTreeSet::new(), Known::default());
        Self { backends, ttl, bad: Vec::new(), failure: None, known }
    }

    /// Whether a part of it failed in a way that another server may not.
    pub(super) fn may_be_bettered(&self) -> bool {
        let bad = self.bad.iter().map(|(_, failure)| failure);
        self.failure.iter().chain(bad).any(Failure::is_quick)
    }

    /// Adds each address with each port.
    pub(super) fn add(&mut self, host: &Addresses, ports: &BTreeSet<u16>) {
        self.ttl = host.ttl.min(self.ttl);
        for &ip in &host.ips {
            self.backends.extend(ports.iter().map(|&port| SocketAddr::new(ip, port)));
        }
    }

    /// The set, in which an address is its own key.
    pub(super) fn set(&self) -> BackendSet<Address> {
        let backends = self.backends.iter().map(|&backend| {
            let address = Address::from(backend);
            (address.to_string(), address)
        });
        BackendSet::new(backends).expect("different addresses are displayed differently")
    }
}

/// The targets of a service with their ports: those of the lowest-numbered priority (RFC 2782). None
/// if its one target is `.`.
///
/// # Errors
/// There are no records, or they contradict one another.
pub(super) fn targets(service: &Records) -> Result<BTreeMap<Name, BTreeSet<u16>>, Failure> {
    let records = || service.data.iter().filter_map(srv);
    let lowest = records().map(|record| record.priority).min().ok_or(Failure::NoService)?;
    if records().any(|record| record.target.is_root()) {
        return match service.data.len() {
            1 => Ok(BTreeMap::new()),
            _ => Err(Failure::NoServiceAndTargets),
        };
    }
    let mut targets: BTreeMap<Name, BTreeSet<u16>> = BTreeMap::new();
    for record in records().filter(|record| record.priority == lowest) {
        targets.entry(record.target.clone()).or_default().insert(record.port);
    }
    Ok(targets)
}

fn srv(data: &RData) -> Option<&SRV> {
    match data {
        RData::SRV(srv) => Some(srv),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        format!("{text}.").parse().unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(name(owner), ttl, data)
    }

    fn address(text: &str) -> RData {
        match text.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(A(ip)),
            IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
        }
    }

    fn alias(text: &str) -> RData {
        RData::CNAME(CNAME(name(text)))
    }

    fn target(priority: u16, weight: u16, port: u16, target: &str) -> RData {
        RData::SRV(SRV::new(priority, weight, port, name(target)))
    }

    fn records(ttl: u32, data: impl Into<Vec<RData>>) -> Records {
        Records { data: data.into(), ttl }
    }

    /// The targets of a service as text, or why there are none.
    fn service(data: impl Into<Vec<RData>>) -> String {
        match targets(&records(1, data)) {
            Ok(targets) => {
                let lines = targets.iter().map(|(name, ports)| format!("{name} {ports:?}"));
                lines.collect::<Vec<_>>().join(" ")
            }
            Err(failure) => failure.to_string(),
        }
    }

    #[test]
    fn an_address_behind_aliases_is_found_in_whichever_order_they_stand() {
        let answers = [
            record("db.example.org", 300, address("10.0.0.2")),
            record("other.example.org", 1, address("10.0.0.9")),
            record("DB.example.org", 200, address("10.0.0.1")),
            record("db.example.org", 1, address("::1")),
            record("b.example.org", 20, alias("db.example.org")),
            record("a.example.org", 100, alias("B.Example.org")),
        ];
        let chain = Chain::follow(&name("a.example.org"), RecordType::A, &answers);
        assert_eq!(chain.end, name("db.example.org"));
        assert_eq!(chain.records.data, ["10.0.0.2", "10.0.0.1"].map(address));
        // The alias may be kept for the shortest time.
        assert_eq!(chain.records.ttl, 20);
        let direct = Chain::follow(&name("db.example.org"), RecordType::A, &answers);
        assert_eq!((direct.records.data.len(), direct.records.ttl), (2, 200));
    }

    #[test]
    fn an_alias_is_told_from_a_name_without_records() {
        let answers = [
            record("c.example.org", 1, alias("d.example.org")),
            record("a.example.org", 5, alias("b.example.org")),
        ];
        let chain = Chain::follow(&name("a.example.org"), RecordType::A, &answers);
        assert_eq!((chain.end, chain.records.ttl), (name("b.example.org"), 5));
        assert!(chain.records.data.is_empty());
        let none = Chain::follow(&name("b.example.org"), RecordType::A, &answers);
        assert_eq!(none.end, name("b.example.org"));
        assert!(none.records.data.is_empty());
    }

    #[test]
    fn aliases_in_a_circle_hang_nothing() {
        let answers = [
            record("a.example.org", 5, alias("b.example.org")),
            record("b.example.org", 5, alias("a.example.org")),
        ];
        let chain = Chain::follow(&name("a.example.org"), RecordType::A, &answers);
        assert!(chain.records.data.is_empty());
    }

    #[test]
    fn a_standby_of_a_service_gets_no_traffic_while_there_is_a_better_target() {
        let standby = target(20, 0, 1, "c.example.org");
        let first = target(10, 0, 5432, "b.example.org");
        let second = target(10, 65535, 5433, "B.example.org");
        let other = target(10, 1, 5432, "a.example.org");
        let all = [standby.clone(), first.clone(), second, other, first];
        assert_eq!(service(all), "a.example.org. {5432} b.example.org. {5432, 5433}");
        assert_eq!(service([standby]), "c.example.org. {1}");
    }

    #[test]
    fn only_a_service_that_is_decidedly_not_available_has_no_targets() {
        let nowhere = || target(0, 0, 0, "");
        assert_eq!(service([nowhere()]), "");
        let contradiction = service([nowhere(), target(10, 0, 1, "a.example.org")]);
        assert!(contradiction.contains("beside others"), "{contradiction}");
        assert!(service([]).contains("NODATA"));
    }

    #[test]
    fn records_in_another_order_or_said_twice_close_no_connection() {
        let set = |ips: &[&str], ports: &[u16]| {
            let ips = ips.iter().map(|ip| ip.parse().unwrap()).collect();
            let mut answer = Answer::new(9);
            answer.add(&Addresses { ips, ttl: 7 }, &ports.iter().copied().collect());
            assert_eq!(answer.ttl, 7);
            answer.set()
        };
        let one = set(&["10.0.0.1", "::1", "10.0.0.2"], &[1, 2]);
        assert_eq!(one, set(&["10.0.0.2", "10.0.0.1", "::1", "10.0.0.1"], &[2, 1]));
        assert_ne!(one, set(&["10.0.0.2", "10.0.0.1", "::1"], &[1]));
        let keys: Vec<String> = one.iter().map(|(key, _)| key.to_string()).collect();
        let expected =
            ["10.0.0.1:1", "10.0.0.1:2", "10.0.0.2:1", "10.0.0.2:2", "[::1]:1", "[::1]:2"];
        assert_eq!(keys, expected);
        for (key, target) in one.iter() {
            assert_eq!(*target, key.as_str().parse().unwrap());
        }
    }
}
