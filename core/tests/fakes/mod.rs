//! A network, a runtime and an observer in memory, on shuttle: every task and thread is
//! shuttle's, and so is every choice of who goes next.
//!
//! A check inside the server's tasks must not panic, since the server survives that; it is noted,
//! and [`Net::assert_kept`] fails the test. The fakes' own locks are never held where shuttle may
//! switch, so they are plain ones.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::{pending, poll_fn},
    io, mem,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
};
use shuttle::{
    future::{JoinHandle, block_on, spawn, yield_now},
    thread,
};
use tinylb_core::{BackendKey, Conn, Dialer, Event, Listener, Runtime};

/// The target whose dials fail.
pub const DEAD: u8 = 9;

/// The target whose dials hang.
pub const HANGING: u8 = 8;

/// A time that passes, after a few turns of others. Longer ones never do.
pub const SOON: Duration = Duration::from_millis(10);

/// All that was connected, and all that went wrong.
#[derive(Clone, Default)]
pub struct Net(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    backlog: VecDeque<End>,
    accepting: Vec<Waker>,
    /// Open connections to backends.
    open: BTreeMap<u8, usize>,
    /// Targets that must not be dialled any more.
    no_dials: BTreeSet<u8>,
    /// Targets to which nothing must be sent any more.
    no_bytes: BTreeSet<u8>,
    broken: Vec<String>,
    events: Vec<u64>,
    /// For each session: whether it has ended.
    sessions: BTreeMap<u64, bool>,
    /// How many sessions were live at once, at the most.
    live_most: usize,
    /// By the events: the keys in the set, and the target of each session that has one.
    keys: BTreeSet<BackendKey>,
    targets: BTreeMap<u64, u8>,
    /// How many sessions were connected, ever, and who waits for another.
    connected: usize,
    awaiting: Option<Waker>,
    /// What happened that makes an execution worth having.
    met: BTreeSet<&'static str>,
    tasks: Vec<JoinHandle<()>>,
}

