use std::{fmt, path::PathBuf, time::Duration};

use thiserror::Error as ThisError;

use crate::{AddressError, TcpTarget};

/// Where an [`EtcdSource`](crate::EtcdSource) looks or an
/// [`EtcdRegistration`](crate::EtcdRegistration) registers, and as whom.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdOptions {
    /// The members of the cluster, or proxies before it: `http://10.0.0.1:2379`, with `https` for
    /// TLS. Without a scheme it is `https` if there is `tls`, else `http`. At least one; one that
    /// answers is enough, and they are tried in an order that is drawn for each source.
    pub endpoints: Vec<String>,
    /// What the keys of the backends begin with; it ends in `/`. The rest of a key is the backend's.
    pub prefix: String,
    /// A name and its password. Without them, the user is the one of the client certificate, if any.
    /// `None`.
    pub user: Option<(String, String)>,
    /// Encrypts, and authenticates both ends. `None`.
    pub tls: Option<EtcdTls>,
    /// After this time, give or take a third at random, all that is known is compared with what is
    /// there: etcd up to 3.4.35 and 3.5.17 may not report a key's end. Of a source only. 1 s to 1
    /// day. 45 s.
    pub resync: Duration,
    /// How long a member may take to answer, connecting included: 100 ms to 60 s. 3 s.
    pub timeout: Duration,
}

/// Certificates for etcd, each a PEM file. They are read whenever a connection is made, so that
/// they can be renewed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdTls {
    /// The authorities that sign the members' certificates. The system's own don't count.
    pub ca: PathBuf,
    /// The certificate to show, with its chain; there must be a `key` then. `None`: none.
    pub certificate: Option<PathBuf>,
    /// The key of `certificate`.
    pub key: Option<PathBuf>,
    /// The name that the members' certificates must have. `None`: the host of the endpoint.
    pub domain: Option<String>,
}

/// Why options can't be used.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum EtcdOptionsError {
    /// There is no endpoint.
    #[error("etcd has no endpoint: give one at least, like http://10.0.0.1:2379")]
    NoEndpoint,
    /// An endpoint is no URL of a member.
    #[error("`{endpoint}` is no endpoint of etcd: write http://HOST:PORT or https://HOST:PORT")]
    BadEndpoint {
        /// The endpoint.
        endpoint: String,
        /// What is wrong with the part after the scheme, if that is it.
        #[source]
        cause: Option<AddressError>,
    },
    /// An endpoint names a user, perhaps with a password. Neither is repeated.
    #[error(
        "`{endpoint}` names a user: write http://HOST:PORT or https://HOST:PORT, and give user and \
         password as options of their own"
    )]
    UserInEndpoint {
        /// The endpoint, with `…` for all before its last `@`.
        endpoint: String,
    },
    /// An endpoint is encrypted, and nothing says whom to trust.
    #[error("`{endpoint}` needs TLS: give `ca`, the authority that signs etcd's certificates")]
    NoTls {
        /// The endpoint.
        endpoint: String,
    },
    /// An endpoint isn't encrypted, though there are certificates.
    #[error("`{endpoint}` is not encrypted, though TLS is set: write https://, or leave TLS out")]
    Plain {
        /// The endpoint.
        endpoint: String,
    },
    /// There is no prefix.
    #[error("etcd has no prefix: give what the backends' keys begin with, like /lb/web/")]
    NoPrefix,
    /// The prefix has no end of its own.
    #[error(
        "the prefix `{prefix}` doesn't end in `/`, so that longer names would match it: write \
         `{prefix}/`"
    )]
    OpenPrefix {
        /// The prefix.
        prefix: String,
    },
    /// A certificate without its key, or a key without its certificate.
    #[error("a client certificate and its key go together: give both or neither")]
    HalfIdentity,
    /// The key of a backend to register is empty.
    #[error("the key of the backend is empty: give it one")]
    EmptyKey,
    /// The address of a backend to register can't be dialled.
    #[error("{reason}")]
    BadAddress {
        /// Why not, and what would do.
        reason: String,
    },
    /// A time is out of its range.
    #[error("{name} is {value:?}; it must be {range}")]
    OutOfRange {
        /// The option, by the name of its field.
        name: &'static str,
        /// What it was set to.
        value: Duration,
        /// What it may be set to.
        range: &'static str,
    },
}

