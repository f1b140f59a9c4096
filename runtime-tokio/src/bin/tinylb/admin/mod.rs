mod door;
mod guests;
mod show;

use std::{convert::Infallible, fmt, io, pin::pin, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use socket2::SockRef;
use tinylb_core::BackendSet;
use tinylb_tokio::{Address, TcpOptions, UnixSocketFile};
use tokio::{
    net::{TcpListener, UnixListener},
    time::{sleep, timeout},
};
use tracing::{info, warn};

use self::{
    guests::{Guest, Guests, Noted, Stream},
    show::{nothing_replaced, report, show},
};
use crate::{metrics, program::Program, service::Service, socket::Socket};

/// A request's body may have this many bytes: some 400,000 backends.
const BODY_MAX: usize = 16 << 20;
/// How long the head of a request may take to arrive, and its body.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
const BODY_TIME_MAX: Duration = Duration::from_secs(60);
/// After this time a connection accepts no more requests; it ends when the last has been answered.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// Time that an answer to a PUT waits for the replacement to be applied.
const APPLY_TIME_MAX: Duration = Duration::from_secs(20);
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// The most bytes of requests and answers that a connection buffers in this process, and of answers
/// in the system. The system reports progress only when a third of its buffer is free: the larger
/// that is, the longer a slow reader seems not to read at all.
const BUFFER_BYTES_MAX: usize = 64 << 10;
const SEND_BUFFER_BYTES: usize = 32 << 10;

type Answer = Response<Bytes>;

/// Answers requests at an address until the program ends. Returns the socket's file, if it has one,
/// to be dropped then: the runtime's end doesn't wait for the task that accepts.
///
/// # Errors
/// Cause and remedy in one line.
pub(crate) fn start(
    address: &Address,
    can_write: bool,
    program: Arc<Program>,
) -> Result<Option<UnixSocketFile>, String> {
    let socket = Socket::bind(address, &TcpOptions::default(), 1)?;
    let failed = |error: io::Error| format!("can't listen at {address}: {error}");
    info!("admin on {}", socket.local_address().map_err(failed)?);
    let (listener, file) = Listener::new(socket).map_err(failed)?;
    let is_local = matches!(listener, Listener::Unix(_));
    let admin = Admin { program, can_write, is_local, guests: Guests::new() };
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok(stream) => {
                    let guest = admin.guests.admit(stream).await;
                    tokio::spawn(admin.clone().serve(guest));
                }
                Err(error) => {
                    warn!("admin accept failed: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(file)
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    fn new(socket: Socket) -> io::Result<(Self, Option<UnixSocketFile>)> {
        match socket {
            Socket::Tcp(mut group) => {
                let listener = group.remove(0);
                listener.set_nonblocking(true)?;
                Ok((Self::Tcp(TcpListener::from_std(listener)?), None))
            }
            Socket::Unix(listener, file) => {
                listener.set_nonblocking(true)?;
                Ok((Self::Unix(UnixListener::from_std(listener)?), Some(file)))
            }
        }
    }

    /// Accepts the next connection. Dropping this loses none.
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        let stream: Box<dyn Stream> = match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        };
        let socket = SockRef::from(&stream);
        let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
        // The end of an answer is still delivered after the connection is closed. (Only TCP lingers.)
        let _ = socket.set_linger(None);
        Ok(stream)
    }
}

#[derive(Clone)]
struct Admin {
    program: Arc<Program>,
    can_write: bool,
    /// Whether it is a Unix socket, which no browser can reach.
    is_local: bool,
    guests: Guests,
}

impl Admin {
    /// Serves a connection. It ends between two requests, unless the client does nothing.
    async fn serve(self, guest: Arc<Guest>) {
        let answers = service_fn(|request| async {
            Ok::<_, Infallible>(self.answer(&guest, request).await.map(Full::new))
        });
        let stream = TokioIo::new(Noted(Arc::clone(&guest)));
        let mut serving = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .max_buf_size(BUFFER_BYTES_MAX)
                // A client that has sent its last request still gets an answer.
                .half_close(true)
                .serve_connection(stream, answers)
        );
        let serve = async {
            // A client that breaks off isn't our fault.
            if timeout(CONNECTION_TIME_MAX, serving.as_mut()).await.is_err() {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        };
        tokio::select! {
            biased;
            () = serve => {}
            () = guest.leaves() => {}
        }
    }

    async fn answer(&self, guest: &Arc<Guest>, request: Request<Incoming>) -> Answer {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        // The answer to a HEAD has no body.
        let (allowed, listed) = match path[..] {
            ["healthz" | "readyz" | "metrics" | "services"] => {
                (&[Method::GET, Method::HEAD][..], "GET, HEAD")
            }
            ["services", _, "backends"] => (&[Method::PUT][..], "PUT"),
            _ => return error(StatusCode::NOT_FOUND, "no such path"),
        };
        if !allowed.contains(request.method()) {
            let cause = format!("use {}", allowed[0]);
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &cause);
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(listed));
            return answer;
        }
        // These cost nothing, and are answered whatever else is asked.
        match path[..] {
            ["healthz"] => return text(StatusCode::OK, "ok\n".into()),
            ["readyz"] => return self.ready(),
            _ => {}
        }
        let Some(work) = self.guests.work(guest).await else { return busy() };
        work.hold(match path[..] {
            ["metrics"] => {
                text(StatusCode::OK, metrics::text(&self.program.services(), self.program.budget()))
            }
            ["services"] => self.show_services(),
            ["services", name, "backends"] => self.put_backends(&plain(name), guest, request).await,
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        })
    }

    fn ready(&self) -> Answer {
        let services = self.program.services();
        let why = |service: &Service| match self.program.is_stopping() {
            true => Some("shutting down"),
            false => service.unready(),
        };
        let unready: Vec<String> = services
            .iter()
            .filter_map(|service| Some(format!("{}: {}\n", service.name, why(service)?)))
            .collect();
        match unready.is_empty() && !services.is_empty() {
            true => text(StatusCode::OK, "ready\n".into()),
            false => text(StatusCode::SERVICE_UNAVAILABLE, unready.concat()),
        }
    }

    fn show_services(&self) -> Answer {
        let services = self.program.services();
        let services = services.iter().map(|service| (service.name.clone(), show(service)));
        json_answer(StatusCode::OK, &Value::Object(services.collect()))
    }

    /// Replaces a service's set, and answers once that is applied.
    async fn put_backends(
        &self,
        service: &str,
        guest: &Guest,
        request: Request<Incoming>,
    ) -> Answer {
        let no_service = || error(StatusCode::NOT_FOUND, "no service of this name");
        if self.program.service(service).is_none() {
            return no_service();
        }
        if !self.can_write {
            let cause = "this address only shows: start with --admin-write to change backends";
            return error(StatusCode::FORBIDDEN, cause);
        }
        if !self.is_local
            && let Err(cause) = door::refuse_strangers(&request)
        {
            return error(StatusCode::FORBIDDEN, &cause);
        }
        let body = Limited::new(request.into_body(), BODY_MAX).collect();
        let body = guest.rest(async {
            tokio::select! {
                biased;
                body = timeout(BODY_TIME_MAX, body) => body.ok(),
                () = guest.is_still() => None,
            }
        });
        let Some(body) = body.await else { return busy() };
        let body = match body {
            Some(Ok(body)) => body.to_bytes(),
            Some(Err(cause)) if cause.is::<LengthLimitError>() => {
                let cause = format!("the body has more than {BODY_MAX} bytes");
                return error(StatusCode::PAYLOAD_TOO_LARGE, &cause);
            }
            Some(Err(_)) => {
                let cause = "the body broke off, or its chunks are malformed: send it again";
                return error(StatusCode::BAD_REQUEST, cause);
            }
            None => return error(StatusCode::REQUEST_TIMEOUT, "the body didn't arrive in time"),
        };
        let set = match backends(&body) {
            Ok(set) => set,
            Err(cause) => return error(StatusCode::BAD_REQUEST, &cause),
        };
        // Only now, since reloads may have changed it while the body arrived: the source, and even which
        // service has the name.
        let Some(service) = self.program.service(service) else { return no_service() };
        if let Some(source) = service.source() {
            let cause = format!("the backends come from {source}: change them there");
            return error(StatusCode::CONFLICT, &cause);
        }
        if let Some(cause) = self.program.circle(&service.name, &set) {
            return error(StatusCode::BAD_REQUEST, &cause);
        }
        match service.put(set) {
            Ok(None) => json_answer(StatusCode::OK, &nothing_replaced()),
            Ok(Some(mut replacement)) => {
                let is_applied = timeout(APPLY_TIME_MAX, &mut replacement).await.is_ok();
                // Accepted: the set is in force, and sessions that were cut are still ending.
                let status = if is_applied { StatusCode::OK } else { StatusCode::ACCEPTED };
                json_answer(status, &report(replacement.report()))
            }
            Err(cause) => error(StatusCode::BAD_REQUEST, &cause.to_string()),
        }
    }
}

