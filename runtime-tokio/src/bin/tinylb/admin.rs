use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Value, json};
use tinylb_core::{BackendSet, EndReason, Report};
use tinylb_tokio::{Address, TcpOptions, UnixSocketFile};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{metrics, program::Program, service::Service, socket::Socket};

/// A request's body may have this many bytes: some 400,000 backends.
const BODY_MAX: usize = 16 << 20;
/// Time for the head of a request to come, and for a request to be answered altogether.
const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
const REQUEST_TIME_MAX: Duration = Duration::from_secs(30);
/// Time for a connection altogether, however many requests it has and however it reads.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// Time that an answer to a PUT waits for the replacement to be applied.
const APPLY_TIME_MAX: Duration = Duration::from_secs(20);
/// Connections served at a time; the rest waits.
const CONNECTIONS_MAX: usize = 16;
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

type Answer = Response<Full<Bytes>>;

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
    let failed = |error: std::io::Error| format!("can't listen at {address}: {error}");
    info!("admin on {}", socket.local_address().map_err(failed)?);
    let admin = Admin { program, can_write, room: Arc::new(Semaphore::new(CONNECTIONS_MAX)) };
    match socket {
        Socket::Tcp(mut group) => {
            let listener = group.remove(0);
            listener.set_nonblocking(true).map_err(failed)?;
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            tokio::spawn(async move {
                loop {
                    let room = admin.room().await;
                    admin.clone().serve(listener.accept().await.map(|(conn, _)| conn), room).await;
                }
            });
            Ok(None)
        }
        Socket::Unix(listener, file) => {
            listener.set_nonblocking(true).map_err(failed)?;
            let listener = UnixListener::from_std(listener).map_err(failed)?;
            tokio::spawn(async move {
                loop {
                    let room = admin.room().await;
                    admin.clone().serve(listener.accept().await.map(|(conn, _)| conn), room).await;
                }
            });
            Ok(Some(file))
        }
    }
}

#[derive(Clone)]
struct Admin {
    program: Arc<Program>,
    can_write: bool,
    room: Arc<Semaphore>,
}

impl Admin {
    async fn room(&self) -> Option<tokio::sync::OwnedSemaphorePermit> {
        Arc::clone(&self.room).acquire_owned().await.ok()
    }

