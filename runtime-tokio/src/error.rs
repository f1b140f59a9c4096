use thiserror::Error as ThisError;

/// Why a text is no address, or no name of a source of addresses.
#[derive(Clone, Debug, PartialEq, Eq, ThisError)]
#[non_exhaustive]
pub enum AddressError {
    /// There is no port.
    #[error("`{text}` has no port: write HOST:PORT, [IPV6]:PORT or unix:/PATH")]
    NoPort {
        /// The text.
        text: String,
    },
    /// What stands for the port is no number from 0 to 65535.
    #[error("`{text}` has no valid port: it must be a number from 1 to 65535")]
    BadPort {
        /// The text.
        text: String,
    },
    /// An IPv6 address without brackets.
    #[error("`{text}` needs brackets around its IPv6 address: write [IPV6]:PORT")]
    BareIpv6 {
        /// The text.
        text: String,
    },
    /// An IPv6 address with a scope, such as `[fe80::1%eth0]:80`.
    #[error(
        "`{text}` has a scope (`%` and an interface), which isn't supported: give an address that \
         is valid beyond one link"
    )]
    Scoped {
        /// The text.
        text: String,
    },
    /// A URL.
    #[error("`{text}` is a URL, and tinylb doesn't speak {scheme}: write {write}")]
    Url {
        /// The text.
        text: String,
        /// The part before `://`.
        scheme: String,
        /// What to write instead.
        write: String,
    },
    /// What stands in brackets is no IPv6 address.
    #[error("`{text}` is no IPv6 address: write [IPV6]:PORT")]
    NotAnIp {
        /// The text.
        text: String,
    },
    /// What stands for the host is neither an IP address nor a name.
    #[error("`{text}` is no host: write an IP address or a host name")]
    BadHost {
        /// The text.
        text: String,
    },
    /// The path of a Unix socket is relative.
    #[error(
        "`unix:{path}` isn't an absolute path: write unix:/PATH (or `unix.:PORT` for a host called \
         `unix`)"
    )]
    RelativePath {
        /// The path.
        path: String,
    },
    /// The path of a Unix socket holds a NUL byte.
    #[error("a path can't hold a NUL byte: remove it")]
    NulInPath,
    /// The path of a Unix socket is too long for the system.
    #[error("the path of a Unix socket has at most {max} bytes, this one has {bytes}: shorten it")]
    LongPath {
        /// Its length, in bytes.
        bytes: usize,
        /// The most it can have.
        max: usize,
    },
    /// A name for DNS that is neither a host's with its port nor a service's.
    #[error(
        "`{text}` has no port: write NAME:PORT, or the name of a service, _SERVICE._PROTO.NAME"
    )]
    NoDnsPort {
        /// The text.
        text: String,
    },
    /// A service's name with a port.
    #[error("`{text}` has a port, but a service has the ports in its records: remove it")]
    PortOfService {
        /// The text.
        text: String,
    },
    /// An IP address where a name for DNS should be.
    #[error("`{text}` is an IP address, there is nothing to look up: write it as a backend")]
    IpAsDnsName {
        /// The text.
        text: String,
    },
    /// What stands for the name can't be one in DNS.
    #[error(
        "`{text}` is no DNS name: write up to 253 ASCII characters, labels of 1 to 63 letters, \
         digits, `-` and `_` between dots (an international name in its xn-- form)"
    )]
    BadDnsName {
        /// The name.
        text: String,
    },
}
