use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use hickory_resolver::net::runtime::{
    DnsUdpSocket, RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime,
};
use tokio::{
    io::{Interest, ReadBuf},
    net::UdpSocket,
};

/// hickory's sockets on tokio, except that UDP sockets are connected. Only a connected socket gets
/// an error if the server's port is closed (ICMP, RFC 1122, section 4.1.3.3); otherwise a server
/// that is down looks like a silent one. The system also drops packets from other senders.
#[derive(Clone, Default)]
pub(super) struct Provider(TokioRuntimeProvider);

/// A socket that talks with one server.
pub(super) struct Connected {
    socket: UdpSocket,
    server: SocketAddr,
}

impl RuntimeProvider for Provider {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Connected;
    type Tcp = <TokioRuntimeProvider as RuntimeProvider>::Tcp;

    fn create_handle(&self) -> TokioHandle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        local: Option<SocketAddr>,
        within: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        self.0.connect_tcp(server, local, within)
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Connected>>>> {
        Box::pin(async move {
            let socket = UdpSocket::bind(local).await?;
            socket.connect(server).await?;
            Ok(Connected { socket, server })
        })
    }
}

#[async_trait]
impl DnsUdpSocket for Connected {
    type Time = TokioTime;

    fn poll_recv_from(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.socket.poll_recv(cx, &mut buffer))?;
        Poll::Ready(Ok((buffer.filled().len(), self.server)))
    }

    /// The system reports a server that is down only as an error, not as something to read.
    async fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        loop {
            let ready = self.socket.ready(Interest::READABLE | Interest::ERROR).await?;
            if ready.is_error()
                && let Some(error) = self.socket.take_error()?
            {
                return Err(error);
            }
            match self.socket.try_recv(buffer) {
                Ok(length) => return Ok((length, self.server)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let nothing = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
                    let _taken_back = self.socket.try_io(Interest::ERROR, nothing);
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn poll_send_to(
        &self,
        cx: &mut Context<'_>,
        buffer: &[u8],
        _server: SocketAddr,
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_send(cx, buffer)
    }
}
