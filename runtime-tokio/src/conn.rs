use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::io::{AsyncRead, AsyncWrite};
use tinylb_core::{Conn, SocketConn};

use crate::stream::{Stream, WatchedSocket};

/// A TCP connection. [`Conn::abort`] resets it, and so does a drop without [`Conn::finish`], or any
/// end of its process ([`TcpOptions`](crate::TcpOptions)). A reset by the peer is noticed without
/// reading on Linux.
///
/// A reset discards what the peer's system has not acknowledged yet, so the peer of an aborted
/// connection gets a prefix of what was written, and never an end of stream. On Linux,
/// [`Conn::unacknowledged`] knows how much is discarded.
pub struct TcpConn {
    stream: Stream,
    peer: Peer,
}

/// A [`SocketAddr`] in half its space, where it is of IPv4.
enum Peer {
    V4(SocketAddrV4),
    V6(Box<SocketAddrV6>),
}

/// A connection over a Unix socket. It can't be reset: the peer of an aborted one, or of a process
/// that was killed, sees an end of stream, or a reset if it had sent something that was not read
/// yet (Linux).
pub struct UnixConn {
    stream: Stream,
    peer: Arc<str>,
}

/// A connection to an [`Address`](crate::Address).
pub enum AddressConn {
    /// TCP.
    Tcp(TcpConn),
    /// A Unix socket.
    Unix(UnixConn),
}

impl TcpConn {
    pub(crate) fn new(stream: Stream, peer: SocketAddr) -> Self {
        let peer = match canonical(peer) {
            SocketAddr::V4(peer) => Peer::V4(peer),
            SocketAddr::V6(peer) => Peer::V6(Box::new(peer)),
        };
        Self { stream, peer }
    }

    /// Its own address, as the peer knows it.
    ///
    /// # Errors
    /// The system's; or the connection was aborted.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.socket()?.local_address().map(canonical)
    }
}

/// An IPv4 address as such, even if an IPv6 socket shows it as a mapped address.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

impl UnixConn {
    pub(crate) fn new(stream: Stream, peer: impl Into<Arc<str>>) -> Self {
        Self { stream, peer: peer.into() }
    }
}

impl Conn for TcpConn {
    fn peer(&self) -> String {
        match &self.peer {
            Peer::V4(peer) => peer.to_string(),
            Peer::V6(peer) => peer.to_string(),
        }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_cut(cx)
    }

    fn finish(&mut self) {
        self.stream.finish();
    }

    fn unacknowledged(&self) -> usize {
        self.stream.unacknowledged()
    }

    fn abort(&mut self) {
        self.stream.reset();
    }
}

impl Conn for UnixConn {
    fn peer(&self) -> String {
        self.peer.to_string()
    }

    fn abort(&mut self) {
        self.stream.close();
    }
}

impl Conn for AddressConn {
    fn peer(&self) -> String {
        match self {
            Self::Tcp(conn) => conn.peer(),
            Self::Unix(conn) => conn.peer(),
        }
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self {
            Self::Tcp(conn) => conn.poll_cut(cx),
            Self::Unix(conn) => conn.poll_cut(cx),
        }
    }

    fn finish(&mut self) {
        match self {
            Self::Tcp(conn) => conn.finish(),
            Self::Unix(conn) => conn.finish(),
        }
    }

    fn unacknowledged(&self) -> usize {
        match self {
            Self::Tcp(conn) => conn.unacknowledged(),
            Self::Unix(conn) => conn.unacknowledged(),
        }
    }

    fn abort(&mut self) {
        match self {
            Self::Tcp(conn) => conn.abort(),
            Self::Unix(conn) => conn.abort(),
        }
    }
}

impl SocketConn for TcpConn {
    type Socket = WatchedSocket;

    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl SocketConn for UnixConn {
    type Socket = WatchedSocket;

    fn stream(&mut self) -> &mut Stream {
        &mut self.stream
    }
}

impl SocketConn for AddressConn {
    type Socket = WatchedSocket;

