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
    /// PostgreSQL takes writes. Patroni answers 200 whenever its node has the leader key: before a
    /// replica is promoted, and while PostgreSQL doesn't run. Its state is "running" only if it has
    /// just answered, and then the role is its own.
    pub(crate) fn is_primary(&self) -> bool {
        let Ok(node) = serde_json::from_str::<serde_json::Value>(&self.body) else { return false };
        let is_primary = ["master", "primary"].iter().any(|role| node["role"] == *role);
        self.status == 200 && node["state"] == "running" && is_primary
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
