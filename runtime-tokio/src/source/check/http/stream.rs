//! A connection as hyper wants it, in plain text or encrypted.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead as _, AsyncWrite as _};
use hyper::rt::{Read, ReadBufCursor, Write};
use tinylb_core::Conn;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::AddressConn;

/// A connection to a server.
pub(super) enum Stream {
    Plain(Plain),
    #[cfg(feature = "tls")]
    Encrypted(Box<super::tls::Encrypted>),
}

impl Stream {
    /// Ends it in order, without waiting: the drop that follows is no cut.
    pub(super) fn finish(&mut self) {
        match self {
            Self::Plain(plain) => plain.finish(),
            #[cfg(feature = "tls")]
            Self::Encrypted(encrypted) => super::tls::finish(encrypted),
        }
    }

    fn either(self: Pin<&mut Self>) -> Pin<&mut dyn Both> {
        match self.get_mut() {
            Self::Plain(plain) => Pin::new(plain),
            #[cfg(feature = "tls")]
            Self::Encrypted(encrypted) => Pin::new(&mut **encrypted),
        }
    }
}

trait Both: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Both for S {}

/// Bytes that are read at once: an answer to a check is short.
const READ_BYTES: usize = 2 << 10;

impl Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let room = buffer.remaining().min(READ_BYTES);
        let mut read = ReadBuf::new(&mut bytes[..room]);
        ready!(self.either().poll_read(cx, &mut read))?;
        buffer.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.either().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.either().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.either().poll_shutdown(cx)
    }
}

/// A connection as tokio wants it.
pub(super) struct Plain {
    conn: AddressConn,
    is_finished: bool,
}

impl Plain {
    pub(super) fn new(conn: AddressConn) -> Self {
        Self { conn, is_finished: false }
    }

    pub(super) fn finish(&mut self) {
        if !self.is_finished {
            self.is_finished = true;
            self.conn.finish();
        }
    }
}

impl AsyncRead for Plain {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.initialize_unfilled();
        let length = ready!(Pin::new(&mut self.conn).poll_read(cx, room))?;
        buffer.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.conn).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.conn).poll_flush(cx)
    }

    /// Comes after a whole answer, so that the drop that follows is no cut.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Pin::new(&mut self.conn).poll_close(cx)
    }
}
