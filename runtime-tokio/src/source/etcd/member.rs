use std::{future::Future, io, path::Path, time::Duration};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, Error as ClientError, Event,
    GetOptions, GetResponse, Identity, KeyValue, KvClient, LeaseClient, LeaseGrantOptions,
    PutOptions, ResponseHeader, TlsOptions, Txn, TxnOp, TxnOpResponse, WatchClient, WatchOptions,
    WatchResponse, WatchStream,
};
use tokio::time::timeout;

use super::{
    failure::Failure,
    keys::{KeyChange, Listing, Position, Put},
    options::{EtcdOptions, EtcdTls},
};
use crate::{read_file, run_blocking};

/// A connection to one member. Every request to etcd goes through here.
///
/// It is to one member, since the client crate spreads its calls over several at random, including
/// dead ones. And with a connection for each, the one that fails can be named.
#[derive(Clone)]
pub(super) struct Member {
    kv: KvClient,
    lease: LeaseClient,
    watch: WatchClient,
    prefix: String,
    timeout: Duration,
}

/// What a member tells of the keys that change.
pub(super) struct Watch {
    stream: WatchStream,
}

/// The longest answer that is taken, in bytes. The client's own limit is 4 MiB, which 10,000
/// entries may have.
const ANSWER_MAX: usize = 64 << 20;

impl Member {
    /// Logs in, if there is a user. Else nothing is sent before the first call.
    ///
    /// # Errors
    /// A file can't be read in time, the login is refused, or takes too long.
    pub(super) async fn connect(url: &str, options: &EtcdOptions) -> Result<Self, Failure> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password);
        }
        if let Some(tls) = &options.tls {
            connect = connect.with_tls(encryption(tls, options.timeout).await?);
        }
        let client = within(options.timeout, Client::connect([url], Some(connect))).await?;
        Ok(Self {
            kv: client.kv_client().max_decoding_message_size(ANSWER_MAX),
            lease: client.lease_client(),
            watch: client.watch_client().max_decoding_message_size(ANSWER_MAX),
            prefix: options.prefix.clone(),
            timeout: options.timeout,
        })
    }

    /// All keys, of the cluster's newest state.
    ///
    /// # Errors
    /// The member's, or it takes too long.
    pub(super) fn list(&self) -> impl Future<Output = Result<Listing, Failure>> + Send + 'static {
        self.list_by(GetOptions::new())
    }

    /// The keys that were set from this revision on, and how many there are in all, of the
    /// cluster's newest state.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub(super) fn list_since(
        &self,
        revision: i64,
    ) -> impl Future<Output = Result<Listing, Failure>> + Send + 'static {
        self.list_by(GetOptions::new().with_min_mod_revision(revision))
    }

    fn list_by(
        &self,
        options: GetOptions,
    ) -> impl Future<Output = Result<Listing, Failure>> + Send + 'static {
        let Self { mut kv, prefix, timeout, .. } = self.clone();
        async move { listing(within(timeout, kv.get(prefix, Some(options.with_prefix()))).await?) }
    }

    /// Whether the member lives. Costs it next to nothing: one key, which most likely doesn't exist,
    /// from its own memory.
    ///
    /// That it has no leader at present is an answer too: the watch ends if that lasts, and need
    /// not end with each election.
    ///
    /// # Errors
    /// The member's, or it takes longer than this.
    pub(super) fn ping(
        &self,
        patience: Duration,
    ) -> impl Future<Output = Result<(), Failure>> + Send + 'static {
        let Self { mut kv, prefix, .. } = self.clone();
        let options = GetOptions::new().with_serializable().with_count_only();
        async move {
            match within(patience, kv.get(prefix, Some(options))).await {
                Err(failure) if !failure.is_no_leader() => Err(failure),
                _ => Ok(()),
            }
        }
    }

    /// All changes from this revision on.
    ///
    /// # Errors
    /// The member's, or it takes too long.
    pub(super) async fn watch(&self, from: i64) -> Result<Watch, Failure> {
        self.watch_by(&self.prefix, WatchOptions::new().with_prefix().with_start_revision(from))
            .await
    }

    /// All changes of a key, given whole, from this revision on.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub(super) async fn watch_key(&self, key: &str, from: i64) -> Result<Watch, Failure> {
        self.watch_by(key, WatchOptions::new().with_start_revision(from)).await
    }

    async fn watch_by(&self, key: &str, options: WatchOptions) -> Result<Watch, Failure> {
        let mut client = self.watch.clone();
        let start = async {
            let mut stream = client.watch(key, Some(options)).await?;
            // The first answer says whether there is a watch.
            let first = stream.message().await?;
            Ok::<_, ClientError>((stream, first))
        };
        let (stream, first) = within(self.timeout, start).await?;
        changes(first)?;
        Ok(Watch { stream })
    }
}

/// What became of a key that was claimed.
pub(super) struct Claimed {
    /// The lease that it is on now.
    pub(super) lease: i64,
    /// The state of the cluster that shows that.
    pub(super) revision: i64,
}

impl Member {
    /// Begins a lease of this name, for `ttl` seconds or, if that is longer, the least that this
    /// etcd grants.
    ///
    /// # Errors
    /// The member's, or it takes too long: the lease may have begun then.
    pub(super) async fn grant(&self, lease: i64, ttl: i64) -> Result<(), Failure> {
        let options = LeaseGrantOptions::new().with_id(lease);
        within(self.timeout, self.lease.clone().grant(ttl, Some(options))).await.map(drop)
    }

    /// Has a lease run from now on anew.
    ///
    /// # Errors
    /// [`Failure::NoLease`], or the member's, or it takes too long.
    pub(super) async fn renew(&self, lease: i64) -> Result<(), Failure> {
        within(self.timeout, self.lease.clone().keep_alive(lease)).await.map(drop)
    }

