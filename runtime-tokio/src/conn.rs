use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{
    FutureExt,
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
};
use rustix::net::{SendFlags, Shutdown};
use socket2::SockRef;
use tinylb_core::Conn;
use tokio::{
    io::Interest,
    net::{TcpStream, UnixStream},
};

/// A TCP connection. [`Conn::abort`] resets it, and a reset by the peer is noticed without reading
/// on Linux.
///
/// A reset discards what the system has not sent yet, so the peer of an aborted connection gets a
/// prefix of what was written, and never an end of stream.
pub struct TcpConn {
    stream: Stream<TcpStream>,
    peer: SocketAddr,
}

/// A connection over a Unix socket. It can't be reset: the peer of an aborted one sees an end of
/// stream, or a reset if it had sent something that was not read yet (Linux).
pub struct UnixConn {
    stream: Stream<UnixStream>,
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
    pub(crate) fn new(stream: TcpStream, peer: SocketAddr) -> Self {
        Self { stream: Stream::new(stream), peer }
    }

    /// Its own address, as the peer knows it.
    ///
    /// # Errors
    /// The system's; or the connection was aborted.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.socket()?.local_addr()
    }
}

impl UnixConn {
    pub(crate) fn new(stream: UnixStream, peer: impl Into<Arc<str>>) -> Self {
        Self { stream: Stream::new(stream), peer: peer.into() }
    }
}

impl Conn for TcpConn {
    fn peer(&self) -> String {
        self.peer.to_string()
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.stream.poll_cut(cx)
    }

    fn abort(&mut self) {
        if let Some(stream) = &self.stream.socket {
            // Without lingering, closing the socket sends a reset.
            let _ = SockRef::from(&**stream).set_linger(Some(Duration::ZERO));
        }
        self.stream.close();
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

    fn abort(&mut self) {
        match self {
            Self::Tcp(conn) => conn.abort(),
            Self::Unix(conn) => conn.abort(),
        }
    }
}

/// What the two kinds of stream have in common. The socket is shared with the future that waits
/// for a reset, and gone once the connection was aborted.
struct Stream<S> {
    socket: Option<Arc<S>>,
    cut: Option<BoxFuture<'static, ()>>,
}

impl<S: Socket> Stream<S> {
    fn new(socket: S) -> Self {
        Self { socket: Some(Arc::new(socket)), cut: None }
    }

    fn close(&mut self) {
        self.cut = None;
        self.socket = None;
    }

