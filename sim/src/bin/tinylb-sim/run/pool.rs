use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use tinylb_sim::{Outcome, Scenario};

use super::Seeds;
use crate::{args::Way, judge};

/// Threads that take seeds in ascending order, until there are none.
pub(super) struct Pool {
    /// What came of them. It is disconnected once every thread has come to its end.
    pub(super) done: Receiver<Done>,
    shared: Arc<Shared>,
}

/// A run that is over.
pub(super) struct Done {
    pub(super) seed: u64,
    pub(super) outcome: Outcome,
}

struct Shared {
    next: AtomicU64,
    /// No seed from here on is begun.
    end: AtomicU64,
    /// For each thread its seed, and since when.
    busy: Vec<Mutex<Option<(u64, Instant)>>>,
    way: Way,
    /// A failure is the end of what follows it. What comes before has been begun, so that the
    /// lowest seed that fails is found by any number of threads.
    stops_at_first: bool,
}

impl Pool {
    pub(super) fn start(seeds: Seeds, jobs: usize, way: Way, stops_at_first: bool) -> Self {
        let shared = Arc::new(Shared {
            next: AtomicU64::new(seeds.first),
            end: AtomicU64::new(seeds.end.unwrap_or(u64::MAX)),
            busy: (0..jobs).map(|_| Mutex::new(None)).collect(),
            way,
            stops_at_first,
        });
        let (sender, done) = mpsc::channel();
        for thread in 0..jobs {
            let (shared, sender) = (Arc::clone(&shared), sender.clone());
            thread::spawn(move || shared.work(thread, &sender));
        }
        Self { done, shared }
    }

    /// No more seeds are begun.
    pub(super) fn stop(&self) {
        self.shared.end.store(0, Ordering::Relaxed);
    }

    /// A seed that has been running for longer than this.
    pub(super) fn busy_for(&self, time: Duration) -> Option<u64> {
        self.shared.busy.iter().find_map(|busy| {
            let busy = *busy.lock().unwrap_or_else(PoisonError::into_inner);
            busy.filter(|(_, since)| since.elapsed() > time).map(|(seed, _)| seed)
        })
    }
}

impl Shared {
    fn work(&self, thread: usize, sender: &Sender<Done>) {
        loop {
            let seed = self.next.fetch_add(1, Ordering::Relaxed);
            if seed >= self.end.load(Ordering::Relaxed) {
                return;
            }
            self.set_busy(thread, Some((seed, Instant::now())));
            let scenario = Scenario::from_seed(self.way.profile, seed);
            let outcome = judge::run(self.way.level, &scenario, false);
            self.set_busy(thread, None);
            if self.stops_at_first && !outcome.violations.is_empty() {
                self.end.fetch_min(seed, Ordering::Relaxed);
            }
            if sender.send(Done { seed, outcome }).is_err() {
                return;
            }
        }
    }

    fn set_busy(&self, thread: usize, busy: Option<(u64, Instant)>) {
        *self.busy[thread].lock().unwrap_or_else(PoisonError::into_inner) = busy;
    }
}