impl Net {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(|poison| poison.into_inner())
    }

    /// A client connects, sends a byte and waits.
    pub fn connect(&self) -> Client {
        let client = Client::default();
        let end = End { net: self.clone(), client: client.clone(), backend: None };
        let mut state = self.lock();
        state.backlog.push_back(end);
        let wakers = mem::take(&mut state.accepting);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        client
    }

    /// Waits until so many sessions have been connected.
    pub fn await_connected(&self, count: usize) {
        wait(poll_fn(|cx| {
            let mut state = self.lock();
            if state.connected >= count {
                return Poll::Ready(());
            }
            state.awaiting = Some(cx.waker().clone());
            Poll::Pending
        }));
    }

    /// What has happened: what replacements found, and why sessions ended.
    pub fn met(&self) -> BTreeSet<&'static str> {
        self.lock().met.clone()
    }

    pub fn meet(&self, what: &'static str) {
        self.lock().met.insert(what);
    }

    pub fn broken(&self, what: String) {
        self.lock().broken.push(what);
    }

    /// The targets that have open connections, or sessions that the observer hasn't seen leave.
    pub fn in_use(&self) -> BTreeSet<u8> {
        let open = self.open();
        self.lock().targets.values().copied().chain(open).collect()
    }

    /// The targets that have open connections.
    pub fn open(&self) -> Vec<u8> {
        let state = self.lock();
        state.open.iter().filter(|(_, count)| **count > 0).map(|(target, _)| *target).collect()
    }

    /// From now on, a dial of the target breaks the promise.
    pub fn forbid_dials(&self, target: u8) {
        self.lock().no_dials.insert(target);
    }

    /// From now on, a connection to the target breaks the promise.
    pub fn forbid(&self, target: u8) {
        self.forbid_dials(target);
        self.lock().no_bytes.insert(target);
        if self.in_use().contains(&target) {
            self.broken(format!("applied, and {target} is in use"));
        }
    }

    /// Waits for every task of the server.
    pub fn join(&self) {
        loop {
            let task = self.lock().tasks.pop();
            let Some(task) = task else { return };
            wait(task).expect("a task of the server ends by itself");
        }
    }

    /// Fails if anything went wrong, or if something is left once all tasks have ended.
    pub fn assert_kept(&self) {
        assert!(self.in_use().is_empty(), "connections are left: {:?}", self.in_use());
        let state = self.lock();
        assert_eq!(state.broken, [] as [String; 0]);
        let numbers: Vec<u64> = (0..state.events.len() as u64).collect();
        assert_eq!(state.events, numbers, "events out of order");
        let open: Vec<_> = state.sessions.iter().filter(|(_, ended)| !**ended).collect();
        assert_eq!(open, [], "accepted and never ended");
    }

    /// How many sessions there were.
    pub fn sessions(&self) -> usize {
        self.lock().sessions.len()
    }

    /// How many sessions were live at once, at the most.
    pub fn live_most(&self) -> usize {
        self.lock().live_most
    }

    pub fn observe(&self, number: u64, event: &Event<u8>) {
        let mut state = self.lock();
        state.events.push(number);
        let (id, is_first, is_last) = match event {
            Event::Accepted { id, .. } => (Some(id), true, false),
            Event::Ended { id, .. } => (Some(id), false, true),
            Event::Admitted { id, .. }
            | Event::DialStarted { id, .. }
            | Event::DialFailed { id, .. }
            | Event::Connected { id, .. }
            | Event::HalfClosed { id, .. } => (Some(id), false, false),
            _ => (None, false, false),
        };
        if let Some(id) = id {
            let before = state.sessions.insert(id.serial(), is_last);
            if before != (!is_first).then_some(false) {
                state.broken.push(format!("{event:?} out of order"));
            }
            let live = state.sessions.values().filter(|ended| !**ended).count();
            state.live_most = state.live_most.max(live);
        }
        state.follow(event);
        let awaiting = state.awaiting.take();
        drop(state);
        awaiting.into_iter().for_each(Waker::wake);
        // Others may have events while this one is being delivered.
        thread::yield_now();
    }

    fn check_dial(&self, target: u8) {
        let mut state = self.lock();
        if state.no_dials.contains(&target) {
            state.broken.push(format!("{target} was dialled after its removal was applied"));
        }
    }
}

impl State {
    /// What an event says of the set and of who is where.
    fn follow(&mut self, event: &Event<u8>) {
        // In these tests a key has one target for ever, so that keys show which targets are left.
        if let Event::Admitted { pick, .. }
        | Event::DialStarted { pick, .. }
        | Event::Connected { pick, .. } = event
            && !self.keys.contains(&pick.key)
        {
            self.broken.push(format!("{event:?} after its backend was removed"));
        }
        match event {
            Event::Admitted { id, pick } => drop(self.targets.insert(id.serial(), pick.target)),
            Event::Connected { .. } => self.connected += 1,
            Event::DialFailed { id, .. } => drop(self.targets.remove(&id.serial())),
            Event::Ended { id, reason, .. } => {
                self.targets.remove(&id.serial());
                self.met.insert(reason.as_str());
            }
            Event::Ejected { .. } => drop(self.met.insert("ejected")),
            Event::SetReplaced { report, .. } => {
                self.keys.extend(report.added.iter().cloned());
                self.keys.retain(|key| !report.removed.contains(key));
                let counts = [
                    ("cut", report.sessions_cut),
                    ("revoked", report.dials_revoked),
                    ("draining", report.sessions_draining),
                ];
                let some = counts.into_iter().filter(|(_, count)| *count > 0);
                self.met.extend(some.map(|(what, _)| what));
            }
            _ => {}
        }
    }
}