    fn stream(&mut self) -> &mut Stream {
        match self {
            Self::Tcp(conn) => &mut conn.stream,
            Self::Unix(conn) => &mut conn.stream,
        }
    }
}

macro_rules! byte_streams {
    ($conn:ty) => {
        impl AsyncRead for $conn {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                self.get_mut().stream().poll_read(cx, buffer)
            }
        }

        impl AsyncWrite for $conn {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &[u8],
            ) -> Poll<io::Result<usize>> {
                self.get_mut().stream().poll_write(cx, buffer)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.get_mut().stream().poll_close()
            }
        }
    };
}

byte_streams!(TcpConn);
byte_streams!(UnixConn);
byte_streams!(AddressConn);

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use socket2::SockRef;
    use tinylb_core::{Dialer, Listener};

    use super::*;
    use crate::{TcpDialer, TcpListener, TcpOptions, TcpTarget};

    #[tokio::test]
    async fn both_ends_of_a_session_are_probed_once_they_are_older_than_a_second_and_not_before() {
        for peer_timeout in [Some(Duration::from_secs(120)), None] {
            let options = TcpOptions { peer_timeout };
            let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
            let target = TcpTarget::from(listener.local_address().unwrap());
            let dialer = TcpDialer::new(options);
            let began = std::time::Instant::now();
            let (accepted, dialled) =
                tokio::join!(listener.accept(), dialer.dial(&target, Duration::from_secs(10)));
            let mut dialled = dialled.unwrap();
            // One option comes with the second write.
            for _ in 0..2 {
                futures::AsyncWriteExt::write_all(&mut dialled, b"?").await.unwrap();
            }
            let mut is_probed = [false; 2];
            for (conn, is_probed) in [accepted.unwrap(), dialled].iter().zip(&mut is_probed) {
                let socket = conn.stream.socket().unwrap().fd();
                let socket = SockRef::from(&socket);
                assert!(socket.tcp_nodelay().unwrap());
                assert_eq!(socket.tcp_user_timeout().unwrap(), None);
                let is_young = || began.elapsed() < Duration::from_secs(1);
                assert!(!socket.keepalive().unwrap() || !is_young());
                // Without a limit, as long as it would have taken with one.
                let patience = Duration::from_secs(if peer_timeout.is_some() { 60 } else { 4 });
                while !*is_probed && began.elapsed() < patience {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    *is_probed = socket.keepalive().unwrap();
                }
                assert!(!*is_probed || !is_young());
                if let Some(peer_timeout) = peer_timeout {
                    let idle = socket.tcp_keepalive_time().unwrap();
                    let probing = socket.tcp_keepalive_interval().unwrap()
                        * socket.tcp_keepalive_retries().unwrap();
                    let found = idle + probing;
                    assert!(found <= peer_timeout && found > peer_timeout * 3 / 4, "{found:?}");
                }
            }
            assert_eq!(is_probed, [peer_timeout.is_some(); 2]);
        }
    }

    /// Whether closing it resets it.
    fn resets(conn: &TcpConn) -> bool {
        let socket = conn.stream.socket().unwrap().fd();
        SockRef::from(&socket).linger().unwrap() == Some(Duration::ZERO)
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_connection_is_reset_when_it_is_closed_until_it_is_finished() {
        // One listener that was set up here, and one that comes from elsewhere.
        let options = TcpOptions::default();
        let address = "127.0.0.1:0".parse().unwrap();
        let foreign = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let listeners = [
            TcpListener::bind(address, &options).unwrap(),
            TcpListener::from_std(foreign).unwrap(),
        ];
        for mut listener in listeners {
            let target = TcpTarget::from(listener.local_address().unwrap());
            let dialer = TcpDialer::default();
            let (accepted, dialled) =
                tokio::join!(listener.accept(), dialer.dial(&target, Duration::from_secs(10)));
            let mut conns = [accepted.unwrap(), dialled.unwrap()];
            assert!(conns.iter().all(resets));
            conns.iter_mut().for_each(Conn::finish);
            assert!(!conns.iter().any(resets));
            // The driver doesn't, but what is aborted is reset all the same.
            let [mut accepted, mut dialled] = conns;
            accepted.abort();
            let error = futures::AsyncReadExt::read(&mut dialled, &mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
    }

    #[tokio::test]
    async fn what_is_behind_urgent_data_is_read_as_well() {
        use std::io::Write;

        use futures::AsyncReadExt;

        let options = TcpOptions::default();
        let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let mut client = std::net::TcpStream::connect(listener.local_address().unwrap()).unwrap();
        let mut conn = listener.accept().await.unwrap();
        client.write_all(b"A").unwrap();
        SockRef::from(&client).send_out_of_band(b"!").unwrap();
        client.write_all(b"C").unwrap();
        // A reader that has room for more than there is before the mark.
        let mut read = Vec::new();
        while read.len() < 3 {
            let mut buffer = [0; 16];
            let reading = tokio::time::timeout(Duration::from_secs(10), conn.read(&mut buffer));
            let length = reading.await.expect("there is more to read").unwrap();
            read.extend_from_slice(&buffer[..length]);
        }
        assert_eq!(read, b"A!C");
    }

    /// What is read of a client that does this once it is connected, until its end; and whether that
    /// was known without asking the system.
    #[cfg(target_os = "linux")]
    async fn read_of(client_does: impl Fn(std::net::TcpStream)) -> (io::Result<Vec<u8>>, bool) {
        use futures::AsyncReadExt;

        let options = TcpOptions::default();
        let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        client_does(std::net::TcpStream::connect(listener.local_address().unwrap()).unwrap());
        let mut conn = listener.accept().await.unwrap();
        let mut read = Vec::new();
        loop {
            let is_known = conn.stream.is_at_end();
            let mut buffer = [0; 16];
            match conn.read(&mut buffer).await {
                Ok(0) => return (Ok(read), is_known),
                Ok(length) => read.extend_from_slice(&buffer[..length]),
                Err(error) => return (Err(error), is_known),
            }
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_end_right_behind_the_data_is_known_and_a_cut_is_not_taken_for_it() {
        use std::io::Write;

        let (read, is_known) = read_of(|mut client| client.write_all(b"bye").unwrap()).await;
        assert_eq!((read.unwrap(), is_known), (b"bye".to_vec(), true));
        // A read that was full may have left something.
        let (read, is_known) = read_of(|mut client| client.write_all(&[7; 32]).unwrap()).await;
        assert_eq!((read.unwrap(), is_known), (vec![7; 32], false));
        // One that stopped at urgent data has.
        let urgent = |mut client: std::net::TcpStream| {
            client.write_all(b"A").unwrap();
            SockRef::from(&client).send_out_of_band(b"!").unwrap();
            client.write_all(b"C").unwrap();
        };
        assert_eq!(read_of(urgent).await.0.unwrap(), b"A!C");
        let cut = |mut client: std::net::TcpStream| {
            client.write_all(b"bye").unwrap();
            SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        };
        let (read, is_known) = read_of(cut).await;
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(!is_known);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_last_bytes_go_with_the_end_behind_them() {
        use std::io::Read;

        use futures::AsyncWriteExt;

        let options = TcpOptions::default();
        let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        // The system sends them after a while anyway: a test that is held up has to try again.
        for attempt in 1.. {
            let address = listener.local_address().unwrap();
            let mut client = std::net::TcpStream::connect(address).unwrap();
            let mut conn = listener.accept().await.unwrap();
            let written = std::future::poll_fn(|cx| conn.stream.poll_write_last(cx, b"bye")).await;
            assert_eq!(written.unwrap(), 3);
            client.set_nonblocking(true).unwrap();
            let is_held = client.read(&mut [0; 16]).is_err();
            conn.close().await.unwrap();
            if is_held {
                client.set_nonblocking(false).unwrap();
                let mut read = Vec::new();
                client.read_to_end(&mut read).unwrap();
                assert_eq!(read, b"bye");
                break;
            }
            assert!(attempt < 50, "they are sent at once");
        }
    }
}
