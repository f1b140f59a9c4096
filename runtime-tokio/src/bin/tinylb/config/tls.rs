use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
#[cfg(feature = "etcd")]
use tinylb_tokio::HttpCheck;
use tinylb_tokio::read_file;

/// Whom a check over HTTPS trusts, and what it shows.
#[derive(Args, Clone, Debug, Default, PartialEq)]
pub(crate) struct Tls {
    /// The CA that signs the certificates of the servers that are checked, as PEM.
    #[arg(long = "check-ca", id = "check_ca", value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// A certificate to show to them, as PEM.
    #[arg(long = "check-certificate", id = "check_certificate", value_name = "FILE")]
    pub(super) certificate: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    #[arg(long = "check-certificate-key", id = "check_certificate_key", value_name = "FILE")]
    pub(super) certificate_key: Option<PathBuf>,
    /// The name that their certificates must have [default: the host that is asked].
    #[arg(long = "check-domain", id = "check_domain", value_name = "NAME")]
    pub(super) domain: Option<String>,
    /// What is in the files: others are another configuration, under the same names.
    #[arg(skip)]
    pub(super) read: Option<Arc<Files>>,
}

#[derive(Default, PartialEq)]
pub(super) struct Files {
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// Never a key.
impl fmt::Debug for Files {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// The largest file that is read, in bytes.
const PEM_BYTES_MAX: u64 = 16 << 20;

#[cfg(not(feature = "tls"))]
const WITHOUT_TLS: &str = "this tinylb was built without TLS: build it with `--features tls`";

impl Tls {
    /// What is missing, with a remedy; or that this build has no TLS.
    pub(super) fn validate(&self) -> Result<(), String> {
        #[cfg(not(feature = "tls"))]
        return Err(format!("a check over HTTPS needs TLS, and {WITHOUT_TLS}"));
        #[cfg(feature = "tls")]
        match (&self.ca, &self.certificate, &self.certificate_key) {
            (None, ..) => {
                Err("a check over HTTPS needs `ca`: give the file of the CA that signs the \
                     servers' certificates"
                    .into())
            }
            (_, Some(_), None) | (_, None, Some(_)) => {
                Err("`certificate` and `certificate_key` of a check go together: give both or \
                     neither"
                    .into())
            }
            _ => Ok(()),
        }
    }

    /// Makes paths relative to a directory, and reads the files.
    ///
    /// # Errors
    /// One can't be read or used: which, why, and a remedy.
    pub(super) fn read_files(&mut self, directory: &Path) -> Result<(), String> {
        let mut files = Files::default();
        for (path, bytes) in [
            (&mut self.ca, &mut files.ca),
            (&mut self.certificate, &mut files.certificate),
            (&mut self.certificate_key, &mut files.key),
        ] {
            let Some(path) = path else { continue };
            *path = directory.join(&*path);
            *bytes = read_file(path, PEM_BYTES_MAX).map_err(|error| {
                format!("can't read {}: {error}: check the path", path.display())
            })?;
        }
        self.read = Some(Arc::new(files));
        #[cfg(feature = "tls")]
        self.encryption()?;
        Ok(())
    }

    /// Encrypts a check, by files that the arguments name.
    ///
    /// # Errors
    /// Something is missing, or a file can't be used, with a remedy; or this build has no TLS.
    #[cfg(feature = "etcd")]
    pub(crate) fn encrypt(mut self, check: HttpCheck) -> Result<HttpCheck, String> {
        self.validate()?;
        self.read_files(Path::new(""))?;
        #[cfg(feature = "tls")]
        let check = check.with_tls(self.encryption()?);
        Ok(check)
    }

    /// What encrypts the check, by the files as they were read.
    ///
    /// # Errors
    /// One of them can't be used: which, and why.
    #[cfg(feature = "tls")]
    pub(crate) fn encryption(&self) -> Result<tinylb_tokio::CheckTls, String> {
        use tinylb_tokio::{CheckTls, CheckTlsError};

        let of = |path: &Option<PathBuf>, error: &CheckTlsError| match path {
            Some(path) => format!("{}: {error}", path.display()),
            None => error.to_string(),
        };
        let in_words = |error: CheckTlsError| match &error {
            CheckTlsError::Authority { .. } => of(&self.ca, &error),
            CheckTlsError::Certificate { .. } => of(&self.certificate, &error),
            CheckTlsError::Key { .. } => of(&self.certificate_key, &error),
            _ => error.to_string(),
        };
        debug_assert!(self.read.is_some(), "the files are read with the configuration");
        let files = self.read.clone().unwrap_or_default();
        let mut tls = CheckTls::new(&files.ca).map_err(in_words)?;
        if self.certificate.is_some() {
            tls = tls.with_certificate(&files.certificate, &files.key).map_err(in_words)?;
        }
        match &self.domain {
            Some(name) => tls.with_domain(name).map_err(in_words),
            None => Ok(tls),
        }
    }
}
