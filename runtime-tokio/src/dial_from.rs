use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::OwnedFd,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rustix::net::bind;

/// The addresses of this machine that dials come from, in turn. Without any, the system chooses.
#[derive(Default)]
pub(crate) struct DialFrom {
    addresses: RwLock<Vec<IpAddr>>,
    turn: AtomicUsize,
}

impl DialFrom {
    pub(crate) fn set(&self, addresses: Vec<IpAddr>) {
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Binds a socket to the address whose turn it is, before it connects. Returns whether there is
    /// one.
    ///
    /// # Errors
    /// This machine doesn't have that address; or the system's error.
    pub(crate) fn bind(&self, socket: &OwnedFd, to: SocketAddr) -> io::Result<bool> {
        let Some(from) = self.next(to) else { return Ok(false) };
        // Otherwise the bind would choose the port, and no other connection from this address could
        // use it. With this option the connect chooses it, and only connections to the same backend
        // compete for it (ip(7)).
        #[cfg(any(target_os = "linux", target_os = "android"))]
        nix::sys::socket::setsockopt(
            socket,
            nix::sys::socket::sockopt::IpBindAddressNoPort,
            &true,
        )?;
        bind(socket, &SocketAddr::new(from, 0)).map_err(|error| {
            let error = io::Error::from(error);
            let text = format!("can't dial from {from} ({error}): give an address of this machine");
            io::Error::new(error.kind(), text)
        })?;
        Ok(true)
    }

    /// The next address of a target's family, if there is one.
    fn next(&self, to: SocketAddr) -> Option<IpAddr> {
        let addresses = self.addresses.read().unwrap_or_else(PoisonError::into_inner);
        if addresses.is_empty() {
            return None;
        }
        let fitting = || addresses.iter().filter(|from| from.is_ipv4() == to.is_ipv4());
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        fitting().nth(turn % fitting().count().max(1)).copied()
    }
}

/// The source address that the system would choose for a connection to an address: that address
/// itself, if this machine has it.
pub(crate) fn source_of(address: SocketAddr) -> io::Result<IpAddr> {
    let any = if address.is_ipv4() { SocketAddr::from(([0; 4], 0)) } else { ([0; 16], 0).into() };
    // A datagram socket sends nothing when it is connected.
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_of_the_targets_family_has_its_turn() {
        let from = DialFrom::default();
        let next = |to: &str| from.next(to.parse().unwrap()).map(|ip| ip.to_string());
        assert_eq!(next("192.0.2.1:80"), None);
        from.set(["10.0.0.1", "10.0.0.2", "2001:db8::1"].map(|ip| ip.parse().unwrap()).into());
        let four: Vec<_> = (0..4).map(|_| next("192.0.2.1:80").unwrap()).collect();
        assert_eq!(four, ["10.0.0.1", "10.0.0.2", "10.0.0.1", "10.0.0.2"]);
        assert_eq!(next("[2001:db8::2]:80").unwrap(), "2001:db8::1");
        from.set(vec!["10.0.0.1".parse().unwrap()]);
        assert_eq!(next("[2001:db8::2]:80"), None, "the system's choice is better than none");
    }
}