/// Decodes a part of a path. A part that can't be decoded stays as it is, and names no service.
fn plain(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut plain = pieces.next().unwrap_or_default().to_string();
    for piece in pieces {
        let byte = piece.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match byte.filter(u8::is_ascii) {
            Some(byte) => {
                plain.push(char::from(byte));
                plain.push_str(&piece[2..]);
            }
            None => {
                plain.push('%');
                plain.push_str(piece);
            }
        }
    }
    plain
}

/// The set in a JSON object of keys and addresses.
fn backends(body: &[u8]) -> Result<BackendSet<Address>, String> {
    let Pairs(pairs) = serde_json::from_slice(body)
        .map_err(|error| format!("{error}; give a JSON object of keys and addresses"))?;
    let backends: Result<Vec<_>, String> = pairs
        .into_iter()
        .map(|(key, address)| match address.parse::<Address>() {
            Ok(target) => Ok((key, target)),
            Err(error) => Err(format!("the address of {key}: {error}")),
        })
        .collect();
    BackendSet::new(backends?).map_err(|error| error.to_string())
}

/// A JSON object of strings. Keys may occur twice.
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Pairs, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

fn busy() -> Answer {
    let cause = "too many requests at once: nothing was done, try again";
    let mut answer = error(StatusCode::SERVICE_UNAVAILABLE, cause);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn error(status: StatusCode, cause: &str) -> Answer {
    json_answer(status, &json!({ "error": cause }))
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    answer(status, "application/json", format!("{value}\n"))
}

fn text(status: StatusCode, body: String) -> Answer {
    answer(status, "text/plain; version=0.0.4; charset=utf-8", body)
}

fn answer(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Bytes::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_in_a_path_may_be_percent_encoded() {
        for (part, name) in [
            ("a.b-c", "a.b-c"),
            ("%61%2Eb%2dc", "a.b-c"),
            ("a%2", "a%2"),
            ("%", "%"),
            ("%zz", "%zz"),
            ("%é", "%é"),
            ("%C3%A9", "%C3%A9"),
        ] {
            assert_eq!(plain(part), name);
        }
    }

    #[test]
    fn a_body_is_a_set_or_says_what_is_wrong_with_it() {
        let set = backends(br#"{"b": "127.0.0.1:2", "a": "unix:/run/a"}"#).unwrap();
        assert_eq!(set.len(), 2);
        assert!(backends(b"{}").unwrap().is_empty());
        for (body, cause) in [
            (&br#"{"a": "127.0.0.1:1", "a": "127.0.0.1:2"}"#[..], "there twice"),
            (br#"{"a": "127.0.0.1"}"#, "the address of a: `127.0.0.1` has no port"),
            (br#"{"": "127.0.0.1:1"}"#, "empty key"),
            (br#"{"a": 1}"#, "line 1 column 7"),
            (br#"["a"]"#, "JSON object"),
            (b"", "JSON object"),
            (br#"{"a": "127.0.0.1:1"} x"#, "trailing"),
        ] {
            let error = backends(body).unwrap_err();
            assert!(error.contains(cause), "{error}");
        }
    }
}
