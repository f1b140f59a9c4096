use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use etcd_client::{Client, Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use tinylb_core::BackendSet;
use tinylb_tokio::Address;
use tokio::time::timeout;

use super::{Cluster, PREFIX, eventually};

/// Changes what is under the prefix, and knows what was there at each revision. Nobody else may
/// write to this etcd.
///
/// Each change is a transaction that also sets the ledger, and holds only if that is still as the
/// change before has left it. So one whose answer got lost is tried again, however often: it takes
/// effect once, and the ledger says at which revision.
pub(crate) struct Writer {
    clients: Vec<Client>,
    /// Whose turn it is.
    turn: usize,
    backends: BTreeMap<String, Address>,
    history: History,
    /// How many changes had to be tried again.
    pub(crate) retried: usize,
}

/// What was under the prefix, revision by revision.
pub(crate) struct History {
    /// The revision of the first state.
    first: i64,
    states: Vec<BackendSet<Address>>,
}

const LEDGER: &str = "/ledger";

impl Writer {
    pub(crate) async fn of(cluster: &Cluster, members: usize) -> Self {
        let mut clients = Vec::new();
        for place in 0..members {
            clients.push(cluster.client(place).await);
        }
        let history = History { first: 0, states: Vec::new() };
        Self { clients, turn: 0, backends: BTreeMap::new(), history, retried: 0 }
    }

    /// Sets and deletes backends at one revision, which is returned.
    pub(crate) async fn change(&mut self, puts: &[(&str, SocketAddr)], deletes: &[&str]) -> i64 {
        let key = |name: &str| format!("{PREFIX}{name}");
        let number = self.history.states.len().to_string();
        let mut step = vec![TxnOp::put(LEDGER, number.as_str(), None)];
        step.extend(puts.iter().map(|(name, at)| TxnOp::put(key(name), at.to_string(), None)));
        step.extend(deletes.iter().map(|name| TxnOp::delete(key(name), None)));
        let is_next = Compare::mod_revision(LEDGER, CompareOp::Equal, self.history.newest());
        let ledger = TxnOp::get(LEDGER, None);
        let change = Txn::new().when([is_next]).and_then(step).or_else([ledger]);
        let mut tries = 0;
        let revision = eventually("a member that takes a change", async || {
            tries += 1;
            let client = &mut self.clients[self.turn];
            match timeout(Duration::from_secs(1), client.txn(change.clone())).await {
                Ok(Ok(done)) => Some(taken_at(&done, &number)),
                _ => {
                    self.turn = (self.turn + 1) % self.clients.len();
                    None
                }
            }
        })
        .await;
        self.retried += usize::from(tries > 1);
        for name in deletes {
            assert!(self.backends.remove(*name).is_some(), "{name}");
        }
        self.backends.extend(puts.iter().map(|(name, at)| (name.to_string(), Address::from(*at))));
        self.history.note(revision, BackendSet::new(self.backends.clone()).unwrap());
        revision
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.backends.contains_key(name)
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// What etcd says is under the prefix.
    pub(crate) async fn listed(&mut self) -> BackendSet<Address> {
        let options = GetOptions::new().with_prefix();
        let listed = self.clients[self.turn].get(PREFIX, Some(options)).await.unwrap();
        let backend = |key: &str, value: &str| {
            (key.strip_prefix(PREFIX).unwrap().to_string(), value.parse::<Address>().unwrap())
        };
        let backends =
            listed.kvs().iter().map(|kv| backend(kv.key_str().unwrap(), kv.value_str().unwrap()));
        BackendSet::new(backends).unwrap()
    }
}

/// The revision of the change with this number.
fn taken_at(done: &TxnResponse, number: &str) -> i64 {
    if done.succeeded() {
        return done.header().unwrap().revision();
    }
    let Some(TxnOpResponse::Get(ledger)) = done.op_responses().pop() else { unreachable!() };
    let entry = &ledger.kvs()[0];
    assert_eq!(entry.value_str().unwrap(), number, "somebody else writes to this etcd");
    entry.mod_revision()
}

impl History {
    fn note(&mut self, revision: i64, state: BackendSet<Address>) {
        if self.states.is_empty() {
            self.first = revision;
        } else {
            assert_eq!(revision, self.newest() + 1, "somebody else writes to this etcd");
        }
        self.states.push(state);
    }

    /// The newest revision; 0 if there is none.
    fn newest(&self) -> i64 {
        if self.states.is_empty() { 0 } else { self.first + self.states.len() as i64 - 1 }
    }

    /// What is there at last.
    pub(crate) fn last(&self) -> &BackendSet<Address> {
        self.states.last().unwrap()
    }

    /// Checks that each of these sets was there, one after the other.
    ///
    /// # Panics
    /// With the first that wasn't, or was only before the one before it.
    pub(crate) fn assert_follows(&self, what: &str, sets: &[BackendSet<Address>]) {
        let mut at = 0;
        for (place, set) in sets.iter().enumerate() {
            // The earliest revision that is possible forbids the least to those that follow.
            if let Some(further) = self.states[at..].iter().position(|state| state == set) {
                at += further;
                continue;
            }
            let before = self.states[..at].iter().rposition(|state| state == set);
            let fault = match before {
                Some(before) => format!("is that of {}", self.first + before as i64),
                None => "was never in etcd".into(),
            };
            let (revision, count) = (self.first + at as i64, sets.len());
            let next: Vec<_> = self.states[at..].iter().take(3).collect();
            panic!(
                "{what}: set {place} of {count} follows that of revision {revision}, and {fault}: \
                 {set:?}\nfrom that revision on, etcd had {next:#?}"
            );
        }
    }
}
