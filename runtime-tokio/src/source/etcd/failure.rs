use std::{error::Error as StdError, fmt, io, path::PathBuf, time::Duration};

use etcd_client::Error as ClientError;

use super::keys::Older;

/// Why a member is of no use at present. Displayed in one line.
pub(super) enum Failure {
    /// It reported it, or couldn't be reached.
    Client(ClientError),
    /// It hasn't answered within this time.
    Late(Duration),
    /// A file of the certificates can't be read.
    File(PathBuf, io::Error),
    /// It has ended a watch, with this reason.
    Canceled(String),
    /// It has ended the connection.
    Ended,
    /// What it lists is older than what is known.
    Older(Older),
    /// Its lists are older than what its own watch has reported, again and again.
    Behind,
    /// An answer lacks what every answer has.
    NoHeader,
    /// A watch has reported an event of a type that didn't exist when this was written.
    UnknownEvent(i32),
    /// A lease has run out, or was revoked.
    NoLease,
}

impl Failure {
    /// The member answers, but without the others it can't know.
    pub(super) fn is_no_leader(&self) -> bool {
        self.said().contains(NO_LEADER)
    }

    /// The member is there, and may be of use in a moment.
    pub(super) fn is_passing(&self) -> bool {
        let is_late = matches!(self, Self::Late(_)) || self.said().contains(TIMED_OUT);
        is_late || self.is_no_leader()
    }

    /// The member's own text, if it sent one.
    fn said(&self) -> &str {
        match self {
            Self::Client(ClientError::GRpcStatus(status)) => status.message(),
            Self::Canceled(reason) => reason,
            _ => "",
        }
    }
}

const NO_LEADER: &str = "no leader";
const TIMED_OUT: &str = "request timed out";

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Client(error) => client(error),
            Self::Late(time) => format!("no answer within {time:?}"),
            Self::File(path, error) => format!("can't read {}: {error}", path.display()),
            Self::Canceled(reason) => said(reason),
            Self::Ended => "it has ended the connection".into(),
            Self::Older(older) => older.to_string(),
            Self::Behind => "its lists stay behind its own watch".into(),
            Self::NoLease => "the lease is over".into(),
            Self::UnknownEvent(number) => {
                format!(
                    "an event of type {number}, which this version doesn't know: use a newer tinylb"
                )
            }
            Self::NoHeader => "an answer without a header: is this etcd?".into(),
        };
        f.write_str(&text.replace(char::is_control, " "))
    }
}

fn client(error: &ClientError) -> String {
    match error {
        ClientError::GRpcStatus(status) => match root(status) {
            Some(cause) if cause.contains("certificate") || cause.contains("fatal alert") => {
                format!("TLS failed: {cause}")
            }
            // A server of HTTP/1.1 answers with bytes that are no frames.
            Some(cause) if cause.contains("frame with invalid size") => {
                format!("it doesn't speak etcd's protocol: {cause}: is this etcd?")
            }
            Some(cause) => format!("unreachable: {cause}"),
            None => said(status.message()),
        },
        ClientError::TransportError(error) => match root(error) {
            Some(cause) => format!("no connection: {cause}"),
            None => format!("no connection: {error}"),
        },
        error => error.to_string(),
    }
}

/// The last cause of an error: it is the one that tells.
fn root(error: &dyn StdError) -> Option<String> {
    let mut cause = error.source()?;
    while let Some(source) = cause.source() {
        cause = source;
    }
    Some(cause.to_string())
}

/// What etcd says, and what that means for the reader.
fn said(message: &str) -> String {
    // An error within an error, as the reason of a watch that is canceled is given.
    let message = message.rsplit_once("desc = ").map_or(message, |(_, message)| message);
    let message = message.strip_prefix("etcdserver: ").unwrap_or(message);
    for (part, meaning) in [
        (NO_LEADER, "it has no quorum"),
        (TIMED_OUT, "it has no quorum"),
        ("authentication failed", "login refused"),
        ("authentication is not enabled", "login refused"),
        ("invalid auth token", "login refused"),
        ("user name is empty", "login refused"),
        ("user name not found", "login refused"),
    ] {
        if message.contains(part) {
            return format!("{meaning}: {message}");
        }
    }
    message.into()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let is_no_lease = match &error {
            ClientError::GRpcStatus(status) => status.message().contains("lease not found"),
            ClientError::LeaseKeepAliveError(message) => message.contains("lease not found"),
            _ => false,
        };
        if is_no_lease { Self::NoLease } else { Self::Client(error) }
    }
}

impl From<Older> for Failure {
    fn from(older: Older) -> Self {
        Self::Older(older)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_says_is_told_with_what_it_means() {
        let told = |reason: &str| Failure::Canceled(reason.into()).to_string();
        let token = "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token";
        assert_eq!(told(token), "login refused: invalid auth token");
        assert_eq!(told("etcdserver: no leader"), "it has no quorum: no leader");
        assert_eq!(told("something\nnew"), "something new");
        assert!(Failure::Canceled("etcdserver: no leader".into()).is_no_leader());
        assert!(!Failure::Ended.is_no_leader());
        let passing = ["etcdserver: no leader", "etcdserver: request timed out"];
        assert!(passing.iter().all(|said| Failure::Canceled((*said).into()).is_passing()));
        assert!(Failure::Late(Duration::from_secs(3)).is_passing());
        assert!(!Failure::Canceled("etcdserver: permission denied".into()).is_passing());
    }
}
