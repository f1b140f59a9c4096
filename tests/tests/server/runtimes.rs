//! Runtimes that go away, and real threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Wake, Waker},
    thread,
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, pending, ready},
};
use tinylb_contract::pipe::{DialScript, Pipe, PipeNetwork, PipeTarget};
use tinylb_core::{CopyRelay, EndReason, Handle, Listener, ListenerError, Runtime, Server};
use tinylb_tokio::TokioRuntime;

use super::harness::*;

#[tokio::test(start_paused = true)]
async fn a_runtime_that_drops_its_tasks_ends_their_sessions_and_holds_up_no_barrier() {
    let mut world = World::new(settings(|_| {}), ["A"]);
    let own = world.runtime.another();
    let listener = world.net.listen("own");
    let handle = world.server().listen(listener, CopyRelay::default(), own.clone());
    world.apply(&[("a", "A")]).await;
    let mut client = world.client_of("own");
    let mut backend = world.accept("A").await;
    world.net.script("A", DialScript::Hang);
    let mut dialling = world.client_of("own");
    settle().await;
    let replacement = world.replace(&[]);
    assert_eq!((replacement.report().sessions_cut, replacement.report().dials_revoked), (1, 1));
    own.drop_tasks();
    within(replacement).await;
    assert!(is_cut(&mut client) && is_cut(&mut backend) && is_cut(&mut dialling));
    assert_eq!((own.tasks(), world.stats("A").dials_in_flight), (0, 0));
    assert_eq!(world.ended(EndReason::TaskDropped), 2);
    let ended = within(handle).await;
    assert!(matches!(ended, Err(ListenerError::TaskDropped)), "{ended:?}");
    assert_eq!(world.snapshot().listeners, 1);
    within(world.handle.shutdown(secs(0))).await;
}

/// A runtime whose clock stands still and whose sleeps end at once, up to [`SLEEPS_MAX`] of them.
#[derive(Clone)]
struct StoppedClock {
    inner: TestRuntime,
    sleeps: Arc<AtomicUsize>,
}

/// So that a loop of sleeps ends.
const SLEEPS_MAX: usize = 10_000;

impl Runtime for StoppedClock {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        self.inner.spawn(task);
    }

    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        match self.sleeps.fetch_add(1, Ordering::SeqCst) {
            ..SLEEPS_MAX => Box::pin(ready(())),
            _ => Box::pin(pending()),
        }
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}

#[tokio::test(start_paused = true)]
async fn probes_leave_other_tasks_their_turns_where_sleeps_end_early() {
    let net = PipeNetwork::new();
    let runtime = StoppedClock { inner: TestRuntime::current(), sleeps: Arc::default() };
    let server = Server::new(net.dialer(), runtime.clone(), settings(|_| {})).unwrap();
    let _front = server.listen(net.listen(FRONT), CopyRelay::default(), runtime.clone());
    let handle = server.handle();
    within(handle.replace(set(&[("a", "A")])).unwrap()).await;
    let _client = net.connect(FRONT).unwrap();
    settle().await;
    assert_eq!(handle.snapshot().ejected.len(), 1);
    let sleeps = runtime.sleeps.load(Ordering::SeqCst);
    assert!((10..SLEEPS_MAX).contains(&sleeps), "{sleeps} sleeps in a hundred turns");
}

/// A tokio runtime on a thread of its own.
fn another_runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).enable_time().build().expect("a runtime")
}

/// A backend that sends back what it gets, for ever.
fn echo(world: &World, name: &str) {
    let mut listener = world.net.listen(name);
    tokio::spawn(async move {
        while let Ok(conn) = listener.accept().await {
            tokio::spawn(echo_one(conn));
        }
    });
}

async fn echo_one(conn: Pipe) {
    use futures::{AsyncReadExt, io::copy};

    let (reader, mut writer) = conn.split();
    let _ = copy(reader, &mut writer).await;
}

