use std::{
    fmt, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use tinylb_tokio::read_file;
use toml::de::DeValue;

use super::{
    LoadError,
    reader::{Reader, Value},
    values::{kind, list, text, time},
};
use crate::Failure;

/// An etcd cluster, a prefix in it, and the user that reads it, from arguments or from a file.
#[derive(Args, Clone, Debug, Default, PartialEq)]
#[command(next_help_heading = "etcd (in a build with the feature `etcd`)")]
pub(crate) struct Etcd {
    /// Members of an etcd cluster, such as http://10.0.0.1:2379: separated by commas, or by repeating
    /// the option.
    #[arg(long = "etcd", id = "etcd", value_name = "URL", value_delimiter = ',')]
    pub(crate) endpoints: Vec<String>,
    /// The prefix of the backends' keys, such as /lb/web/.
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<String>,
    /// The etcd user.
    #[arg(long = "etcd-user", value_name = "NAME", requires = "password_file")]
    user: Option<String>,
    /// A file with that user's password.
    #[arg(
        long = "etcd-password-file",
        id = "password_file",
        value_name = "FILE",
        requires = "user"
    )]
    password_file: Option<PathBuf>,
    /// The CA that signs the members' certificates, as PEM.
    #[arg(long = "etcd-ca", id = "ca", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// A certificate to show to etcd, as PEM.
    #[arg(long = "etcd-certificate", id = "certificate", value_name = "FILE",
          requires_all = ["certificate_key", "ca"])]
    certificate: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    #[arg(
        long = "etcd-certificate-key",
        id = "certificate_key",
        value_name = "FILE",
        requires = "certificate"
    )]
    certificate_key: Option<PathBuf>,
    /// The name that the members' certificates must have [default: the host of the URL].
    #[arg(long = "etcd-domain", value_name = "NAME", requires = "ca")]
    domain: Option<String>,
    #[arg(skip)]
    resync: Option<Duration>,
    #[arg(skip)]
    timeout: Option<Duration>,
    #[arg(skip)]
    password: Option<Password>,
}

/// The largest password file, in bytes.
const PASSWORD_BYTES_MAX: u64 = 64 << 10;

#[derive(Clone, PartialEq)]
struct Password(String);

/// Never the password.
impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

const KEYS: [&str; 10] = [
    "endpoints",
    "prefix",
    "user",
    "password_file",
    "ca",
    "certificate",
    "certificate_key",
    "domain",
    "resync",
    "timeout",
];

const REMEDY: &str = "write { endpoints = [\"http://10.0.0.1:2379\"], prefix = \"/lb/web/\" }";

#[cfg(not(feature = "etcd"))]
pub(crate) const WITHOUT_ETCD: &str =
    "this tinylb was built without etcd: build it with `--features etcd`";

impl Etcd {
    /// The cluster that the arguments name, with the password read; `None` if they name none.
    ///
    /// # Errors
    /// They are wrong, or the password can't be read.
    pub(crate) fn read(&self) -> Result<Option<Self>, Failure> {
        if *self == Self::default() {
            return Ok(None);
        }
        let incomplete = match (self.endpoints.is_empty(), &self.prefix) {
            (true, _) => Some("`--prefix` and `--etcd-…` need `--etcd`: give the members' URLs"),
            (_, None) => Some("`--etcd` needs a prefix: give `--prefix`, for example /lb/web/"),
            _ => None,
        };
        if let Some(message) = incomplete {
            return Err(Failure::Usage(message.into()));
        }
        let mut etcd = self.clone();
        etcd.resolve_paths(Path::new(""))
            .map_err(|(path, source)| LoadError::Password { path, source })
            .map_err(|error| Failure::Error(error.to_string()))?;
        etcd.validate().map_err(Failure::Usage)?;
        Ok(Some(etcd))
    }

    /// Makes paths relative to a directory, and reads the password.
    ///
    /// # Errors
    /// The file of the password can't be read.
    pub(super) fn resolve_paths(&mut self, directory: &Path) -> Result<(), (PathBuf, io::Error)> {
        for path in [
            &mut self.password_file,
            &mut self.ca,
            &mut self.certificate,
            &mut self.certificate_key,
        ] {
            *path = path.take().map(|path| directory.join(path));
        }
        if let Some(path) = &self.password_file {
            let read = read_file(path, PASSWORD_BYTES_MAX).and_then(|bytes| {
                String::from_utf8(bytes).map_err(|_| io::ErrorKind::InvalidData.into())
            });
            let read = read.map_err(|error| (path.clone(), error))?;
            self.password = Some(Password(read.trim_end_matches(['\r', '\n']).into()));
        }
        Ok(())
    }

    fn prefix(&self) -> &str {
        self.prefix.as_deref().unwrap_or_default()
    }

    /// Whether this text once displayed the same prefix of the same cluster. Members come and go: one
    /// that is in both is enough.
    pub(crate) fn was(&self, text: &str) -> bool {
        let Some((endpoints, prefix)) = text.rsplit_once(' ') else { return false };
        let stayed = |one: &String| endpoints.split(',').any(|endpoint| endpoint == one);
        prefix == self.prefix() && self.endpoints.iter().any(stayed)
    }

