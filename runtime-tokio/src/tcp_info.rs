//! What the system knows about a TCP connection, and the operations that need a raw call (Linux).
//!
//! The library's only `unsafe`: no well-kept crate has a safe function for these calls
//! (`tcp-info-sys` generates its bindings with libclang in every build; rustix, socket2 and nix
//! have none).
#![allow(unsafe_code, reason = "no well-kept crate wraps these calls")]

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, RawFd},
    time::Duration,
};

/// A part of `struct tcp_info` (linux/tcp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TcpInfo {
    /// The connection doesn't exist: it has failed, or was never made.
    pub(crate) is_closed: bool,
    /// How often the oldest unacknowledged data was retransmitted since the last acknowledgement.
    pub(crate) retransmits: u8,
    /// Keepalive or zero-window probes without an answer so far.
    pub(crate) probes: u8,
    /// Segments in flight.
    pub(crate) unacked: u32,
    /// Milliseconds since the peer's last acknowledgement, of anything; also of a probe.
    pub(crate) last_ack_recv: u32,
    /// Milliseconds since the peer's last data. Data that comes without acknowledging more than
    /// before doesn't always count as an acknowledgement.
    pub(crate) last_data_recv: u32,
}

/// What the system knows about a connection.
///
/// # Errors
/// The socket isn't TCP.
pub(crate) fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<TcpInfo> {
    // SAFETY: every field is an integer, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = mem::size_of_val(&info) as libc::socklen_t;
    // SAFETY: the descriptor is open while it is borrowed; the system writes at most `length` bytes
    // to `info`, and an older one, which knows fewer fields, leaves the others zero.
    let failed = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    /// linux/net/tcp_states.h; libc has it for some systems only.
    const TCP_CLOSE: u8 = 7;
    Ok(TcpInfo {
        is_closed: info.tcpi_state == TCP_CLOSE,
        retransmits: info.tcpi_retransmits,
        probes: info.tcpi_probes,
        unacked: info.tcpi_unacked,
        last_ack_recv: info.tcpi_last_ack_recv,
        last_data_recv: info.tcpi_last_data_recv,
    })
}

/// Bytes that were written to a socket and that its peer's system has not acknowledged
/// (`SIOCOUTQ`, tcp(7)).
///
/// # Errors
/// The socket isn't TCP.
pub(crate) fn unacknowledged(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the descriptor is open while it is borrowed; the system writes one `int`. TIOCOUTQ is
    // the number of SIOCOUTQ.
    let failed = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(bytes).unwrap_or(0))
}

/// Sets the longest time between two retransmissions of a connection, and between two probes of a
/// shut window (`TCP_RTO_MAX_MS`, in whole milliseconds, 1 s to 2 min).
///
/// # Errors
/// The system is older than Linux 6.15, and the time stays 2 min; or the socket isn't TCP.
pub(crate) fn set_rto_max(socket: BorrowedFd<'_>, max: Duration) -> io::Result<()> {
    /// linux/tcp.h; libc doesn't have it yet.
    const TCP_RTO_MAX_MS: libc::c_int = 44;
    let max = libc::c_int::try_from(max.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the descriptor is open while it is borrowed; the system reads one `int`.
    let failed = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            TCP_RTO_MAX_MS,
            (&raw const max).cast(),
            mem::size_of_val(&max) as libc::socklen_t,
        )
    };
    if failed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Lends a descriptor that is known by its number. The caller must make sure that it is open until
/// `borrow` returns: no type expresses that for descriptors that are owned elsewhere.
pub(crate) fn borrow_raw<T>(number: RawFd, borrow: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
    // SAFETY: the caller's promise.
    borrow(unsafe { BorrowedFd::borrow_raw(number) })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::{TcpListener, TcpStream},
        os::fd::AsFd,
    };

    use super::*;

    #[test]
    fn what_a_peer_has_not_taken_is_counted_until_it_takes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut writer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut reader = listener.accept().unwrap().0;
        assert_eq!(unacknowledged(writer.as_fd()).unwrap(), 0);
        writer.set_nonblocking(true).unwrap();
        let chunk = [0; 64 << 10];
        let mut written = 0;
        while let Ok(length) = writer.write(&chunk) {
            written += length;
        }
        let waiting = unacknowledged(writer.as_fd()).unwrap();
        assert!(0 < waiting && waiting < written, "{waiting} of {written}");
        let info = tcp_info(writer.as_fd()).unwrap();
        assert!(!info.is_closed);
        assert!(info.last_ack_recv < 10_000, "{info:?}");
        drop(writer);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), written);
    }

    #[test]
    fn a_connection_that_was_reset_is_closed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let other = listener.accept().unwrap().0;
        socket2::SockRef::from(&other).set_linger(Some(Duration::ZERO)).unwrap();
        drop(other);
        assert!((&one).read(&mut [0]).is_err());
        assert!(tcp_info(one.as_fd()).unwrap().is_closed);
    }

    #[test]
    fn other_sockets_have_none() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(tcp_info(one.as_fd()).is_err());
    }
}
