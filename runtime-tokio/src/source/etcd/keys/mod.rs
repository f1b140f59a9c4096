use std::{collections::BTreeMap, fmt, str, sync::Arc, time::Duration};

use serde_json::Value as Json;
use tinylb_core::{BackendKey, BackendSet, BadEntry, Update};
use tokio::time::Instant;

use crate::Address;

/// What is under the prefix, as far as members have reported. Plain state: it gets what they report,
/// with the time, and returns what there is to pass on.
///
/// It never moves backwards, even if a member returns an older list. And an empty list proves nothing: only a prefix whose keys have been
/// deleted is reported as empty.
pub(super) struct Keys {
    prefix: String,
    /// By the part of the key after the prefix.
    entries: BTreeMap<Box<[u8]>, Entry>,
    /// If there are no keys, then because they have been deleted.
    is_deleted: bool,
    /// `None`: nothing was ever listed.
    known: Option<Position>,
    /// The revision up to which all is known, not only what a watch has reported.
    compared: i64,
    /// That lists are older than what is known, if that is so.
    older: Option<Older>,
    /// What is known has been passed on, and no loss since.
    is_told: bool,
}

#[derive(PartialEq, Eq)]
struct Entry {
    /// The one that set it.
    revision: i64,
    backend: Backend,
}

/// A backend, or why this is none.
type Backend = Result<(BackendKey, Address), Arc<str>>;

/// A state of a cluster: each change has the next revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// Which cluster.
    pub(super) cluster: u64,
    /// Its revision.
    pub(super) revision: i64,
}

/// A key that is set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// The whole key.
    pub(super) key: Vec<u8>,
    /// Its value.
    pub(super) value: Vec<u8>,
    /// The revision that set it.
    pub(super) revision: i64,
    /// The lease that it ends with; 0 if there is none.
    pub(super) lease: i64,
}

/// What a watch tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum KeyChange {
    /// A key was set.
    Put(Put),
    /// A key was deleted.
    Delete {
        /// The whole key.
        key: Vec<u8>,
        /// The revision that deleted it.
        revision: i64,
    },
}

/// What a member says on being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listing {
    /// The state that it is of.
    pub(super) at: Position,
    /// How many keys there are, whichever were asked for.
    pub(super) count: usize,
    /// Those that were asked for.
    pub(super) puts: Vec<Put>,
}

/// A list that isn't taken because it is older than what is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Older {
    /// When the first such list came, without a newer one since.
    since: Instant,
    /// How many have come since then.
    lists: u32,
    /// The revision of the last one.
    revision: i64,
    /// The revision that is known.
    known: i64,
}

/// What became of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// All is known.
    Same,
    /// Something is missing, or is gone: all has to be listed.
    Differs,
    /// It shows a state older than what the watch has reported: ask again.
    TooOld,
}

/// After this time, and this many lists, an older state is taken: the cluster was restored from a
/// backup. Before that, it counts as a member's mistake.
const OLDER_TIME: Duration = Duration::from_secs(10);
const OLDER_LISTS: u32 = 3;

/// The longest text that is looked at as an address, in bytes: names have 253, paths 107.
const ADDRESS_MAX: usize = 300;

