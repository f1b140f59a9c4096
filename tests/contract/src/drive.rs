//! What the cases have in common: connections, bytes that can be told apart, and ways to wait for
//! something that doesn't happen without measuring time.

use std::{future::poll_fn, ops::Range, pin::Pin, task::Poll, time::Duration};

use futures::{
    AsyncReadExt, AsyncWriteExt,
    future::join,
    io::{AsyncRead, AsyncWrite},
};
use tinylb_core::{Conn, Dialer, Listener};

use super::{Accepted, Adapter, Dialled, Sight, TargetOf, waiting::waiting};

/// Far longer than any dial of a test takes; the cases themselves never wait for it.
pub(super) const WITHIN: Duration = Duration::from_secs(60);

/// The two directions' bytes.
pub(super) const QUESTION: Payload = Payload(1);
pub(super) const ANSWER: Payload = Payload(2);

/// How often a writer is asked again, while others make progress, before it counts as stuck.
const PATIENCE: usize = 200;

/// A connection: the end that dialled, and the end that was accepted.
pub(super) async fn pair<A: Adapter>(a: &A) -> (Dialled<A>, Accepted<A>) {
    let (mut listener, target) = a.listen().await.expect("a listener");
    let accept = waiting(|| "an accept".into(), listener.accept());
    let (dialled, accepted) = join(dial::<A>(&a.dialer(), &target), accept).await;
    (dialled, accepted.expect("an accepted connection"))
}

/// Dials what must succeed.
pub(super) async fn dial<A: Adapter>(dialer: &A::Dialer, target: &TargetOf<A>) -> Dialled<A> {
    let dial = waiting(|| format!("a dial of {target}"), dialer.dial(target, WITHIN));
    dial.await.expect("a dialled connection")
}

/// Dials and gives up after this many polls; a dial that had succeeded by then is aborted.
pub(super) async fn give_up_dial<A: Adapter>(
    dialer: &A::Dialer,
    target: &TargetOf<A>,
    polls: usize,
) {
    let mut dial = dialer.dial(target, WITHIN);
    for _ in 0..polls {
        if let Poll::Ready(conn) = futures::poll!(&mut dial) {
            return abort(conn.expect("a dialled connection"));
        }
    }
}

/// Gives a connection up as the driver does.
pub(super) fn abort(mut conn: impl Conn) {
    conn.abort();
}

/// Bytes that are a function of their seed and their offset, so that one that is lost, doubled,
/// swapped or gone the wrong way shows.
#[derive(Clone, Copy)]
pub(super) struct Payload(pub(super) u64);

impl Payload {
    fn byte(self, offset: u64) -> u8 {
        let word = (offset / 8).wrapping_add(self.0 << 48).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((word ^ (word >> 29)) >> (offset % 8 * 7)) as u8
    }

    pub(super) fn take(self, range: Range<u64>) -> Vec<u8> {
        range.map(|offset| self.byte(offset)).collect()
    }

    pub(super) fn check(self, offset: u64, bytes: &[u8]) {
        for (place, byte) in (offset..).zip(bytes) {
            assert_eq!(*byte, self.byte(place), "the byte at offset {place} is wrong");
        }
    }
}

/// Sizes of reads and writes, from one byte to more than a buffer: seeded, so that each run is the
/// same.
pub(super) struct Sizes(pub(super) u64);

impl Sizes {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let drawn = self.0 >> 33;
        1 + drawn / 4 % [7, 1_000, 17_000, 70_000][(drawn % 4) as usize]
    }
}

/// Writes this part of a payload, in pieces of odd sizes.
pub(super) async fn send(conn: &mut (impl AsyncWrite + Unpin), payload: Payload, part: Range<u64>) {
    let mut sizes = Sizes(payload.0);
    let mut at = part.start;
    while at < part.end {
        let to = part.end.min(at + sizes.next());
        let piece = payload.take(at..to);
        let what = || format!("room for the bytes {at}..{to} of {}", part.end);
        waiting(what, conn.write_all(&piece)).await.expect("a write");
        at = to;
    }
    waiting(|| "a flush".into(), conn.flush()).await.expect("a flush");
}

