//! Backends: their keys and places, and how the balancer knows them.

use std::fmt;

use tinylb_core::{BackendKey, BackendSet};

/// A backend's key: printed as `k3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u16);

/// Where a backend is, one host each: printed as `b3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place(pub u16);

/// Backends by key, ascending.
pub type Backends = Vec<(Key, Place)>;

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "k{}", self.0)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

/// Keys of three digits, so that their order as text is that of their numbers.
pub(crate) fn backend_key(key: Key) -> BackendKey {
    format!("k{:03}", key.0).into()
}

/// The number of a key that [`backend_key`] made.
pub(crate) fn key_number(key: &BackendKey) -> Key {
    Key(key.as_str().bytes().skip(1).fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
}

/// The set that the balancer is given for a scenario's.
pub(crate) fn set_of(set: &Backends) -> BackendSet<Place> {
    let backends = set.iter().map(|(key, place)| (backend_key(*key), *place));
    BackendSet::new(backends).expect("the keys of a scenario's set differ")
}

/// A set of the balancer's in the scenario's words.
pub(crate) fn backends_of(set: &BackendSet<Place>) -> Backends {
    set.iter().map(|(key, place)| (key_number(key), *place)).collect()
}
