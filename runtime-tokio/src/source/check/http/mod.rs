mod connection;
mod stream;
#[cfg(feature = "tls")]
mod tls;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::NonZeroU16,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use http_body_util::Empty;
use hyper::{
    Request, StatusCode, Uri,
    header::{HOST, HeaderValue, USER_AGENT},
};
use thiserror::Error as ThisError;
use tinylb_core::{Answer, BackendSet, Dialer};
use tokio::time::Instant;

#[cfg(feature = "tls")]
pub use self::tls::{CheckTls, CheckTlsError};
use self::{
    connection::{Connection, Question, failure},
    stream::{Plain, Stream},
};
use super::{Checker, at_port, tcp::dialer, undialled};
use crate::{Address, AddressConn, AddressDialer, Host, TcpTarget};

/// Asks a backend over HTTP/1.1, in plain text unless `with_tls` is called: `GET` of a path. A status
/// that is accepted, 200 by default, passes; any other means no. Redirects aren't followed.
///
/// Each backend has one connection that is kept from one check to the next, if the server allows that.
/// If it turns out to be closed, the question is asked once more on a new connection. A backend with
/// a name has none: a name is looked up for each check, as for each dial, so that the answer doesn't
/// come from a machine that had the name before.
///
/// The head of an answer has 16 KiB at most, and the answer counts as soon as the head is complete. A
/// body that is longer than 64 KiB, or hasn't ended by the next check, costs that check a new
/// connection.
pub struct HttpCheck {
    path: Uri,
    port: Option<NonZeroU16>,
    host: Option<HeaderValue>,
    statuses: Vec<RangeInclusive<u16>>,
    dialer: AddressDialer,
    connections_max: usize,
    /// A place for each backend whose connection may be kept, and the connection while it is idle.
    idle: Mutex<BTreeMap<Address, Option<Connection>>>,
    is_refusal_no: bool,
    #[cfg(feature = "tls")]
    encryption: Option<tls::Encryption>,
}

/// Why something can't be part of a check over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum HttpCheckError {
    /// The path isn't one.
    #[error("`{path}` is no path of HTTP: write one such as /health, or /health?full=1")]
    Path {
        /// The text.
        path: String,
    },
    /// The host can't be a header's value.
    #[error("`{host}` can't be a Host header: write a host name, with a port if need be")]
    Host {
        /// The text.
        host: String,
    },
    /// A status that can't be the last word of a server.
    #[error("{status} is no final status of HTTP: write numbers from 200 to 599")]
    Status {
        /// The number.
        status: u16,
    },
    /// No status passes.
    #[error("no status would pass: give at least one, such as 200")]
    NoStatus,
}

impl HttpCheck {
    /// A check that gets this path, which may have a query.
    ///
    /// # Errors
    /// It is no path.
    pub fn new(path: &str) -> Result<Self, HttpCheckError> {
        let uri = path.parse::<Uri>().ok();
        // A whole URL, `*` or HOST:PORT can be written as well.
        let uri = uri.filter(|uri| uri.authority().is_none() && path.starts_with('/'));
        Ok(Self {
            path: uri.ok_or_else(|| HttpCheckError::Path { path: path.into() })?,
            port: None,
            host: None,
            statuses: vec![200..=200],
            dialer: dialer(),
            connections_max: usize::MAX,
            idle: Mutex::default(),
            is_refusal_no: false,
            #[cfg(feature = "tls")]
            encryption: None,
        })
    }

    /// Asks at this port instead of the backend's. Clients are still sent to the backend's.
    #[must_use]
    pub fn with_port(mut self, port: NonZeroU16) -> Self {
        self.port = Some(port);
        self
    }

