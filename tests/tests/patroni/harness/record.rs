use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use tokio::time::Instant;

/// What the clients noticed, in order.
#[derive(Clone, Default)]
pub(crate) struct Record(Arc<Mutex<Vec<Entry>>>);

/// Something that a client noticed.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) client: usize,
    /// When it began to connect, for the connection that this is about.
    pub(crate) opened: Instant,
    /// When it began to wait for this: it connected, or it sent a row.
    pub(crate) began: Instant,
    pub(crate) at: Instant,
    /// `None`: it was never connected to any.
    pub(crate) node: Option<Ipv4Addr>,
    pub(crate) what: What,
}

/// What that was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Connected,
    /// The row with this number exists now.
    Acknowledged {
        number: i32,
        timeline: u32,
    },
    /// The connection ended, whether by a reset or because PostgreSQL closed it.
    Ended(String),
    /// PostgreSQL refused a row, and the connection is of no use to its client.
    Refused(String),
    /// No connection came about.
    Failed(String),
}

impl Record {
    pub(crate) fn note(&self, entry: Entry) {
        self.0.lock().unwrap().push(entry);
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }

    /// How many of some clients have had a row acknowledged since a moment, by a node that will do.
    pub(crate) fn writers(&self, since: Instant, will_do: impl Fn(Ipv4Addr) -> bool) -> usize {
        let entries = self.0.lock().unwrap();
        let acknowledged = entries.iter().filter(|entry| {
            let is_row = matches!(entry.what, What::Acknowledged { .. });
            is_row && entry.began >= since && entry.node.is_some_and(&will_do)
        });
        acknowledged.map(|entry| entry.client).collect::<std::collections::BTreeSet<_>>().len()
    }
}
