use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::future::{Either, select};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinHandle,
    time::sleep,
};

/// A network between a source and a member, which can be disturbed.
pub(crate) struct Relay {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    /// Connections at present, and ever.
    live: AtomicUsize,
    made: AtomicUsize,
    /// Nothing passes.
    is_frozen: AtomicBool,
    /// Connections end, and new ones too.
    is_cut: AtomicBool,
    /// Nothing passes to the member.
    is_held: AtomicBool,
    /// It is held once the member has sent this.
    hold_at: Mutex<Option<String>>,
    /// What the member sends with this in it doesn't arrive; and how often that was.
    lose: Mutex<Option<String>>,
    lost: AtomicUsize,
}

impl Relay {
    /// A network to this member.
    pub(crate) async fn to(member: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let task = tokio::spawn(listen(listener, member, Arc::clone(&state)));
        Self { address, state, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How many connections there are.
    pub(crate) fn live(&self) -> usize {
        self.state.live.load(Ordering::SeqCst)
    }

    /// How many connections there have been.
    pub(crate) fn made(&self) -> usize {
        self.state.made.load(Ordering::SeqCst)
    }

    /// Nothing passes any more, though connections stay and come.
    pub(crate) fn freeze(&self) {
        self.state.is_frozen.store(true, Ordering::SeqCst);
    }

    /// Connections end, until this is called with `false`.
    pub(crate) fn set_cut(&self, is_cut: bool) {
        self.state.is_cut.store(is_cut, Ordering::SeqCst);
    }

    /// When the member has sent this text, nothing more reaches it.
    pub(crate) fn hold_at(&self, text: &str) {
        *self.state.hold_at.lock().unwrap() = Some(text.into());
    }

    pub(crate) fn is_held(&self) -> bool {
        self.state.is_held.load(Ordering::SeqCst)
    }

    /// Ends [`Self::hold_at`].
    pub(crate) fn release(&self) {
        self.state.is_held.store(false, Ordering::SeqCst);
    }

    /// Of what the member sends, whatever has this text in it doesn't arrive. HTTP/2 doesn't notice
    /// as long as it is a whole frame.
    pub(crate) fn lose(&self, text: Option<&str>) {
        *self.state.lose.lock().unwrap() = text.map(Into::into);
    }

    /// How often something was lost.
    pub(crate) fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn listen(listener: TcpListener, member: SocketAddr, state: Arc<State>) {
    loop {
        let (client, _) = listener.accept().await.unwrap();
        tokio::spawn(relay(client, member, Arc::clone(&state)));
    }
}

async fn relay(client: TcpStream, member: SocketAddr, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(member).await else { return };
    let live = Live::of(&state);
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let up = Box::pin(pump(from_client, to_server, Arc::clone(&state), Towards::Member));
    let down = Box::pin(pump(from_server, to_client, Arc::clone(&state), Towards::Source));
    let cut = Box::pin(async {
        while !state.is_cut.load(Ordering::SeqCst) {
            sleep(TICK).await;
        }
    });
    // All of it goes when one side is through.
    match select(select(up, down), cut).await {
        Either::Left(_) | Either::Right(_) => drop(live),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Towards {
    Member,
    Source,
}

const TICK: Duration = Duration::from_millis(2);

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: Arc<State>, way: Towards) {
    let mut buffer = vec![0; 1 << 20];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else { return };
        let bytes = &buffer[..length];
        if way == Towards::Source {
            state.notice(bytes);
            if state.loses(bytes) {
                continue;
            }
        }
        while state.stops(way) {
            sleep(TICK).await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

impl State {
    fn stops(&self, way: Towards) -> bool {
        self.is_frozen.load(Ordering::SeqCst)
            || way == Towards::Member && self.is_held.load(Ordering::SeqCst)
    }

    fn notice(&self, bytes: &[u8]) {
        let mut hold_at = self.hold_at.lock().unwrap();
        if hold_at.as_ref().is_some_and(|text| has(bytes, text)) {
            *hold_at = None;
            self.is_held.store(true, Ordering::SeqCst);
        }
    }

    fn loses(&self, bytes: &[u8]) -> bool {
        let loses = self.lose.lock().unwrap().as_ref().is_some_and(|text| has(bytes, text));
        self.lost.fetch_add(usize::from(loses), Ordering::SeqCst);
        loses
    }
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Counts a connection while it is there.
struct Live(Arc<State>);

impl Live {
    fn of(state: &Arc<State>) -> Self {
        state.live.fetch_add(1, Ordering::SeqCst);
        state.made.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(state))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}
