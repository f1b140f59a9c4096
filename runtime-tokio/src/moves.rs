use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The addresses of a backend's name have changed between two dials. New connections go to the new
/// addresses; open connections stay where they are.
#[derive(Debug)]
#[non_exhaustive]
pub struct AddressChange<'a> {
    /// The backend's name, without a port.
    pub name: &'a str,
    /// The addresses that were reported last, or that the first dial found: sorted, each once.
    pub before: &'a [IpAddr],
    /// The addresses now: sorted, each once.
    pub after: &'a [IpAddr],
}

/// Notices when the name of a backend gets other addresses.
#[derive(Default)]
pub(crate) struct Moves {
    observe: Option<Box<Observe>>,
    names: Mutex<BTreeMap<Arc<str>, Known>>,
}

type Observe = dyn Fn(AddressChange<'_>) + Send + Sync;

struct Known {
    /// The addresses that were reported last, or that the first dial found.
    addresses: Vec<IpAddr>,
    /// When the latest dial began.
    dialled_at: Instant,
    /// Each report moves this on by [`PAUSE`].
    paid_until: Instant,
}

/// Of a name whose addresses change all the time, a report is made once in this time.
const PAUSE: Duration = Duration::from_secs(60);
/// This many more may come at once.
const AHEAD: u32 = 2;

/// The most names that are remembered: those that were dialled last.
const NAMES_MAX: usize = 1024;

impl Moves {
    /// Reports each change.
    pub(crate) fn observe(&mut self, observe: impl Fn(AddressChange<'_>) + Send + Sync + 'static) {
        self.observe = Some(Box::new(observe));
    }

    /// Notes what a dial has found that began at this time.
    pub(crate) fn note(&self, name: &Arc<str>, began: Instant, found: &[SocketAddr]) {
        let Some(observe) = &self.observe else { return };
        let mut after: Vec<_> = found.iter().map(SocketAddr::ip).collect();
        after.sort_unstable();
        after.dedup();
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(known) = names.get_mut(name) else {
            if names.len() == NAMES_MAX
                && let Some((oldest, _)) = names.iter().min_by_key(|(_, known)| known.dialled_at)
            {
                let oldest = Arc::clone(oldest);
                names.remove(&oldest);
            }
            let known = Known { addresses: after, dialled_at: began, paid_until: began };
            names.insert(Arc::clone(name), known);
            return;
        };
        let before = known.note(began, &after);
        drop(names);
        if let Some(before) = before {
            observe(AddressChange { name, before: &before, after: &after });
        }
    }
}

impl Known {
    /// The addresses before, if the change is to be reported. One that comes too soon is reported
    /// by a later dial, unless the addresses have changed back by then.
    fn note(&mut self, began: Instant, addresses: &[IpAddr]) -> Option<Vec<IpAddr>> {
        // Of two dials on different threads, the one with the older answer may come here last.
        if began < self.dialled_at {
            return None;
        }
        self.dialled_at = began;
        if self.addresses == addresses || began + PAUSE * AHEAD < self.paid_until {
            return None;
        }
        self.paid_until = self.paid_until.max(began) + PAUSE;
        Some(mem::replace(&mut self.addresses, addresses.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dials of a service.
    struct Dials {
        moves: Moves,
        now: Instant,
        reports: Arc<Mutex<Vec<String>>>,
    }

    impl Dials {
        fn new() -> Self {
            let (mut moves, reports) = (Moves::default(), Arc::new(Mutex::new(Vec::new())));
            moves.observe({
                let reports = Arc::clone(&reports);
                move |AddressChange { name, before, after }: AddressChange<'_>| {
                    reports.lock().unwrap().push(format!("{name} {before:?} {after:?}"));
                }
            });
            Self { moves, now: Instant::now(), reports }
        }

        /// A dial, a second after the last, finds the addresses with these last octets.
        fn find(&mut self, name: &str, last: &[u8]) -> Vec<String> {
            self.now += Duration::from_secs(1);
            self.find_late(self.now, name, last)
        }

        fn find_late(&self, began: Instant, name: &str, last: &[u8]) -> Vec<String> {
            let found: Vec<_> = last.iter().map(|&last| ([192, 0, 2, last], 0).into()).collect();
            self.moves.note(&name.into(), began, &found);
            mem::take(&mut self.reports.lock().unwrap())
        }
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_name_that_moves_is_reported_once_and_another_order_of_its_addresses_never() {
        let mut dials = Dials::new();
        assert_eq!(dials.find("db.test", &[1]), NONE);
        assert_eq!(dials.find("other.test", &[2]), NONE, "each name has addresses of its own");
        assert_eq!(dials.find("db.test", &[1]), NONE);
        assert_eq!(dials.find("db.test", &[3, 2]), ["db.test [192.0.2.1] [192.0.2.2, 192.0.2.3]"]);
        for _ in 0..200 {
            assert_eq!(dials.find("db.test", &[2, 3]), NONE);
            assert_eq!(dials.find("db.test", &[3, 2, 3]), NONE);
        }
        assert_eq!(dials.find("db.test", &[2]), ["db.test [192.0.2.2, 192.0.2.3] [192.0.2.2]"]);
        assert_eq!(dials.find("db.test", &[1]), ["db.test [192.0.2.2] [192.0.2.1]"]);
    }

    #[test]
    fn a_name_whose_addresses_change_all_the_time_makes_a_report_a_minute_and_the_last_is_true() {
        let mut dials = Dials::new();
        let reports: Vec<_> = (0..600).flat_map(|n| dials.find("db.test", &[n as u8])).collect();
        assert_eq!(reports.len(), 3 + 9, "10 minutes: {reports:?}");
        let last: Vec<_> = (0..60).flat_map(|_| dials.find("db.test", &[1])).collect();
        assert_eq!(last.len(), 1);
        assert!(last[0].ends_with("[192.0.2.1]"), "{last:?}");
    }

    #[test]
    fn an_older_answer_that_comes_late_is_no_change() {
        let mut dials = Dials::new();
        dials.find("db.test", &[1]);
        let before = dials.now;
        assert_eq!(dials.find("db.test", &[2]).len(), 1);
        assert_eq!(dials.find_late(before, "db.test", &[1]), NONE);
        assert_eq!(dials.find("db.test", &[2]), NONE);
        assert_eq!(dials.find("db.test", &[1]).len(), 1);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_is_what_was_dialled_last() {
        let mut dials = Dials::new();
        for n in 0..NAMES_MAX {
            dials.find(&format!("h{n}.test"), &[1]);
        }
        dials.find("h0.test", &[1]);
        dials.find("new.test", &[1]);
        assert_eq!(dials.moves.names.lock().unwrap().len(), NAMES_MAX);
        assert_eq!(dials.find("h0.test", &[2]).len(), 1);
        assert_eq!(dials.find("h2.test", &[2]).len(), 1);
        assert_eq!(dials.find("h1.test", &[2]), NONE, "it was forgotten");
    }
}
