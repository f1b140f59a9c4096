use std::{io, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// An answer of Patroni.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// PostgreSQL takes writes. (While a replica is promoted, Patroni answers 200 before that.)
    pub(crate) fn is_primary(&self) -> bool {
        self.status == 200 && self.body.contains("\"role\": \"master\"")
    }
}

/// Asks a node's REST API. Patroni closes the connection after each answer.
async fn ask(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let status = status.ok_or(io::ErrorKind::InvalidData)?;
    Ok(Answer { status, body: body.into() })
}

/// The answer to a GET, unless it takes longer than a second.
pub(crate) async fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    timeout(Duration::from_secs(1), ask(address, path)).await?
}