/// One question and its answer. `false`: the connection was cut.
async fn ask(client: &mut Pipe) -> bool {
    use futures::{AsyncReadExt, AsyncWriteExt};

    let mut answer = [0; 4];
    client.write_all(b"ping").await.is_ok() && client.read_exact(&mut answer).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_on_runtimes_of_their_own_share_one_rotation() {
    let world = World::new(settings(|_| {}), []);
    for name in ["A", "B", "C"] {
        echo(&world, name);
    }
    let others = [another_runtime(), another_runtime()];
    let names = ["first", "second"];
    for (other, name) in others.iter().zip(names) {
        let runtime = TokioRuntime::new(other.handle().clone());
        drop(world.server().listen(world.net.listen(name), CopyRelay::default(), runtime));
    }
    within_a_minute(world.replace(&[("a", "A"), ("b", "B"), ("c", "C")])).await;
    let mut clients = Vec::new();
    for round in 0..60 {
        let mut client = world.client_of(names[round % 2]);
        assert!(within_a_minute(ask(&mut client)).await);
        clients.push(client);
    }
    let rotation = ["admitted a=A", "admitted b=B", "admitted c=C"].repeat(20);
    assert_eq!(world.log.texts("admitted"), rotation);

    // One runtime goes, and with it its sessions; those of the other go on.
    let [first, second] = others;
    first.shutdown_background();
    within_a_minute(world.log.until("ended task_dropped", 30)).await;
    let report = within_a_minute(world.replace(&[("a", "A"), ("b", "B")])).await;
    assert_eq!(report.sessions_cut, 10);
    let mut answered = 0;
    for client in &mut clients {
        answered += usize::from(within_a_minute(ask(client)).await);
    }
    assert_eq!(answered, 20);
    within_a_minute(world.handle.shutdown(secs(0))).await;
    second.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_replacements_from_many_threads_each_is_applied_and_the_last_wins() {
    const ROUNDS: u64 = 100;
    let world = Arc::new(World::new(settings(|_| {}), []));
    for name in ["A", "B", "C"] {
        echo(&world, name);
    }
    let is_over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (world, is_over) = (Arc::clone(&world), Arc::clone(&is_over));
            tokio::spawn(async move {
                while !is_over.load(Ordering::SeqCst) {
                    let mut client = world.client();
                    for _ in 0..3 {
                        if !ask(&mut client).await {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let runtime = tokio::runtime::Handle::current();
    let threads: Vec<_> = ["A", "B", "C"]
        .into_iter()
        .map(|name| {
            let (world, runtime) = (Arc::clone(&world), runtime.clone());
            thread::spawn(move || {
                (0..ROUNDS)
                    .map(|_| {
                        let replacement = world.replace(&[("key", name)]);
                        let generation = replacement.report().generation;
                        let report = runtime.block_on(within_a_minute(replacement));
                        assert_eq!(report.generation, generation);
                        (generation.number(), name)
                    })
                    .collect::<Vec<_>>()
            })
        })
        .collect();
    let joined = tokio::task::spawn_blocking(|| {
        threads.into_iter().flat_map(|t| t.join().expect("no panic")).collect::<Vec<_>>()
    });
    let mut returned = joined.await.expect("no panic");
    is_over.store(true, Ordering::SeqCst);
    for client in clients {
        within_a_minute(client).await.expect("no panic");
    }
    returned.sort_unstable();
    let numbers: Vec<_> = returned.iter().map(|(number, _)| *number).collect();
    assert_eq!(
        numbers,
        (1..=3 * ROUNDS).collect::<Vec<_>>(),
        "one order, and each call returned its own"
    );
    let (_, last) = returned.last().expect("there were some");
    assert_eq!(world.snapshot().set, Some(set(&[("key", last)])));
    let expected: Vec<_> = returned
        .iter()
        .scan("", |before, (number, name)| {
            let is_change = std::mem::replace(before, name) != *name;
            Some((is_change, format!("set {number}")))
        })
        .filter_map(|(is_change, text)| is_change.then_some(text))
        .collect();
    assert_eq!(world.log.texts("set"), expected);
    let report = within_a_minute(world.replace(&[])).await;
    for name in ["A", "B", "C"] {
        let stats = world.stats(name);
        assert_eq!((stats.dialled.open, stats.dials_in_flight), (0, 0));
    }
    assert!(report.is_change);
    within_a_minute(world.handle.shutdown(secs(0))).await;
}

/// A waker whose end looks at the server, as that of an executor's task may that owns a session.
struct CuriousWaker(Handle<PipeTarget>);

impl Wake for CuriousWaker {
    fn wake(self: Arc<Self>) {}
}

impl Drop for CuriousWaker {
    fn drop(&mut self) {
        self.0.snapshot();
    }
}

/// Runs a case on a thread of its own, since it may never come back.
fn on_a_thread<F: Future<Output = ()>>(case: impl FnOnce(World) -> F + Send + 'static) {
    let (done, is_done) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let world = World::new(settings(|_| {}), ["A"]);
            world.apply(&[("a", "A")]).await;
            let _client = world.client();
            settle().await;
            case(world).await;
        });
        let _ = done.send(());
    });
    assert!(is_done.recv_timeout(secs(20)).is_ok(), "the server's lock is held for ever");
}

#[test]
fn a_barriers_waker_is_dropped_outside_the_lock() {
    on_a_thread(async |world| {
        let waker = || Waker::from(Arc::new(CuriousWaker(world.handle.clone())));
        let mut replacement = world.replace(&[]);
        for _ in 0..2 {
            assert!(replacement.poll_unpin(&mut Context::from_waker(&waker())).is_pending());
        }
    });
}

#[test]
fn a_shutdowns_waker_is_dropped_outside_the_lock() {
    on_a_thread(async |world| {
        let waker = || Waker::from(Arc::new(CuriousWaker(world.handle.clone())));
        let mut shutdown = world.handle.shutdown(secs(60));
        for _ in 0..2 {
            assert!(shutdown.poll_unpin(&mut Context::from_waker(&waker())).is_pending());
        }
        drop(shutdown);
    });
}
