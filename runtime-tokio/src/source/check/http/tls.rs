//! TLS for checks over HTTP.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
};

use thiserror::Error as ThisError;
use tokio::io::AsyncWrite;
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        AlertDescription, CertificateError, ClientConfig, Error, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    },
};

use super::stream::Plain;
use crate::{Address, AddressConn, Host, TcpTarget, source::check::words::words};

/// Whom a check over HTTPS trusts, and what it shows: each as the text of a PEM file.
///
/// There is no way to trust everybody: anyone who can answer in a backend's place could decide that it
/// is the primary.
#[derive(Clone)]
pub struct CheckTls {
    authorities: Arc<RootCertStore>,
    /// The certificate with its chain, and its key.
    identity: Option<(Vec<CertificateDer<'static>>, Arc<PrivateKeyDer<'static>>)>,
    name: Option<ServerName<'static>>,
}

/// Why a check can't be encrypted so.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum CheckTlsError {
    /// There is no certificate of an authority, or one that can't be read.
    #[error("the CA can't be used: {cause}")]
    Authority {
        /// What is wrong with it, and a remedy.
        cause: String,
    },
    /// The certificate to show can't be read.
    #[error("the certificate can't be used: {cause}")]
    Certificate {
        /// What is wrong with it, and a remedy.
        cause: String,
    },
    /// Its key can't be read, or is that of another certificate.
    #[error("the key of the certificate can't be used: {cause}")]
    Key {
        /// What is wrong with it, and a remedy.
        cause: String,
    },
    /// A name that no certificate can have.
    #[error("`{name}` is no name of a server: write a host name or an IP address")]
    Name {
        /// The text.
        name: String,
    },
}

/// An encrypted connection.
pub(super) type Encrypted = TlsStream<Plain>;

impl CheckTls {
    /// Trusts the servers whose certificates these authorities have signed. The system's own don't
    /// count. No certificate is shown, and a server's must be valid for the host that is asked.
    ///
    /// # Errors
    /// There is no authority, or one that can't be used.
    pub fn new(ca: &[u8]) -> Result<Self, CheckTlsError> {
        let bad = |cause| CheckTlsError::Authority { cause };
        let mut authorities = RootCertStore::empty();
        for certificate in certificates(ca).map_err(bad)? {
            authorities.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        Ok(Self { authorities: Arc::new(authorities), identity: None, name: None })
    }

    /// Shows this certificate, followed by its chain, to servers that ask for one.
    ///
    /// # Errors
    /// One of the two can't be used, or they don't go together.
    pub fn with_certificate(
        mut self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<Self, CheckTlsError> {
        let chain =
            certificates(certificate).map_err(|cause| CheckTlsError::Certificate { cause })?;
        let bad = |cause| CheckTlsError::Key { cause };
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| bad("there is no private key in PEM in it".into()))?;
        self.identity = Some((chain, Arc::new(key)));
        self.config().map_err(|error| bad(error.to_string()))?;
        Ok(self)
    }

    /// Demands a certificate for this name, whatever host is asked.
    ///
    /// # Errors
    /// It is no name.
    pub fn with_domain(mut self, name: &str) -> Result<Self, CheckTlsError> {
        let valid = ServerName::try_from(name.to_string());
        self.name = Some(valid.map_err(|_| CheckTlsError::Name { name: name.into() })?);
        Ok(self)
    }

    /// What encrypts connections.
    pub(super) fn encryption(self) -> Encryption {
        let config = self.config().expect("the certificate was tried with its key");
        Encryption { connector: TlsConnector::from(Arc::new(config)), name: self.name }
    }

    fn config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(ring::default_provider());
        let trusting = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(Arc::clone(&self.authorities));
        let mut config = match &self.identity {
            Some((chain, key)) => trusting.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => trusting.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| format!("it is no PEM ({error})"))?;
    match found.is_empty() {
        true => Err("there is no certificate in PEM in it".into()),
        false => Ok(found),
    }
}

/// Encrypts the connections of a check.
pub(super) struct Encryption {
    connector: TlsConnector,
    name: Option<ServerName<'static>>,
}

impl Encryption {
    /// Encrypts a connection to this address.
    ///
    /// # Errors
    /// Why that can't be, in words.
    pub(super) async fn begin(
        &self,
        conn: AddressConn,
        address: &Address,
    ) -> Result<Encrypted, String> {
        let name = self.name.clone().or_else(|| name_of(address));
        let name = name.ok_or("it has no name for a certificate: set `domain`")?;
        let shown = name.to_str().into_owned();
        let encrypted = self.connector.connect(name, Plain::new(conn)).await;
        encrypted.map_err(|error| failure(&error, &shown).unwrap_or_else(|| words(&error)))
    }
}

/// What the certificate of a backend has to be valid for.
fn name_of(address: &Address) -> Option<ServerName<'static>> {
    match address {
        Address::Tcp(TcpTarget { host: Host::Ip(ip), .. }) => Some(ServerName::from(*ip)),
        Address::Tcp(TcpTarget { host: Host::Name(name), .. }) => {
            ServerName::try_from(name.to_string()).ok()
        }
        Address::Unix(_) => None,
    }
}

/// Says in words what is wrong with TLS, if that is it.
pub(super) fn failure(error: &io::Error, name: &str) -> Option<String> {
    let error = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())?;
    Some(match error {
        Error::InvalidCertificate(cause) => match cause {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("its certificate isn't valid for {name}")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".into()
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "its certificate isn't valid yet".into()
            }
            CertificateError::UnknownIssuer => {
                "its certificate is from an authority that isn't in `ca`".into()
            }
            cause => format!("its certificate isn't valid: {cause}"),
        },
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it demands a certificate: set `certificate` and `certificate_key`".into()
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA,
        ) => format!("it refuses our certificate: {error}"),
        Error::InvalidMessage(_) => "it speaks no TLS at this port".into(),
        error => format!("no TLS: {error}"),
    })
}

/// Ends an encrypted connection in order, as far as that takes no waiting.
pub(super) fn finish(encrypted: &mut Encrypted) {
    let mut cx = Context::from_waker(Waker::noop());
    // It is finished all the same if the last words don't fit.
    let _ = Pin::new(&mut *encrypted).poll_shutdown(&mut cx);
    encrypted.get_mut().0.finish();
}

#[cfg(test)]
mod tests;
