//! What the decisions cost: the steps under the lock, and what a replacement takes besides. The
//! bounds are for a core that nobody else uses; they are to be looked at, and nothing fails.
#![allow(clippy::unwrap_used)] // As in tests: what fails here is the benchmark.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use divan::{Bencher, counter::ItemsCount};
use tinylb_core::{
    Admission, BackendSet, Balancer, Change, Cycle, EndReason, Fault, Removal, Replaced, SessionId,
    Settings,
};

type Target = SocketAddr;
/// Shared with the session's task, as the driver's is.
type Kill = Arc<()>;
type Locked = Mutex<Balancer<Target, Kill>>;

const MILLION: u32 = 1_000_000;

/// In which order a set's backends were given. Their keys lie in memory in this order, which the
/// set doesn't change.
#[derive(Clone, Copy, Debug)]
enum Given {
    Sorted,
    Shuffled,
}

use Given::{Shuffled, Sorted};

fn main() {
    divan::main();
}

/// A pick, lock included, in whole rounds of the cycle. At most 15 ns with any number of backends.
#[divan::bench(
    args = [(1, Sorted), (1_000, Sorted), (MILLION, Sorted), (MILLION, Shuffled)],
    sample_count = 1_000,
    sample_size = 1_000,
)]
fn pick(bencher: Bencher, (backends, given): (u32, Given)) {
    let mut cycle = Cycle::new(0);
    cycle.replace(set(backends, given, |_| 80));
    let cycle = Mutex::new(cycle);
    bencher.bench_local(|| cycle.lock().unwrap().next_ref().map(|(_, target)| *target));
}

/// A session comes and the oldest one ends, all on one target: two steps. The same with 10 live
/// sessions and with 100,000.
#[divan::bench(args = [10, 100_000], sample_count = 1_000, sample_size = 1_000)]
fn admit_finish(bencher: Bencher, live: u32) {
    churn(bencher, live, |_, _| {});
}

/// The same with the step between that a dial takes when it succeeds.
#[divan::bench(args = [10, 100_000], sample_count = 1_000, sample_size = 1_000)]
fn admit_connected_finish(bencher: Bencher, live: u32) {
    churn(bencher, live, |balancer, id| {
        balancer.lock().unwrap().connected(id, Duration::ZERO, Duration::ZERO);
    });
}

/// A session comes and ends, with this many of 1,000,000 targets ejected. With none, it costs what it
/// costs in a set of one, but for what caches don't hold; with 999,999, the pick scans the whole
/// bitmap: at most 20 µs.
#[divan::bench(args = [0, 1, 500_000, 999_999], sample_count = 1_000, sample_size = 100)]
fn admit_finish_ejected(bencher: Bencher, ejected: u32) {
    let balancer = Mutex::new(with_ejected(ejected));
    bencher.bench_local(|| {
        let mut balancer = balancer.lock().unwrap();
        let (id, admission) = balancer.admit(Kill::default());
        balancer.finish(id, EndReason::Finished);
        admission
    });
}

/// The same with a dial between that fails through no fault of its target, and a retry. With 999,999
/// ejected, the only one in rotation has been tried by then, and the retry goes to one that is ejected.
#[divan::bench(args = [0, 1, 500_000, 999_999], sample_count = 1_000, sample_size = 100)]
fn retry_ejected(bencher: Bencher, ejected: u32) {
    let balancer = Mutex::new(with_ejected(ejected));
    bencher.bench_local(|| {
        let mut balancer = balancer.lock().unwrap();
        let (id, _) = balancer.admit(Kill::default());
        balancer.dial_failed(id, Fault::Ours, Duration::ZERO, Duration::ZERO);
        let admission = balancer.retry(id, Kill::default());
        balancer.finish(id, EndReason::Finished);
        admission
    });
}

/// The step of a replacement that takes so many sessions out of one target. Its time for each of
/// them doesn't grow with their number, but for what caches no longer hold.
#[divan::bench(args = [10, 1_000, 100_000])]
fn kill(bencher: Bencher, sessions: u32) {
    let (base, next) = (set(1, Sorted, |_| 80), set(1, Sorted, |_| 81));
    bencher
        .counter(ItemsCount::new(sessions))
        .with_inputs(|| prepare(&base, &next, sessions, 1))
        .bench_local_values(|(balancer, change)| (step(&balancer, change), balancer));
}

/// Building a set of 1,000,000 backends. No bound: that is done before a replacement begins.
#[divan::bench(args = [Sorted, Shuffled], sample_count = 10)]
fn build(bencher: Bencher, given: Given) {
    bencher
        .with_inputs(|| places(MILLION, given).map(|place| backend(place, 80)).collect::<Vec<_>>())
        .bench_local_values(|backends| BackendSet::new(backends).unwrap());
}

/// Comparing sets of 1,000,000 backends of which one in ten has moved: a part of [`replace`].
#[divan::bench(args = [Sorted, Shuffled], sample_count = 20)]
fn compare(bencher: Bencher, given: Given) {
    let (base, next) = (set(MILLION, given, |_| 80), set(MILLION, given, one_moved_in(10)));
    bencher
        .with_inputs(|| (base.clone(), next.clone()))
        .bench_local_values(|(base, next)| Change::between(Some(base), next));
}

