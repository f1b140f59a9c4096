//! The clients of the admin address: whose turn it is, and which one makes room for another.

use std::{
    io,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Response, body::Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};

/// The most connections at a time. The reserve of descriptors has room for them.
const GUESTS_MAX: usize = 16;
/// The most requests that cost something, at a time. Fewer than `GUESTS_MAX`, so that there is
/// always a guest that can make room for a request that costs nothing.
const WORK_MAX: usize = 8;
/// A client that moves no byte in either direction for this many ticks is disconnected. Ticks are
/// counted instead of time because a pause of this process isn't the client's fault.
const STILL_TICKS_MAX: u32 = 5;
const TICK: Duration = Duration::from_secs(1);
/// How long a new connection waits for a place before a queued request has to give up.
const PLACE_WAIT_MAX: Duration = Duration::from_millis(200);
/// How long a request waits for a work place before it displaces the guest that has been reading
/// its answer for longest, and how often it does so.
const WORK_WAIT_MAX: Duration = Duration::from_secs(5);
const WORK_WAITS_MAX: u32 = 6;

/// All connections. Clones share them.
#[derive(Clone)]
pub(super) struct Guests {
    places: Arc<Semaphore>,
    work: Arc<Semaphore>,
    here: Arc<Mutex<Vec<Weak<Guest>>>>,
}

/// One connection. Dropping it frees its place.
pub(super) struct Guest {
    state: Mutex<State>,
    /// Notified when the connection must close.
    leave: Notify,
    /// Notified when its request must stop waiting, for a place or for the rest of its body.
    give_up: Notify,
    _place: OwnedSemaphorePermit,
}

#[derive(Clone, Copy)]
struct State {
    turn: Turn,
    /// When a byte last moved.
    moved: Instant,
    /// Since when the client has been reading an answer that holds a work place.
    answered: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// The client's: it sends a request or reads an answer.
    Client,
    /// The client's, which sends the body of a request that has a place to work.
    Body,
    /// Nobody's: a request waits for a place, and nothing has been done for it.
    Queue,
    /// Ours: we work on a request.
    Server,
}

impl Guests {
    pub(super) fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(GUESTS_MAX)),
            work: Arc::new(Semaphore::new(WORK_MAX)),
            here: Arc::default(),
        }
    }

    /// Admits a new connection as soon as there is a place.
    pub(super) async fn admit(&self) -> Arc<Guest> {
        let state = State { turn: Turn::Client, moved: Instant::now(), answered: None };
        let guest = Arc::new(Guest {
            state: Mutex::new(state),
            leave: Notify::new(),
            give_up: Notify::new(),
            _place: self.place().await,
        });
        let mut here = lock(&self.here);
        here.retain(|guest| guest.strong_count() > 0);
        here.push(Arc::downgrade(&guest));
        guest
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        let mut has_waited = false;
        loop {
            if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
                return place;
            }
            if !self.make_room() && has_waited {
                let waits = self.least(|state| (state.turn == Turn::Queue).then_some(state.moved));
                waits.inspect(|guest| guest.give_up.notify_one());
            }
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(PLACE_WAIT_MAX, place).await {
                return place;
            }
            has_waited = true;
        }
    }

    /// Gives up the client that has moved no byte for longest, among those that don't wait for an
    /// answer. Returns whether there is one.
    fn make_room(&self) -> bool {
        let is_awaited = |turn| matches!(turn, Turn::Client | Turn::Body);
        let Some(still) = self.least(|state| is_awaited(state.turn).then_some(state.moved)) else {
            return false;
        };
        match still.state().turn {
            // Its request is answered, and nothing has been done for it.
            Turn::Body => still.give_up.notify_one(),
            _ => still.leave.notify_one(),
        }
        true
    }

    /// A work place for a request, or `None` if there was none for too long.
    pub(super) async fn work(&self, guest: &Arc<Guest>) -> Option<Work> {
        guest.turns(Turn::Queue);
        let place = async {
            let mut place = pin!(Arc::clone(&self.work).acquire_owned());
            for _ in 0..WORK_WAITS_MAX {
                if let Ok(place) = timeout(WORK_WAIT_MAX, place.as_mut()).await {
                    return place.ok();
                }
                let reads = |state: State| state.answered.filter(|_| state.turn == Turn::Client);
                self.least(reads).inspect(|guest| guest.leave.notify_one());
            }
            None
        };
        let place = tokio::select! {
            biased;
            () = guest.give_up.notified() => None,
            place = place => place,
        };
        guest.turns(if place.is_some() { Turn::Server } else { Turn::Client });
        place.map(|place| Work { guest: Arc::clone(guest), _place: place })
    }

    /// The guest with the least time.
    fn least(&self, time: impl Fn(State) -> Option<Instant>) -> Option<Arc<Guest>> {
        let here = lock(&self.here);
        let guests = here.iter().filter_map(Weak::upgrade);
        let timed = guests.filter_map(|guest| Some((time(guest.state())?, guest)));
        timed.min_by_key(|(time, _)| *time).map(|(_, guest)| guest)
    }
}

