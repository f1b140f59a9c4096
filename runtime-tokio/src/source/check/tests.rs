//! [`Checked`] with a checker that does as it is told, on a clock that stands still unless all wait.

use std::{
    collections::BTreeMap,
    future::pending,
    pin::Pin,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use futures::{FutureExt, StreamExt, future::join};
use tinylb_core::{BadEntry, Publisher, VerdictState, WhenNone, publisher};
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

use super::*;

/// What a backend does when it is asked.
#[derive(Clone, Debug)]
enum Does {
    Say(Answer),
    Hang,
    Panic,
}

/// A checker whose answers a test scripts. Clones are the same.
#[derive(Clone, Default)]
struct Script(Arc<Shared>);

#[derive(Default)]
struct Shared {
    does: Mutex<BTreeMap<Address, Does>>,
    asked: Mutex<BTreeMap<Address, usize>>,
    retained: Mutex<Option<BackendSet<Address>>>,
    running: AtomicUsize,
    running_max: AtomicUsize,
}

/// Counts a check while it runs.
struct Running(Script);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.0.running.fetch_sub(1, SeqCst);
    }
}

#[async_trait]
impl Checker for Script {
    async fn check(&self, target: &Address, _within: Duration) -> Answer {
        let running = self.0.running.fetch_add(1, SeqCst) + 1;
        self.0.running_max.fetch_max(running, SeqCst);
        let _running = Running(self.clone());
        *self.0.asked.lock().unwrap().entry(target.clone()).or_default() += 1;
        let does = self.0.does.lock().unwrap().get(target).cloned();
        match does.unwrap_or(Does::Say(Answer::Pass)) {
            Does::Say(answer) => answer,
            Does::Hang => pending().await,
            Does::Panic => panic!("the checker panics, as told by a test"),
        }
    }

    fn retain(&self, set: &BackendSet<Address>) {
        *self.0.retained.lock().unwrap() = Some(set.clone());
    }
}

impl Script {
    fn set(&self, backend: u16, does: Does) {
        self.0.does.lock().unwrap().insert(target(backend), does);
    }

    fn refuse(&self, backend: u16) {
        self.set(backend, Does::Say(Answer::Fail("503 from /primary".into())));
    }

    fn asked(&self, backend: u16) -> usize {
        self.0.asked.lock().unwrap().get(&target(backend)).copied().unwrap_or_default()
    }

    fn running(&self) -> usize {
        self.0.running.load(SeqCst)
    }
}

fn target(backend: u16) -> Address {
    format!("127.0.0.1:{backend}").parse().unwrap()
}

/// Backends whose key is their port.
fn set(backends: &[u16]) -> BackendSet<Address> {
    BackendSet::new(backends.iter().map(|&b| (format!("{b:05}"), target(b)))).unwrap()
}

/// A source that is checked.
struct World {
    script: Script,
    publisher: Publisher<Address>,
    board: VerdictBoard,
    changes: Arc<Mutex<Vec<String>>>,
    own_faults: Arc<Mutex<Vec<String>>>,
    updates: Pin<Box<dyn Stream<Item = Update<Address>> + Send>>,
}