    /// Ends a lease, and with it the keys that are on it.
    ///
    /// # Errors
    /// As [`Self::renew`].
    pub(super) async fn revoke(&self, lease: i64) -> Result<(), Failure> {
        within(self.timeout, self.lease.clone().revoke(lease)).await.map(drop)
    }

    /// Sets a key on a lease, even if another holds it.
    ///
    /// # Errors
    /// As [`Self::renew`]; the key may have been set then.
    pub(super) async fn take(
        &self,
        key: &str,
        value: &str,
        lease: i64,
    ) -> Result<Claimed, Failure> {
        let options = PutOptions::new().with_lease(lease);
        let put = within(self.timeout, self.kv.clone().put(key, value, Some(options))).await?;
        let revision = put.header().ok_or(Failure::NoHeader)?.revision();
        Ok(Claimed { lease, revision })
    }

    /// Sets a key on a lease, unless it is there already.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(super) async fn claim(
        &self,
        key: &str,
        value: &str,
        lease: i64,
    ) -> Result<Claimed, Failure> {
        let is_free = Compare::create_revision(key, CompareOp::Equal, 0);
        let put = TxnOp::put(key, value, Some(PutOptions::new().with_lease(lease)));
        let txn = Txn::new().when([is_free]).and_then([put]).or_else([TxnOp::get(key, None)]);
        let done = within(self.timeout, self.kv.clone().txn(txn)).await?;
        let revision = done.header().ok_or(Failure::NoHeader)?.revision();
        let holder = done.op_responses().iter().find_map(|answer| match answer {
            TxnOpResponse::Get(there) => there.kvs().first().map(KeyValue::lease),
            _ => None,
        });
        Ok(Claimed { lease: holder.unwrap_or(lease), revision })
    }
}

impl Watch {
    /// The next changes, whole revisions of them; perhaps none. If it is dropped, nothing is lost.
    ///
    /// # Errors
    /// The watch is over.
    pub(super) async fn next(&mut self) -> Result<Vec<KeyChange>, Failure> {
        changes(self.stream.message().await?)
    }
}

async fn within<T>(
    time: Duration,
    call: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failure> {
    timeout(time, call).await.map_err(|_| Failure::Late(time))?.map_err(Failure::from)
}

fn listing(mut response: GetResponse) -> Result<Listing, Failure> {
    let position = |header: &ResponseHeader| Position {
        cluster: header.cluster_id(),
        revision: header.revision(),
    };
    let at = response.header().map(position).ok_or(Failure::NoHeader)?;
    let count = response.count() as usize;
    let put = |kv: KeyValue| {
        let (revision, lease) = (kv.mod_revision(), kv.lease());
        let (key, value) = kv.into_key_value();
        Put { key, value, revision, lease }
    };
    Ok(Listing { at, count, puts: response.take_kvs().into_iter().map(put).collect() })
}

fn changes(response: Option<WatchResponse>) -> Result<Vec<KeyChange>, Failure> {
    let response = response.ok_or(Failure::Ended)?;
    // Before all else: a response may say that a watch is created and canceled.
    if response.canceled() {
        let reason = match response.compact_revision() {
            0 => response.cancel_reason(),
            _ => "its changes were compacted before they were sent",
        };
        return Err(Failure::Canceled(reason.into()));
    }
    response.events().iter().filter_map(change).collect()
}

/// The change that an event reports, if it is about a key.
fn change(event: &Event) -> Option<Result<KeyChange, Failure>> {
    let kv = event.kv()?;
    let (key, revision) = (kv.key().to_vec(), kv.mod_revision());
    Some(match event.0.r#type {
        PUT => {
            let (value, lease) = (kv.value().to_vec(), kv.lease());
            Ok(KeyChange::Put(Put { key, value, revision, lease }))
        }
        DELETE => Ok(KeyChange::Delete { key, revision }),
        // All keys are then listed again.
        other => Err(Failure::UnknownEvent(other)),
    })
}

/// Types of events, as etcd numbers them.
const PUT: i32 = 0;
const DELETE: i32 = 1;

async fn encryption(tls: &EtcdTls, time: Duration) -> Result<TlsOptions, Failure> {
    let ca = read(&tls.ca, time).await?;
    let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let (certificate, key) = (read(certificate, time).await?, read(key, time).await?);
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(domain) = &tls.domain {
        options = options.domain_name(domain);
    }
    Ok(options)
}

/// The largest file of certificates that is read, in bytes.
const PEM_BYTES_MAX: u64 = 16 << 20;

/// Reads a file, which may hang, by a thread of its own.
async fn read(path: &Path, time: Duration) -> Result<Vec<u8>, Failure> {
    let own = path.to_path_buf();
    let read = match timeout(time, run_blocking(move || read_file(&own, PEM_BYTES_MAX))).await {
        Ok(read) => read.and_then(|read| read),
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    read.map_err(|error| Failure::File(path.into(), error))
}

#[cfg(test)]
mod tests {
    use etcd_client::proto::{PbEvent, PbKeyValue};

    use super::*;

    #[test]
    fn an_event_of_a_type_that_nobody_knows_ends_the_watch_and_nothing_else() {
        let change = |r#type| {
            let kv = PbKeyValue { key: "/lb/a".into(), mod_revision: 7, ..PbKeyValue::default() };
            change(&Event(PbEvent { r#type, kv: Some(kv), prev_kv: None })).unwrap()
        };
        assert!(matches!(change(0), Ok(KeyChange::Put(put)) if put.revision == 7));
        assert!(matches!(change(1), Ok(KeyChange::Delete { revision: 7, .. })));
        let failure = change(2).err().unwrap().to_string();
        assert!(failure.contains("an event of type 2"), "{failure}");
    }
}
