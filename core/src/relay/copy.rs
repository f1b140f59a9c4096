use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_trait::async_trait;
use futures::io::{AsyncRead, AsyncWrite};

use crate::{Conn, Direction, Progress, Relay, RelayError, Side, sync::Mutex};

/// The relay that serves any pair of connections: it reads into a buffer and writes from it.
///
/// Buffers are shared among the sessions: one holds a buffer only while it moves bytes, or until
/// a slow reader has taken what is in it. So an idle session holds none, and any session at most
/// two.
pub struct CopyRelay {
    buffer_size: usize,
    /// Buffers that nobody holds, at most [`SPARE_MAX`].
    spare: Mutex<Vec<Box<[u8]>>>,
}

/// Buffers kept for the next session that needs one.
const SPARE_MAX: usize = 64;

/// Buffers that one direction fills in a row before others get their turn.
const TURN: usize = 16;

impl CopyRelay {
    /// A relay with buffers of this many bytes, 1 to 16 MiB; other values are taken to the nearest.
    pub fn new(buffer_size: usize) -> Self {
        Self { buffer_size: buffer_size.clamp(1, 16 << 20), spare: Mutex::new(Vec::new()) }
    }

    fn take_buffer(&self) -> Box<[u8]> {
        let spare = self.spare.lock().unwrap_or_else(|poison| poison.into_inner()).pop();
        spare.unwrap_or_else(|| vec![0; self.buffer_size].into_boxed_slice())
    }

    fn give_back(&self, buffer: Box<[u8]>) {
        let mut spare = self.spare.lock().unwrap_or_else(|poison| poison.into_inner());
        if spare.len() < SPARE_MAX {
            spare.push(buffer);
        }
    }
}

impl Default for CopyRelay {
    /// Buffers of 64 KiB.
    fn default() -> Self {
        Self::new(64 << 10)
    }
}

#[async_trait]
impl<C: Conn, B: Conn> Relay<C, B> for CopyRelay {
    async fn relay(
        &self,
        client: &mut C,
        backend: &mut B,
        progress: &Progress,
    ) -> Result<(), RelayError> {
        let mut to_backend = Copy::new(self, Direction::ToBackend, progress);
        let mut to_client = Copy::new(self, Direction::ToClient, progress);
        let moved = poll_fn(|cx| {
            let up = to_backend.poll(client, backend, cx)?;
            let down = to_client.poll(backend, client, cx)?;
            match (up, down) {
                (Poll::Ready(()), Poll::Ready(())) => Poll::Ready(Ok(())),
                _ => Poll::Pending,
            }
        });
        let moved: Result<(), RelayError> = moved.await;
        let Err(failure) = moved else { return Ok(()) };
        progress.fail(failure.side);
        poll_fn(|cx| match failure.side {
            Side::Client => to_backend.poll_deliver(client, backend, cx),
            Side::Backend => to_client.poll_deliver(backend, client, cx),
        })
        .await;
        Err(failure)
    }
}

/// One direction.
struct Copy<'a> {
    relay: &'a CopyRelay,
    progress: &'a Progress,
    direction: Direction,
    /// What was read and isn't written yet; a buffer is held only while there is something.
    unwritten: Option<Unwritten>,
    /// Something was written since the last flush.
    is_dirty: bool,
    state: State,
}

struct Unwritten {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

#[derive(PartialEq)]
enum State {
    Open,
    /// The reader has ended, the writer isn't closed yet.
    Closing,
    Ended,
}

impl<'a> Copy<'a> {
    fn new(relay: &'a CopyRelay, direction: Direction, progress: &'a Progress) -> Self {
        let state = State::Open;
        Self { relay, progress, direction, unwritten: None, is_dirty: false, state }
    }