impl World {
    fn new(change: impl FnOnce(&mut CheckSettings)) -> Self {
        let mut settings = CheckSettings::default();
        change(&mut settings);
        let (script, changes) = (Script::default(), Arc::new(Mutex::new(Vec::new())));
        let noted = Arc::clone(&changes);
        let checked = Checked::new(script.clone(), settings).unwrap().on_change(move |change| {
            let VerdictChange { target, is_passing, reason, .. } = change;
            let Address::Tcp(TcpTarget { port, .. }) = target else { unreachable!() };
            let state = if *is_passing { "passes" } else { "fails" };
            noted
                .lock()
                .unwrap()
                .push(format!("{port} {state}: {}", reason.as_deref().unwrap_or("-")));
        });
        let own_faults = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&own_faults);
        let checked = checked.on_own_fault(move |target, reason| {
            noted.lock().unwrap().push(format!("{target}: {reason}"));
        });
        let (publisher, source) = publisher();
        let board = checked.board();
        let updates = Box::pin(checked.updates(source));
        Self { script, publisher, board, changes, own_faults, updates }
    }

    /// The next update, as text.
    async fn next(&mut self) -> String {
        said(self.updates.next().await.expect("it never ends"))
    }

    /// The next update after a change that comes while the stream waits, which it has to wake from.
    async fn next_after(&mut self, change: impl FnOnce(&VerdictBoard)) -> String {
        let board = self.board.clone();
        let changed = async {
            yield_now().await;
            change(&board);
        };
        // In each turn, the stream has its turn first.
        join(self.next(), changed).await.0
    }

    /// What is there at once, if anything is.
    fn now(&mut self) -> Option<String> {
        self.updates.next().now_or_never().flatten().map(said)
    }

    /// Lets the checks go on for a time, in which nothing may be said.
    async fn quiet(&mut self, time: Duration) {
        let said = tokio::time::timeout(time, self.next()).await;
        assert!(said.is_err(), "{said:?}");
    }

    fn changes(&self) -> Vec<String> {
        std::mem::take(&mut self.changes.lock().unwrap())
    }
}

