//! What stands for all backends: one listener at every address of the loopback.

use std::{
    io::{self, Read},
    net::Ipv4Addr,
    thread,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime::Builder,
};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}";

/// Serves until the standard input ends.
pub fn serve(port: u16) -> io::Result<()> {
    thread::spawn(|| {
        let _ = io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    Builder::new_current_thread().enable_all().build()?.block_on(async {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::UNSPECIFIED, port).into())?;
        let listener = socket.listen(4096)?;
        loop {
            let (stream, _) = listener.accept().await?;
            tokio::spawn(answer(stream));
        }
    })
}

async fn answer(mut stream: TcpStream) -> io::Result<()> {
    let mut question = [0; 512];
    let mut length = 0;
    loop {
        match stream.read(&mut question[length..]).await? {
            0 => return Ok(()),
            read => length += read,
        }
        if question[..length].ends_with(b"\r\n\r\n") {
            stream.write_all(ANSWER).await?;
            length = 0;
        }
    }
}
