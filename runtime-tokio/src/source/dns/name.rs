use std::{fmt, net::IpAddr, str::FromStr, sync::Arc};

use crate::AddressError;

/// What a [`DnsSource`](super::DnsSource) looks up. Parsed from `NAME:PORT` for addresses or the
/// name of a service (`_SERVICE._PROTO.NAME`), and displayed as that.
///
/// Names are complete: there is no search list, and a final dot may stand there or not. They are in
/// ASCII; an international name is written as its `xn--` form.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DnsName {
    /// The A and AAAA records of a name, each with this port.
    Host {
        /// The name, in lower case and without the final dot.
        name: Arc<str>,
        /// The port of every backend, 1 to 65535.
        port: u16,
    },
    /// The SRV records of a service: their targets' addresses with the ports that the records tell
    /// (RFC 2782).
    Service {
        /// The name, in lower case and without the final dot.
        name: Arc<str>,
    },
}

/// The longest name, and the longest part of it between dots, in bytes (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;
const LABEL_MAX: usize = 63;

impl DnsName {
    /// The name without its port.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Host { name, .. } | Self::Service { name } => name,
        }
    }
}

impl FromStr for DnsName {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = || text.to_string();
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        };
        if is_ip(text) || is_ip(name) {
            return Err(AddressError::IpAsDnsName { text: given() });
        }
        let Some(port) = port else {
            if !text.starts_with('_') {
                return Err(AddressError::NoDnsPort { text: given() });
            }
            return Ok(Self::Service { name: complete(name)? });
        };
        let name = complete(name)?;
        if name.starts_with('_') && name.contains("._") {
            return Err(AddressError::PortOfService { text: given() });
        }
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|&port| digits && port != 0);
        Ok(Self::Host { name, port: port.ok_or_else(|| AddressError::BadPort { text: given() })? })
    }
}

impl fmt::Display for DnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host { name, port } => write!(f, "{name}:{port}"),
            Self::Service { name } => f.write_str(name),
        }
    }
}

fn is_ip(text: &str) -> bool {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    bare.parse::<IpAddr>().is_ok()
}

/// A name in its one form, if it is one.
fn complete(text: &str) -> Result<Arc<str>, AddressError> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        (1..=LABEL_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    // A last label of digits would be an IPv4 address with a mistake in it.
    let is_numeric = name.rsplit('.').next().is_some_and(|label| label.parse::<u64>().is_ok());
    if name.len() > NAME_MAX || is_numeric || !name.split('.').all(is_label) {
        return Err(AddressError::BadDnsName { text: text.into() });
    }
    Ok(name.to_ascii_lowercase().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<DnsName, AddressError> {
        text.parse()
    }

    #[test]
    fn a_name_is_displayed_as_it_is_written() {
        for text in ["db.example.org:5432", "db:65535", "_pg._tcp.example.org"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        let host = DnsName::Host { name: "db.example.org".into(), port: 5432 };
        let service = DnsName::Service { name: "_pg._tcp.example.org".into() };
        assert_eq!(parse("db.example.org:5432"), Ok(host));
        assert_eq!(parse("_pg._tcp.example.org"), Ok(service));
        // A host whose name begins like a service's, but isn't one.
        assert!(matches!(parse("_db.example.org:5432"), Ok(DnsName::Host { .. })));
    }

    #[test]
    fn one_name_has_one_form() {
        assert_eq!(parse("DB.Example.org.:1"), parse("db.example.org:1"));
        assert_eq!(parse("_PG._tcp.example.org."), parse("_pg._tcp.example.org"));
        assert_ne!(parse("db.example.org:1"), parse("db.example.org:2"));
    }

    #[test]
    fn a_bad_name_is_told_with_its_cause_and_its_remedy() {
        let long_label = format!("{}.org:1", "a".repeat(64));
        let long_name = format!("{}bc:1", "a.".repeat(126));
        for (text, cause, remedy) in [
            ("db.example.org", "no port", "NAME:PORT"),
            ("db._tcp.example.org", "no port", "_SERVICE._PROTO.NAME"),
            ("", "no port", "NAME:PORT"),
            ("db.example.org:", "port", "1 to 65535"),
            ("db.example.org:0", "port", "1 to 65535"),
            ("db.example.org:65536", "port", "1 to 65535"),
            ("db.example.org:+1", "port", "1 to 65535"),
            ("_pg._tcp.example.org:5432", "ports in its records", "remove"),
            ("10.0.0.1:5432", "IP address", "backend"),
            ("10.0.0.1", "IP address", "backend"),
            ("[::1]:5432", "IP address", "backend"),
            ("::1", "IP address", "backend"),
            ("[::1]", "IP address", "backend"),
            ("10.0.0.256:5432", "no DNS name", "labels"),
            ("db..example.org:5432", "no DNS name", "labels"),
            (".:5432", "no DNS name", "labels"),
            (":5432", "no DNS name", "labels"),
            ("db.example.org..:1", "no DNS name", "labels"),
            ("d b.example.org:1", "no DNS name", "labels"),
            ("dб.example.org:1", "no DNS name", "xn--"),
            ("_pg._tcp.example/org", "no DNS name", "labels"),
            ("[::g]:1", "no DNS name", "labels"),
            (&long_label, "no DNS name", "63"),
            (&long_name, "no DNS name", "253"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(cause) && error.contains(remedy), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
        // The nearest that fit.
        assert!(parse(&long_label[1..]).is_ok());
        assert!(parse(&long_name.replace('c', "")).is_ok());
    }
}