fn said(update: Update<Address>) -> String {
    let ports = |set: BackendSet<Address>| {
        set.iter()
            .map(|(key, _)| key.as_str().trim_start_matches('0').to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    match update {
        Update::Set(set) => format!("set {}", ports(set)),
        Update::Partial(set, entries) => {
            format!("partial {} without {}", ports(set), entries.len())
        }
        Update::Narrowed(set) => format!("narrowed {}", ports(set)),
        Update::Lost(reason) => format!("lost: {reason}"),
    }
}

#[tokio::test(start_paused = true)]
async fn only_backends_that_pass_are_in_the_set() {
    let mut world = World::new(|_| {});
    world.script.refuse(2);
    world.publisher.publish(set(&[1, 2, 3]));
    assert_eq!(world.next().await, "set 1 3");
    world.script.refuse(1);
    world.script.set(2, Does::Say(Answer::Pass));
    let changed = [world.next().await, world.next().await];
    assert!(["narrowed 3", "narrowed 1 2 3"].contains(&&*changed[0]), "{changed:?}");
    assert_eq!(changed[1], "narrowed 2 3");
    world.quiet(Duration::from_secs(10)).await;
}

#[test]
fn a_source_that_is_made_outside_a_runtime_checks_inside_one() {
    let mut world = World::new(|_| {});
    world.publisher.publish(set(&[1]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        assert_eq!(world.next().await, "set 1");
        world.script.refuse(1);
        assert_eq!(world.next().await, "narrowed ");
    });
}

#[tokio::test(start_paused = true)]
async fn a_change_is_reported_with_its_reason_before_the_set_that_follows() {
    let mut world = World::new(|_| {});
    world.publisher.publish(set(&[1]));
    assert_eq!(world.next().await, "set 1");
    assert_eq!(world.changes().len(), 1);
    world.script.refuse(1);
    assert_eq!(world.next().await, "narrowed ");
    assert_eq!(world.changes(), ["1 fails: 503 from /primary"]);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_hangs_gives_no_answer_and_delays_no_other() {
    let mut world = World::new(|settings| settings.interval = Duration::from_millis(500));
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1 2");
    world.script.set(1, Does::Hang);
    assert_eq!(world.next().await, "narrowed 2");
    assert_eq!(world.changes().last().unwrap(), "1 fails: no answer within 1s");
    let asked = world.script.asked(2);
    world.quiet(Duration::from_secs(20)).await;
    let asked = world.script.asked(2) - asked;
    assert!((37..=43).contains(&asked), "asked {asked} times");
}

#[tokio::test(start_paused = true)]
async fn a_removal_by_the_source_waits_for_no_check() {
    let mut world = World::new(|_| {});
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1 2");
    world.script.set(1, Does::Hang);
    world.script.set(2, Does::Hang);
    while world.script.running() < 2 {
        world.quiet(Duration::from_millis(10)).await;
    }
    world.publisher.publish(set(&[2]));
    assert_eq!(world.now().as_deref(), Some("set 2"));
    assert_eq!(world.script.running(), 1, "the check of a backend that has left is given up");
    assert_eq!(world.board.set(), Some(set(&[2])));
    assert_eq!(*world.script.0.retained.lock().unwrap(), Some(set(&[2])));
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_passed_on_and_the_checks_go_on() {
    let mut world = World::new(|_| {});
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1 2");
    world.publisher.lose("no quorum");
    assert_eq!(world.now().as_deref(), Some("lost: no quorum"));
    world.script.refuse(1);
    assert_eq!(world.next().await, "narrowed 2");
    // The end of the source is a loss as well.
    let (other, _) = publisher();
    drop(std::mem::replace(&mut world.publisher, other));
    assert_eq!(world.now().as_deref(), Some("lost: the source has ended"));
    world.script.set(1, Does::Say(Answer::Pass));
    assert_eq!(world.next().await, "narrowed 1 2");
    world.quiet(Duration::from_secs(10)).await;
}

#[tokio::test(start_paused = true)]
async fn a_checker_that_panics_has_given_no_answer() {
    let mut world = World::new(|settings| settings.fall_unanswered = 2);
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1 2");
    world.script.set(1, Does::Panic);
    assert_eq!(world.next().await, "narrowed 2");
    assert_eq!(world.changes().last().unwrap(), "1 fails: the check panicked");
}

#[tokio::test(start_paused = true)]
async fn bad_entries_are_treated_as_the_server_that_follows_treats_them() {
    for (bad_entries, expected) in [
        (BadEntries::Reject, "partial 1 2 without 1"),
        (BadEntries::LeaveOut, "partial 2 without 1"),
    ] {
        let script = Script::default();
        script.refuse(1);
        let checked = Checked::new(script, CheckSettings::default()).unwrap();
        let checked = checked.with_bad_entries(bad_entries);
        let entry = BadEntry { key: "x".into(), reason: "no address".into() };
        let update = Update::Partial(set(&[1, 2]), [entry].into());
        let source = futures::stream::iter([update]).chain(futures::stream::pending());
        let mut updates = Box::pin(checked.updates(source));
        assert_eq!(said(updates.next().await.unwrap()), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_dropped_leaves_no_check_behind() {
    let mut world = World::new(|_| {});
    world.script.set(1, Does::Hang);
    world.publisher.publish(set(&[1]));
    assert_eq!(world.now(), None);
    assert_eq!(world.script.running(), 1);
    let World { script, updates, .. } = world;
    drop(updates);
    assert_eq!(script.running(), 0);
    assert_eq!(Arc::strong_count(&script.0), 1);
}

#[tokio::test(start_paused = true)]
async fn many_backends_are_checked_a_few_at_a_time() {
    let mut world = World::new(|settings| {
        settings.checks_max = 10;
        settings.when_none = WhenNone::All;
    });
    let backends: Vec<u16> = (1..=100).collect();
    for &backend in &backends {
        world.script.set(backend, Does::Hang);
    }
    world.publisher.publish(set(&backends));
    let began = Instant::now();
    world.next().await;
    assert!(began.elapsed() <= Duration::from_millis(1001), "the first set waits for a timeout");
    world.quiet(Duration::from_secs(20)).await;
    assert_eq!(world.script.0.running_max.load(SeqCst), 10);
    assert!(backends.iter().all(|&backend| world.script.asked(backend) >= 1));
}

#[tokio::test(start_paused = true)]
async fn nobody_is_removed_because_we_cannot_ask_and_a_log_hears_of_it() {
    let mut world = World::new(|_| {});
    world.publisher.publish(set(&[1]));
    assert_eq!(world.next().await, "set 1");
    world.script.set(1, Does::Say(Answer::Ours("too many open files".into())));
    world.quiet(Duration::from_secs(20)).await;
    let verdict = world.board.verdicts().remove(0).0;
    assert_eq!(verdict.state, VerdictState::Passing);
    assert_eq!(verdict.reason.as_deref(), Some("too many open files"));
    assert_eq!(world.changes(), ["1 passes: -"]);
    let own_faults = world.own_faults.lock().unwrap().clone();
    assert!(own_faults.len() > 15, "{own_faults:?}");
    assert!(own_faults.iter().all(|it| it == "127.0.0.1:1: too many open files"));
    world.script.refuse(1);
    assert_eq!(world.next().await, "narrowed ");
}

#[tokio::test(start_paused = true)]
async fn the_board_shows_what_is_known_and_since_when() {
    let mut world = World::new(|_| {});
    assert_eq!((world.board.set(), world.board.verdicts().len()), (None, 0));
    world.script.refuse(2);
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1");
    sleep(Duration::from_secs(5)).await;
    assert_eq!(world.board.set(), Some(set(&[1, 2])));
    let verdicts = world.board.verdicts();
    let shown = verdicts.iter().map(|(verdict, age)| {
        (verdict.target.clone(), verdict.state, verdict.reason.as_deref(), age.as_secs())
    });
    let expected = [
        (target(1), VerdictState::Passing, None, 5),
        (target(2), VerdictState::Failing, Some("503 from /primary"), 5),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), expected);
}

#[tokio::test(start_paused = true)]
async fn another_checker_asks_all_at_once_and_only_its_answers_change_a_verdict() {
    let mut world = World::new(|_| {});
    world.script.refuse(2);
    world.publisher.publish(set(&[1, 2]));
    assert_eq!(world.next().await, "set 1");
    world.script.set(1, Does::Hang);
    while world.script.running() == 0 {
        world.quiet(Duration::from_millis(10)).await;
    }
    let other = Script::default();
    other.set(1, Does::Hang);
    other.set(2, Does::Hang);
    world.board.ask(other.clone());
    assert_eq!(world.now(), None);
    assert_eq!((world.script.running(), other.running()), (0, 2));
    // That one again, and now with answers.
    let (began, last) = (Instant::now(), Script::default());
    last.refuse(1);
    assert_eq!(world.next_after(|board| board.ask(last)).await, "narrowed 2");
    assert_eq!((other.running(), began.elapsed()), (0, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn other_settings_are_in_force_at_once() {
    let hour = Duration::from_secs(60 * 60);
    let mut world = World::new(|settings| settings.interval = hour);
    world.publisher.publish(set(&[1]));
    assert_eq!(world.next().await, "set 1");
    world.quiet(2 * hour).await;
    world.script.set(1, Does::Hang);
    let mut settings = CheckSettings::default();
    (settings.timeout, settings.fall_unanswered) = (Duration::from_millis(100), 1);
    let began = Instant::now();
    let settings_now = settings.clone();
    let change = |board: &VerdictBoard| board.configure(settings_now).unwrap();
    assert_eq!(world.next_after(change).await, "narrowed ");
    assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    assert_eq!(world.changes().last().unwrap(), "1 fails: no answer within 100ms");
    settings.rise = 0;
    assert_eq!(world.board.configure(settings).unwrap_err().name, "rise");
}

#[tokio::test(start_paused = true)]
async fn who_is_in_use_when_checks_begin_is_used_until_an_answer_says_no() {
    let script = Script::default();
    script.set(1, Does::Hang);
    script.refuse(2);
    let checked = Checked::new(script, CheckSettings::default()).unwrap();
    let (publisher, source) = publisher();
    let updates = checked.with_in_use(set(&[1, 2, 9])).updates(source);
    let mut updates = Box::pin(updates);
    publisher.publish(set(&[1, 2, 3]));
    assert_eq!(said(updates.next().await.unwrap()), "set 1 2");
    assert_eq!(said(updates.next().await.unwrap()), "narrowed 1 3");
}