/// Writes a payload from its beginning and ends the stream.
pub(super) async fn send_all(conn: &mut (impl AsyncWrite + Unpin), payload: Payload, length: u64) {
    send(conn, payload, 0..length).await;
    waiting(|| "a close".into(), conn.close()).await.expect("a close");
}

/// Reads this part of a payload, in pieces of odd sizes, and not a byte more.
pub(super) async fn receive(
    conn: &mut (impl AsyncRead + Unpin),
    payload: Payload,
    part: Range<u64>,
) {
    let mut sizes = Sizes(payload.0 + 100);
    let mut at = part.start;
    while at < part.end {
        let mut buffer = vec![0; (part.end - at).min(sizes.next()) as usize];
        let what = || format!("the byte at offset {at} of {}", part.end);
        let read = waiting(what, conn.read(&mut buffer)).await.expect("a read");
        assert_ne!(read, 0, "the stream ended after {at} bytes of {}", part.end);
        payload.check(at, &buffer[..read]);
        at += read as u64;
    }
}

/// Reads a payload from its beginning, and then the end of the stream.
pub(super) async fn receive_all(
    conn: &mut (impl AsyncRead + Unpin),
    payload: Payload,
    length: u64,
) {
    receive(conn, payload, 0..length).await;
    expect_over(conn, Sight::End).await;
}

/// The stream is over now, in this way; an end of stream stays one.
pub(super) async fn expect_over(conn: &mut (impl AsyncRead + Unpin), sight: Sight) {
    for _ in 0..2 {
        let what = || format!("the stream to be over: {sight:?}");
        let seen = match waiting(what, conn.read(&mut [0])).await {
            Ok(0) => Sight::End,
            Ok(_) => panic!("a byte came where the stream was to be over"),
            Err(_) => Sight::Cut,
        };
        assert_eq!(seen, sight, "how the stream was over");
        // Systems report a cut once, and what a read says after that is left open.
        if sight == Sight::Cut {
            break;
        }
    }
}

/// Reads a payload from an offset until the stream is over: where that was, and how.
pub(super) async fn receive_until_over(
    conn: &mut (impl AsyncRead + Unpin),
    payload: Payload,
    from: u64,
) -> (u64, Sight) {
    let mut buffer = vec![0; 40_000];
    let mut at = from;
    loop {
        let what = || format!("the byte at offset {at}, or the stream to be over");
        match waiting(what, conn.read(&mut buffer)).await {
            Ok(0) => return (at, Sight::End),
            Ok(read) => {
                payload.check(at, &buffer[..read]);
                at += read as u64;
            }
            Err(_) => return (at, Sight::Cut),
        }
    }
}

/// A word to and fro: shows that a connection works, and lets everything else go on meanwhile.
pub(super) async fn ping(
    client: &mut (impl AsyncRead + AsyncWrite + Unpin),
    backend: &mut (impl AsyncRead + AsyncWrite + Unpin),
) {
    let (to, fro) = (Payload(3), Payload(4));
    send(client, to, 0..5).await;
    receive(backend, to, 0..5).await;
    send(backend, fro, 0..5).await;
    receive(client, fro, 0..5).await;
}

/// Writes a payload that nobody reads until the writer is stuck, and returns how much it took. It
/// is stuck if it still waits after the other connection has carried many words to and fro.
pub(super) async fn fill(
    writer: &mut (impl AsyncWrite + Unpin),
    payload: Payload,
    bound: u64,
    other: (&mut (impl AsyncRead + AsyncWrite + Unpin), &mut (impl AsyncRead + AsyncWrite + Unpin)),
) -> u64 {
    let (client, backend) = other;
    let (mut written, mut refused) = (0, 0);
    while refused < PATIENCE {
        let piece = payload.take(written..written + 50_000);
        let write = poll_fn(|cx| Poll::Ready(Pin::new(&mut *writer).poll_write(cx, &piece))).await;
        match write {
            Poll::Ready(taken) => {
                written += taken.expect("a write") as u64;
                refused = 0;
                assert!(written <= bound, "{written} bytes were taken that nobody reads");
            }
            Poll::Pending => {
                ping(client, backend).await;
                refused += 1;
            }
        }
    }
    written
}

/// Whether a connection says now that it was cut.
pub(super) async fn is_cut(conn: &mut impl Conn) -> bool {
    poll_fn(|cx| Poll::Ready(conn.poll_cut(cx).is_ready())).await
}