    /// Ready when the reader's end has been passed on.
    fn poll<R: Conn, W: Conn>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        for _ in 0..TURN {
            match self.state {
                State::Open => {
                    ready!(self.poll_write(writer, cx))?;
                    ready!(self.poll_read(reader, writer, cx))?;
                }
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_close(cx)).map_err(|e| self.writer(e))?;
                    self.progress.end(self.direction);
                    self.state = State::Ended;
                }
                State::Ended => {
                    // Nothing is left to read that would show a reset.
                    if let Poll::Ready(error) = reader.poll_cut(cx) {
                        return Poll::Ready(Err(self.reader(error)));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_read<R: Conn, W: Conn>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        let mut buffer = self.relay.take_buffer();
        match Pin::new(reader).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(0)) => self.state = State::Closing,
            Poll::Ready(Ok(end)) => {
                self.unwritten = Some(Unwritten { buffer, start: 0, end });
                return Poll::Ready(Ok(()));
            }
            Poll::Ready(Err(error)) => {
                self.relay.give_back(buffer);
                return Poll::Ready(Err(self.reader(error)));
            }
            Poll::Pending => {
                self.relay.give_back(buffer);
                if self.is_dirty {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(|e| self.writer(e))?;
                    self.is_dirty = false;
                }
                return Poll::Pending;
            }
        }
        self.relay.give_back(buffer);
        Poll::Ready(Ok(()))
    }

    fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), RelayError>> {
        while let Some(Unwritten { buffer, start, end }) = &mut self.unwritten {
            match ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[*start..*end])) {
                Ok(0) => return Poll::Ready(Err(self.writer(io::ErrorKind::WriteZero.into()))),
                Ok(written) => {
                    *start += written;
                    let is_done = *start == *end;
                    self.progress.add(self.direction, written);
                    self.is_dirty = true;
                    if is_done && let Some(done) = self.unwritten.take() {
                        self.relay.give_back(done.buffer);
                    }
                }
                Err(error) => return Poll::Ready(Err(self.writer(error))),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Delivers what the reader's side sent before it failed. Ready when that is written, or the
    /// writer has failed too. The writer isn't closed, even if the reader now seems to have ended:
    /// a system reports a reset once, and an end of stream from then on.
    fn poll_deliver<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &mut self,
        reader: &mut R,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        for _ in 0..TURN {
            if ready!(self.poll_write(writer, cx)).is_err() {
                return Poll::Ready(());
            }
            if self.state != State::Open || !self.read_rest(reader, cx) {
                return Pin::new(writer).poll_flush(cx).map(drop);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads from a side that has failed, where nothing more arrives. Returns whether there was
    /// something.
    fn read_rest<R: AsyncRead + Unpin>(&mut self, reader: &mut R, cx: &mut Context<'_>) -> bool {
        let mut buffer = self.relay.take_buffer();
        match Pin::new(reader).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(end @ 1..)) => {
                self.unwritten = Some(Unwritten { buffer, start: 0, end });
                true
            }
            _ => {
                self.relay.give_back(buffer);
                false
            }
        }
    }

    fn reader(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.from(), error }
    }

    fn writer(&self, error: io::Error) -> RelayError {
        RelayError { side: self.direction.reverse().from(), error }
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        if let Some(Unwritten { buffer, .. }) = self.unwritten.take() {
            self.relay.give_back(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        task::Wake,
    };

    use futures::{FutureExt, task::noop_waker_ref};

    use super::*;

    fn spare(relay: &CopyRelay) -> usize {
        relay.spare.lock().unwrap().len()
    }

    /// Something to read, and no end; what is written stays here until it is flushed.
    #[derive(Default)]
    struct Buffering {
        is_full: bool,
        unread: Vec<u8>,
        unflushed: Vec<u8>,
        flushed: Vec<u8>,
    }

    impl AsyncRead for Buffering {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let length = self.unread.len().min(buffer.len());
            if length == 0 {
                return Poll::Pending;
            }
            for (to, from) in buffer.iter_mut().zip(self.unread.drain(..length)) {
                *to = from;
            }
            Poll::Ready(Ok(length))
        }
    }

    impl AsyncWrite for Buffering {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.is_full {
                return Poll::Ready(Ok(0));
            }
            self.unflushed.extend(buffer);
            Poll::Ready(Ok(buffer.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let unflushed = std::mem::take(&mut self.unflushed);
            self.flushed.extend(unflushed);
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    impl Conn for Buffering {
        fn peer(&self) -> String {
            String::new()
        }

        fn abort(&mut self) {}
    }

    #[test]
    fn what_a_connection_buffers_is_flushed_when_nothing_more_comes() {
        let (relay, progress) = (CopyRelay::new(3), Progress::default());
        let mut client = Buffering { unread: b"question".to_vec(), ..Buffering::default() };
        let mut backend = Buffering { unread: b"greeting".to_vec(), ..Buffering::default() };
        let relayed = relay
            .relay(&mut client, &mut backend, &progress)
            .poll_unpin(&mut Context::from_waker(noop_waker_ref()));
        assert!(relayed.is_pending());
        assert_eq!((&*backend.flushed, &*client.flushed), (&b"question"[..], &b"greeting"[..]));
        assert_eq!(spare(&relay), 1, "both directions have moved their bytes with one buffer");
    }

    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_session_with_much_to_move_lets_others_have_their_turn() {
        let (relay, progress) = (CopyRelay::new(1), Progress::default());
        let mut client = Buffering { unread: vec![0; 10 * TURN], ..Buffering::default() };
        let mut backend = Buffering::default();
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        let relayed = relay
            .relay(&mut client, &mut backend, &progress)
            .poll_unpin(&mut Context::from_waker(&waker));
        assert!(relayed.is_pending());
        assert_eq!(client.unread.len(), 9 * TURN);
        assert!(woken.0.load(Ordering::Relaxed), "it would never go on");
    }

    #[test]
    fn a_connection_that_takes_no_byte_has_failed() {
        let (relay, progress) = (CopyRelay::new(3), Progress::default());
        let mut client = Buffering { unread: b"question".to_vec(), ..Buffering::default() };
        let mut backend = Buffering { is_full: true, ..Buffering::default() };
        let relayed = relay.relay(&mut client, &mut backend, &progress).now_or_never();
        let error = relayed.expect("it would wait for ever").expect_err("nothing was taken");
        assert_eq!((error.side, error.error.kind()), (Side::Backend, io::ErrorKind::WriteZero));
    }

    #[test]
    fn what_a_side_sent_before_it_failed_is_delivered_and_flushed_to_the_last_byte() {
        let (relay, progress) = (CopyRelay::new(1), Progress::default());
        let sent = vec![0; 10 * TURN];
        let mut client = Buffering { is_full: true, unread: sent, ..Buffering::default() };
        let mut backend = Buffering { unread: vec![0], ..Buffering::default() };
        let mut relaying = relay.relay(&mut client, &mut backend, &progress);
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut turns = 0;
        let relayed = loop {
            match relaying.poll_unpin(&mut cx) {
                Poll::Ready(relayed) => break relayed,
                // It was reported at once, and others get their turns meanwhile.
                Poll::Pending => assert_eq!(progress.failed(), Some(Side::Client)),
            }
            turns += 1;
            assert!(turns < 100, "it would never end");
        };
        drop(relaying);
        assert_eq!(relayed.unwrap_err().side, Side::Client);
        assert!(turns > 5, "all was moved in {turns} turns");
        assert_eq!((backend.flushed.len(), client.unread.len()), (10 * TURN, 0));
        assert_eq!(progress.bytes(Direction::ToBackend), 10 * TURN as u64);
    }

    #[test]
    fn a_buffer_holds_a_byte_or_more_and_no_more_than_16_mib() {
        let size = |asked| CopyRelay::new(asked).take_buffer().len();
        assert_eq!([0, 1, 1000].map(size), [1, 1, 1000], "with 0, each session would end at once");
        assert_eq!(size(usize::MAX), 16 << 20);
    }

    #[test]
    fn buffers_are_kept_for_the_next_sessions_but_not_all_of_a_rush() {
        let relay = CopyRelay::new(10);
        let rush: Vec<_> = (0..SPARE_MAX + 1).map(|_| relay.take_buffer()).collect();
        for (given, buffer) in rush.into_iter().enumerate() {
            assert_eq!(spare(&relay), given);
            relay.give_back(buffer);
        }
        assert_eq!(spare(&relay), SPARE_MAX);
    }

    #[test]
    fn a_session_that_is_cut_gives_back_the_buffer_that_it_held() {
        let (relay, progress) = (CopyRelay::new(10), Progress::default());
        let mut copy = Copy::new(&relay, Direction::ToBackend, &progress);
        copy.unwritten = Some(Unwritten { buffer: relay.take_buffer(), start: 0, end: 10 });
        drop(copy);
        assert_eq!(spare(&relay), 1);
    }
}
