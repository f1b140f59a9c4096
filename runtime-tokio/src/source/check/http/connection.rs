//! One connection to a server of HTTP/1.1.

use std::{
    error::Error,
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use futures::FutureExt;
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use tokio::time::timeout;

use super::stream::Stream;
use crate::source::check::words::words;

pub(super) type Question = Request<Empty<Bytes>>;

/// A connection that is asked one question after the other. Nothing polls it in between: if the
/// server closes it meanwhile, that shows at the next question.
///
/// It is reset if it is dropped before its answer has ended, and ends in order otherwise.
pub(super) struct Connection {
    /// The connection between two questions. In plain text, it has no buffers.
    idle: Option<Stream>,
    /// The connection from a question to the end of its answer.
    busy: Option<Busy>,
}

struct Busy {
    sender: http1::SendRequest<Empty<Bytes>>,
    /// `None` once it has ended.
    driver: Option<Driver>,
    rest: Option<Rest>,
}

type Driver = http1::Connection<Stream, Empty<Bytes>>;

/// What hasn't been read of an answer.
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
    pub(super) fn new(stream: Stream) -> Self {
        Self { idle: Some(stream), busy: None }
    }

    /// Asks, and returns the status of the answer. Informational responses (1xx) are skipped.
    ///
    /// # Errors
    /// There is no answer, or it isn't HTTP.
    ///
    /// # Panics
    /// The rest of another answer hasn't been read ([`Self::is_ready`]).
    pub(super) async fn ask(&mut self, question: Question) -> hyper::Result<StatusCode> {
        let stream = self.idle.take().expect("the last answer has been read");
        let mut builder = http1::Builder::new();
        builder.max_buf_size(HEAD_BYTES_MAX);
        let (sender, driver) = builder.handshake(stream).await?;
        let busy = self.busy.insert(Busy { sender, driver: Some(driver), rest: None });
        let answer = busy.sender.send_request(question);
        let answer = drive(&mut busy.driver, answer).await?;
        let status = answer.status();
        busy.rest = Some(Rest { body: answer.into_body(), left: BODY_BYTES_MAX });
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
        let Some(Busy { sender, driver, rest }) = &mut self.busy else { return true };
        let drained = async {
            if let Some(Rest { body, left }) = rest {
                while let Some(frame) = body.frame().await {
                    let length = frame.ok()?.data_ref().map_or(0, Bytes::len);
                    *left = left.checked_sub(length)?;
                }
            }
            sender.ready().await.ok()
        };
        if drive(driver, drained).await.is_none() {
            return false;
        }
        let driver = self.busy.take().and_then(|busy| busy.driver);
        let parts = driver.map(Driver::into_parts);
        // Whatever has come after the answer belongs to no question.
        self.idle = parts.filter(|parts| parts.read_buf.is_empty()).map(|parts| parts.io);
        self.idle.is_some()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.idle {
            stream.finish();
        }
    }
}

/// Does some work, which needs the connection, and moves the connection's bytes meanwhile.
async fn drive<T>(driver: &mut Option<Driver>, work: impl Future<Output = T>) -> T {
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
        // A server that looks at our certificate may refuse it when the question has been sent.
        #[cfg(feature = "tls")]
        if let Some(failure) = super::tls::failure(error, "another name") {
            return failure;
        }
        return words(error);
    }
    match cause.downcast_ref::<hyper::Error>() {
        Some(error) if error.is_incomplete_message() || error.is_closed() => {
            "the connection was closed before an answer".into()
        }
        _ => format!("no HTTP: {cause}"),
    }
}
