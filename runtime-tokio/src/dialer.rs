use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, connect},
};
use tinylb_core::{Dialer, Fault, SocketKind};
use tokio::time::{Instant, sleep};

use crate::{
    Address, AddressChange, AddressConn, AddressFailure, Host, TcpConn, TcpOptions, TcpTarget,
    UnixConn, UnixTarget,
    dial_from::{DialFrom, source_of},
    explain::explain,
    fault::fault,
    lookup::Lookups,
    moves::Moves,
    nonblocking::socket,
    ports::EphemeralPorts,
    race::Races,
    stream::{Stream, stream},
};

/// Connects over TCP.
///
/// The system's resolver looks a name up at each dial, on a thread of its own. Concurrent dials of
/// one name share a lookup, and a lookup that hangs doesn't hold up any other name. If a name has
/// several addresses, the next one is tried when one has failed or hasn't answered for 100 ms, and
/// the first that answers wins (RFC 8305). An address that failed comes last for a minute.
#[derive(Default)]
pub struct TcpDialer {
    options: RwLock<TcpOptions>,
    own: RwLock<Vec<Address>>,
    /// The ephemeral ports when the dialer was made.
    ephemeral_ports: EphemeralPorts,
    back: RwLock<Vec<Address>>,
    dial_from: DialFrom,
    pub(crate) lookups: Lookups,
    races: Races,
    moves: Moves,
}

/// Connects to Unix sockets.
///
/// A Unix socket has no handshake that could be left unfinished: each probe that succeeds is a
/// connection that the backend accepts and finds closed.
#[derive(Default)]
pub struct UnixDialer {
    own: RwLock<Vec<Address>>,
    back: RwLock<Vec<Address>>,
}

/// Connects to any [`Address`].
#[derive(Default)]
pub struct AddressDialer {
    tcp: TcpDialer,
    unix: UnixDialer,
}

/// Pause before a Unix socket whose backlog is full is tried again.
const FULL_PAUSE: Duration = Duration::from_millis(5);

impl TcpDialer {
    /// A dialer whose connections have these options.
    pub fn new(options: TcpOptions) -> Self {
        Self { options: RwLock::new(options), ..Self::default() }
    }

