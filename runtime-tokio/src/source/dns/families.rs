use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use tokio::time::Instant;

use super::{
    DnsFamily,
    failure::Failure,
    records::{Addresses, Records},
};

/// The answers for the families of a host: one or two, in this order.
pub(super) type Families = Vec<(RecordType, Result<Records, Failure>)>;

/// The addresses that each family of each name had when it last answered with some.
#[derive(Debug, Default)]
pub(super) struct Known(BTreeMap<(Name, RecordType), Last>);

#[derive(Clone, Debug)]
struct Last {
    ips: Vec<IpAddr>,
    answered: Instant,
}

/// The addresses of a host, and the failure of one of its families, if any.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) addresses: Addresses,
    pub(super) failure: Option<Failure>,
}

impl DnsFamily {
    /// The record types to query.
    pub(super) fn kinds(self) -> &'static [RecordType] {
        match self {
            Self::Both => &[RecordType::A, RecordType::AAAA],
            Self::Ipv4 => &[RecordType::A],
            Self::Ipv6 => &[RecordType::AAAA],
        }
    }
}

impl Known {
    /// The addresses from both families. A family that fails keeps its last addresses, unless they
    /// are older than `max_stale`, if the other has answered with some (RFC 4074, section 4:
    /// servers that have A records fail for AAAA in many ways).
    ///
    /// # Errors
    /// No family has answered with an address. If families have failed, this is one's failure,
    /// preferably one that another server may not share.
    pub(super) fn host(
        &self,
        name: &Name,
        families: Families,
        max_stale: Option<Duration>,
    ) -> Result<Host, Failure> {
        let kinds = families.iter().map(|(kind, _)| *kind).collect::<Vec<_>>();
        let mut addresses = Addresses { ips: Vec::new(), ttl: u32::MAX };
        let (mut kept, mut failures) = (Vec::new(), Vec::new());
        for (kind, answer) in families {
            match answer {
                // An empty answer has no TTL.
                Ok(records) if records.data.is_empty() => {}
                Ok(records) => {
                    addresses.ttl = addresses.ttl.min(records.ttl);
                    addresses.ips.extend(records.data.iter().filter_map(RData::ip_addr));
                }
                Err(failure) => {
                    kept.extend(self.last(name, kind, max_stale));
                    failures.push(failure);
                }
            }
        }
        let worst = failures.iter().position(|failure| !failure.is_answer()).unwrap_or(0);
        let failure = (!failures.is_empty()).then(|| failures.swap_remove(worst));
        if addresses.ips.is_empty() {
            return Err(failure.unwrap_or_else(|| Failure::NoAddress { kinds: words(&kinds) }));
        }
        addresses.ips.extend(kept);
        Ok(Host { addresses, failure })
    }

    /// The last addresses of all families of a host, for when all lookups fail. They have no TTL.
    pub(super) fn all(
        &self,
        name: &Name,
        kinds: &[RecordType],
        max_stale: Option<Duration>,
    ) -> Option<Addresses> {
        let ips: Vec<IpAddr> =
            kinds.iter().flat_map(|&kind| self.last(name, kind, max_stale)).collect();
        (!ips.is_empty()).then_some(Addresses { ips, ttl: u32::MAX })
    }

    /// Notes what is known of a family after this round: its answer, or what was known before if it
    /// has failed.
    pub(super) fn learn(
        &mut self,
        before: &Self,
        name: &Name,
        kind: RecordType,
        answer: &Result<Records, Failure>,
    ) {
        let key = (name.clone(), kind);
        let last = match answer {
            Ok(records) => Last {
                ips: records.data.iter().filter_map(RData::ip_addr).collect(),
                answered: Instant::now(),
            },
            Err(_) => match before.0.get(&key) {
                Some(last) => last.clone(),
                None => return,
            },
        };
        if !last.ips.is_empty() {
            self.0.insert(key, last);
        }
    }

    fn last(
        &self,
        name: &Name,
        kind: RecordType,
        max_stale: Option<Duration>,
    ) -> impl Iterator<Item = IpAddr> {
        let is_fresh = |last: &&Last| max_stale.is_none_or(|max| last.answered.elapsed() < max);
        let last = self.0.get(&(name.clone(), kind)).filter(is_fresh);
        last.into_iter().flat_map(|last| last.ips.iter().copied())
    }
}