    /// Sends this `Host` instead of the address that is asked.
    ///
    /// # Errors
    /// It can't be one.
    pub fn with_host(mut self, host: &str) -> Result<Self, HttpCheckError> {
        let is_printable = !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic());
        let value = HeaderValue::from_str(host).ok().filter(|_| is_printable);
        self.host = Some(value.ok_or_else(|| HttpCheckError::Host { host: host.into() })?);
        Ok(self)
    }

    /// Lets these statuses pass, and no others.
    ///
    /// # Errors
    /// There is none, or one is no final status: 200 to 599.
    pub fn with_status(
        mut self,
        statuses: impl IntoIterator<Item = RangeInclusive<u16>>,
    ) -> Result<Self, HttpCheckError> {
        self.statuses = statuses.into_iter().filter(|range| !range.is_empty()).collect();
        let mut ends = self.statuses.iter().flat_map(|range| [*range.start(), *range.end()]);
        match ends.find(|status| !(200..=599).contains(status)) {
            Some(status) => Err(HttpCheckError::Status { status }),
            None if self.statuses.is_empty() => Err(HttpCheckError::NoStatus),
            None => Ok(self),
        }
    }

    /// Dials from these addresses of this machine, see
    /// [`TcpDialer::set_dial_from`](crate::TcpDialer::set_dial_from).
    #[must_use]
    pub fn with_dial_from(self, addresses: Vec<IpAddr>) -> Self {
        self.dialer.set_dial_from(addresses);
        self
    }

    /// Keeps this many connections from one check to the next, at most; the other backends are asked on
    /// new ones. No limit by default.
    #[must_use]
    pub fn with_connections_max(mut self, connections_max: usize) -> Self {
        self.connections_max = connections_max;
        self
    }

    /// Takes a refused connection for an answer that means no, rather than for none. Right where the
    /// check runs on the backend's machine, so that no network is between them.
    #[must_use]
    pub fn with_refusal_as_no(mut self) -> Self {
        self.is_refusal_no = true;
        self
    }

    /// Asks over HTTPS. A server whose certificate isn't trusted, and one that speaks no TLS, has given
    /// no answer.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn with_tls(mut self, tls: CheckTls) -> Self {
        self.encryption = Some(tls.encryption());
        self
    }

    /// What the question is asked on.
    ///
    /// # Errors
    /// It can't be encrypted, for this reason.
    async fn stream(&self, conn: AddressConn, address: &Address) -> Result<Stream, String> {
        #[cfg(feature = "tls")]
        if let Some(encryption) = &self.encryption {
            let encrypted = encryption.begin(conn, address).await?;
            return Ok(Stream::Encrypted(Box::new(encrypted)));
        }
        #[cfg(not(feature = "tls"))]
        let _ = address;
        Ok(Stream::Plain(Plain::new(conn)))
    }

    fn question(&self, address: &Address) -> Question {
        let host = self.host.clone().or_else(|| match address {
            Address::Tcp(target) => HeaderValue::from_str(&target.to_string()).ok(),
            Address::Unix(_) => None,
        });
        let mut question = Request::new(Empty::new());
        *question.uri_mut() = self.path.clone();
        let headers = question.headers_mut();
        headers.insert(HOST, host.unwrap_or(HeaderValue::from_static("localhost")));
        headers.insert(USER_AGENT, HeaderValue::from_static("tinylb"));
        question
    }

    /// What a status says. Keeps the connection if it can be used again.
    fn judge(&self, target: &Address, mut connection: Connection, status: StatusCode) -> Answer {
        // The verdict doesn't wait for the rest of the answer.
        if connection.may_be_ready() {
            self.keep(target, connection);
        }
        let status = status.as_u16();
        if self.statuses.iter().any(|range| range.contains(&status)) {
            return Answer::Pass;
        }
        Answer::Fail(format!("{status} from {}", self.path).into())
    }

    /// The connection to this backend that is idle. Makes a place for it, if there may be one.
    fn take(&self, target: &Address) -> Option<Connection> {
        if let Address::Tcp(TcpTarget { host: Host::Name(_), .. }) = target {
            return None;
        }
        let mut idle = self.lock();
        if let Some(place) = idle.get_mut(target) {
            return place.take();
        }
        if idle.len() < self.connections_max {
            idle.insert(target.clone(), None);
        }
        None
    }

    /// Keeps a connection if its backend still has a place.
    fn keep(&self, target: &Address, connection: Connection) {
        // The connection that it takes the place of is closed outside the lock.
        let _before = match self.lock().get_mut(target) {
            Some(place) => place.replace(connection),
            None => Some(connection),
        };
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Address, Option<Connection>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Checker for HttpCheck {
    /// [`Answer::Fail`] for a status that isn't accepted. [`Answer::Ours`] if the backend can't be
    /// dialled through our own fault. Everything else that isn't HTTP is [`Answer::None`].
    async fn check(&self, target: &Address, within: Duration) -> Answer {
        let began = Instant::now();
        let address = match at_port(target, self.port) {
            Ok(address) => address,
            Err(reason) => return Answer::None(reason.into()),
        };
        // Whatever goes wrong on a connection that is used again may be its age. So may 408, which some
        // servers send before they close an idle connection (RFC 9110, section 15.5.9).
        if let Some(mut kept) = self.take(target)
            && kept.is_ready(within).await
            && let Ok(status) = kept.ask(self.question(&address)).await
            && status != StatusCode::REQUEST_TIMEOUT
        {
            return self.judge(target, kept, status);
        }
        let left = within.saturating_sub(began.elapsed());
        let conn = match self.dialer.dial(&address, left).await {
            Ok(conn) => conn,
            Err(error) => return undialled(&error, self.is_refusal_no),
        };
        let stream = match self.stream(conn, &address).await {
            Ok(stream) => stream,
            Err(reason) => return Answer::None(reason.into()),
        };
        let asked = async {
            let mut connection = Connection::new(stream);
            let status = connection.ask(self.question(&address)).await?;
            Ok((connection, status))
        };
        match asked.await {
            Ok((connection, status)) => self.judge(target, connection, status),
            Err(error) => Answer::None(failure(&error).into()),
        }
    }

    fn retain(&self, set: &BackendSet<Address>) {
        let mut gone = Vec::new();
        self.lock().retain(|target, place| {
            let stays = set.keys_of(target).next().is_some();
            if !stays {
                gone.push(place.take());
            }
            stays
        });
    }
}

#[cfg(test)]
mod tests;
