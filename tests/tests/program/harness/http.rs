use std::io::{Read, Write};

use serde_json::Value;

use super::Socket;

/// What a request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// With its status line, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads an answer to the end of the stream.
    pub(crate) fn read(socket: &mut Socket) -> Self {
        let mut text = Vec::new();
        // What came before a reset counts.
        let read = socket.read_to_end(&mut text);
        let text = String::from_utf8(text).unwrap();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            panic!("no answer but {text:?}, {read:?}")
        };
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.into() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn http(address: &str, method: &str, path: &str, body: &[u8]) -> Answer {
    let host = if address.starts_with("unix:") { "x" } else { address };
    http_with(address, method, path, &format!("Host: {host}\r\n"), body)
}

/// The same with these headers, each with its line end.
pub(crate) fn http_with(
    address: &str,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> Answer {
    let mut socket = Socket::connect(address).unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\n{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).unwrap();
    // A server may answer, and close, before it has read all.
    let _ = socket.write_all(body);
    Answer::read(&mut socket)
}

pub(crate) fn get(address: &str, path: &str) -> Answer {
    http(address, "GET", path, b"")
}

/// Puts the backends of a service.
pub(crate) fn put(address: &str, service: &str, body: &str) -> Answer {
    http(address, "PUT", &format!("/services/{service}/backends"), body.as_bytes())
}
