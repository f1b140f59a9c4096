use std::{borrow::Borrow, fmt, sync::Arc};

/// A backend's identity in a [`BackendSet`](crate::BackendSet): what stays the same when its
/// address changes. Cheap to clone. Sets refuse an empty key.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendKey(Arc<str>);

impl BackendKey {
    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: Into<Arc<str>>> From<S> for BackendKey {
    fn from(key: S) -> Self {
        Self(key.into())
    }
}

impl Borrow<str> for BackendKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BackendKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// One session (a client's connection and what is done for it), from its acceptance to its end.
/// Never used twice within one balancer, and ordered as the clients were accepted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    pub(crate) serial: u64,
    /// Where the balancer keeps the session's record; used again, unlike the serial.
    pub(crate) slot: u32,
}

impl SessionId {
    /// How many sessions the balancer had accepted before this one.
    pub fn serial(self) -> u64 {
        self.serial
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serial.fmt(f)
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId({})", self.serial)
    }
}

/// One replacement of the set, numbered from 1 in the order in which replacements took effect.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Generation(pub(crate) u64);

impl Generation {
    /// The generation as a number; 0 stands for "no set yet".
    pub fn number(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One listener of a server, numbered in the order in which they were added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ListenerId(pub(crate) u64);

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
