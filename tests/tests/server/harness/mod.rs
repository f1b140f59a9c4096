//! A server, its backends, and what is seen of them.

mod log;
mod runtime;

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, task::noop_waker_ref};
use tinylb_contract::pipe::{Pipe, PipeDialer, PipeListener, PipeNetwork, PipeStats, PipeTarget};
use tinylb_core::{
    BackendSet, Conn, CopyRelay, EndReason, Event, Handle, ListenerHandle, Replacement, Report,
    Server, Settings, Snapshot, SourceSettings,
};
use tokio::time::Instant;

pub use self::{log::Log, runtime::TestRuntime};

/// Where the clients connect, unless a test says otherwise.
pub const FRONT: &str = "front";

/// A server that listens to [`FRONT`], and everything around it. When it goes, the order of its
/// events is checked.
pub struct World {
    pub net: PipeNetwork,
    pub handle: Handle<PipeTarget>,
    pub log: Log,
    pub runtime: TestRuntime,
    pub server: Option<Server<PipeDialer>>,
    pub front: Option<ListenerHandle>,
    backends: BTreeMap<String, PipeListener>,
}

impl World {
    /// With backends that listen, and no set yet.
    pub fn new<const N: usize>(settings: Settings, backends: [&str; N]) -> Self {
        Self::with_hook(settings, backends, |_, _| {})
    }

    /// And calls the hook with each event. The server survives a hook that panics, the test doesn't.
    pub fn with_hook<const N: usize>(
        settings: Settings,
        backends: [&str; N],
        hook: impl Fn(&Handle<PipeTarget>, &Event<PipeTarget>) + Send + Sync + 'static,
    ) -> Self {
        let net = PipeNetwork::new();
        let runtime = TestRuntime::current();
        let log = Log::new();
        let observer = {
            let log = log.clone();
            move |number, event: &Event<PipeTarget>| {
                let handle = log.handle();
                log.note(number, event, &handle.snapshot());
                if catch_unwind(AssertUnwindSafe(|| hook(handle, event))).is_err() {
                    log.complain(format!("the hook has panicked at {number}"));
                }
            }
        };
        let server = Server::with_observer(net.dialer(), runtime.clone(), settings, observer);
        let server = server.expect("the settings are in range");
        let handle = server.handle();
        log.set_handle(server.handle());
        let mut world = Self {
            net,
            handle,
            log,
            runtime,
            server: Some(server),
            front: None,
            backends: BTreeMap::new(),
        };
        world.front = Some(world.listen(FRONT));
        for name in backends {
            world.backend(name);
        }
        world
    }

    pub fn server(&self) -> &Server<PipeDialer> {
        self.server.as_ref().expect("the server hasn't been dropped")
    }

    /// Another listener of the server.
    pub fn listen(&self, name: &str) -> ListenerHandle {
        let listener = self.net.listen(name);
        self.server().listen(listener, CopyRelay::default(), self.runtime.clone())
    }

    /// Another backend.
    pub fn backend(&mut self, name: &str) {
        self.backends.insert(name.into(), self.net.listen(name));
    }

    /// The next connection that a backend has.
    pub async fn accept(&mut self, name: &str) -> Pipe {
        use tinylb_core::Listener;

        let backend = self.backends.get_mut(name).expect("the backend listens");
        let conn = within(backend.accept()).await.expect("a backend's accept doesn't fail");
        ordinary(conn)
    }

    pub fn client(&self) -> Pipe {
        self.client_of(FRONT)
    }

    pub fn client_of(&self, name: &str) -> Pipe {
        ordinary(self.net.connect(name).expect("the server listens"))
    }

    /// Replaces the set. The server goes on when the test next awaits.
    pub fn replace(&self, backends: &[(&str, &str)]) -> Replacement<PipeTarget> {
        self.handle.replace(set(backends)).expect("the set is valid")
    }

    /// Replaces the set and waits until that is applied.
    pub async fn apply(&self, backends: &[(&str, &str)]) -> Arc<Report> {
        within(self.replace(backends)).await
    }

    pub fn snapshot(&self) -> Snapshot<PipeTarget> {
        self.handle.snapshot()
    }

    pub fn stats(&self, name: &str) -> PipeStats {
        self.net.stats(name)
    }

