use std::{io, net::SocketAddr, os::fd::OwnedFd};

use crate::{TcpDialer, explain::explain};

impl TcpDialer {
    /// Connects to an address and resets the connection before its handshake is over.
    pub(crate) async fn knock(&self, address: SocketAddr) -> io::Result<()> {
        let knock = async {
            let (socket, is_bound) = self.open(address).await?;
            hold_handshake(&socket)?;
            self.establish(socket, is_bound, address).await?.reset();
            Ok(())
        };
        knock.await.map_err(explain)
    }
}

/// Makes the system hold back the last packet of the handshake (Linux's `TCP_QUICKACK`, tcp(7)). The
/// system sends it after 200 ms all the same, unless the connection is reset before.
fn hold_handshake(socket: &OwnedFd) -> io::Result<()> {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::net::sockopt::set_tcp_quickack(socket, false)?;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let _ = socket;
    Ok(())
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, TcpListener},
        time::{Duration, Instant},
    };

    use tinylb_core::{Dialer, Fault};

    use super::*;
    use crate::{TcpTarget, lookup::Lookups};

    const WITHIN: Duration = Duration::from_secs(10);

    /// Half the time for which the system holds the packet back.
    const HELD_BACK: Duration = Duration::from_millis(100);

    /// A backend that is asked what it has accepted. On the loopback, packets have arrived when the
    /// call that sends them returns.
    fn backend(ip: &str, port: u16) -> TcpListener {
        let listener = TcpListener::bind((ip.parse::<IpAddr>().unwrap(), port)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    /// Probes until the machine has let 20 probes through without standing still for as long as the
    /// system holds a packet back.
    async fn assert_accept_no_probe(
        dialer: &TcpDialer,
        target: &TcpTarget,
        backends: &[&TcpListener],
    ) {
        let mut probes = 0;
        while probes < 20 {
            let began = Instant::now();
            dialer.probe(target, WITHIN).await.unwrap();
            let accepted = backends.iter().any(|backend| backend.accept().is_ok());
            if began.elapsed() < HELD_BACK {
                assert!(!accepted, "a backend has accepted a probe");
                probes += 1;
            }
        }
    }

    #[tokio::test]
    async fn a_backend_accepts_no_probe() {
        let backend = backend("127.0.0.1", 0);
        let target = TcpTarget::from(backend.local_addr().unwrap());
        let dialer = TcpDialer::default();
        assert_accept_no_probe(&dialer, &target, &[&backend]).await;
        // What is dialled comes through at once.
        let _conn = dialer.dial(&target, WITHIN).await.unwrap();
        assert!(backend.accept().is_ok());
    }

    #[tokio::test]
    async fn no_backend_of_a_name_accepts_a_probe() {
        let first = backend("127.0.0.2", 0);
        let port = first.local_addr().unwrap().port();
        let second = backend("127.0.0.3", port);
        let target: TcpTarget = format!("db.test:{port}").parse().unwrap();
        let mut dialer = TcpDialer::default();
        // The first address refuses.
        let addresses = [1, 2, 3].map(|last| SocketAddr::from(([127, 0, 0, last], 0)));
        dialer.lookups = Lookups::new(1, move |_| Ok(addresses.into()));
        assert_accept_no_probe(&dialer, &target, &[&first, &second]).await;
    }

    #[tokio::test]
    async fn a_probe_that_nobody_answers_is_an_error_like_a_dials() {
        let free = backend("127.0.0.1", 0).local_addr().unwrap();
        let dialer = TcpDialer::default();
        let error = dialer.probe(&free.into(), WITHIN).await.unwrap_err();
        assert_eq!(dialer.classify(&error), Fault::Refused);
    }
}
