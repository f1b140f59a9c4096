//! A scenario's keys as the balancer knows them.

use tinylb_core::BackendKey;

use super::Key;

/// Keys of three digits, so that their order as text is that of their numbers.
pub(crate) fn backend_key(key: Key) -> BackendKey {
    format!("k{:03}", key.0).into()
}

/// The number of a key that [`backend_key`] made.
pub(crate) fn key_number(key: &BackendKey) -> Key {
    Key(key.as_str().bytes().skip(1).fold(0, |number, digit| number * 10 + (digit - b'0')))
}