impl Keys {
    /// Nothing is known yet about what is under this prefix.
    pub(super) fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
            entries: BTreeMap::new(),
            is_deleted: false,
            known: None,
            compared: 0,
            older: None,
            is_told: false,
        }
    }

    /// The first revision of which something may have been missed.
    pub(super) fn uncompared(&self) -> i64 {
        self.compared + 1
    }

    /// This is all there is.
    ///
    /// # Errors
    /// It is older than what is known, of the same cluster, and not for long enough to be true.
    pub(super) fn list(&mut self, listing: Listing, now: Instant) -> Result<(), Older> {
        let at = listing.at;
        if self.is_newer_than(at)
            && let Some(known) = self.known
        {
            let older = Older { since: now, lists: 0, revision: 0, known: known.revision };
            let older = self.older.get_or_insert(older);
            older.lists += 1;
            older.revision = at.revision;
            if older.lists < OLDER_LISTS || now - older.since < OLDER_TIME {
                return Err(*older);
            }
        }
        let entry = |put: &Put| Entry { revision: put.revision, backend: self.backend(put) };
        let entries: BTreeMap<_, _> =
            listing.puts.iter().map(|put| (self.name(&put.key).into(), entry(put))).collect();
        // Keys that have gone were deleted, if this is the same history and not that of another
        // cluster or a backup.
        let goes_on = self.known.is_some_and(|known| known.cluster == at.cluster);
        let goes_on = goes_on && !self.is_newer_than(at);
        let is_deleted = goes_on && (self.is_deleted || !self.entries.is_empty());
        let is_deleted = is_deleted && entries.is_empty();
        let is_equal = self.known.is_some() && self.is_deleted == is_deleted && {
            let old = self.entries.iter().map(|(key, entry)| (key, &entry.backend));
            old.eq(entries.iter().map(|(key, entry)| (key, &entry.backend)))
        };
        self.is_told &= is_equal;
        (self.entries, self.is_deleted) = (entries, is_deleted);
        self.known = Some(at);
        self.compared = at.revision;
        self.older = None;
        Ok(())
    }

    /// These have changed. A revision's changes must come together. What is known already changes
    /// nothing.
    pub(super) fn apply(&mut self, changes: Vec<KeyChange>) {
        let Some(known) = self.known else { return };
        let mut newest = known.revision;
        for change in changes {
            let revision = match &change {
                KeyChange::Put(put) => put.revision,
                KeyChange::Delete { revision, .. } => *revision,
            };
            if revision <= known.revision {
                continue;
            }
            newest = newest.max(revision);
            match change {
                KeyChange::Put(put) => self.put(put),
                KeyChange::Delete { key, .. } => {
                    if self.entries.remove(self.name(&key)).is_some() {
                        self.is_told = false;
                        self.is_deleted = self.entries.is_empty();
                    }
                }
            }
        }
        // Not what the response says of itself: of several that bring much, each may say the last
        // one's revision.
        self.known = Some(Position { revision: newest, ..known });
    }

    /// Whether nothing was missed, by what has been set from [`Self::uncompared`] on, and by how
    /// many keys there are. Takes what has been set, if it isn't older than what is known.
    ///
    /// What hasn't been set since the last comparison is known from that. So what is there is among
    /// what is known with what has been set since, and if these are as many, they are the same.
    pub(super) fn compare(&mut self, recent: Listing) -> Compared {
        match self.known {
            Some(known) if known.cluster == recent.at.cluster => {}
            _ => return Compared::Differs,
        }
        if self.is_newer_than(recent.at) {
            return Compared::TooOld;
        }
        let known = self.entries.len();
        let new = recent.puts.iter().filter(|put| !self.entries.contains_key(self.name(&put.key)));
        if known + new.count() != recent.count {
            return Compared::Differs;
        }
        for put in recent.puts {
            self.put(put);
        }
        self.known = Some(recent.at);
        self.compared = recent.at.revision;
        Compared::Same
    }

    /// What is known, if it has changed since the last call, or a loss was reported since.
    pub(super) fn tell(&mut self) -> Option<Update<Address>> {
        if self.known.is_none() || self.is_told {
            return None;
        }
        self.is_told = true;
        Some(self.update())
    }

    /// A loss was reported: when it is over, what is known is passed on again.
    pub(super) fn lost(&mut self) {
        self.is_told = false;
    }

    fn is_newer_than(&self, at: Position) -> bool {
        self.known.is_some_and(|known| known.cluster == at.cluster && known.revision > at.revision)
    }

    fn put(&mut self, put: Put) {
        let entry = Entry { revision: put.revision, backend: self.backend(&put) };
        let is_same = match self.entries.get(self.name(&put.key)) {
            // A comparison may bring what the watch has reported already.
            Some(old) if old.revision > entry.revision => return,
            Some(old) => old.backend == entry.backend,
            None => false,
        };
        self.is_told &= is_same;
        self.entries.insert(self.name(&put.key).into(), entry);
        self.is_deleted = false;
    }

    /// The part of a key after the prefix.
    fn name<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        key.strip_prefix(self.prefix.as_bytes()).unwrap_or(key)
    }

    fn backend(&self, put: &Put) -> Backend {
        let name = self.name(&put.key);
        if name.is_empty() {
            return Err("it has no name after the prefix: give it one".into());
        }
        let name = str::from_utf8(name).map_err(|_| "the key isn't UTF-8: give it another")?;
        let address =
            address(&put.value).map_err(|reason| reason.replace(char::is_control, " "))?;
        Ok((name.into(), address))
    }

    fn update(&self) -> Update<Address> {
        if self.entries.is_empty() && !self.is_deleted {
            return Update::Lost(
                format!(
                    "no key begins with {}, and none was deleted: register a backend there (if there \
                     should be none, put a key and delete it)",
                    self.prefix
                )
                .into(),
            );
        }
        let mut backends = Vec::with_capacity(self.entries.len());
        let mut bad = Vec::new();
        for (name, entry) in &self.entries {
            match &entry.backend {
                Ok(backend) => backends.push(backend.clone()),
                Err(reason) => {
                    let key = if name.is_empty() { self.prefix.as_bytes() } else { name };
                    let key = String::from_utf8_lossy(key).replace(char::is_control, " ");
                    bad.push(BadEntry { key: key.into(), reason: Arc::clone(reason) });
                }
            }
        }
        let set = BackendSet::new(backends).expect("each key is there once, and none is empty");
        if bad.is_empty() { Update::Set(set) } else { Update::Partial(set, bad.into()) }
    }
}

/// The address that a value holds: as text, or in a JSON object.
fn address(value: &[u8]) -> Result<Address, String> {
    let text = str::from_utf8(value).map_err(|_| "its value isn't UTF-8: write an address")?.trim();
    let json: Json;
    let address = if text.starts_with('{') {
        json =
            serde_json::from_str(text).map_err(|error| format!("its value is no JSON: {error}"))?;
        let address = json.get("address").and_then(Json::as_str);
        address.ok_or(r#"its value has no address: write {"address": "HOST:PORT"}"#)?.trim()
    } else {
        text
    };
    if address.len() > ADDRESS_MAX {
        let bytes = address.len();
        return Err(format!("its value has {bytes} bytes, an address at most {ADDRESS_MAX}"));
    }
    address.parse::<Address>().map_err(|error| error.to_string())
}

impl fmt::Display for Older {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { revision, known, .. } = self;
        let seconds = OLDER_TIME.as_secs();
        write!(
            f,
            "its revision {revision} is older than {known}, which was seen before: a backup that \
             was restored is taken after {seconds} s"
        )
    }
}

#[cfg(test)]
mod tests;