    /// The library's options.
    ///
    /// # Errors
    /// What is wrong, for people to read.
    #[cfg(feature = "etcd")]
    pub(crate) fn options(&self) -> Result<tinylb_tokio::EtcdOptions, String> {
        let mut options = tinylb_tokio::EtcdOptions::new(&self.endpoints, self.prefix());
        options.user = self.user.clone().map(|user| {
            let password = self.password.as_ref().map_or("", |password| &password.0);
            (user, password.into())
        });
        options.tls = self.ca.as_ref().map(|ca| {
            let mut tls = tinylb_tokio::EtcdTls::new(ca);
            tls.certificate.clone_from(&self.certificate);
            tls.key.clone_from(&self.certificate_key);
            tls.domain.clone_from(&self.domain);
            tls
        });
        options.resync = self.resync.unwrap_or(options.resync);
        options.timeout = self.timeout.unwrap_or(options.timeout);
        // Without the cause of a bad endpoint: it would mention addresses that aren't etcd's.
        options.validate().map_err(|error| error.to_string())?;
        Ok(options)
    }

    /// Checks all that can be checked without etcd.
    ///
    /// # Errors
    /// What is wrong, for people to read.
    pub(crate) fn validate(&self) -> Result<(), String> {
        #[cfg(feature = "etcd")]
        return self.options().map(drop);
        #[cfg(not(feature = "etcd"))]
        Err(WITHOUT_ETCD.into())
    }
}

impl fmt::Display for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.endpoints.join(","), self.prefix())
    }
}

impl Reader<'_> {
    pub(super) fn etcd(&mut self, value: &Value<'_>) -> Option<Etcd> {
        let DeValue::Table(table) = value.get_ref() else {
            let kind = kind(value.get_ref());
            self.wrong(value, format!("`etcd` must be a table; this is {kind}: {REMEDY}"));
            return None;
        };
        let mut etcd = Etcd::default();
        let mut is_good = true;
        for (key, value) in table.iter() {
            let name: &str = key.get_ref();
            let path = || text(value).map(|path| Some(path.into()));
            let read = match name {
                "endpoints" => list(value, |value| text(value).map(String::from))
                    .map(|endpoints| etcd.endpoints = endpoints),
                "prefix" => text(value).map(|prefix| etcd.prefix = Some(prefix.into())),
                "user" => text(value).map(|name| etcd.user = Some(name.into())),
                "password_file" => path().map(|path| etcd.password_file = path),
                "ca" => path().map(|path| etcd.ca = path),
                "certificate" => path().map(|path| etcd.certificate = path),
                "certificate_key" => path().map(|path| etcd.certificate_key = path),
                "domain" => text(value).map(|name| etcd.domain = Some(name.into())),
                "resync" => time(value, "").map(|time| etcd.resync = Some(time)),
                "timeout" => time(value, "").map(|time| etcd.timeout = Some(time)),
                _ => {
                    self.unknown(key, "in `etcd`", &KEYS);
                    is_good = false;
                    Ok(())
                }
            };
            if let Err(cause) = read {
                self.wrong(value, format!("`{name}` {cause}"));
                is_good = false;
            }
        }
        for key in ["endpoints", "prefix"] {
            if is_good && !table.contains_key(key) {
                self.missing(value.span().start, format!("`etcd` has no `{key}`: {REMEDY}"));
                return None;
            }
        }
        let incomplete = [
            ("user", "password_file"),
            ("password_file", "user"),
            ("certificate", "ca"),
            ("certificate_key", "ca"),
            ("domain", "ca"),
        ];
        let lacks = |(key, other)| table.contains_key(key) && !table.contains_key(other);
        if let Some((key, other)) = incomplete.into_iter().find(|pair| is_good && lacks(*pair)) {
            self.wrong(value, format!("`{key}` needs `{other}` beside it: give both or neither"));
            is_good = false;
        }
        if is_good && let Err(message) = etcd.validate() {
            self.wrong(value, message);
            is_good = false;
        }
        is_good.then_some(etcd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_stays_the_same_when_members_come_and_go() {
        let etcd = |endpoints: &[&str], prefix: &str| Etcd {
            endpoints: endpoints.iter().map(|endpoint| (*endpoint).into()).collect(),
            prefix: Some(prefix.into()),
            ..Etcd::default()
        };
        let kept = etcd(&["a:1", "b:1"], "/lb/").to_string();
        assert!(etcd(&["c:1", "b:1"], "/lb/").was(&kept));
        assert!(etcd(&["b:1", "a:1"], "/lb/").was(&kept));
        for other in [etcd(&["c:1"], "/lb/"), etcd(&["a:1"], "/lb/x/"), etcd(&[], "/lb/")] {
            assert!(!other.was(&kept), "{other}");
        }
        assert!(!etcd(&["a:1"], "/lb/").was(""));
    }
}
