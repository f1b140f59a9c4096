use std::{
    future::poll_fn,
    io,
    net::{IpAddr, SocketAddr},
    task::Poll,
    time::Duration,
};

use async_trait::async_trait;
use futures::channel::oneshot;
use tinylb_core::{Conn, Dialer, Fault};
use turmoil::net::TcpStream;

use super::{Network, TurmoilConn, runtime::catch_panics, wire::End};

/// Connects to listeners on the simulated network.
///
/// A dial across a link that is cut hangs until the link is whole again, and so does one whose SYN
/// was lost in a cut. A dial that is given up is aborted once it connects.
pub struct TurmoilDialer {
    network: Network,
    host: IpAddr,
}

impl TurmoilDialer {
    /// A dialer to be used on the host with this address.
    pub fn new(network: &Network, host: IpAddr) -> Self {
        Self { network: network.clone(), host }
    }
}

#[async_trait]
impl Dialer for TurmoilDialer {
    type Target = SocketAddr;
    type Conn = TurmoilConn;

    async fn dial(&self, target: &SocketAddr, _within: Duration) -> io::Result<TurmoilConn> {
        let (reply, answer) = oneshot::channel();
        let dial = Dial { network: self.network.clone(), host: self.host, target: *target, reply };
        // A task of its own: turmoil leaves a connection behind at the acceptor if its connect is
        // dropped.
        tokio::spawn(catch_panics(&self.network, dial.run()));
        match answer.await {
            Ok(answer) => answer.map(Claim::take),
            Err(_) => Err(io::Error::other("the dial panicked")),
        }
    }

    /// On this network, a dial that can't get to its target hangs, and none runs out of anything. So a
    /// refusal is the only fault that a target has; other errors are wrong uses of the adapter.
    fn classify(&self, error: &io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Fault::Refused,
            _ => Fault::Ours,
        }
    }
}

/// One dial, which outlives the future that asks for it.
struct Dial {
    network: Network,
    host: IpAddr,
    target: SocketAddr,
    reply: oneshot::Sender<io::Result<Claim>>,
}

impl Dial {
    async fn run(mut self) {
        let answer = loop {
            if !self.is_whole().await {
                return;
            }
            let cuts = self.cuts();
            match TcpStream::connect(self.target).await {
                Ok(stream) => {
                    let answer = self.connected(stream);
                    // The SYN-ACK comes back only on a link that is whole.
                    if !self.is_whole().await {
                        return;
                    }
                    break answer;
                }
                // turmoil says the same of a lost SYN.
                Err(_) if self.cuts() != cuts => {}
                Err(error) => break Err(error),
            }
        };
        // One that isn't claimed is aborted.
        let _ = self.reply.send(answer);
    }

    /// Waits until the link is whole. `false`: the dial was given up first.
    async fn is_whole(&mut self) -> bool {
        let Self { network, host, target, reply } = self;
        poll_fn(|cx| {
            if reply.poll_canceled(cx).is_ready() {
                return Poll::Ready(false);
            }
            network.poll_whole(*host, target.ip(), cx).map(|()| true)
        })
        .await
    }

    fn cuts(&self) -> u64 {
        self.network.cuts(self.host, self.target.ip())
    }

    fn connected(&self, stream: TcpStream) -> io::Result<Claim> {
        let local = stream.local_addr()?;
        let wire = self.network.dialled(local, self.target).ok_or_else(|| {
            let error = "who accepts there is not of this network";
            io::Error::new(io::ErrorKind::InvalidInput, error)
        })?;
        let conn = Claim(Some(TurmoilConn::new(&self.network, stream, wire, End::Dialer)?));
        if local.ip() != self.host && !local.ip().is_loopback() {
            let error = format!("the dialer of {} is on the host {}", self.host, local.ip());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
        Ok(conn)
    }
}

/// A connection on its way to the task that asked for it; aborted if it doesn't get there.
struct Claim(Option<TurmoilConn>);

impl Claim {
    fn take(mut self) -> TurmoilConn {
        self.0.take().expect("a claim is taken once")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(conn) = &mut self.0 {
            conn.abort();
        }
    }
}
