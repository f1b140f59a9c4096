use std::{net::IpAddr, num::NonZeroU16, time::Duration};

use async_trait::async_trait;
use tinylb_core::{Answer, Dialer};

use super::{Checker, at_port, undialled};
use crate::{Address, AddressDialer, TcpOptions};

/// Asks whether a backend accepts connections.
///
/// It connects, and resets the connection before its handshake is over (SYN, SYN-ACK, RST), so that the
/// backend's `accept` never returns it. This is how the balancer probes ejected backends, and how
/// HAProxy checks over TCP ([packets](https://github.com/haproxy/haproxy/issues/3153)). It harms least:
///
/// - **Connecting in full and closing** looks like a client that failed to log in. MySQL blocks a host
///   that fails `max_connect_errors` times in a row, 100 by default
///   ([manual](https://docs.oracle.com/cd/E17952_01/mysql-5.7-en/blocked-host.html)), and so did
///   [MariaDB](https://github.com/MariaDB/server/pull/2413) for such checks. MariaDB 10.11 doesn't, but
///   counts each as one of `Aborted_connects` and logs a warning: 150 for 150 checks. 150 checks of this
///   kind add none, and leave no entry in `host_cache`. HAProxy's add none either. (Its `option
///   mysql-check` logs in instead, which takes a user without a password.)
/// - **Connecting in full and resetting** counts as well, and servers log it as an error of the network
///   ([complaint](https://github.com/haproxy/haproxy/issues/560)).
/// - Both fill the backlog of a process that accepts nothing for a while. It finds hundreds of dead
///   connections there when it goes on, and until then they take the place of clients.
///
/// So it's the backend's system that answers: a process that hangs or was stopped passes until clients
/// have filled its backlog. Use [`HttpCheck`](super::HttpCheck) to find it.
///
/// On systems other than Linux, the backend's `accept` returns the connection, which is then reset. A
/// Unix socket has no handshake: the backend accepts the connection and finds it closed.
#[derive(Default)]
pub struct TcpCheck {
    dialer: AddressDialer,
    port: Option<NonZeroU16>,
    is_refusal_no: bool,
}

impl TcpCheck {
    /// A check of the backends' own ports.
    pub fn new() -> Self {
        Self { dialer: dialer(), port: None, is_refusal_no: false }
    }

    /// Asks at this port instead of the backend's. Clients are still sent to the backend's.
    #[must_use]
    pub fn with_port(mut self, port: NonZeroU16) -> Self {
        self.port = Some(port);
        self
    }

    /// Takes a refused connection for an answer that means no, rather than for none. Right where the
    /// check runs on the backend's machine, so that no network is between them.
    #[must_use]
    pub fn with_refusal_as_no(mut self) -> Self {
        self.is_refusal_no = true;
        self
    }

    /// Dials from these addresses of this machine, see
    /// [`TcpDialer::set_dial_from`](crate::TcpDialer::set_dial_from).
    #[must_use]
    pub fn with_dial_from(self, addresses: Vec<IpAddr>) -> Self {
        self.dialer.set_dial_from(addresses);
        self
    }
}

#[async_trait]
impl Checker for TcpCheck {
    /// [`Answer::Pass`], [`Answer::None`] or, if the backend can't be dialled through our own fault,
    /// [`Answer::Ours`]. [`Answer::Fail`] only with [`Self::with_refusal_as_no`]: a refusal doesn't come
    /// from the backend, but from the system that lacks it.
    async fn check(&self, target: &Address, within: Duration) -> Answer {
        let address = match at_port(target, self.port) {
            Ok(address) => address,
            Err(reason) => return Answer::None(reason.into()),
        };
        match self.dialer.probe(&address, within).await {
            Ok(()) => Answer::Pass,
            Err(error) => undialled(&error, self.is_refusal_no),
        }
    }
}

/// A dialer for connections that a check's own time limit ends.
pub(super) fn dialer() -> AddressDialer {
    AddressDialer::new(TcpOptions { peer_timeout: None })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Only a hang takes as long as that.
    const DEADLINE: Duration = Duration::from_secs(30);

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn no_backend_accepts_a_check() {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        backend.set_nonblocking(true).unwrap();
        let target = Address::from(backend.local_addr().unwrap());
        let check = TcpCheck::new();
        let mut checks = 0;
        while checks < 20 {
            let began = std::time::Instant::now();
            assert_eq!(check.check(&target, DEADLINE).await, Answer::Pass);
            let accepted = backend.accept().is_ok();
            // A process that stands still for 200 ms lets the handshake come to its end.
            if began.elapsed() < Duration::from_millis(100) {
                assert!(!accepted, "the backend has accepted a check");
                checks += 1;
            }
        }
    }

    #[tokio::test]
    async fn a_backend_is_asked_at_the_port_that_is_given() {
        let backend = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = NonZeroU16::new(backend.local_addr().unwrap().port()).unwrap();
        let target = "127.0.0.1:1".parse().unwrap();
        let refused = Answer::None("connection refused".into());
        assert_eq!(TcpCheck::new().check(&target, DEADLINE).await, refused);
        let check = TcpCheck::new().with_port(port);
        assert_eq!(check.check(&target, DEADLINE).await, Answer::Pass);
        drop(backend);
        assert_eq!(check.check(&target, DEADLINE).await, refused);
        let no = Answer::Fail("connection refused".into());
        assert_eq!(check.with_refusal_as_no().check(&target, DEADLINE).await, no);
    }

    #[tokio::test]
    async fn a_unix_socket_passes_while_a_server_listens_there() {
        let path = std::env::temp_dir().join(format!("tinylb-tcp-check-{}", std::process::id()));
        let target = format!("unix:{}", path.display()).parse().unwrap();
        let check = TcpCheck::new();
        let missing = Answer::None("no such file or directory".into());
        assert_eq!(check.check(&target, DEADLINE).await, missing);
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert_eq!(check.check(&target, DEADLINE).await, Answer::Pass);
        drop(listener);
        let refused = Answer::None("connection refused".into());
        assert_eq!(check.check(&target, DEADLINE).await, refused);
        std::fs::remove_file(&path).unwrap();
    }
}
