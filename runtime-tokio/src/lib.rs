//! tinylb on tokio: TCP and Unix sockets for [`tinylb_core::Server`].
//!
//! - [`TcpListener`], [`TcpDialer`] and [`TcpConn`]; [`UnixListener`], [`UnixDialer`] and
//!   [`UnixConn`]; [`AddressDialer`] for backends of both kinds.
//! - [`SocketRelay`], which moves the bytes between them, and [`Splice`] for when within the kernel.
//! - [`TokioRuntime`], and [`TcpOptions`] for what every TCP connection is set to.
//! - [`run_blocking`], for work that may hang; [`read_file`], [`replace_file`] and [`FileSignature`],
//!   for files that a configuration names.
#![cfg_attr(
    feature = "check",
    doc = "- [`Checked`]: sets of another source, without the backends that fail a check ([`HttpCheck`],
  [`TcpCheck`]; feature `check`)."
)]
#![cfg_attr(feature = "dns", doc = "- [`DnsSource`]: sets from DNS (feature `dns`).")]
#![cfg_attr(
    feature = "etcd",
    doc = "- [`EtcdSource`]: sets from etcd, and [`EtcdRegistration`], by which a backend gets there
  (feature `etcd`)."
)]
#![cfg_attr(feature = "file", doc = "- [`FileSource`]: sets from a file (feature `file`).")]
//! - [`restarting`]: restarts a source that panics or ends.
//!
//! The program `tinylb` is in this package as well, behind the feature `cli`.
//!
//! ```
//! use tinylb_core::{BackendSet, Server, Settings};
//! use tinylb_tokio::{
//!     SocketRelay, TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let options = TcpOptions::default();
//! let runtime = TokioRuntime::current();
//! let dialer = TcpDialer::new(options.clone());
//! let server = Server::new(dialer, runtime.clone(), Settings::default())?;
//! let listener = TcpListener::bind("127.0.0.1:0".parse()?, &options)?;
//! server.listen(listener, SocketRelay::default(), runtime);
//!
//! let backends = [("a", "127.0.0.1:9001"), ("b", "127.0.0.1:9002")];
//! let backends = backends.map(|(key, address)| (key, address.parse::<TcpTarget>().unwrap()));
//! let replacement = server.handle().replace(BackendSet::new(backends)?)?;
//! println!("{} backends came", replacement.await.added.len());
//! # Ok(())
//! # }
//! ```
#![deny(unsafe_code)]

mod blocking;
mod conn;
mod dial_from;
mod dialer;
mod disk;
mod error;
mod explain;
mod fault;
mod limit;
mod listener;
mod lookup;
mod moves;
mod nonblocking;
mod options;
mod pipe;
mod ports;
mod probe;
mod race;
mod relay;
mod runtime;
mod source;
mod stream;
mod target;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod tcp_info;
#[cfg(any(target_os = "linux", target_os = "android"))]
mod upkeep;

#[cfg(feature = "file")]
pub use self::source::FileSource;
#[cfg(feature = "tls")]
pub use self::source::{CheckTls, CheckTlsError};
#[cfg(feature = "check")]
pub use self::source::{Checked, Checker, HttpCheck, HttpCheckError, TcpCheck, VerdictBoard};
#[cfg(feature = "dns")]
pub use self::source::{DnsFamily, DnsName, DnsOptions, DnsSource};
#[cfg(feature = "etcd")]
pub use self::source::{
    EtcdOptions, EtcdOptionsError, EtcdRegistration, EtcdRegistrationEvent, EtcdSource, EtcdTls,
};
pub use self::{
    blocking::run_blocking,
    conn::{AddressConn, TcpConn, UnixConn},
    dialer::{AddressDialer, TcpDialer, UnixDialer},
    disk::{FileSignature, read_file, remove_file, replace_file},
    error::AddressError,
    listener::{TcpListener, UnixListener, UnixSocketFile},
    moves::AddressChange,
    options::TcpOptions,
    race::AddressFailure,
    relay::SocketRelay,
    runtime::TokioRuntime,
    source::restarting,
    stream::WatchedSocket,
    target::{Address, Host, TcpTarget, UnixTarget},
};
pub use tinylb_core::Splice;
