use std::{
    ffi::OsStr,
    fmt,
    net::{IpAddr, SocketAddr},
    os::unix::ffi::OsStrExt,
    path::Path,
    str::FromStr,
    sync::Arc,
};

use crate::AddressError;

/// A TCP address, `host:port` or `[v6]:port`. Names are kept, and resolved at each dial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TcpTarget {
    /// The machine.
    pub host: Host,
    /// The port, 1 to 65535; 0 only for a listener, where it means any.
    pub port: u16,
}

/// A machine's address or name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// An IPv4 or IPv6 address.
    Ip(IpAddr),
    /// A name for the system's resolver, in lower case.
    Name(Arc<str>),
}

/// The path of a Unix socket, written `unix:/path`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTarget(Arc<Path>);

/// Where something listens: TCP or a Unix socket. Parsed from `host:port`, `[v6]:port` or
/// `unix:/path`, and displayed as that. An address that begins with `unix:`, in upper or lower
/// case, is a path. For a host called `unix`, write `unix.:80`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// TCP.
    Tcp(TcpTarget),
    /// A Unix socket.
    Unix(UnixTarget),
}

/// The longest path that a Unix socket's address holds, in bytes (Linux: `sun_path` less its 0).
const UNIX_PATH_MAX: usize = 107;

/// The longest name that DNS allows, in bytes (RFC 1035, section 2.3.4).
const NAME_MAX: usize = 253;

impl UnixTarget {
    /// The socket at an absolute path.
    ///
    /// # Errors
    /// The path is relative, too long, or holds a NUL byte.
    pub fn new(path: impl AsRef<Path>) -> Result<Self, AddressError> {
        let path = path.as_ref();
        if !path.is_absolute() {
            return Err(AddressError::RelativePath { path: path.display().to_string() });
        }
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(AddressError::NulInPath);
        }
        let bytes = path.as_os_str().len();
        if bytes > UNIX_PATH_MAX {
            return Err(AddressError::LongPath { bytes, max: UNIX_PATH_MAX });
        }
        Ok(Self(path.into()))
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Address {
    /// Whether this can be a backend of a balancer that listens at `own`.
    ///
    /// # Errors
    /// Port 0; an address that leads back to the balancer itself, as far as the text shows; or one
    /// that no machine has: multicast, broadcast or unspecified.
    pub fn validate_target(&self, own: &[Self]) -> Result<(), String> {
        if let Self::Tcp(TcpTarget { port: 0, .. }) = self {
            return Err("port 0 can't be dialled: give the backend's port".into());
        }
        if let Some(own) = own.iter().find(|own| own.leads_to(self)) {
            return Err(format!("the balancer itself listens at {own}: give another address"));
        }
        match self {
            Self::Tcp(TcpTarget { host: Host::Ip(ip), .. }) => match no_machine(*ip) {
                Some(kind) => Err(format!("{kind}: give the address of one machine")),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether a listener here prevents another one at `other`: they are the same address, or this
    /// one covers the other. `0.0.0.0` covers every IPv4 address, and `[::]` every address, since
    /// this adapter's listeners at `[::]` accept IPv4 as well. Port 0 is any free port, and so
    /// never in the way.
    pub fn takes_in(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(TcpTarget { port: 0, .. }), _) => false,
            (
                Self::Tcp(TcpTarget { host: Host::Ip(own), port }),
                Self::Tcp(TcpTarget { host: Host::Ip(ip), port: other }),
            ) => {
                let (own, ip) = (own.to_canonical(), ip.to_canonical());
                let is_wide = own.is_unspecified() && (own.is_ipv6() || ip.is_ipv4());
                port == other && (own == ip || is_wide)
            }
            _ => self == other,
        }
    }

    /// Whether a dial of `target` reaches a listener at this address, as far as the text shows.
    pub fn leads_to(&self, target: &Self) -> bool {
        let (Self::Tcp(own), Self::Tcp(target)) = (self, target) else { return self == target };
        let is_here = match (&own.host, &target.host) {
            (Host::Ip(own), Host::Ip(to)) => {
                let (own, to) = (own.to_canonical(), to.to_canonical());
                // A listener at `::` accepts IPv4 as well.
                let takes_in = own.is_unspecified() && (own.is_ipv6() || to.is_ipv4());
                own == to
                    || takes_in && (to.is_loopback() || to.is_unspecified())
                    || to.is_unspecified() && own.is_loopback() && own.is_ipv4() == to.is_ipv4()
            }
            (Host::Ip(own), Host::Name(name)) => {
                &**name == "localhost" && (own.is_unspecified() || own.is_loopback())
            }
            (own, to) => own == to,
        };
        is_here && own.port == target.port
    }
}

/// Why an address doesn't stand for one machine, if it doesn't.
pub(crate) fn no_machine(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    match ip {
        ip if ip.is_multicast() => Some("this is a multicast address"),
        IpAddr::V4(ip) if ip.is_broadcast() => Some("this is the broadcast address"),
        // Linux treats such a dial as one to itself, and other systems refuse it.
        ip if ip.is_unspecified() => Some("this is the unspecified address"),
        // RFC 1122, section 3.2.1.3.
        IpAddr::V4(ip) if ip.octets()[0] == 0 => Some("this address belongs to no network"),
        _ => None,
    }
}

impl FromStr for TcpTarget {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let given = || text.to_string();
        if let Some((scheme, rest)) = text.split_once("://") {
            let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
            let address = authority.rsplit('@').next().unwrap_or_default();
            // If the rest is no address either, show the form.
            let is_address = address.parse::<Self>().is_ok();
            let write = if is_address { address } else { "HOST:PORT" }.to_string();
            return Err(AddressError::Url { text: given(), scheme: scheme.to_string(), write });
        }
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, port) =
                rest.split_once(']').ok_or_else(|| AddressError::NotAnIp { text: given() })?;
            if let Some((ip, _)) = host.split_once('%')
                && ip.parse::<std::net::Ipv6Addr>().is_ok()
            {
                return Err(AddressError::Scoped { text: given() });
            }
            let ip = host.parse().map_err(|_| AddressError::NotAnIp { text: host.into() })?;
            let port = port.strip_prefix(':');
            (Host::Ip(IpAddr::V6(ip)), port.ok_or_else(|| AddressError::NoPort { text: given() })?)
        } else {
            let (host, port) =
                text.rsplit_once(':').ok_or_else(|| AddressError::NoPort { text: given() })?;
            if host.contains(':') {
                return Err(AddressError::BareIpv6 { text: given() });
            }
            (host.parse()?, port)
        };
        let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|_| digits);
        Ok(Self { host, port: port.ok_or_else(|| AddressError::BadPort { text: given() })? })
    }
}