/// Waits for a future. A task that ever waited for one of shuttle's locks counts as woken the next
/// time it would sleep, which would hide a wake that got lost; yielding first uses that up.
pub fn wait<F: Future>(future: F) -> F::Output {
    block_on(async {
        yield_now().await;
        future.await
    })
}

/// A client's end, in the client's hands.
#[derive(Clone, Default)]
pub struct Client(Arc<Mutex<Stream>>);

/// What can be read from a connection.
#[derive(Default)]
struct Stream {
    bytes: usize,
    has_ended: bool,
    reader: Option<Waker>,
}

impl Client {
    /// Sends a byte.
    pub fn send(&self) {
        self.change(|stream| stream.bytes += 1);
    }

    /// Ends the client's stream; the backends answer by ending theirs.
    pub fn hang_up(&self) {
        self.change(|stream| stream.has_ended = true);
    }

    fn change(&self, change: impl FnOnce(&mut Stream)) {
        let mut stream = self.0.lock().unwrap_or_else(|poison| poison.into_inner());
        change(&mut stream);
        let reader = stream.reader.take();
        drop(stream);
        reader.into_iter().for_each(Waker::wake);
    }
}

/// The server's end of a connection, to a client or to a backend.
pub struct End {
    net: Net,
    client: Client,
    backend: Option<u8>,
}

impl End {
    fn check(&self) {
        let Some(target) = self.backend else { return };
        let mut state = self.net.lock();
        if state.no_bytes.contains(&target) {
            state.broken.push(format!("{target} was written to after its removal was applied"));
        }
    }
}

impl AsyncRead for End {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let mut stream = self.client.0.lock().unwrap_or_else(|poison| poison.into_inner());
        if stream.bytes > 0 {
            stream.bytes -= 1;
            buffer[0] = 0;
            return Poll::Ready(Ok(1));
        }
        if stream.has_ended {
            return Poll::Ready(Ok(0));
        }
        stream.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for End {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check();
        if self.backend.is_some() {
            self.client.hang_up();
        }
        Poll::Ready(Ok(()))
    }
}

impl Conn for End {
    fn peer(&self) -> String {
        "client".into()
    }

    fn abort(&mut self) {}
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(target) = self.backend {
            *self.net.lock().open.entry(target).or_default() -= 1;
        }
    }
}

/// A dial that hangs, which counts as an open connection.
struct Hanging(Net);

impl Hanging {
    fn new(net: &Net) -> Self {
        *net.lock().open.entry(HANGING).or_default() += 1;
        Self(net.clone())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        *self.0.lock().open.entry(HANGING).or_default() -= 1;
    }
}

#[async_trait]
impl Dialer for Net {
    type Target = u8;
    type Conn = End;

    async fn dial(&self, target: &u8, _within: Duration) -> io::Result<End> {
        self.check_dial(*target);
        yield_now().await;
        if *target == HANGING {
            let _open = Hanging::new(self);
            return pending().await;
        }
        if *target == DEAD {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        self.check_dial(*target);
        *self.lock().open.entry(*target).or_default() += 1;
        let end = End { net: self.clone(), client: Client::default(), backend: Some(*target) };
        // The connection is there before the session knows.
        yield_now().await;
        Ok(end)
    }
}

#[async_trait]
impl Listener for Net {
    type Conn = End;

    async fn accept(&mut self) -> io::Result<End> {
        poll_fn(|cx| {
            let mut state = self.lock();
            match state.backlog.pop_front() {
                Some(end) => Poll::Ready(Ok(end)),
                None => {
                    state.accepting.push(cx.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl Runtime for Net {
    fn spawn(&self, task: BoxFuture<'static, ()>) {
        let task = spawn(task);
        self.lock().tasks.push(task);
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration > SOON {
            return Box::pin(pending());
        }
        Box::pin(async {
            yield_now().await;
            yield_now().await;
        })
    }

    fn now(&self) -> Duration {
        Duration::ZERO
    }
}
