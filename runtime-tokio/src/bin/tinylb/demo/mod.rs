mod backend;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tinylb_core::{BackendSet, CopyRelay, Event, Handle, Server, Settings};
use tinylb_tokio::{TcpDialer, TcpListener, TcpOptions, TcpTarget, TokioRuntime};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use self::backend::Backend;
use crate::{Failure, block_on, print};

const CLIENTS: usize = 60;
/// Time between two lines about the spread, and how many there are before each replacement.
const TICK: Duration = Duration::from_millis(400);
const TICKS: usize = 3;
/// Pause of a client between two messages, and messages it sends before it ends cleanly.
const PAUSE: Duration = Duration::from_millis(10);
const MESSAGES: usize = 40;
/// Longest time for anything in the demo to come about.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest time for a backend to be back after it has hung: a probe that is under way has to time out,
/// and the next one to come.
const RETURN_TIME_MAX: Duration = Duration::from_secs(10);
/// A client that is greeted later than this has waited.
const WAIT: Duration = Duration::from_millis(100);

/// `tinylb demo`: backends, clients and a balancer, and what happens when the set is replaced.
pub(crate) fn demo() -> Result<(), Failure> {
    let failed = |error| Failure::Error(format!("the demo could not run: {error}"));
    let broken = block_on(async { show().await.map_err(failed) })?;
    match broken.is_empty() {
        true => Ok(()),
        false => Err(Failure::Error(format!("FAIL: {}", broken.join("; ")))),
    }
}

/// Runs the demo; returns the promises that were broken.
async fn show() -> io::Result<Vec<String>> {
    let mut stage = Stage::set().await?;
    print(format_args!(
        "tinylb demo: {CLIENTS} clients, backends and a balancer, all on loopback.\n\
         Each number is the connections that are open to a backend.\n\n"
    ));
    stage.replace("start with a, b and c", &["a", "b", "c"]).await?;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| tokio::spawn(client(stage.balancer, Arc::clone(&stage.counts))))
        .collect();
    stage.watch().await;
    stage.hang("b").await?;
    stage.replace("remove b", &["a", "c"]).await?;
    stage.watch().await;
    stage.replace("add d and bring b back", &["a", "b", "c", "d"]).await?;
    stage.watch().await;
    stage.replace("remove a and c at once", &["b", "d"]).await?;
    stage.watch().await;

    stage.counts.is_over.store(true, Relaxed);
    for client in clients {
        let ended = timeout(PATIENCE, client).await;
        stage.check(ended.is_ok(), "a client hangs");
    }
    let ended = timeout(PATIENCE, stage.handle.shutdown(PATIENCE)).await;
    stage.check(ended.is_ok(), "the balancer does not stop");
    stage.sum_up();
    Ok(stage.broken)
}

/// The balancer, its backends, and what was seen so far.
struct Stage {
    backends: BTreeMap<&'static str, Backend>,
    /// Dropped with the stage, which ends everything.
    _server: Server<TcpDialer>,
    handle: Handle<TcpTarget>,
    balancer: SocketAddr,
    counts: Arc<Counts>,
    picks: Arc<Mutex<BTreeMap<String, u64>>>,
    ejections: Arc<Ejections>,
    /// How many ejections there had been when the picks were last cleared.
    ejected_before: u64,
    cut: usize,
    began: Instant,
    broken: Vec<String>,
}

/// How often a backend was ejected, and returned.
#[derive(Default)]
struct Ejections {
    ejected: AtomicU64,
    returned: AtomicU64,
}

/// What the clients saw.
#[derive(Default)]
struct Counts {
    is_over: AtomicBool,
    greeted: AtomicU64,
    /// Those that were greeted late.
    waited: AtomicU64,
    /// The longest that one of them waited.
    wait_ms_max: AtomicU64,
    messages: AtomicU64,
    finished: AtomicU64,
    cut: AtomicU64,
    /// Ends of stream that the client had not asked for: each is a cut that looks like an end.
    false_ends: AtomicU64,
    wrong_bytes: AtomicU64,
}

