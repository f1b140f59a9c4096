use std::ops::RangeInclusive;

/// The ports from which the system picks the local port of a connecting socket, if it says which
/// they are.
pub(crate) struct EphemeralPorts(Option<RangeInclusive<u16>>);

impl Default for EphemeralPorts {
    /// The range as it is now. (Linux: `ip_local_port_range`, ip(7), which holds for IPv6 as well.)
    fn default() -> Self {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        Self(range.ok().and_then(|range| parse(&range)))
    }
}

impl EphemeralPorts {
    /// Whether a connecting socket may get this port; true if the range isn't known.
    pub(crate) fn may_include(&self, port: u16) -> bool {
        self.0.as_ref().is_none_or(|range| range.contains(&port))
    }
}

fn parse(range: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = range.trim().split_once(char::is_whitespace)?;
    Some(first.parse().ok()?..=last.trim().parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_ruled_out_only_if_the_system_says_so() {
        let ports = EphemeralPorts(parse("32768\t60999\n"));
        let at = [32767, 32768, 60999, 61000];
        assert_eq!(at.map(|port| ports.may_include(port)), [false, true, true, false]);
        for unreadable in ["", "32768", "a b", "32768 99999"] {
            assert!(EphemeralPorts(parse(unreadable)).may_include(1), "{unreadable:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_port_that_a_socket_got_may_be_one() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let ports = EphemeralPorts::default();
        assert!(ports.may_include(port) && !ports.may_include(1), "{:?}", ports.0);
    }
}