impl EtcdOptions {
    /// These endpoints and this prefix, and else the defaults.
    pub fn new<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        prefix: impl Into<String>,
    ) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: prefix.into(),
            user: None,
            tls: None,
            resync: Duration::from_secs(45),
            timeout: Duration::from_secs(3),
        }
    }

    /// Checks everything that can be checked without etcd.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Result<(), EtcdOptionsError> {
        self.urls()?;
        if self.prefix.is_empty() {
            return Err(EtcdOptionsError::NoPrefix);
        }
        if !self.prefix.ends_with('/') {
            return Err(EtcdOptionsError::OpenPrefix { prefix: self.prefix.clone() });
        }
        if let Some(tls) = &self.tls
            && tls.certificate.is_some() != tls.key.is_some()
        {
            return Err(EtcdOptionsError::HalfIdentity);
        }
        let second = Duration::from_secs(1);
        for (name, value, min, max, range) in [
            ("resync", self.resync, second, 24 * 60 * 60 * second, "1s to 24h"),
            ("timeout", self.timeout, second / 10, 60 * second, "100ms to 60s"),
        ] {
            if value < min || value > max {
                return Err(EtcdOptionsError::OutOfRange { name, value, range });
            }
        }
        Ok(())
    }

    /// The endpoints, each with its scheme.
    pub(super) fn urls(&self) -> Result<Vec<String>, EtcdOptionsError> {
        if self.endpoints.is_empty() {
            return Err(EtcdOptionsError::NoEndpoint);
        }
        self.endpoints.iter().map(|endpoint| self.url(endpoint)).collect()
    }

    fn url(&self, endpoint: &str) -> Result<String, EtcdOptionsError> {
        let given = || endpoint.to_string();
        if endpoint.contains('@') {
            return Err(EtcdOptionsError::UserInEndpoint { endpoint: without_user(endpoint) });
        }
        let (is_encrypted, address) = match endpoint.split_once("://") {
            Some(("http", address)) => (false, address),
            Some(("https", address)) => (true, address),
            Some(_) => {
                return Err(EtcdOptionsError::BadEndpoint { endpoint: given(), cause: None });
            }
            None => (self.tls.is_some(), endpoint),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        let bad = |cause| EtcdOptionsError::BadEndpoint { endpoint: given(), cause };
        let target: TcpTarget = address.parse().map_err(|cause| bad(Some(cause)))?;
        if target.port == 0 {
            return Err(bad(Some(AddressError::BadPort { text: address.into() })));
        }
        match (is_encrypted, &self.tls) {
            (true, None) => Err(EtcdOptionsError::NoTls { endpoint: given() }),
            (false, Some(_)) => Err(EtcdOptionsError::Plain { endpoint: given() }),
            (true, Some(_)) => Ok(format!("https://{target}")),
            (false, None) => Ok(format!("http://{target}")),
        }
    }
}

/// What may be shown of an endpoint.
fn without_user(endpoint: &str) -> String {
    match endpoint.rsplit_once('@') {
        Some((_, address)) => format!("…@{address}"),
        None => endpoint.into(),
    }
}

impl EtcdTls {
    /// Trusts what this file's authorities sign, and shows no certificate.
    pub fn new(ca: impl Into<PathBuf>) -> Self {
        Self { ca: ca.into(), certificate: None, key: None, domain: None }
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoints, prefix, user, tls, resync, timeout } = self;
        f.debug_struct("EtcdOptions")
            // Never a password.
            .field("endpoints", &endpoints.iter().map(|e| without_user(e)).collect::<Vec<_>>())
            .field("prefix", prefix)
            .field("user", &user.as_ref().map(|(name, _)| name))
            .field("tls", tls)
            .field("resync", resync)
            .field("timeout", timeout)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(endpoint: &str) -> EtcdOptions {
        EtcdOptions::new([endpoint], "/lb/web/")
    }

