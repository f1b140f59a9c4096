use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

use tokio::time::timeout;

use crate::{read_file, run_blocking};

const RESOLV_CONF: &str = "/etc/resolv.conf";

/// The largest such file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

const DNS_PORT: u16 = 53;

/// The servers that the system asks.
///
/// # Errors
/// Why they aren't known.
pub(super) async fn servers(within: Duration) -> Result<Vec<SocketAddr>, String> {
    // A file can hang as well as a server, and this thread carries connections.
    let read = run_blocking(|| read_file(Path::new(RESOLV_CONF), FILE_BYTES_MAX));
    let file = match timeout(within, read).await {
        Ok(Ok(Ok(file))) => file,
        Ok(Ok(Err(error)) | Err(error)) => return Err(format!("{RESOLV_CONF}: {error}")),
        Err(_) => return Err(format!("{RESOLV_CONF} couldn't be read in time")),
    };
    match servers_in(&String::from_utf8_lossy(&file)) {
        servers if servers.is_empty() => Err(format!("{RESOLV_CONF} names no server")),
        servers => Ok(servers),
    }
}

/// Those of a file as resolv.conf(5) describes it. What can't be read in it is passed over, as the
/// system does.
fn servers_in(file: &str) -> Vec<SocketAddr> {
    file.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let is_server = words.next() == Some("nameserver");
            let ip: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
            Some(SocketAddr::new(ip, DNS_PORT))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_the_system_are_asked_in_their_order() {
        let file = "# nameserver 192.0.2.1\n\
            ; nameserver 192.0.2.2\n\
            domain example.org\n\
            search example.org\n\
            nameserver 10.0.0.2\n\
            nameserver\t::1  \n\
            nameserver\n\
            nameserver example.org\n\
            nameservers 192.0.2.3\n\
            options edns0\n\
            nameserver 10.0.0.1";
        let expected = ["10.0.0.2:53", "[::1]:53", "10.0.0.1:53"];
        assert_eq!(servers_in(file), expected.map(|server| server.parse().unwrap()));
        assert!(servers_in("search example.org\n").is_empty());
    }
}