impl FromStr for Host {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Ok(ip) = text.parse() {
            return Ok(Self::Ip(ip));
        }
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        let labels = text.strip_suffix('.').unwrap_or(text);
        // A last label of digits would be an IPv4 address with a mistake in it.
        let is_numeric =
            labels.rsplit('.').next().is_some_and(|label| label.parse::<u64>().is_ok());
        if text.len() > NAME_MAX || is_numeric || !labels.split('.').all(is_label) {
            return Err(AddressError::BadHost { text: text.into() });
        }
        Ok(Self::Name(text.to_ascii_lowercase().into()))
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.split_once(':') {
            Some((kind, path)) if kind.eq_ignore_ascii_case("unix") => {
                UnixTarget::new(OsStr::new(path)).map(Self::Unix)
            }
            _ => text.parse().map(Self::Tcp),
        }
    }
}

impl From<SocketAddr> for TcpTarget {
    fn from(address: SocketAddr) -> Self {
        Self { host: Host::Ip(address.ip()), port: address.port() }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.into())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Ip(IpAddr::V4(ip)) => ip.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for TcpTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl fmt::Display for UnixTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix:{}", self.0.display())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // The bare name would make it a path.
            Self::Tcp(TcpTarget { host: Host::Name(name), port }) if &**name == "unix" => {
                write!(f, "unix.:{port}")
            }
            Self::Tcp(target) => target.fmt(f),
            Self::Unix(target) => target.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_displayed_as_it_is_written() {
        for text in
            ["unix.:80", "127.0.0.1:80", "[::1]:65535", "db-1.example.org:5432", "unix:/run/a.sock"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("DB.Example:1".parse::<Address>(), "db.example:1".parse());
        assert_eq!("UNIX:/run/a.sock".parse::<Address>(), "unix:/run/a.sock".parse());
        assert_eq!("Unix.:80".parse::<Address>().unwrap().to_string(), "unix.:80");
        assert_eq!(Address::Tcp("unix:80".parse().unwrap()).to_string(), "unix.:80");
        assert_eq!("[0:0::1]:1".parse::<Address>(), "[::1]:1".parse());
    }

    #[test]
    fn a_target_that_leads_back_to_the_balancer_is_refused() {
        let check = |own: &str, target: &str| {
            target.parse::<Address>().unwrap().validate_target(&[own.parse().unwrap()])
        };
        for (own, target) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("0.0.0.0:80", "127.0.0.5:80"),
            ("[::]:80", "[::1]:80"),
            ("127.0.0.1:80", "0.0.0.0:80"),
            ("127.0.0.1:80", "[::ffff:127.0.0.1]:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("127.0.0.1:80", "localhost:80"),
            ("unix:/run/a", "unix:/run/a"),
        ] {
            let error = check(own, target).unwrap_err();
            assert!(error.contains("the balancer itself"), "{own} {target}: {error}");
        }
        for (own, target) in [
            ("127.0.0.1:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("0.0.0.0:80", "192.0.2.1:80"),
            ("0.0.0.0:80", "[::1]:80"),
            ("192.0.2.1:80", "localhost:80"),
            ("unix:/run/a", "unix:/run/b"),
        ] {
            assert_eq!(check(own, target), Ok(()), "{own} {target}");
        }
        assert!(check("127.0.0.1:80", "127.0.0.1:0").unwrap_err().contains("port 0"));
    }

    #[test]
    fn an_address_takes_in_those_that_cannot_be_listened_at_beside_it() {
        let takes_in = |own: &str, other: &str| {
            let [own, other] = [own, other].map(|text| text.parse::<Address>().unwrap());
            own.takes_in(&other)
        };
        for (own, other) in [
            ("[::]:80", "0.0.0.0:80"),
            ("[::]:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("0.0.0.0:80", "127.0.0.1:80"),
        ] {
            assert!(takes_in(own, other), "{own} {other}");
            assert!(!takes_in(other, own), "{other} {own}");
        }
        for same in ["127.0.0.1:80", "[::]:80", "unix:/a"] {
            assert!(takes_in(same, same), "{same}");
        }
        assert!(takes_in("[::ffff:127.0.0.1]:80", "127.0.0.1:80"));
        for (own, other) in [
            ("0.0.0.0:80", "[::1]:80"),
            ("0.0.0.0:80", "127.0.0.1:81"),
            ("127.0.0.1:80", "127.0.0.2:80"),
            ("[::]:0", "[::]:0"),
            ("unix:/a", "unix:/b"),
        ] {
            assert!(!takes_in(own, other), "{own} {other}");
        }
    }

    #[test]
    fn an_address_that_no_machine_has_is_no_backend() {
        let check = |target: &str| target.parse::<Address>().unwrap().validate_target(&[]);
        for (target, kind) in [
            ("224.0.0.1:80", "multicast"),
            ("239.255.255.255:80", "multicast"),
            ("[ff02::1]:80", "multicast"),
            ("[::ffff:224.0.0.1]:80", "multicast"),
            ("255.255.255.255:80", "broadcast"),
            ("[::ffff:255.255.255.255]:80", "broadcast"),
            ("0.0.0.0:80", "unspecified"),
            ("[::]:80", "unspecified"),
            ("0.1.2.3:80", "no network"),
        ] {
            let error = check(target).unwrap_err();
            assert!(
                error.contains(kind) && error.contains("give the address"),
                "{target}: {error}"
            );
        }
        for target in ["223.255.255.255:80", "240.0.0.1:80", "[fe00::1]:80", "1.0.0.0:80"] {
            assert_eq!(check(target), Ok(()), "{target}");
        }
    }

    #[test]
    fn a_bad_address_is_told_with_its_cause() {
        for (text, cause) in [
            ("localhost", "no port"),
            ("", "no port"),
            ("::1:80", "brackets"),
            ("[::1]", "no port"),
            ("[::g]:80", "IPv6"),
            ("a:", "port"),
            ("a:65536", "port"),
            ("a:+1", "port"),
            ("256.0.0.1:80", "host"),
            ("a..b:80", "host"),
            ("a b:80", "host"),
            (":80", "host"),
            ("unix:run/a", "absolute"),
            ("unix:/run/a\0b", "NUL"),
            ("UNIX:80", "`unix.:PORT`"),
            (
                "http://127.0.0.1:9001",
                "is a URL, and tinylb doesn't speak http: write 127.0.0.1:9001",
            ),
            ("tcp://user@[::1]:9001/x", "write [::1]:9001"),
            ("https://db.example.org/", "write HOST:PORT"),
            ("[fe80::1%eth0]:80", "scope"),
            ("[fe80::1%]:80", "scope"),
            ("[x%eth0]:80", "IPv6"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(cause), "{text}: {error}");
        }
        let long = format!("unix:/{}", "a".repeat(UNIX_PATH_MAX));
        assert!(long.parse::<Address>().unwrap_err().to_string().contains("107"));
    }
}
