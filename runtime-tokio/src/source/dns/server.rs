use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures::{
    FutureExt, StreamExt,
    future::{Either, select},
    stream,
};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        xfer::{DnsHandle, FirstAnswer},
    },
    proto::{
        op::{DnsRequestOptions, Query, ResponseCode},
        rr::{Name, RecordType},
    },
};
use tokio::time::{Instant, timeout};

use super::{
    DnsOptions,
    failure::Failure,
    families::{Families, Host, Known},
    name::DnsName,
    provider::Provider,
    records::{ALIASES_MAX, Answer, Chain, Records, targets},
};

/// One name server, asked for one round of lookups.
///
/// A pool of one, below the resolver: for several servers that makes the SERVFAIL of the quickest
/// the answer of all, and it takes the alias of a service for the service's target.
pub(super) struct Server<'a> {
    pool: NameServerPool<Provider>,
    options: &'a DnsOptions,
    /// The last addresses, as known before.
    known: &'a Known,
    began: Instant,
    /// How long all the lookups may take, from then on.
    within: Duration,
}

/// How many targets of a service are resolved at once, so that the questions don't overflow the
/// server's buffer.
const TARGETS_MAX: usize = 16;

/// How long to wait for one family when the other has answered with addresses. A healthy server
/// takes much less for the second answer. If one takes longer, its answer is in its cache by the
/// next query.
const FAMILY_WAIT: Duration = Duration::from_secs(1);

