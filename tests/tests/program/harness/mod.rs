//! Starts the program, backends and clients, and waits for what they do.

mod backend;
mod client;
mod cluster;
mod file;
mod http;
mod knot;
pub(crate) mod namespace;
#[cfg(target_os = "linux")]
mod network;
mod output;
mod page;
mod process;
mod recording;
mod rest;
mod socket;
mod strace;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

#[cfg(target_os = "linux")]
pub(crate) use self::network::{BACKENDS, BALANCER, Host, Network};
pub(crate) use self::{
    backend::Backend,
    client::{Client, End, Load},
    cluster::Cluster,
    file::{ConfigFile, service},
    http::{Answer, get, http, http_with, put},
    knot::Knot,
    output::{Kill, output},
    page::{check, check_ranges, default_of, page, rows, time_of},
    process::{Line, Tinylb, binary},
    recording::{Recording, judged},
    rest::Rest,
    socket::{Hung, Socket},
    strace::Strace,
};

/// Whatever takes longer hangs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Looks until there is something to see.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(began.elapsed() < DEADLINE, "this never came: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Looks until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    eventually(what, || holds().then_some(()));
}

/// An address at which nobody listens, for where port 0 won't do. The host is this test's own (the
/// whole of 127.0.0.0/8 leads to this machine), so that no other program can take the port.
pub(crate) fn free_address() -> String {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    let host = Ipv4Addr::new(127, high.max(1), low, NEXT.fetch_add(1, Ordering::Relaxed));
    let socket = TcpListener::bind(SocketAddr::new(IpAddr::V4(host), 0)).unwrap();
    socket.local_addr().unwrap().to_string()
}
