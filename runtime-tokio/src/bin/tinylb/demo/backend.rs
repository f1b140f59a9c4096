use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use rustix::net::listen;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

/// A backend that sends its key and then echoes.
pub(super) struct Backend {
    key: &'static str,
    pub(super) address: SocketAddr,
    /// Connections that are open.
    pub(super) live: Arc<AtomicUsize>,
    listener: Arc<TcpListener>,
    accepting: AbortHandle,
    /// What fills its backlog while it hangs.
    fill: Vec<Socket>,
}

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// More connections than a backlog of 0 has room for, on any system.
const FILL_MAX: usize = 300;

impl Backend {
    pub(super) async fn start(key: &'static str) -> io::Result<Self> {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").await?);
        let (address, live) = (listener.local_addr()?, Arc::default());
        let accepting = accept(key, &listener, &live);
        Ok(Self { key, address, live, listener, accepting, fill: Vec::new() })
    }

    /// Stops accepting: what asks for a connection from now on gets no answer. Connections that are
    /// open go on.
    pub(super) fn hang(&mut self) -> io::Result<()> {
        self.accepting.abort();
        while let Ok((conn, _)) = SockRef::from(&*self.listener).accept() {
            conn.set_nonblocking(true)?;
            serve(self.key, TcpStream::from_std(conn.into())?, &self.live);
        }
        listen(&*self.listener, 0)?;
        while self.fill.len() < FILL_MAX {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            // It goes on in the background, or has gone through; see below.
            let _ = socket.connect(&SockAddr::from(self.address));
            let has_room = socket.peer_addr().is_ok();
            self.fill.push(socket);
            if !has_room {
                break;
            }
        }
        Ok(())
    }

    /// Accepts again.
    pub(super) fn answer(&mut self) -> io::Result<()> {
        self.fill.clear();
        listen(&*self.listener, BACKLOG)?;
        self.accepting = accept(self.key, &self.listener, &self.live);
        Ok(())
    }
}

fn accept(key: &'static str, listener: &Arc<TcpListener>, live: &Arc<AtomicUsize>) -> AbortHandle {
    let (listener, live) = (Arc::clone(listener), Arc::clone(live));
    let accepting = tokio::spawn(async move {
        while let Ok((conn, _)) = listener.accept().await {
            serve(key, conn, &live);
        }
    });
    accepting.abort_handle()
}

fn serve(key: &'static str, conn: TcpStream, live: &Arc<AtomicUsize>) {
    let live = Arc::clone(live);
    live.fetch_add(1, Relaxed);
    tokio::spawn(async move {
        let _ = echo(conn, key).await;
        live.fetch_sub(1, Relaxed);
    });
}

async fn echo(mut conn: TcpStream, key: &str) -> io::Result<()> {
    conn.write_all(key.as_bytes()).await?;
    let (mut read, mut write) = conn.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}