    fn encrypted(endpoint: &str) -> EtcdOptions {
        EtcdOptions { tls: Some(EtcdTls::new("ca.pem")), ..options(endpoint) }
    }

    fn error(options: EtcdOptions) -> String {
        options.validate().unwrap_err().to_string()
    }

    #[test]
    fn an_endpoint_has_the_scheme_that_is_meant() {
        for (options, url) in [
            (options("10.0.0.1:2379"), "http://10.0.0.1:2379"),
            (options("http://etcd-1.example.org:2379/"), "http://etcd-1.example.org:2379"),
            (options("[::1]:2379"), "http://[::1]:2379"),
            (encrypted("10.0.0.1:2379"), "https://10.0.0.1:2379"),
            (encrypted("https://10.0.0.1:2379"), "https://10.0.0.1:2379"),
        ] {
            assert_eq!(options.urls(), Ok(vec![url.to_string()]));
            assert_eq!(options.validate(), Ok(()));
        }
    }

    #[test]
    fn options_that_cannot_work_are_told_with_their_cause_in_one_line() {
        let user = Some(("lb".to_string(), "secret".to_string()));
        let half = EtcdTls { certificate: Some("lb.pem".into()), ..EtcdTls::new("ca.pem") };
        for (options, cause) in [
            (EtcdOptions::new([] as [&str; 0], "/lb/"), "no endpoint"),
            (options(""), "no endpoint"),
            (options("10.0.0.1"), "http://HOST:PORT"),
            (options("10.0.0.1:0"), "http://HOST:PORT"),
            (options("ftp://10.0.0.1:2379"), "`ftp://10.0.0.1:2379`"),
            (options("http://10.0.0.1:2379/v3"), "http://HOST:PORT"),
            (options("https://10.0.0.1:2379"), "needs TLS"),
            (encrypted("http://10.0.0.1:2379"), "not encrypted"),
            (EtcdOptions { prefix: String::new(), ..options("a:1") }, "etcd has no prefix"),
            (EtcdOptions { prefix: "/lb".into(), ..options("a:1") }, "doesn't end in `/`"),
            (EtcdOptions { prefix: "/lb/web".into(), ..options("a:1") }, "write `/lb/web/`"),
            (EtcdOptions { tls: Some(half), ..options("a:1") }, "both or neither"),
            (EtcdOptions { resync: Duration::ZERO, ..options("a:1") }, "1s to 24h"),
            (EtcdOptions { timeout: Duration::from_secs(61), user, ..options("a:1") }, "to 60s"),
        ] {
            let error = error(options);
            assert!(error.contains(cause) && !error.contains('\n'), "{cause}: {error}");
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        let user = Some(("lb".to_string(), "secret".to_string()));
        let text = format!("{:?}", EtcdOptions { user, ..options("a:1") });
        assert!(text.contains("lb") && !text.contains("secret"), "{text}");
        for endpoint in [
            "http://lb:secret@10.0.0.1:2379",
            "https://secret@10.0.0.1:2379",
            "lb:sec@ret/@10.0.0.1:2379",
            "lb:secret://x@10.0.0.1:2379",
        ] {
            let options = options(endpoint);
            let debug = format!("{options:?}");
            let error = options.validate().unwrap_err();
            let text = error.to_string();
            let remedy = "`…@10.0.0.1:2379` names a user: write http://HOST:PORT or \
                          https://HOST:PORT, and give user and password as options of their own";
            assert_eq!(text, remedy);
            assert!(std::error::Error::source(&error).is_none());
            for text in [debug, format!("{error:?}")] {
                assert!(!text.contains("sec") && text.contains("…@10.0.0.1"), "{text}");
            }
        }
    }
}