impl Guest {
    /// Ready once the connection must close: another one needs the place, or the client does
    /// nothing although it is its turn.
    pub(super) async fn leaves(&self) {
        loop {
            tokio::select! {
                biased;
                () = self.leave.notified() => {}
                () = self.is_still() => {}
            }
            // A request may have arrived at the last moment.
            if self.state().turn == Turn::Client {
                return;
            }
        }
    }

    /// Ready once the client has moved no byte for long.
    pub(super) async fn is_still(&self) {
        let (mut moved, mut ticks) = (self.state().moved, 0);
        while ticks < STILL_TICKS_MAX {
            sleep(TICK).await;
            let now = self.state().moved;
            ticks = if now == moved { ticks + 1 } else { 0 };
            moved = now;
        }
    }

    /// The rest of a request whose head has come, or `None` if its client is given up meanwhile.
    pub(super) async fn rest<T>(&self, rest: impl Future<Output = T>) -> Option<T> {
        self.turns(Turn::Body);
        let rest = tokio::select! {
            biased;
            rest = rest => Some(rest),
            () = self.give_up.notified() => None,
        };
        self.turns(Turn::Server);
        rest
    }

    /// Changes whose turn it is. From now on only new activity of the client counts.
    fn turns(&self, turn: Turn) {
        let mut state = lock(&self.state);
        (state.turn, state.moved) = (turn, Instant::now());
    }

    fn state(&self) -> State {
        *lock(&self.state)
    }
}

/// A work place. It stays taken until the answer has been read, so the memory of answers is bounded
/// too.
pub(super) struct Work {
    guest: Arc<Guest>,
    _place: OwnedSemaphorePermit,
}

impl Work {
    /// Keeps the place until the answer has been read.
    pub(super) fn hold(self, answer: Response<Bytes>) -> Response<Bytes> {
        self.guest.turns(Turn::Client);
        lock(&self.guest.state).answered = Some(Instant::now());
        answer.map(|bytes| Bytes::from_owner(Held { bytes, _work: self }))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        lock(&self.guest.state).answered = None;
    }
}

struct Held {
    bytes: Bytes,
    _work: Work,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A guest's stream, which notes each byte that moves.
pub(super) struct Noted<S> {
    pub(super) stream: S,
    pub(super) guest: Arc<Guest>,
}

impl<S> Noted<S> {
    fn note(&self, has_moved: bool) {
        if has_moved {
            lock(&self.guest.state).moved = Instant::now();
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.note(buffer.filled().len() > before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.note(matches!(written, Poll::Ready(Ok(1..))));
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.note(matches!(written, Poll::Ready(Ok(1..))));
        written
    }

    /// An answer that isn't copied holds its place as long as it takes up memory.
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
