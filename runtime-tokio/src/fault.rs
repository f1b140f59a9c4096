//! Whose fault an error of a dial is, by the system's number for it.

use std::{error::Error, fmt, io, net::SocketAddr};

use rustix::io::Errno;
use tinylb_core::Fault;

use crate::{dial_from::source_of, explain::errno};

/// Whose fault an error of a dial or a probe is.
///
/// Only an error with a number can be the target's: what the resolver or a check of ours says has
/// none. A Unix socket that doesn't exist counts as a refusal, since a server that ends takes its file
/// along.
pub(crate) fn fault(error: &io::Error) -> Fault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<NameError>());
    if let Some(NameError { fault, .. }) = inner {
        return *fault;
    }
    match errno(error) {
        Some(Errno::CONNREFUSED | Errno::NOENT) => Fault::Refused,
        Some(Errno::CONNRESET) => Fault::Reset,
        Some(Errno::HOSTUNREACH | Errno::HOSTDOWN) => Fault::Unreachable,
        Some(Errno::TIMEDOUT) => Fault::TimedOut,
        _ => Fault::Ours,
    }
}

/// Why no address of a name has answered.
#[derive(Debug)]
pub(crate) struct NameError {
    text: String,
    fault: Fault,
}

impl NameError {
    /// An error that says how each address failed.
    ///
    /// The name's target is at fault if every address that this machine can reach is: its fault is then
    /// the one that says most, an answer before silence. An address that wasn't dialled for lack of
    /// something, say of a descriptor, might have answered, so then the fault is ours.
    pub(crate) fn new(text: String, failures: &[(SocketAddr, io::Error)]) -> Self {
        let within_reach = failures.iter().filter(|(address, error)| {
            let has_source = || source_of(*address).is_ok();
            !is_out_of_reach(error, has_source)
        });
        let faults: Vec<Fault> = within_reach.map(|(_, error)| fault(error)).collect();
        let fault = match faults.iter().min() {
            Some(fault) if !faults.contains(&Fault::Ours) => *fault,
            _ => Fault::Ours,
        };
        Self { text, fault }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Error for NameError {}

/// Whether an error means that this machine can't dial an address at all: it has no route to it or
/// may not dial it, doesn't use addresses of this family, or listens there itself.
///
/// `EADDRNOTAVAIL` means either that, or that the ports have run out: then the machine has an address
/// to dial from (`has_source`).
fn is_out_of_reach(error: &io::Error, has_source: impl FnOnce() -> bool) -> bool {
    match errno(error) {
        Some(
            Errno::NETUNREACH | Errno::NETDOWN | Errno::AFNOSUPPORT | Errno::ACCESS | Errno::PERM,
        ) => true,
        Some(Errno::ADDRNOTAVAIL) => !has_source(),
        _ => error.kind() == io::ErrorKind::InvalidInput,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::explain::explain;

    /// The fault of a name whose addresses fail with these errors.
    fn of_name(errors: &[Errno]) -> Fault {
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let failures: Vec<_> =
            errors.iter().map(|&errno| (address, explain(errno.into()))).collect();
        fault(&io::Error::other(NameError::new(String::new(), &failures)))
    }

    #[test]
    fn only_what_the_target_or_the_way_to_it_says_is_the_targets_fault() {
        for (errno, expected) in [
            (Errno::CONNREFUSED, Fault::Refused),
            (Errno::NOENT, Fault::Refused),
            (Errno::CONNRESET, Fault::Reset),
            (Errno::HOSTUNREACH, Fault::Unreachable),
            (Errno::HOSTDOWN, Fault::Unreachable),
            (Errno::TIMEDOUT, Fault::TimedOut),
        ] {
            assert_eq!(fault(&errno.into()), expected, "{errno}");
        }
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::ADDRNOTAVAIL,
            Errno::ADDRINUSE,
            Errno::ACCESS,
            Errno::PERM,
            Errno::NETUNREACH,
            Errno::NETDOWN,
            Errno::AGAIN,
            Errno::INVAL,
            Errno::PROTOTYPE,
        ] {
            assert_eq!(fault(&explain(errno.into())), Fault::Ours, "{errno}");
        }
        // The resolver's words have the kind of an error, and no number.
        let refused = io::Error::new(io::ErrorKind::ConnectionRefused, "the name server says no");
        assert_eq!(fault(&refused), Fault::Ours);
        assert_eq!(fault(&io::ErrorKind::TimedOut.into()), Fault::Ours);
    }

    #[test]
    fn a_name_is_at_fault_if_each_address_within_reach_is() {
        assert_eq!(of_name(&[Errno::CONNREFUSED, Errno::CONNREFUSED]), Fault::Refused);
        // IPv6 that nothing leads to doesn't keep a dead backend in rotation.
        assert_eq!(of_name(&[Errno::NETUNREACH, Errno::CONNREFUSED]), Fault::Refused);
        assert_eq!(of_name(&[Errno::AFNOSUPPORT, Errno::TIMEDOUT]), Fault::TimedOut);
        // An answer says more than silence.
        assert_eq!(of_name(&[Errno::TIMEDOUT, Errno::CONNREFUSED]), Fault::Refused);
        assert_eq!(of_name(&[Errno::HOSTUNREACH, Errno::TIMEDOUT]), Fault::Unreachable);
    }

    #[test]
    fn a_name_is_not_at_fault_while_an_address_could_not_be_dialled() {
        for shortage in [Errno::MFILE, Errno::NOBUFS, Errno::ADDRNOTAVAIL] {
            assert_eq!(of_name(&[Errno::CONNREFUSED, shortage]), Fault::Ours, "{shortage}");
        }
        assert_eq!(of_name(&[Errno::NETUNREACH, Errno::ACCESS]), Fault::Ours);
        assert_eq!(of_name(&[]), Fault::Ours);
    }

    #[test]
    fn an_address_is_out_of_reach_if_there_is_none_to_dial_it_from() {
        let error = explain(Errno::ADDRNOTAVAIL.into());
        assert!(is_out_of_reach(&error, || false));
        assert!(!is_out_of_reach(&error, || true));
    }
}
