//! The clients of the admin address: whose turn it is, and which one makes room for another.

use std::{
    io,
    os::fd::AsFd,
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::{Response, body::Bytes};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
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
/// its answer for longest. No shorter than `STILL_TICKS_MAX`, so that requests whose bodies don't
/// come have given up their places by then.
const WORK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long it then waits before it gets 503.
const DISPLACING_TIME_MAX: Duration = Duration::from_secs(3);

/// All connections. Clones share them.
#[derive(Clone)]
pub(super) struct Guests {
    places: Arc<Semaphore>,
    work: Arc<Semaphore>,
    here: Arc<Mutex<Vec<Weak<Guest>>>>,
}

/// A client's stream.
pub(super) trait Stream: AsyncRead + AsyncWrite + AsFd + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + AsFd + Send + Unpin> Stream for S {}

/// One connection. Dropping it frees its place.
pub(super) struct Guest {
    stream: Mutex<Box<dyn Stream>>,
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
    pub(super) async fn admit(&self, stream: Box<dyn Stream>) -> Arc<Guest> {
        let state = State { turn: Turn::Client, moved: Instant::now(), answered: None };
        let guest = Arc::new(Guest {
            stream: Mutex::new(stream),
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
                let waiting = self.least(|_, state| waits(state).then_some(state.moved));
                waiting.inspect(|guest| guest.give_up.notify_one());
            }
            let place = Arc::clone(&self.places).acquire_owned();
            if let Ok(Ok(place)) = timeout(PLACE_WAIT_MAX, place).await {
                return place;
            }
            has_waited = true;
        }
    }

    /// Gives up a client that has gone while its request was waiting, or else the one that has moved
    /// no byte for longest, among those that don't wait for an answer. Returns whether there is one.
    fn make_room(&self) -> bool {
        let gone =
            self.least(|guest, state| (waits(state) && guest.is_gone()).then_some(state.moved));
        if let Some(gone) = gone {
            gone.give_up.notify_one();
            return true;
        }
        let is_awaited = |turn| matches!(turn, Turn::Client | Turn::Body);
        let Some(still) = self.least(|_, state| is_awaited(state.turn).then_some(state.moved))
        else {
            return false;
        };
        match still.state().turn {
            // Its request is answered, and nothing has been done for it.
            Turn::Body => still.give_up.notify_one(),
            _ => still.leave.notify_one(),
        }
        true
    }

    /// A work place for a request, or `None` if there was none for too long, or if its client has
    /// gone: nobody would read the answer.
    pub(super) async fn work(&self, guest: &Arc<Guest>) -> Option<Work> {
        if guest.is_gone() {
            return None;
        }
        guest.turns(Turn::Queue);
        let place = async {
            let mut place = pin!(Arc::clone(&self.work).acquire_owned());
            if let Ok(place) = timeout(WORK_WAIT_MAX, place.as_mut()).await {
                return place.ok();
            }
            self.displace_reader();
            timeout(DISPLACING_TIME_MAX, place).await.ok()?.ok()
        };
        let place = tokio::select! {
            biased;
            () = guest.give_up.notified() => None,
            place = place => place,
        };
        let place = place.filter(|_| !guest.is_gone());
        guest.turns(if place.is_some() { Turn::Server } else { Turn::Client });
        place.map(|place| Work { guest: Arc::clone(guest), _place: place })
    }

    /// Gives up the client that has been reading its answer for longest. Another call gives up
    /// another one.
    fn displace_reader(&self) {
        let reads = |_: &Guest, state: State| state.answered.filter(|_| state.turn == Turn::Client);
        if let Some(guest) = self.least(reads) {
            lock(&guest.state).answered = None;
            guest.leave.notify_one();
        }
    }

    /// The guest with the least time.
    fn least(&self, time: impl Fn(&Guest, State) -> Option<Instant>) -> Option<Arc<Guest>> {
        let here = lock(&self.here);
        let guests = here.iter().filter_map(Weak::upgrade);
        let timed = guests.filter_map(|guest| Some((time(&guest, guest.state())?, guest)));
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

    /// Whether nobody is left to read an answer: the client has reset the connection, or closed its
    /// Unix socket. A TCP client that has closed looks like one that has only ended its requests.
    /// Asks the system, since the reactor may not have looked since.
    fn is_gone(&self) -> bool {
        let stream = lock(&self.stream);
        let mut polled = [PollFd::new(&*stream, PollFlags::empty())];
        poll(&mut polled, Some(&Timespec::default())).is_ok()
            && polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP)
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
        answer.map(|bytes| Bytes::from_owner(WorkBytes { bytes, _work: self }))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        lock(&self.guest.state).answered = None;
    }
}

/// The bytes of an answer. They keep the place of its work until they have been sent.
struct WorkBytes {
    bytes: Bytes,
    _work: Work,
}

impl AsRef<[u8]> for WorkBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A guest's stream, which notes each byte that moves.
pub(super) struct Noted(pub(super) Arc<Guest>);

impl Noted {
    fn note(&self, has_moved: bool) {
        if has_moved {
            lock(&self.0.state).moved = Instant::now();
        }
    }

    fn stream(&self) -> MutexGuard<'_, Box<dyn Stream>> {
        lock(&self.0.stream)
    }
}

