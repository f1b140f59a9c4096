use std::{cell::Cell, io, net::SocketAddr};

use tokio::{io::copy_bidirectional, net::TcpStream, task::spawn_local};

use crate::{backend::listen, load::current_thread};

/// A plain balancer, as one would write it first: `copy_bidirectional` on one thread, without any
/// of what tinylb promises.
pub fn run(at: SocketAddr, backends: &[SocketAddr]) -> io::Result<()> {
    let turn = Cell::new(0);
    current_thread().block_on(async {
        let listener = listen(at)?;
        loop {
            let (mut client, _) = listener.accept().await?;
            let backend = backends[turn.replace(turn.get() + 1) % backends.len()];
            spawn_local(async move {
                client.set_nodelay(true)?;
                let mut backend = TcpStream::connect(backend).await?;
                backend.set_nodelay(true)?;
                copy_bidirectional(&mut client, &mut backend).await
            });
        }
    })
}