impl<'a> Server<'a> {
    pub(super) fn new(
        address: SocketAddr,
        within: Duration,
        options: &'a DnsOptions,
        known: &'a Known,
    ) -> Result<Self, Failure> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
        let server = NameServerConfig::new(address.ip(), true, connections.into());
        let mut pool = ResolverOpts::default();
        // Never first: what counts is the time of all lookups together.
        pool.timeout = within * 2;
        let tls = TlsConfig::new().map_err(Failure::NoResolver)?;
        let context = Arc::new(PoolContext::new(pool, tls));
        let pool = NameServerPool::from_config([server], context, Provider::default());
        Ok(Self { pool, options, known, began: Instant::now(), within })
    }

    /// Looks a name up, with all that it leads to.
    pub(super) async fn resolve(&self, name: &DnsName) -> Result<Answer, Failure> {
        let mut complete = Name::from_ascii(name.name()).map_err(Failure::BadName)?;
        complete.set_fqdn(true);
        let ports = match name {
            DnsName::Service { .. } => return self.service(&complete).await,
            DnsName::Host { port, .. } => BTreeSet::from([*port]),
        };
        let families = self.families(&complete).await;
        let mut answer = Answer::new(u32::MAX);
        let host = self.host(&complete, families, &mut answer.known)?;
        answer.add(&host.addresses, &ports);
        answer.failure = host.failure;
        Ok(answer)
    }

    /// The addresses of a service's targets, with their ports. A target without any is reported in
    /// the answer, unless no target has one.
    async fn service(&self, name: &Name) -> Result<Answer, Failure> {
        let service = self.records(name, RecordType::SRV).await?;
        let targets = targets(&service)?;
        let mut answer = Answer::new(service.ttl);
        let asked: Vec<_> = targets
            .iter()
            .map(|(target, ports)| {
                async move { (target, ports, self.families(target).await) }.boxed()
            })
            .collect();
        let mut answers = stream::iter(asked).buffer_unordered(TARGETS_MAX);
        let mut failures = Vec::new();
        while let Some((target, ports, families)) = answers.next().await {
            let host = match self.host(target, families, &mut answer.known) {
                Ok(host) => host,
                Err(failure) => {
                    let (kinds, max_stale) = (self.options.family.kinds(), self.options.max_stale);
                    let kept = self.known.all(target, kinds, max_stale);
                    match kept.filter(|_| !failure.is_answer()) {
                        Some(addresses) => Host { addresses, failure: Some(failure) },
                        None => {
                            answer.bad.push((target.clone(), failure));
                            continue;
                        }
                    }
                }
            };
            answer.add(&host.addresses, ports);
            failures.extend(host.failure.map(|failure| (target, failure)));
        }
        drop(answers);
        answer.bad.sort_by(|(one, _), (other, _)| one.cmp(other));
        if answer.backends.is_empty() && !answer.bad.is_empty() {
            let worst = answer.bad.iter().position(|(_, failure)| !failure.is_answer());
            let (target, failure) = answer.bad.swap_remove(worst.unwrap_or(0));
            return Err(failure.of(&target));
        }
        let first = failures.into_iter().min_by_key(|(target, _)| *target);
        answer.failure = first.map(|(target, failure)| failure.of(target));
        Ok(answer)
    }

    /// The answers for a host's families, independent of each other. Once one has answered with
    /// addresses, the other gets [`FAMILY_WAIT`].
    async fn families(&self, name: &Name) -> Families {
        let ask = async |kind| (kind, self.records(name, kind).await);
        let (one, other) = match *self.options.family.kinds() {
            [kind] => return vec![ask(kind).await],
            [one, other] => (one, other),
            _ => return Vec::new(),
        };
        let (first, rest, late) = match select(Box::pin(ask(one)), Box::pin(ask(other))).await {
            Either::Left((first, rest)) => (first, rest, other),
            Either::Right((first, rest)) => (first, rest, one),
        };
        let has_addresses = first.1.as_ref().is_ok_and(|records| !records.data.is_empty());
        let wait = if has_addresses { FAMILY_WAIT } else { Duration::MAX };
        let silence = Failure::Timeout { kind: late };
        let second = timeout(wait, rest).await.unwrap_or((late, Err(silence)));
        let mut families = vec![first, second];
        families.sort_by_key(|(kind, _)| *kind != one);
        families
    }

    /// Combines the answers for a host's families.
    fn host(&self, name: &Name, families: Families, known: &mut Known) -> Result<Host, Failure> {
        for (kind, answer) in &families {
            known.learn(self.known, name, *kind, answer);
        }
        self.known.host(name, families, self.options.max_stale)
    }

    /// The records of a name and type, its aliases followed. A server that resolves for others tells
    /// them all at once (RFC 1034, section 4.3.2); one that knows its own zones only is asked again.
    async fn records(&self, name: &Name, kind: RecordType) -> Result<Records, Failure> {
        let mut asked = name.clone();
        let mut ttl = u32::MAX;
        for _ in 0..=ALIASES_MAX {
            let Chain { end, records } = match self.question(&asked, kind).await {
                Ok(chain) => chain,
                Err(failure) if asked == *name => return Err(failure),
                Err(failure) => return Err(failure.of(&asked)),
            };
            ttl = records.ttl.min(ttl);
            if end == asked || !records.data.is_empty() {
                return Ok(Records { ttl, ..records });
            }
            asked = end;
        }
        Err(Failure::Aliases { max: ALIASES_MAX })
    }

    /// What one response says of a name.
    async fn question(&self, name: &Name, kind: RecordType) -> Result<Chain, Failure> {
        let left = self.within.saturating_sub(self.began.elapsed());
        let query = Query::query(name.clone(), kind);
        let response = self.pool.lookup(query, DnsRequestOptions::default()).first_answer();
        let response = timeout(left, response).await.unwrap_or(Err(NetError::Timeout));
        let (code, chain) = match response {
            Ok(response) => (response.response_code, Chain::follow(name, kind, &response.answers)),
            Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                (none.response_code, Chain::follow(name, kind, &[]))
            }
            Err(error) => return Err(Failure::of_question(error, kind)),
        };
        match code {
            ResponseCode::NoError => Ok(chain),
            // Of the last name that the aliases lead to (RFC 6604, section 3).
            ResponseCode::NXDomain if chain.end == *name => Err(Failure::NoName),
            ResponseCode::NXDomain => Err(Failure::NoName.of(&chain.end)),
            code => Err(Failure::Code { code, kind }),
        }
    }
}
