use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
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
    cut: usize,
    began: Instant,
    broken: Vec<String>,
}

struct Backend {
    address: SocketAddr,
    live: Arc<AtomicUsize>,
}

/// What the clients saw.
#[derive(Default)]
struct Counts {
    is_over: AtomicBool,
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
        let observer = {
            let picks = Arc::clone(&picks);
            move |_, event: &Event<TcpTarget>| {
                if let Event::Admitted { pick, .. } = event {
                    *lock(&picks).entry(pick.key.to_string()).or_insert(0) += 1;
                }
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
            self.began.elapsed().as_secs_f64()
        ));
        self.check(survivors == 0, "connections to a removed backend survived");
        self.check_backends_are_free(keys).await;
        lock(&self.picks).clear();
        Ok(())
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

    /// Between two replacements, no backend may have had more than one turn more than another.
    fn check_rotation(&mut self) {
        let picks: Vec<u64> = lock(&self.picks).values().copied().collect();
        let (least, most) = (picks.iter().min(), picks.iter().max());
        self.check(
            most.zip(least).is_none_or(|(most, least)| most - least <= 1),
            "the rotation is not even",
        );
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
            let time = self.began.elapsed().as_secs_f64();
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

impl Backend {
    /// A backend that sends its key and then echoes.
    async fn start(key: &'static str) -> io::Result<Self> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let live = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&live);
        tokio::spawn(async move {
            while let Ok((conn, _)) = listener.accept().await {
                let live = Arc::clone(&counter);
                live.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    let _ = echo(conn, key).await;
                    live.fetch_sub(1, Relaxed);
                });
            }
        });
        Ok(Self { address, live })
    }
}

async fn echo(mut conn: TcpStream, key: &str) -> io::Result<()> {
    conn.write_all(key.as_bytes()).await?;
    let (mut read, mut write) = conn.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
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
    let mut conn = TcpStream::connect(balancer).await?;
    conn.read_u8().await?;
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