/// The missing record types, in words.
fn words(kinds: &[RecordType]) -> &'static str {
    match kinds {
        [RecordType::A] => "no A",
        [RecordType::AAAA] => "no AAAA",
        _ => "neither A nor AAAA",
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::{op::ResponseCode, rr::rdata};
    use tokio::time::advance;

    use super::*;

    const MAX_STALE: Duration = Duration::from_secs(60);

    /// What a family says: addresses, `-` for none, NXDOMAIN, or anything else for a failure.
    fn family(kind: RecordType, text: &str) -> (RecordType, Result<Records, Failure>) {
        let data = |ip: &str| match ip.parse().unwrap() {
            IpAddr::V4(ip) => RData::A(rdata::A(ip)),
            IpAddr::V6(ip) => RData::AAAA(rdata::AAAA(ip)),
        };
        let answer = match text {
            "-" => Ok(Records { data: Vec::new(), ttl: 1 }),
            "NXDOMAIN" => Err(Failure::NoName),
            "SERVFAIL" => Err(Failure::Code { code: ResponseCode::ServFail, kind }),
            "silence" => Err(Failure::Timeout { kind }),
            ips => Ok(Records { data: ips.split(' ').map(data).collect(), ttl: 30 }),
        };
        (kind, answer)
    }

    /// One round after the other, of one host: A, AAAA, and what becomes of it.
    fn round(known: &mut Known, a: &str, aaaa: &str) -> String {
        let name: Name = "db.test.".parse().unwrap();
        let families = vec![family(RecordType::A, a), family(RecordType::AAAA, aaaa)];
        let mut next = Known::default();
        for (kind, answer) in &families {
            next.learn(known, &name, *kind, answer);
        }
        let host = known.host(&name, families, Some(MAX_STALE));
        *known = next;
        match host {
            Ok(Host { addresses, failure }) => {
                assert_eq!(addresses.ttl, 30);
                let ips = addresses.ips.iter().map(ToString::to_string);
                let failure = failure.map(|failure| format!("but {failure}"));
                ips.chain(failure).collect::<Vec<_>>().join(" ")
            }
            Err(failure) => failure.to_string(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_family_that_fails_loses_nothing_of_the_other_and_keeps_what_it_had() {
        for (fails, cause) in [
            ("SERVFAIL", "error SERVFAIL for AAAA"),
            ("silence", "no answer for AAAA (timeout)"),
            ("NXDOMAIN", "no such name (NXDOMAIN)"),
        ] {
            let mut known = Known::default();
            let but = |ips: &str| format!("{ips} but {cause}");
            assert_eq!(round(&mut known, "10.0.0.1", fails), but("10.0.0.1"));
            assert_eq!(round(&mut known, "10.0.0.1", "::1"), "10.0.0.1 ::1");
            for _ in 0..2 {
                assert_eq!(round(&mut known, "10.0.0.2", fails), but("10.0.0.2 ::1"));
            }
            assert_eq!(round(&mut known, "10.0.0.2", "-"), "10.0.0.2");
            assert_eq!(round(&mut known, "10.0.0.2", fails), but("10.0.0.2"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_family_had_is_given_up_when_it_is_stale() {
        let mut known = Known::default();
        round(&mut known, "10.0.0.1", "::1");
        advance(MAX_STALE - Duration::from_millis(1)).await;
        let but = "but error SERVFAIL for AAAA";
        assert_eq!(round(&mut known, "10.0.0.1", "SERVFAIL"), format!("10.0.0.1 ::1 {but}"));
        advance(Duration::from_millis(1)).await;
        assert_eq!(round(&mut known, "10.0.0.1", "SERVFAIL"), format!("10.0.0.1 {but}"));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_fresh_address_a_host_is_lost_and_the_next_server_is_asked_if_it_may_help() {
        let mut known = Known::default();
        round(&mut known, "10.0.0.1", "::1");
        assert_eq!(round(&mut known, "SERVFAIL", "-"), "error SERVFAIL for A");
        round(&mut known, "10.0.0.1", "::1");
        assert_eq!(round(&mut known, "NXDOMAIN", "silence"), "no answer for AAAA (timeout)");
        assert_eq!(round(&mut known, "NXDOMAIN", "-"), "no such name (NXDOMAIN)");
        assert_eq!(round(&mut known, "-", "-"), "neither A nor AAAA records (NODATA)");
    }
}