    /// Serves an accepted connection in a task of its own.
    async fn serve<C>(
        self,
        conn: std::io::Result<C>,
        room: Option<tokio::sync::OwnedSemaphorePermit>,
    ) where
        C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let conn = match conn {
            Ok(conn) => TokioIo::new(conn),
            Err(error) => {
                warn!("admin accept failed: {error}");
                return sleep(ACCEPT_PAUSE).await;
            }
        };
        tokio::spawn(async move {
            let _room = room;
            let answers = service_fn(|request| async {
                let answer = timeout(REQUEST_TIME_MAX, self.answer(request)).await;
                let late = || error(StatusCode::REQUEST_TIMEOUT, "the request took too long");
                Ok::<_, std::convert::Infallible>(answer.unwrap_or_else(|_| late()))
            });
            // A client that breaks off is its own affair.
            let serving = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .serve_connection(conn, answers);
            let _ = timeout(CONNECTION_TIME_MAX, serving).await;
        });
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let allowed = match path[..] {
            ["healthz" | "readyz" | "metrics" | "services"] => Method::GET,
            ["services", _, "backends"] => Method::PUT,
            _ => return error(StatusCode::NOT_FOUND, "no such path"),
        };
        if request.method() != allowed {
            let mut answer = error(StatusCode::METHOD_NOT_ALLOWED, &format!("use {allowed}"));
            let allowed = HeaderValue::from_str(allowed.as_str());
            answer.headers_mut().extend(allowed.ok().map(|allowed| (ALLOW, allowed)));
            return answer;
        }
        match path[..] {
            ["healthz"] => text(StatusCode::OK, "ok\n".into()),
            ["readyz"] => self.ready(),
            ["metrics"] => {
                text(StatusCode::OK, metrics::text(&self.program.services(), self.program.budget()))
            }
            ["services"] => self.show_services(),
            ["services", name, "backends"] => match self.program.service(name) {
                Some(service) => self.put_backends(&service, request).await,
                None => error(StatusCode::NOT_FOUND, "no service of this name"),
            },
            _ => error(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn ready(&self) -> Answer {
        let services = self.program.services();
        let unready: Vec<String> = services
            .iter()
            .filter_map(|service| Some(format!("{}: {}\n", service.name, service.unready()?)))
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
    async fn put_backends(&self, service: &Service, request: Request<Incoming>) -> Answer {
        if !self.can_write {
            let cause = "this address only shows: start with --admin-write to change backends";
            return error(StatusCode::FORBIDDEN, cause);
        }
        let body = match Limited::new(request.into_body(), BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(cause) if cause.is::<LengthLimitError>() => {
                let cause = format!("the body has more than {BODY_MAX} bytes");
                return error(StatusCode::PAYLOAD_TOO_LARGE, &cause);
            }
            Err(cause) => return error(StatusCode::BAD_REQUEST, &cause.to_string()),
        };
        let set = match backends(&body) {
            Ok(set) => set,
            Err(cause) => return error(StatusCode::BAD_REQUEST, &cause),
        };
        // Now, since a reload may have changed that while the body came.
        if let Some(source) = service.source() {
            let cause = format!("the backends come from {source}: change them there");
            return error(StatusCode::CONFLICT, &cause);
        }
        match service.handle().replace(set) {
            Ok(mut replacement) => {
                let is_applied = timeout(APPLY_TIME_MAX, &mut replacement).await.is_ok();
                // Taken, and what was cut is on its way out.
                let status = if is_applied { StatusCode::OK } else { StatusCode::ACCEPTED };
                json_answer(status, &report(replacement.report()))
            }
            Err(cause) => error(StatusCode::BAD_REQUEST, &cause.to_string()),
        }
    }
}

/// The set that a JSON object of keys and addresses says.
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

/// A JSON object of strings, with keys that are there twice.
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

fn report(report: &Report) -> Value {
    let keys = |keys: &[tinylb_core::BackendKey]| -> Vec<String> {
        keys.iter().map(ToString::to_string).collect()
    };
    json!({
        "generation": report.generation.number(),
        "backends": report.backends,
        "added": keys(&report.added),
        "removed": keys(&report.removed),
        "retargeted": keys(&report.retargeted),
        "sessions_cut": report.sessions_cut,
        "dials_revoked": report.dials_revoked,
        "sessions_draining": report.sessions_draining,
    })
}

fn show(service: &Service) -> Value {
    let snapshot = service.handle().snapshot();
    let backends = snapshot.set.as_ref().map(|set| {
        let pairs = set.iter().map(|(key, target)| (key.to_string(), target.to_string().into()));
        Value::Object(pairs.collect())
    });
    let targets: Vec<Value> = snapshot
        .loads
        .iter()
        .map(|load| {
            json!({
                "target": load.target.to_string(),
                "dialling": load.dialling,
                "connected": load.connected,
                "draining": load.is_draining,
            })
        })
        .collect();
    let ended = EndReason::ALL
        .map(|reason| (reason.as_str().to_string(), Value::from(snapshot.ended.of(reason))));
    let left_out: BTreeMap<_, _> =
        snapshot.left_out.iter().map(|entry| (&*entry.key, &*entry.reason)).collect();
    json!({
        "backends": backends,
        "generation": snapshot.generation.number(),
        "set_age_seconds": snapshot.set_age.map(|age| age.as_secs_f64()),
        "source": service.source(),
        "source_lost": snapshot.source_lost.as_deref(),
        "set_held": snapshot.set_held.map(|held| {
            json!({
                "removed": held.removed,
                "targets": held.targets,
                "hold_seconds": held.hold.as_secs_f64(),
            })
        }),
        "left_out": left_out,
        "targets": targets,
        "waiting": snapshot.waiting,
        "accepted": snapshot.accepted,
        "live": snapshot.live,
        "ended": Value::Object(ended.into_iter().collect()),
        "bytes_to_backends": snapshot.bytes_to_backends,
        "bytes_to_clients": snapshot.bytes_to_clients,
        "listeners": snapshot.listeners,
        "shutting_down": snapshot.is_shutting_down,
    })
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
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

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
