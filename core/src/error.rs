use std::io;

use thiserror::Error as ThisError;

use crate::BackendKey;

/// Why a set of backends was rejected, as a whole: nothing of it took effect.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum SetError {
    /// A backend's key is the empty string.
    #[error("the backend at {target} has an empty key: name it")]
    EmptyKey {
        /// Its target.
        target: String,
    },
    /// Two backends have the same key.
    #[error("the key {key} is there twice: a key names one backend")]
    DuplicateKey {
        /// The key.
        key: BackendKey,
    },
    /// There are more backends than [`Settings::backends_max`](crate::Settings::backends_max).
    #[error("{count} backends, and at most {max} are allowed; {key} is the first too many")]
    TooManyBackends {
        /// How many there are.
        count: usize,
        /// How many there may be.
        max: usize,
        /// The first key, in key order, beyond the bound.
        key: BackendKey,
    },
    /// The dialer can't or must not dial a target.
    #[error("the target {target} of {key} is invalid: {reason}")]
    InvalidTarget {
        /// The backend's key.
        key: BackendKey,
        /// Its target.
        target: String,
        /// What is wrong with it, in the dialer's words.
        reason: String,
    },
}

/// A setting is out of its range: nothing took effect.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[error("{name} is {value}; it must be {range}")]
pub struct SettingsError {
    /// The setting, by the name of its field.
    pub name: &'static str,
    /// What it was set to.
    pub value: String,
    /// What it may be set to.
    pub range: &'static str,
}

/// Why a listener stopped accepting, though nobody asked it to.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum ListenerError {
    /// It reported [`AcceptFailure::Fatal`](crate::AcceptFailure::Fatal).
    #[error("the listener is dead")]
    Dead(#[source] io::Error),
    /// Its code panicked: a bug in the adapter.
    #[error("the listener panicked")]
    Panicked,
    /// Its runtime dropped its task.
    #[error("the listener's runtime has shut down")]
    TaskDropped,
}
