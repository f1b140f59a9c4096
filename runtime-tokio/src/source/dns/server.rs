use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::{try_join, try_join_all};
use hickory_resolver::{
    NameServerPool, PoolContext, TlsConfig,
    config::{ConnectionConfig, NameServerConfig, ResolverOpts},
    net::{
        DnsError, NetError,
        runtime::TokioRuntimeProvider,
        xfer::{DnsHandle, FirstAnswer},
    },
    proto::{
        op::{DnsRequestOptions, Query, ResponseCode},
        rr::{Name, RecordType},
    },
};
use tokio::time::{Instant, timeout};

use super::{
    failure::Failure,
    name::DnsName,
    records::{ALIASES_MAX, Addresses, Answer, Chain, Records, targets},
};

/// One name server, asked for one round of lookups.
///
/// A pool of one, below the resolver: for several servers that makes the SERVFAIL of the quickest
/// the answer of all, and it takes the alias of a service for the service's target.
pub(super) struct Server {
    pool: NameServerPool<TokioRuntimeProvider>,
    began: Instant,
    /// How long all the lookups may take, from then on.
    within: Duration,
}

/// How many targets of a service are resolved at once, so that the questions don't overflow the
/// server's buffer.
const TARGETS_MAX: usize = 16;

impl Server {
    pub(super) fn new(address: SocketAddr, within: Duration) -> Result<Self, Failure> {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = address.port();
                connection
            });
        let server = NameServerConfig::new(address.ip(), true, connections.into());
        let mut options = ResolverOpts::default();
        // Never first: what counts is the time of all lookups together.
        options.timeout = within * 2;
        let tls = TlsConfig::new().map_err(Failure::NoResolver)?;
        let context = Arc::new(PoolContext::new(options, tls));
        let pool = NameServerPool::from_config([server], context, TokioRuntimeProvider::new());
        Ok(Self { pool, began: Instant::now(), within })
    }

    /// Looks a name up, with all that it leads to.
    pub(super) async fn resolve(&self, name: &DnsName) -> Result<Answer, Failure> {
        let mut complete = Name::from_ascii(name.name()).map_err(Failure::BadName)?;
        complete.set_fqdn(true);
        let ports = match name {
            DnsName::Service { .. } => return self.service(&complete).await,
            DnsName::Host { port, .. } => BTreeSet::from([*port]),
        };
        let host = self.addresses(&complete).await?;
        let mut answer = Answer::new(host.ttl);
        answer.add(&host, &ports);
        Ok(answer)
    }

    /// The addresses of a service's targets, with their ports.
    async fn service(&self, name: &Name) -> Result<Answer, Failure> {
        let service = self.records(name, RecordType::SRV).await?;
        let targets: Vec<_> = targets(&service)?.into_iter().collect();
        let mut answer = Answer::new(service.ttl);
        for targets in targets.chunks(TARGETS_MAX) {
            let hosts = targets.iter().map(|(target, _)| self.addresses_of_target(target));
            for (host, (_, ports)) in try_join_all(hosts).await?.iter().zip(targets) {
                answer.add(host, ports);
            }
        }
        Ok(answer)
    }

    async fn addresses_of_target(&self, name: &Name) -> Result<Addresses, Failure> {
        self.addresses(name).await.map_err(|failure| failure.of(name))
    }

    async fn addresses(&self, name: &Name) -> Result<Addresses, Failure> {
        let families =
            try_join(self.records(name, RecordType::A), self.records(name, RecordType::AAAA));
        let (v4, v6) = families.await?;
        Addresses::new([v4, v6])
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
