use std::net::SocketAddr;

use hickory_resolver::{
    net::{DnsError, NetError},
    proto::{
        ProtoError,
        op::ResponseCode,
        rr::{Name, RecordType},
    },
};
use thiserror::Error as ThisError;

/// Why a server's answers make no set, in one line.
#[derive(Debug, ThisError)]
pub(super) enum Failure {
    #[error("no such name (NXDOMAIN)")]
    NoName,
    #[error("{kinds} records (NODATA)")]
    NoAddress { kinds: &'static str },
    #[error("no SRV records (NODATA)")]
    NoService,
    #[error("a target `.` (no service) beside others: RFC 2782 allows it alone only")]
    NoServiceAndTargets,
    /// Of another name than the one asked for: an alias, or a service's target.
    #[error("{name}: {failure}")]
    Of { name: String, failure: Box<Self> },
    #[error("more than {max} aliases")]
    Aliases { max: usize },
    #[error("error {} for {kind}", mnemonic(*.code))]
    Code { code: ResponseCode, kind: RecordType },
    #[error("no answer for {kind} (timeout)")]
    Timeout { kind: RecordType },
    #[error("truncated answer for {kind}")]
    Truncated { kind: RecordType },
    #[error("malformed answer for {kind} ({error})")]
    Malformed { error: NetError, kind: RecordType },
    #[error("network error for {kind} ({error})")]
    Network { error: String, kind: RecordType },
    #[error("no DNS name ({0})")]
    BadName(ProtoError),
    #[error("no resolver ({0})")]
    NoResolver(NetError),
}

impl Failure {
    /// This, of a name. It comes from the network: what is no printable ASCII is escaped.
    pub(super) fn of(self, name: &Name) -> Self {
        let name = name.to_ascii().trim_end_matches('.').to_string();
        Self::Of { name, failure: Box::new(self) }
    }

    /// The failure in words, with its server unless any server would give the same answer.
    pub(super) fn from(&self, server: SocketAddr) -> String {
        if self.is_answer() { self.to_string() } else { format!("{self} from {server}") }
    }

    /// Whether this is what DNS says, so that another server would say the same.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::NoName | Self::NoAddress { .. } | Self::NoService | Self::NoServiceAndTargets => {
                true
            }
            Self::Of { failure, .. } => failure.is_answer(),
            _ => false,
        }
    }

    /// Whether another server may do better, and whether that shows before the time is up.
    pub(super) fn is_quick(&self) -> bool {
        match self {
            Self::Timeout { .. } => false,
            Self::Of { failure, .. } => failure.is_quick(),
            failure => !failure.is_answer(),
        }
    }

    /// Why a question for records of a kind got no response to go by.
    pub(super) fn of_question(error: NetError, kind: RecordType) -> Self {
        match error {
            NetError::Timeout => Self::Timeout { kind },
            NetError::Truncated => Self::Truncated { kind },
            NetError::Dns(DnsError::ResponseCode(code)) => Self::Code { code, kind },
            NetError::Proto(_) | NetError::ForeignClassRecord { .. } => {
                Self::Malformed { error, kind }
            }
            // What the pool makes of the system's errors.
            NetError::NoConnections => {
                Self::Network { error: "nothing could be sent or received".into(), kind }
            }
            NetError::Io(error) => Self::Network { error: error.to_string(), kind },
            error => Self::Network { error: error.to_string(), kind },
        }
    }
}

/// The names of response codes are their mnemonics in another case, `ServFail` for SERVFAIL.
fn mnemonic(code: ResponseCode) -> String {
    format!("{code:?}").to_uppercase()
}