    /// Sets a function that is called for each address of a name that fails in a dial, even if
    /// another address answers. It must not block.
    #[must_use]
    pub fn on_address_failure(
        mut self,
        observe: impl Fn(AddressFailure<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.races.observe(observe);
        self
    }

    /// Sets a function that is called when a dial finds that the addresses of its backend's name have
    /// changed, in more than their order. If they change all the time, it is called three times, and
    /// then once a minute. The 1024 names that were dialled last are remembered. The function must not
    /// block.
    #[must_use]
    pub fn on_address_change(
        mut self,
        observe: impl Fn(AddressChange<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.moves.observe(observe);
        self
    }

    /// Gives connections that are dialled from now on these options.
    pub fn set_options(&self, options: TcpOptions) {
        set(&self.options, options);
    }

    /// Where the balancer itself listens: such targets are refused in a set, and addresses of
    /// names that lead there are refused in a dial.
    pub fn set_own(&self, own: Vec<Address>) {
        set(&self.own, own);
    }

    /// Sets the addresses of other listeners whose connections come back to this balancer. Dials to
    /// them are refused, also if a name resolves to one. Sets may still have such targets, since
    /// what leads back may change.
    pub fn set_back(&self, back: Vec<Address>) {
        set(&self.back, back);
    }

    /// Sets the addresses of this machine that new dials come from. Dials take turns among those of
    /// the target's family; without any, the system chooses. Several addresses have more ports for
    /// connections to one backend. By default there are none.
    pub fn set_dial_from(&self, addresses: Vec<IpAddr>) {
        self.dial_from.set(addresses);
    }

    /// Finds the addresses of a target and races them. `connect` connects to one.
    async fn race<'a, C: Send>(
        &'a self,
        target: &TcpTarget,
        within: Duration,
        connect: impl Fn(SocketAddr) -> BoxFuture<'a, io::Result<C>> + Send,
    ) -> io::Result<C> {
        let name = match &target.host {
            Host::Ip(ip) => return connect(SocketAddr::new(*ip, target.port)).await,
            Host::Name(name) => name,
        };
        let began = Instant::now();
        let mut addresses = self.lookups.lookup(name).await?.to_vec();
        self.moves.note(name, began, &addresses);
        addresses.iter_mut().for_each(|address| address.set_port(target.port));
        let left = within.saturating_sub(began.elapsed());
        self.races.run(target, &addresses, left, connect).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpConn> {
        let connect = async {
            let (socket, is_bound) = self.open(address).await?;
            let stream = self.establish(socket, is_bound, address).await?;
            if let Some(limit) = get(&self.options).limit() {
                stream.socket()?.look_after(Some(limit));
            }
            Ok(TcpConn::new(stream, address))
        };
        connect.await.map_err(explain)
    }

    /// A socket to connect to an address, and whether it has a source address of its own.
    pub(crate) async fn open(&self, address: SocketAddr) -> io::Result<(OwnedFd, bool)> {
        // Lets the reactor report what has come from clients first: one that has reset meanwhile costs
        // no dial. So where two balancers lead to each other, a reset catches up with the dials
        // before it.
        tokio::task::yield_now().await;
        check(&self.own, &address.into())
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        refuse_back(&self.back, &address.into())?;
        let socket = socket(match address {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        })?;
        get(&self.options).apply_dialled(&socket)?;
        let is_bound = self.dial_from.bind(&socket, address)?;
        Ok((socket, is_bound))
    }

    /// Connects a socket that was opened for this address.
    pub(crate) async fn establish(
        &self,
        socket: OwnedFd,
        is_bound: bool,
        address: SocketAddr,
    ) -> io::Result<Stream> {
        match connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        let mut stream = stream(socket, SocketKind::Tcp, true)?;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        stream.set_nodelay_when_due();
        // A dial that is given up may have succeeded already. Dropping it sends a reset, so the
        // backend doesn't mistake it for an empty stream.
        stream.socket()?.connected().await?;
        // If no socket listens on a port of this machine's ephemeral range, a dialling socket may
        // get that port itself and connect to itself (TCP's simultaneous open, RFC 9293, section
        // 3.5).
        let is_itself =
            |local: SocketAddr| (local.ip(), local.port()) == (address.ip(), address.port());
        if self.ephemeral_ports.may_include(address.port())
            && is_itself(stream.socket()?.local_address()?)
        {
            return Err(Errno::CONNREFUSED.into());
        }
        // If it is one of this machine's addresses, the balancer listens there as well.
        let may_lead_back =
            listens_everywhere(&self.own, address) || listens_everywhere(&self.back, address);
        if may_lead_back {
            let source =
                if is_bound { source_of(address)? } else { stream.socket()?.local_address()?.ip() };
            if source == address.ip() {
                let error = format!("the balancer itself listens at port {}", address.port());
                return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
            }
        }
        Ok(stream)
    }
}

#[async_trait]
impl Dialer for TcpDialer {
    type Target = TcpTarget;
    type Conn = TcpConn;

    async fn dial(&self, target: &TcpTarget, within: Duration) -> io::Result<TcpConn> {
        self.race(target, within, |address| Box::pin(self.connect(address))).await
    }

    /// Connects, and resets the connection before its handshake is over, so that the backend's `accept`
    /// never returns it. (On Linux, and unless this process stands still for 200 ms in between.)
    async fn probe(&self, target: &TcpTarget, within: Duration) -> io::Result<()> {
        self.race(target, within, |address| Box::pin(self.knock(address))).await
    }

    /// By the system's number of the error. A name is at fault if each of its addresses is that this
    /// machine can reach, and none went undialled for lack of descriptors, buffers or ports.
    fn classify(&self, error: &io::Error) -> Fault {
        fault(error)
    }

    fn validate(&self, target: &TcpTarget) -> Result<(), String> {
        check(&self.own, &Address::Tcp(target.clone()))
    }
}

impl UnixDialer {
    /// Sets the addresses that are refused because they lead back, see [`TcpDialer::set_back`].
    pub fn set_back(&self, back: Vec<Address>) {
        set(&self.back, back);
    }

    /// Where the balancer itself listens: such targets are refused in a set.
    pub fn set_own(&self, own: Vec<Address>) {
        set(&self.own, own);
    }
}

#[async_trait]
impl Dialer for UnixDialer {
    type Target = UnixTarget;
    type Conn = UnixConn;

    async fn dial(&self, target: &UnixTarget, _within: Duration) -> io::Result<UnixConn> {
        refuse_back(&self.back, &Address::Unix(target.clone()))?;
        loop {
            let socket = socket(AddressFamily::UNIX).map_err(explain)?;
            match connect(&socket, &SocketAddrUnix::new(target.path())?) {
                Ok(()) => {
                    let stream = stream(socket, SocketKind::Unix, false)?;
                    break Ok(UnixConn::new(stream, target.to_string()));
                }
                // Unlike TCP, a full backlog is an error (unix(7)).
                Err(Errno::AGAIN) => sleep(FULL_PAUSE).await,
                Err(error) => break Err(error.into()),
            }
        }
    }

    /// By the system's number of the error. A socket that doesn't exist counts as a refusal: a server
    /// that ends may remove it. A full backlog is silence, as with TCP, and no error: the dial waits.
    fn classify(&self, error: &io::Error) -> Fault {
        fault(error)
    }

    fn validate(&self, target: &UnixTarget) -> Result<(), String> {
        check(&self.own, &Address::Unix(target.clone()))
    }
}

impl AddressDialer {
    /// A dialer whose TCP connections have these options.
    pub fn new(options: TcpOptions) -> Self {
        Self { tcp: TcpDialer::new(options), unix: UnixDialer::default() }
    }

    /// Reports addresses of names that fail, see [`TcpDialer::on_address_failure`].
    #[must_use]
    pub fn on_address_failure(
        mut self,
        observe: impl Fn(AddressFailure<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.tcp = self.tcp.on_address_failure(observe);
        self
    }

    /// Reports names whose addresses change, see [`TcpDialer::on_address_change`].
    #[must_use]
    pub fn on_address_change(
        mut self,
        observe: impl Fn(AddressChange<'_>) + Send + Sync + 'static,
    ) -> Self {
        self.tcp = self.tcp.on_address_change(observe);
        self
    }

    /// Gives TCP connections that are dialled from now on these options.
    pub fn set_options(&self, options: TcpOptions) {
        self.tcp.set_options(options);
    }

    /// Sets the addresses that are refused because they lead back, see [`TcpDialer::set_back`].
    pub fn set_back(&self, back: Vec<Address>) {
        self.tcp.set_back(back.clone());
        self.unix.set_back(back);
    }

    /// Where TCP connections come from, see [`TcpDialer::set_dial_from`].
    pub fn set_dial_from(&self, addresses: Vec<IpAddr>) {
        self.tcp.set_dial_from(addresses);
    }

    /// Where the balancer itself listens, see [`TcpDialer::set_own`].
    pub fn set_own(&self, own: Vec<Address>) {
        // Targets of both kinds are checked against these.
        self.tcp.set_own(own);
    }
}

#[async_trait]
impl Dialer for AddressDialer {
    type Target = Address;
    type Conn = AddressConn;

    async fn dial(&self, target: &Address, within: Duration) -> io::Result<AddressConn> {
        match target {
            Address::Tcp(target) => self.tcp.dial(target, within).await.map(AddressConn::Tcp),
            Address::Unix(target) => self.unix.dial(target, within).await.map(AddressConn::Unix),
        }
    }

    async fn probe(&self, target: &Address, within: Duration) -> io::Result<()> {
        match target {
            Address::Tcp(target) => self.tcp.probe(target, within).await,
            Address::Unix(target) => self.unix.probe(target, within).await,
        }
    }

    fn classify(&self, error: &io::Error) -> Fault {
        fault(error)
    }

    fn validate(&self, target: &Address) -> Result<(), String> {
        check(&self.tcp.own, target)
    }
}

fn check(own: &RwLock<Vec<Address>>, target: &Address) -> Result<(), String> {
    target.validate_target(&own.read().unwrap_or_else(PoisonError::into_inner))
}

fn refuse_back(back: &RwLock<Vec<Address>>, address: &Address) -> io::Result<()> {
    let back = back.read().unwrap_or_else(PoisonError::into_inner);
    match back.iter().find(|back| back.leads_to(address)) {
        Some(back) => {
            let error = format!("it leads back to the balancer, by way of {back}");
            Err(io::Error::new(io::ErrorKind::InvalidInput, error))
        }
        None => Ok(()),
    }
}

fn listens_everywhere(own: &RwLock<Vec<Address>>, address: SocketAddr) -> bool {
    own.read().unwrap_or_else(PoisonError::into_inner).iter().any(|own| match own {
        Address::Tcp(TcpTarget { host: Host::Ip(ip), port }) => {
            *port == address.port()
                && ip.is_unspecified()
                && (ip.is_ipv6() || address.ip().to_canonical().is_ipv4())
        }
        _ => false,
    })
}

fn get<T: Clone>(shared: &RwLock<T>) -> T {
    shared.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn set<T>(shared: &RwLock<T>, value: T) {
    *shared.write().unwrap_or_else(PoisonError::into_inner) = value;
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt, poll};
    use tinylb_core::{Conn, Listener, SocketConn};

    use super::*;
    use crate::TcpListener;

    #[tokio::test]
    async fn a_name_that_leads_to_the_balancer_itself_is_not_dialled() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let target: TcpTarget = format!("localhost:{}", address.port()).parse().unwrap();
        let dialer = TcpDialer::default();
        let within = Duration::from_secs(10);
        assert!(dialer.dial(&target, within).await.is_ok());
        dialer.set_own(vec![address.into()]);
        let error = dialer.dial(&target, within).await.err().unwrap();
        assert!(error.to_string().contains("the balancer itself"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_backend_is_dialled_from_the_addresses_that_are_given() {
        let dialer = TcpDialer::default();
        let from = ["127.0.0.71", "127.0.0.72", "::1"].map(|ip| ip.parse().unwrap());
        dialer.set_dial_from(from.into());
        let within = Duration::from_secs(10);
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = TcpTarget::from(backend.local_addr().unwrap());
        let mut seen = Vec::new();
        for _ in 0..4 {
            let conn = dialer.dial(&target, within).await.unwrap();
            let peer = backend.accept().unwrap().1;
            assert_eq!(conn.local_address().unwrap(), peer);
            seen.push(peer.ip());
        }
        assert_eq!(seen, [from[0], from[1], from[0], from[1]]);
        // No address of this machine.
        dialer.set_dial_from(vec!["192.0.2.1".parse().unwrap()]);
        let error = dialer.dial(&target, within).await.err().unwrap().to_string();
        assert!(error.contains("192.0.2.1") && error.contains("of this machine"), "{error}");
        dialer.set_dial_from(Vec::new());
        assert!(dialer.dial(&target, within).await.is_ok());
    }

    #[tokio::test]
    async fn a_backend_takes_no_dial_that_was_given_up_for_a_stream_without_bytes() {
        let options = TcpOptions::default();
        let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let target = TcpTarget::from(listener.local_address().unwrap());
        let dialer = TcpDialer::default();
        let within = Duration::from_secs(10);
        // The system completes the handshake, whether the dial goes on or not.
        let mut dial = dialer.dial(&target, within);
        assert!(poll!(&mut dial).is_pending());
        // The connect begins after the reactor has had its turn.
        tokio::task::yield_now().await;
        assert!(poll!(&mut dial).is_pending());
        let mut conn = listener.accept().await.unwrap();
        drop(dial);
        let error = conn.read(&mut [0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        // A dial that came through, and ends.
        dialer.dial(&target, within).await.unwrap().finish();
        let mut conn = listener.accept().await.unwrap();
        assert_eq!(conn.read(&mut [0]).await.unwrap(), 0);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_server_that_speaks_first_is_connected_at_once() {
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        backend.set_nonblocking(true).unwrap();
        let target = TcpTarget::from(backend.local_addr().unwrap());
        let dialer = TcpDialer::default();
        let _conn = dialer.dial(&target, Duration::from_secs(10)).await.unwrap();
        // On the loopback, packets have arrived when the call that sends them returns.
        assert!(backend.accept().is_ok());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_first_answer_in_small_parts_waits_for_no_acknowledgement() {
        // A backend that has not switched Nagle's algorithm off sends the second part once the first
        // has been acknowledged: at once, unless the system has come to think that there will be
        // something to send along. By the second question it does, on any connection.
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = TcpTarget::from(backend.local_addr().unwrap());
        let dialer = TcpDialer::default();
        let mut conn = dialer.dial(&target, Duration::from_secs(10)).await.unwrap();
        conn.write_all(b"?").await.unwrap();
        let socket = conn.stream().socket().unwrap().fd();
        assert!(rustix::net::sockopt::tcp_quickack(socket).unwrap());
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn small_writes_to_a_backend_do_not_wait_for_each_other() {
        let backend = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let target = TcpTarget::from(backend.local_addr().unwrap());
        let mut conn = TcpDialer::default().dial(&target, Duration::from_secs(10)).await.unwrap();
        conn.write_all(b"1").await.unwrap();
        conn.write_all(b"2").await.unwrap();
        assert!(rustix::net::sockopt::tcp_nodelay(conn.stream().socket().unwrap().fd()).unwrap());
    }
}