impl Stage {
    async fn set() -> io::Result<Self> {
        let mut backends = BTreeMap::new();
        for key in ["a", "b", "c", "d"] {
            backends.insert(key, Backend::start(key).await?);
        }
        let picks = Arc::new(Mutex::new(BTreeMap::new()));
        let ejections = Arc::new(Ejections::default());
        let observer = {
            let (picks, ejections) = (Arc::clone(&picks), Arc::clone(&ejections));
            move |_, event: &Event<TcpTarget>| match event {
                Event::Admitted { pick, .. } => {
                    *lock(&picks).entry(pick.key.to_string()).or_insert(0) += 1;
                }
                Event::Ejected { .. } => drop(ejections.ejected.fetch_add(1, Relaxed)),
                Event::Returned { .. } => drop(ejections.returned.fetch_add(1, Relaxed)),
                _ => {}
            }
        };
        let options = TcpOptions::default();
        let runtime = TokioRuntime::current();
        let dialer = TcpDialer::new(options.clone());
        let server = Server::with_observer(dialer, runtime.clone(), Settings::default(), observer)
            .map_err(io::Error::other)?;
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &options)?;
        let balancer = listener.local_address()?;
        server.listen(listener, CopyRelay::default(), runtime);
        Ok(Self {
            backends,
            handle: server.handle(),
            _server: server,
            balancer,
            counts: Arc::default(),
            picks,
            ejections,
            ejected_before: 0,
            cut: 0,
            began: Instant::now(),
            broken: Vec::new(),
        })
    }

    /// Replaces the set, waits until that is applied, and looks whether it is.
    async fn replace(&mut self, what: &str, keys: &[&'static str]) -> io::Result<()> {
        self.check_rotation();
        let targets = keys.iter().map(|key| (*key, TcpTarget::from(self.backends[key].address)));
        let set = BackendSet::new(targets).map_err(io::Error::other)?;
        let began = Instant::now();
        let replacement = self.handle.replace(set).map_err(io::Error::other)?;
        let Ok(report) = timeout(PATIENCE, replacement).await else {
            self.broken.push(format!("`{what}` is not applied"));
            return Ok(());
        };
        let took = began.elapsed();
        let survivors: usize = self
            .handle
            .snapshot()
            .loads
            .iter()
            .filter(|load| !keys.iter().any(|key| load.target == self.backends[key].address.into()))
            .map(|load| load.dialling + load.connected)
            .sum();
        self.cut += report.sessions_cut;
        let (cut, ms) = (report.sessions_cut, took.as_secs_f64() * 1e3);
        print(format_args!(
            "{:6.1} s   {what}: {cut} connections cut in {ms:.1} ms, {survivors} survived\n",
            self.time()
        ));
        self.check(survivors == 0, "connections to a removed backend survived");
        self.check_backends_are_free(keys).await;
        self.clear_picks();
        Ok(())
    }

    /// A backend hangs for a while, and accepts again.
    async fn hang(&mut self, key: &'static str) -> io::Result<()> {
        self.check_rotation();
        let counts = Arc::clone(&self.counts);
        let before = [&counts.greeted, &counts.waited].map(|count| count.load(Relaxed));
        counts.wait_ms_max.store(0, Relaxed);
        self.backend(key).hang()?;
        let time = self.time();
        print(format_args!("{time:6.1} s   {key} hangs: it takes no new connection\n"));
        self.watch().await;

        self.backend(key).answer()?;
        let (answered, ejections) = (Instant::now(), Arc::clone(&self.ejections));
        let is_back = || {
            let count = |count: &AtomicU64| count.load(Relaxed);
            (1..=count(&ejections.returned)).contains(&count(&ejections.ejected))
        };
        while !is_back() && answered.elapsed() < RETURN_TIME_MAX {
            sleep(Duration::from_millis(1)).await;
        }
        self.check(is_back(), "a backend that hung isn't ejected, or doesn't return");
        let after = [&counts.greeted, &counts.waited].map(|count| count.load(Relaxed));
        let [greeted, waited] = [after[0] - before[0], after[1] - before[1]];
        let (time, took) = (self.time(), answered.elapsed().as_secs_f64());
        print(format_args!(
            "{time:6.1} s   {key} takes connections again, and was back in {took:.1} s: {waited} of \
             {greeted} clients had to wait, {} ms at most\n",
            counts.wait_ms_max.load(Relaxed)
        ));
        // It had no turn meanwhile.
        self.clear_picks();
        self.watch().await;
        Ok(())
    }

    fn backend(&mut self, key: &'static str) -> &mut Backend {
        self.backends.get_mut(key).expect("every backend is on the stage from the beginning")
    }

    /// Seconds since the demo began.
    fn time(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// Checks that the removed backends themselves see no connection any more.
    async fn check_backends_are_free(&mut self, keys: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let removed = |stage: &Self| {
            let removed = stage.backends.iter().filter(|(key, _)| !keys.contains(key));
            removed.map(|(_, backend)| backend.live.load(Relaxed)).sum::<usize>()
        };
        while removed(self) > 0 && Instant::now() < deadline {
            sleep(Duration::from_millis(1)).await;
        }
        self.check(removed(self) == 0, "a removed backend still has connections");
    }

    /// Between two replacements, no backend may have had more than one turn more than another, unless one
    /// was ejected. (That may also happen if this machine stands still for long.)
    fn check_rotation(&mut self) {
        if self.ejections.ejected.load(Relaxed) > self.ejected_before {
            return;
        }
        let picks: Vec<u64> = lock(&self.picks).values().copied().collect();
        let (least, most) = (picks.iter().min(), picks.iter().max());
        self.check(
            most.zip(least).is_none_or(|(most, least)| most - least <= 1),
            "the rotation is not even",
        );
    }

    fn clear_picks(&mut self) {
        self.ejected_before = self.ejections.ejected.load(Relaxed);
        lock(&self.picks).clear();
    }

    /// Shows the spread for a while.
    async fn watch(&mut self) {
        for _ in 0..TICKS {
            sleep(TICK).await;
            let spread: Vec<String> = self
                .backends
                .iter()
                .map(|(key, backend)| format!("{key} {:3}", backend.live.load(Relaxed)))
                .collect();
            let time = self.time();
            print(format_args!("{time:6.1} s   {}\n", spread.join("    ")));
        }
    }

    /// Prints the sums, and the verdict if all has held.
    fn sum_up(&mut self) {
        let count = |counter: &AtomicU64| counter.load(Relaxed);
        let counts = Arc::clone(&self.counts);
        let (cut, seen) = (self.cut as u64, count(&counts.cut));
        print(format_args!(
            "\n{} messages were echoed, {} connections ended by themselves, {cut} were cut.\n",
            count(&counts.messages),
            count(&counts.finished),
        ));
        self.check(count(&counts.messages) > 0 && cut > 0, "nothing was shown");
        self.check(count(&counts.wrong_bytes) == 0, "bytes came back changed");
        self.check(count(&counts.false_ends) == 0, "a cut looked like a normal close");
        self.check(seen <= cut, "clients were cut that should not have been");
        if self.broken.is_empty() {
            let resets = match cut - seen {
                0 => format!("all {cut} cut connections were seen as resets"),
                // It may be cut in the moment of its own end, and not notice.
                unseen => format!("{cut} connections were cut, {unseen} of them as they ended"),
            };
            print(format_args!("PASS: {resets}; none looked like a normal close.\n"));
        }
    }

    fn check(&mut self, holds: bool, otherwise: &str) {
        if !holds {
            self.broken.push(otherwise.to_string());
        }
    }
}

/// A client that connects again and again: it sends messages, expects them back, and ends.
async fn client(balancer: SocketAddr, counts: Arc<Counts>) {
    while !counts.is_over.load(Relaxed) {
        match converse(balancer, &counts).await {
            Ok(()) => counts.finished.fetch_add(1, Relaxed),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                counts.false_ends.fetch_add(1, Relaxed)
            }
            Err(_) => counts.cut.fetch_add(1, Relaxed),
        };
    }
}

async fn converse(balancer: SocketAddr, counts: &Counts) -> io::Result<()> {
    let began = Instant::now();
    let mut conn = TcpStream::connect(balancer).await?;
    conn.read_u8().await?;
    let waited = began.elapsed();
    counts.greeted.fetch_add(1, Relaxed);
    counts.waited.fetch_add(u64::from(waited > WAIT), Relaxed);
    counts.wait_ms_max.fetch_max(waited.as_millis() as u64, Relaxed);
    for number in 0..MESSAGES as u64 {
        conn.write_u64(number).await?;
        if conn.read_u64().await? != number {
            counts.wrong_bytes.fetch_add(1, Relaxed);
        }
        counts.messages.fetch_add(1, Relaxed);
        sleep(PAUSE).await;
    }
    conn.shutdown().await?;
    conn.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