impl AsyncRead for Noted {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut *self.stream()).poll_read(cx, buffer);
        self.note(buffer.filled().len() > before);
        read
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream()).poll_write(cx, bytes);
        self.note(matches!(written, Poll::Ready(Ok(1..))));
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut *self.stream()).poll_write_vectored(cx, bytes);
        self.note(matches!(written, Poll::Ready(Ok(1..))));
        written
    }

    /// An answer that isn't copied holds its place as long as it takes up memory.
    fn is_write_vectored(&self) -> bool {
        self.stream().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream()).poll_shutdown(cx)
    }
}

fn waits(state: State) -> bool {
    state.turn == Turn::Queue
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream, UnixStream},
    };

    use super::*;

    /// A client over TCP, whose request has come.
    async fn client(guests: &Guests) -> (TcpStream, Arc<Guest>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.write_all(b"?").await.unwrap();
        let stream = Box::new(listener.accept().await.unwrap().0);
        (client, guests.admit(stream).await)
    }

    fn reset(client: TcpStream) {
        SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    }

    async fn see_off(guest: &Guest) {
        while !guest.is_gone() {
            sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn nothing_is_done_for_a_client_that_has_gone() {
        let guests = Guests::new();
        let (gone, of_gone) = client(&guests).await;
        reset(gone);
        see_off(&of_gone).await;
        assert_eq!(Noted(Arc::clone(&of_gone)).read_u8().await.unwrap(), b'?');
        assert!(guests.work(&of_gone).await.is_none());

        let (closed, stream) = UnixStream::pair().unwrap();
        let of_closed = guests.admit(Box::new(stream)).await;
        drop(closed);
        see_off(&of_closed).await;
        assert!(guests.work(&of_closed).await.is_none());

        let (mut ended, of_ended) = client(&guests).await;
        ended.shutdown().await.unwrap();
        let (mut ended_too, stream) = UnixStream::pair().unwrap();
        let of_ended_too = guests.admit(Box::new(stream)).await;
        ended_too.shutdown().await.unwrap();
        let (_stays, of_one_that_stays) = client(&guests).await;
        for guest in [of_ended, of_ended_too, of_one_that_stays] {
            assert!(guests.work(&guest).await.is_some(), "its client reads the answer");
        }
    }

    #[tokio::test]
    async fn a_client_that_goes_while_its_request_waits_makes_room() {
        let guests = Guests::new();
        let mut working = Vec::new();
        for _ in 0..WORK_MAX {
            let (client, guest) = client(&guests).await;
            working.push((client, guests.work(&guest).await));
        }
        let mut waiting = Vec::new();
        for _ in WORK_MAX..GUESTS_MAX {
            let (client, guest) = client(&guests).await;
            let guests = guests.clone();
            waiting
                .push((client, tokio::spawn(async move { guests.work(&guest).await.is_some() })));
        }
        tokio::task::yield_now().await;
        // One that came first isn't given up for it.
        let (gone, of_gone) = waiting.remove(3);
        reset(gone);
        drop(client(&guests).await);
        assert!(!of_gone.await.unwrap());
        drop(working);
        for (_client, work) in waiting {
            assert!(work.await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_does_not_get_its_turn_is_refused_after_8_s() {
        let guests = Guests::new();
        let mut working = Vec::new();
        for _ in 0..WORK_MAX {
            let (client, guest) = client(&guests).await;
            working.push((client, guests.work(&guest).await));
        }
        let (_client, guest) = client(&guests).await;
        let began = tokio::time::Instant::now();
        assert!(guests.work(&guest).await.is_none());
        assert_eq!(began.elapsed(), WORK_WAIT_MAX + DISPLACING_TIME_MAX);
        assert!(began.elapsed() <= Duration::from_secs(8));
    }

    #[tokio::test(start_paused = true)]
    async fn each_request_that_waits_displaces_a_reader_of_its_own() {
        let guests = Guests::new();
        for _ in 0..WORK_MAX {
            let (client, guest) = client(&guests).await;
            let work = guests.work(&guest).await.unwrap();
            let answer = work.hold(Response::new(Bytes::from("answer")));
            tokio::spawn(async move {
                guest.leave.notified().await;
                drop((client, answer));
            });
        }
        let [(_one, of_one), (_other, of_other)] = [client(&guests).await, client(&guests).await];
        let (one, other) = tokio::join!(guests.work(&of_one), guests.work(&of_other));
        assert!(one.is_some() && other.is_some());
    }
}