    pub fn ended(&self, reason: EndReason) -> u64 {
        self.snapshot().ended.of(reason)
    }

    /// The load of a target: dialling and connected.
    pub fn load(&self, name: &str) -> (usize, usize) {
        let loads = self.snapshot().loads;
        let load = loads.iter().find(|load| load.target.to_string() == name);
        load.map_or((0, 0), |load| (load.dialling, load.connected))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.log.check();
        }
    }
}

/// The end of an ordinary program: dropping it ends its stream.
fn ordinary(mut conn: Pipe) -> Pipe {
    conn.finish();
    conn
}

/// Settings that differ from the defaults.
pub fn settings(change: impl FnOnce(&mut Settings)) -> Settings {
    let mut settings = Settings::default();
    change(&mut settings);
    settings
}

/// Settings with which nobody is ejected, and no dial given up: for tests of the rest.
pub fn without_ejection(change: impl FnOnce(&mut Settings)) -> Settings {
    settings(|settings| {
        settings.dial_patience = None;
        settings.ejection = false;
        change(settings);
    })
}

pub fn source_settings(change: impl FnOnce(&mut SourceSettings)) -> SourceSettings {
    let mut settings = SourceSettings::default();
    change(&mut settings);
    settings
}

pub fn set(backends: &[(&str, &str)]) -> BackendSet<PipeTarget> {
    let backends = backends.iter().map(|(key, target)| (*key, PipeTarget::from(*target)));
    BackendSet::new(backends).expect("the keys differ")
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Lets a time pass.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    settle().await;
}

/// Lets every task run until all of them wait. No time passes.
pub async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// A future that has to come to an end. Where the clock is paused, one that hangs is found at once,
/// and so is one that could go on and isn't woken.
pub async fn within<F: Future>(future: F) -> F::Output {
    before(secs(60 * 86_400), future).await
}

/// Like [`within`], where time is real.
pub async fn within_a_minute<F: Future>(future: F) -> F::Output {
    before(secs(60), future).await
}

async fn before<F: Future>(limit: Duration, future: F) -> F::Output {
    let began = Instant::now();
    let ended = tokio::time::timeout(limit, future).await;
    let output = ended.unwrap_or_else(|_| panic!("this doesn't come to an end within {limit:?}"));
    // The timer wakes the future once more, and that must not be what it needed.
    assert!(began.elapsed() < limit, "nobody has woken this");
    output
}

pub async fn write(pipe: &mut Pipe, bytes: &str) {
    within(pipe.write_all(bytes.as_bytes())).await.expect("the connection takes bytes");
}

/// Ends the write side.
pub async fn end(pipe: &mut Pipe) {
    within(pipe.close()).await.expect("the connection takes an end");
}

/// So many bytes as the text has come.
pub async fn expect(pipe: &mut Pipe, text: &str) {
    let mut bytes = vec![0; text.len()];
    within(pipe.read_exact(&mut bytes)).await.expect("the bytes come");
    assert_eq!(String::from_utf8_lossy(&bytes), text);
}

/// All that comes until the end of the stream, or why it was cut.
pub async fn read_to_end(pipe: &mut Pipe) -> Result<String, io::ErrorKind> {
    let mut text = String::new();
    within(pipe.read_to_string(&mut text)).await.map_err(|error| error.kind())?;
    Ok(text)
}

/// Writes until the connection takes no more; how many bytes that were.
pub fn fill(pipe: &mut Pipe) -> usize {
    use futures::AsyncWrite;

    let mut total = 0;
    let mut cx = Context::from_waker(noop_waker_ref());
    while let Poll::Ready(written) = std::pin::Pin::new(&mut *pipe).poll_write(&mut cx, b"x") {
        total += written.expect("the connection is open");
    }
    total
}

/// Whether the other end has cut the connection.
pub fn is_cut(pipe: &mut Pipe) -> bool {
    pipe.poll_cut(&mut Context::from_waker(noop_waker_ref())).is_ready()
}

/// Bytes go both ways.
pub async fn talk(client: &mut Pipe, backend: &mut Pipe) {
    write(client, "question").await;
    expect(backend, "question").await;
    write(backend, "answer").await;
    expect(client, "answer").await;
}
