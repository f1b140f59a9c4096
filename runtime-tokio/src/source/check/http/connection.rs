//! One connection to a server of HTTP/1.1.

use std::{
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, FutureExt};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    rt::{Read, ReadBufCursor, Write},
};
use tinylb_core::Conn;
use tokio::time::timeout;

use crate::{AddressConn, source::check::words::words};

pub(super) type Question = Request<Empty<Bytes>>;

/// A connection that is asked one question after the other. Nothing polls it in between: if the
/// server closes it meanwhile, that shows at the next question.
///
/// It is reset if it is dropped before its answer has ended, and ends in order otherwise.
pub(super) struct Connection {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` once it has ended.
    driver: Option<http1::Connection<Io, Empty<Bytes>>>,
    /// What hasn't been read of the last answer.
    rest: Option<Rest>,
    is_idle: bool,
}

struct Rest {
    body: Incoming,
    /// How much may still come, in bytes.
    left: usize,
}

/// The longest head of an answer, in bytes, and the longest line of a chunk.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// The longest body that is read, in bytes. It's cheaper to connect anew than to read a longer one.
const BODY_BYTES_MAX: usize = 64 << 10;

/// How long the next question waits for the rest of the last answer, which has had an interval to
/// arrive.
const REST_TIME_MAX: Duration = Duration::from_millis(100);

impl Connection {
    pub(super) async fn new(conn: AddressConn) -> hyper::Result<Self> {
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (sender, driver) = builder.handshake(Io(conn)).await?;
        Ok(Self { sender, driver: Some(driver), rest: None, is_idle: true })
    }

    /// Asks, and returns the status of the answer. Informational responses (1xx) are skipped.
    ///
    /// # Errors
    /// There is no answer, or it isn't HTTP.
    pub(super) async fn ask(&mut self, question: Question) -> hyper::Result<StatusCode> {
        self.is_idle = false;
        let answer = drive(&mut self.driver, self.sender.send_request(question)).await?;
        let status = answer.status();
        self.rest = Some(Rest { body: answer.into_body(), left: BODY_BYTES_MAX });
        Ok(status)
    }

    /// Reads the rest of the last answer, and returns whether another question may follow. Takes at
    /// most half of the time that there is.
    pub(super) async fn is_ready(&mut self, within: Duration) -> bool {
        timeout(REST_TIME_MAX.min(within / 2), self.drain()).await.unwrap_or(false)
    }

    /// Whether another question may follow, as far as that is known without waiting: only an answer
    /// that has come as a whole tells.
    pub(super) fn may_be_ready(&mut self) -> bool {
        self.drain().now_or_never().unwrap_or(true)
    }

    /// Reads the rest of the last answer. Returns whether another question may follow. Dropping this
    /// loses nothing.
    async fn drain(&mut self) -> bool {
        let Self { sender, driver, rest, .. } = self;
        let drained = async {
            if let Some(Rest { body, left }) = rest {
                while let Some(frame) = body.frame().await {
                    let length = frame.ok()?.data_ref().map_or(0, Bytes::len);
                    *left = left.checked_sub(length)?;
                }
            }
            sender.ready().await.ok()
        };
        self.is_idle = drive(driver, drained).await.is_some();
        self.is_idle
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.is_idle
            && let Some(driver) = self.driver.take()
        {
            driver.into_parts().io.0.finish();
        }
    }
}

/// Does some work, which needs the connection, and moves the connection's bytes meanwhile.
async fn drive<T>(
    driver: &mut Option<http1::Connection<Io, Empty<Bytes>>>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    poll_fn(|cx| {
        for _ in 0..ROUNDS {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(done);
            }
            let Some(connection) = driver else { return Poll::Pending };
            // The work learns of an error by itself.
            if Pin::new(connection).poll(cx).is_ready() {
                *driver = None;
            }
        }
        Poll::Pending
    })
    .await
}

/// How often the work and the connection hand something to each other before they wait: often enough
/// for a short answer that has come.
const ROUNDS: usize = 4;

/// What is wrong, in the words of a log line.
pub(super) fn failure(error: &hyper::Error) -> String {
    let mut cause: &(dyn Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return words(error);
    }
    match cause.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_incomplete_message() || error.is_closed() => {
            "the connection was closed before an answer".into()
        }
        _ => format!("no HTTP: {cause}"),
    }
}

/// A connection as hyper wants it.
struct Io(AddressConn);

/// Bytes that are read at once: an answer to a check is short.
const READ_BYTES: usize = 2 << 10;

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let room = buffer.remaining().min(READ_BYTES);
        let length = ready!(Pin::new(&mut self.0).poll_read(cx, &mut bytes[..room]))?;
        buffer.put_slice(&bytes[..length]);
        Poll::Ready(Ok(()))
    }
}

impl Write for Io {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    /// Comes after a whole answer, so that the drop that follows is no cut.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.finish();
        Pin::new(&mut self.0).poll_close(cx)
    }
}
