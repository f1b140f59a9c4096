//! Where sets come from outside the process: streams of "set" or "lost", each behind a feature of
//! its own.
//!
//! - `check/` (feature `check`): those backends of another source that pass a check.
//! - `dns.rs` (feature `dns`): the addresses of a name, or the targets of a service.
//! - `etcd.rs` (feature `etcd`): the keys under a prefix; and how a backend gets there.
//! - `file.rs` (feature `file`): the lines of a file.
//! - `restart.rs`: restarts a source that panics or ends.
//! - `backoff.rs`: how long a source waits between attempts that fail.

mod backoff;
#[cfg(feature = "check")]
mod check;
#[cfg(feature = "dns")]
mod dns;
#[cfg(feature = "etcd")]
mod etcd;
#[cfg(feature = "file")]
mod file;
mod restart;

#[cfg(feature = "tls")]
pub use self::check::{CheckTls, CheckTlsError};
#[cfg(feature = "check")]
pub use self::check::{Checked, Checker, HttpCheck, HttpCheckError, TcpCheck, VerdictBoard};
#[cfg(feature = "dns")]
pub use self::dns::{DnsFamily, DnsName, DnsOptions, DnsSource};
#[cfg(feature = "etcd")]
pub use self::etcd::{
    EtcdOptions, EtcdOptionsError, EtcdRegistration, EtcdRegistrationEvent, EtcdSource, EtcdTls,
};
#[cfg(feature = "file")]
pub use self::file::FileSource;
pub use self::restart::restarting;
