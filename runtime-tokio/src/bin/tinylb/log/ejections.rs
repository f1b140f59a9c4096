//! Log lines and counts about ejected targets.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tinylb_core::{BackendSet, DialFailure, Fault, Handle};
use tinylb_tokio::Address;
use tracing::{debug, info, warn};

use super::{format::Keys, lock};

/// Ejected targets of one service, and what has happened to them.
#[derive(Default)]
pub(crate) struct Ejections {
    /// By cause, in the order of [`Fault::ALL`].
    by_cause: [AtomicU64; Fault::ALL.len()],
    pub(crate) returns: AtomicU64,
    pub(crate) probes_succeeded: AtomicU64,
    pub(crate) probes_failed: AtomicU64,
    pub(crate) dials_given_up: AtomicU64,
    ejected: Mutex<BTreeMap<Address, Since>>,
    /// Knows the set. Only while the service is applied, since the server's observer has this.
    handle: Mutex<Option<Handle<Address>>>,
}

/// What has happened since a target was ejected.
#[derive(Default)]
struct Since {
    dials_failed: u64,
    /// Its sessions are being cut.
    is_cut: bool,
}

impl Ejections {
    pub(crate) fn of(&self, cause: Fault) -> u64 {
        self.by_cause[cause as usize].load(Ordering::Relaxed)
    }

    /// Sets where the keys of targets are looked up; `None` at the service's end.
    pub(crate) fn set_handle(&self, handle: Option<Handle<Address>>) {
        *lock(&self.handle) = handle;
    }

    /// Counts a dial that failed. Returns whether it deserves a line: not if the target is known not to
    /// accept connections.
    pub(super) fn dial_failed(&self, target: &Address, failure: &DialFailure) -> bool {
        match lock(&self.ejected).get_mut(target) {
            Some(since) => {
                since.dials_failed += 1;
                !is_targets(failure)
            }
            None => true,
        }
    }

    pub(super) fn ejected(&self, service: &str, target: &Address, fault: Fault) {
        self.by_cause[fault as usize].fetch_add(1, Ordering::Relaxed);
        lock(&self.ejected).insert(target.clone(), Since::default());
        let cause = match fault {
            Fault::Refused => "it refuses connections",
            Fault::Reset => "it resets connections",
            Fault::Unreachable => "it can't be reached",
            Fault::TimedOut => "it doesn't answer",
            // No target is ejected for that.
            Fault::Ours => "its dials fail",
        };
        let keys = self.keys(target);
        warn!(
            service,
            keys = Keys::new(&keys).field(),
            %target,
            cause = fault.as_str(),
            "backend ejected, {cause}: new clients go to others until a probe succeeds"
        );
    }

    pub(super) fn returned(&self, service: &str, target: &Address, ejected_for: Duration) {
        self.returns.fetch_add(1, Ordering::Relaxed);
        let since = lock(&self.ejected).remove(target).unwrap_or_default();
        let keys = self.keys(target);
        info!(
            service,
            keys = Keys::new(&keys).field(),
            %target,
            ejected_seconds = ejected_for.as_secs_f64(),
            dials_failed = since.dials_failed,
            "backend is back in rotation"
        );
    }

    pub(super) fn probed(&self, service: &str, target: &Address, failure: Option<&DialFailure>) {
        match failure {
            None => {
                self.probes_succeeded.fetch_add(1, Ordering::Relaxed);
                debug!(service, %target, "probe succeeded");
            }
            Some(failure) => {
                self.probes_failed.fetch_add(1, Ordering::Relaxed);
                debug!(service, %target, "probe failed: {failure}");
            }
        }
    }

    /// A session was cut since its target is silent.
    pub(super) fn session_cut(&self, service: &str, target: &Address) {
        let mut ejected = lock(&self.ejected);
        let Some(since) = ejected.get_mut(target) else { return };
        if std::mem::replace(&mut since.is_cut, true) {
            return;
        }
        drop(ejected);
        let keys = self.keys(target);
        let keys = Keys::new(&keys);
        warn!(
            service,
            keys = keys.field(),
            %target,
            "backend has answered nothing for `cut_silent`, its sessions are cut"
        );
    }

    /// Forgets targets that have left the set.
    pub(super) fn set_replaced(&self) {
        let mut ejected = lock(&self.ejected);
        if ejected.is_empty() {
            return;
        }
        let set = self.set();
        ejected.retain(|target, _| {
            set.as_ref().is_some_and(|set| set.keys_of(target).next().is_some())
        });
    }

    fn keys(&self, target: &Address) -> Vec<String> {
        let set = self.set();
        set.iter().flat_map(|set| set.keys_of(target)).map(ToString::to_string).collect()
    }

    fn set(&self) -> Option<BackendSet<Address>> {
        lock(&self.handle).as_ref()?.set()
    }
}

/// Whether a dial failed in a way that gets a target ejected.
fn is_targets(failure: &DialFailure) -> bool {
    use std::io::ErrorKind::*;
    match failure {
        DialFailure::Failed(error) => matches!(
            error.kind(),
            ConnectionRefused | ConnectionReset | HostUnreachable | NotFound | TimedOut
        ),
        DialFailure::TimedOut | DialFailure::GivenUp => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tinylb_core::Event;

    use super::{
        super::{EventLog, tests::logged},
        *,
    };

    fn target(port: u16) -> Address {
        format!("10.0.0.1:{port}").parse().unwrap()
    }

    #[test]
    fn an_ejection_has_a_line_and_its_end_has_one_however_many_dials_fail_in_between() {
        let (events, one) = (EventLog::new("s"), target(1));
        let refused = || DialFailure::Failed(io::ErrorKind::ConnectionRefused.into());
        let log = logged(|| {
            events.observe(&Event::Ejected { target: one.clone(), fault: Fault::Refused });
            let failures = (0..1000).map(|_| refused());
            for failure in failures.chain([DialFailure::TimedOut, DialFailure::GivenUp]) {
                assert!(!events.ejections.dial_failed(&one, &failure));
            }
            let ejected_for = Duration::from_millis(1500);
            events.observe(&Event::Returned { target: one.clone(), ejected_for });
        });
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("WARN") && lines[0].contains("cause=\"refused\""), "{log}");
        assert!(lines[1].contains("ejected_seconds=1.5 dials_failed=1002"), "{log}");
        let is_logged = events.ejections.dial_failed(&one, &refused());
        assert!(is_logged, "it is no longer ejected");
    }

    #[test]
    fn our_own_failures_are_logged_even_for_a_target_that_is_ejected() {
        let (events, one) = (EventLog::new("s"), target(1));
        let ejected = Event::Ejected { target: one.clone(), fault: Fault::TimedOut };
        logged(|| events.observe(&ejected));
        let out_of_descriptors = DialFailure::Failed(io::Error::from_raw_os_error(24));
        assert!(events.ejections.dial_failed(&one, &out_of_descriptors));
    }
}