    fn socket(&self) -> io::Result<&Arc<S>> {
        self.socket.as_ref().ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn poll_cut(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if !cfg!(any(target_os = "linux", target_os = "android")) {
            return Poll::Pending;
        }
        let Some(socket) = &self.socket else { return Poll::Pending };
        let cut = self.cut.get_or_insert_with(|| Arc::clone(socket).errored());
        ready!(cut.poll_unpin(cx));
        let error = SockRef::from(&**socket).take_error().ok().flatten();
        self.cut = None;
        Poll::Ready(error.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.cut = None;
        let socket = self.socket()?;
        loop {
            ready!(socket.poll_read_ready(cx))?;
            // A short count says nothing: a read also stops at urgent data (tcp(7)), and at
            // descriptors that were passed (unix(7)), with more to read behind.
            let mut read = || Ok(rustix::io::read(&**socket, &mut *buffer)?);
            if let Some(result) = done(socket.try_io(Interest::READABLE, &mut read)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.socket()?;
        loop {
            ready!(socket.poll_write_ready(cx))?;
            // A short count means that the socket is full, so the readiness is taken back with
            // it, and the next poll saves a call in vain.
            let mut short = None;
            let mut write = || match rustix::net::send(&**socket, buffer, SendFlags::NOSIGNAL)? {
                written if 0 < written && written < buffer.len() => {
                    short = Some(written);
                    Err(io::ErrorKind::WouldBlock.into())
                }
                written => Ok(written),
            };
            let result = socket.try_io(Interest::WRITABLE, &mut write);
            if let Some(result) = short.map(Ok).or_else(|| done(result)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_close(&mut self) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&**self.socket()?, Shutdown::Write)?))
    }
}

/// What an operation came to, or `None` if it is to be tried again once the socket is ready.
fn done(result: io::Result<usize>) -> Option<io::Result<usize>> {
    match result {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
        {
            None
        }
        result => Some(result),
    }
}

/// The two socket types of tokio, which have these methods in common but no trait.
trait Socket: std::os::fd::AsFd + Send + Sync + 'static {
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    fn try_io(
        &self,
        interest: Interest,
        operation: &mut dyn FnMut() -> io::Result<usize>,
    ) -> io::Result<usize>;
    /// Ready when the socket has an error, such as a reset.
    fn errored(self: Arc<Self>) -> BoxFuture<'static, ()>;
}

macro_rules! socket {
    ($stream:ty) => {
        impl Socket for $stream {
            fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_read_ready(cx)
            }

            fn poll_write_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                self.poll_write_ready(cx)
            }

            fn try_io(
                &self,
                interest: Interest,
                operation: &mut dyn FnMut() -> io::Result<usize>,
            ) -> io::Result<usize> {
                self.try_io(interest, operation)
            }

            fn errored(self: Arc<Self>) -> BoxFuture<'static, ()> {
                Box::pin(async move {
                    let _ = self.ready(Interest::ERROR).await;
                })
            }
        }
    };
}

socket!(TcpStream);
socket!(UnixStream);

macro_rules! byte_streams {
    ($conn:ty, $self:ident => $stream:expr) => {
        impl AsyncRead for $conn {
            fn poll_read(
                mut $self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &mut [u8],
            ) -> Poll<io::Result<usize>> {
                $stream.poll_read(cx, buffer)
            }
        }

        impl AsyncWrite for $conn {
            fn poll_write(
                mut $self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buffer: &[u8],
            ) -> Poll<io::Result<usize>> {
                $stream.poll_write(cx, buffer)
            }

            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }

            fn poll_close(mut $self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                $stream.poll_close()
            }
        }
    };
}

byte_streams!(TcpConn, self => self.stream);
byte_streams!(UnixConn, self => self.stream);

impl AsyncRead for AddressConn {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(conn) => conn.stream.poll_read(cx, buffer),
            Self::Unix(conn) => conn.stream.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for AddressConn {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(conn) => conn.stream.poll_write(cx, buffer),
            Self::Unix(conn) => conn.stream.poll_write(cx, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(conn) => conn.stream.poll_close(),
            Self::Unix(conn) => conn.stream.poll_close(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tinylb_core::{Dialer, Listener};

    use super::*;
    use crate::{TcpDialer, TcpListener, TcpOptions, TcpTarget};

    #[tokio::test]
    async fn both_ends_of_a_session_have_the_options_they_are_set_to() {
        for user_timeout in [Some(Duration::from_secs(120)), None] {
            let options = TcpOptions { user_timeout, keepalive: true };
            let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
            let target = TcpTarget::from(listener.local_address().unwrap());
            let dialer = TcpDialer::new(options);
            let (accepted, dialled) =
                tokio::join!(listener.accept(), dialer.dial(&target, Duration::from_secs(10)));
            for conn in [accepted.unwrap(), dialled.unwrap()] {
                let socket = SockRef::from(&**conn.stream.socket().unwrap());
                assert!(socket.tcp_nodelay().unwrap());
                assert!(socket.keepalive().unwrap());
                let idle = socket.tcp_keepalive_time().unwrap();
                let probing = socket.tcp_keepalive_interval().unwrap()
                    * socket.tcp_keepalive_retries().unwrap();
                assert_eq!(idle + probing, Duration::from_secs(60));
                assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout);
            }
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
}