/// The step under the lock when each of 1,000,000 backends has moved, with so many sessions on
/// 1,000 of them: a part of [`replace`]. At most 1 ms.
#[divan::bench(args = [0, 10_000], sample_count = 20)]
fn replace_step(bencher: Bencher, sessions: u32) {
    let (base, next) = (set(MILLION, Sorted, |_| 80), set(MILLION, Sorted, |_| 81));
    bencher
        .with_inputs(|| prepare(&base, &next, sessions, 1_000))
        .bench_local_values(|(balancer, change)| (step(&balancer, change), balancer));
}

/// Replacing 1,000,000 backends of which one in so many has moved: the comparison, the step, and
/// the drop of the set before. At most 150 ms.
#[divan::bench(args = [(10, Sorted), (1, Sorted), (10, Shuffled), (1, Shuffled)], sample_count = 10)]
fn replace(bencher: Bencher, (one_in, given): (u32, Given)) {
    bencher
        .with_inputs(|| {
            let balancer = Mutex::new(balancer(set(MILLION, given, |_| 80)));
            (balancer, set(MILLION, given, one_moved_in(one_in)))
        })
        .bench_local_values(|(balancer, next)| {
            let base = balancer.lock().unwrap().set().cloned();
            drop(step(&balancer, Change::between(base, next)));
            balancer
        });
}

fn churn(bencher: Bencher, live: u32, between: impl Fn(&Locked, SessionId)) {
    let mut balancer = balancer(set(1, Sorted, |_| 80));
    let mut ids = connect(&mut balancer, live, 1);
    let (balancer, kill) = (Mutex::new(balancer), Kill::default());
    let mut oldest = 0;
    bencher.bench_local(|| {
        let (id, admission) = balancer.lock().unwrap().admit(Arc::clone(&kill));
        between(&balancer, id);
        balancer.lock().unwrap().finish(ids[oldest], EndReason::Finished);
        ids[oldest] = id;
        oldest = if oldest + 1 == ids.len() { 0 } else { oldest + 1 };
        admission
    });
}

/// A balancer with 1,000,000 targets, each second one of which is ejected until so many are, and then
/// the rest of these.
fn with_ejected(ejected: u32) -> Balancer<Target, Kill> {
    let mut balancer = balancer(set(MILLION, Sorted, |_| 80));
    let mut left = ejected;
    for turn in 0.. {
        if left == 0 {
            break;
        }
        let (id, _) = balancer.admit(Kill::default());
        if turn % 2 == 0 || turn > MILLION {
            balancer.dial_failed(id, Fault::Refused, Duration::ZERO, Duration::ZERO);
            left -= 1;
        }
        balancer.finish(id, EndReason::DialFailed);
    }
    drop(balancer.take_notices());
    balancer
}

/// The step of a replacement under the lock. What it returns is to be dropped outside.
fn step(balancer: &Locked, change: Change<Target>) -> Replaced<Target, Kill> {
    balancer.lock().unwrap().replace(change, Removal::Abort, Duration::ZERO).ok().unwrap()
}

/// A balancer that has sessions on its first targets, and the change that awaits it.
fn prepare(
    base: &BackendSet<Target>,
    next: &BackendSet<Target>,
    sessions: u32,
    targets: u32,
) -> (Locked, Change<Target>) {
    let mut balancer = balancer(base.clone());
    connect(&mut balancer, sessions, targets);
    (Mutex::new(balancer), Change::between(Some(base.clone()), next.clone()))
}

fn balancer(set: BackendSet<Target>) -> Balancer<Target, Kill> {
    let mut balancer = Balancer::new(Settings::default());
    assert!(balancer.replace(Change::between(None, set), Removal::Abort, Duration::ZERO).is_ok());
    balancer
}

/// Connects so many sessions to so many of the first targets, in turn.
fn connect(balancer: &mut Balancer<Target, Kill>, sessions: u32, targets: u32) -> Vec<SessionId> {
    let connect_one = |session| {
        if session % targets == 0 {
            balancer.reset_cycle();
        }
        let (id, admission) = balancer.admit(Kill::default());
        assert!(
            matches!(admission, Admission::Dial(_))
                && balancer.connected(id, Duration::ZERO, Duration::ZERO)
        );
        id
    };
    (0..sessions).map(connect_one).collect()
}

fn set(backends: u32, given: Given, port: impl Fn(u32) -> u16) -> BackendSet<Target> {
    let backends = places(backends, given).map(|place| backend(place, port(place)));
    BackendSet::new(backends).unwrap()
}

/// Each place in key order, in the order in which they are given.
fn places(backends: u32, given: Given) -> impl Iterator<Item = u32> {
    let stride = match given {
        Sorted => 1,
        // A prime, so that each place comes once.
        Shuffled => 611_953,
    };
    let backends = u64::from(backends);
    (0..backends).map(move |turn| (turn * stride % backends) as u32)
}

/// A port for each place: 80, but 81 for one in so many.
fn one_moved_in(count: u32) -> impl Fn(u32) -> u16 {
    move |place| if place.is_multiple_of(count) { 81 } else { 80 }
}

fn backend(place: u32, port: u16) -> (String, Target) {
    let address = Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + place);
    (format!("backend-{place:07}"), (address, port).into())
}
