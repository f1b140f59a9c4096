use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::Duration,
};

use tinylb_sim::{AnyScenario, Outcome};

use crate::{args::Way, catch, seeds::Seeds};

const GLANCE_MAX: Duration = Duration::from_secs(1);

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
    /// For each thread its seed, and how long it has been seen to run.
    busy: Vec<Mutex<Option<(u64, Duration)>>>,
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

    /// So much time has passed since the last call; a seed that has been running for longer than
    /// `limit`.
    pub(super) fn hangs(&self, passed: Duration, limit: Duration) -> Option<u64> {
        // A machine that was stopped for a while has let nobody run.
        let passed = passed.min(GLANCE_MAX);
        self.shared.busy.iter().find_map(|busy| {
            let mut busy = busy.lock().unwrap_or_else(PoisonError::into_inner);
            let (seed, time) = busy.as_mut()?;
            *time += passed;
            (*time > limit).then_some(*seed)
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
            self.set_busy(thread, Some((seed, Duration::ZERO)));
            let scenario = AnyScenario::from_seed(self.way.level, self.way.profile, seed);
            let outcome = catch::run(self.way.level, &scenario, false);
            self.set_busy(thread, None);
            if self.stops_at_first && !outcome.violations.is_empty() {
                self.end.fetch_min(seed, Ordering::Relaxed);
            }
            if sender.send(Done { seed, outcome }).is_err() {
                return;
            }
        }
    }

    fn set_busy(&self, thread: usize, busy: Option<(u64, Duration)>) {
        *self.busy[thread].lock().unwrap_or_else(PoisonError::into_inner) = busy;
    }
}
