//! Connections that are given up, without a balancer.
//!
//! What the driver builds on this: a stream that was cut never looks like one that has ended, as
//! far as the transport can tell the two apart.

use std::{future::poll_fn, pin::Pin, task::Poll};

use futures::{AsyncWrite, AsyncWriteExt, future::join};
use tinylb_core::Conn;

use super::{
    Adapter, Capabilities, Sight,
    drive::{
        ANSWER, QUESTION, abort, expect_over, fill, is_cut, pair, ping, receive, receive_all,
        receive_until_over, send, send_all,
    },
};

/// The peer of an aborted connection sees what the adapter says it sees, and TCP's sees a cut:
/// whichever end aborts, and also if its write side had been closed or the peer's had.
pub async fn an_aborted_stream_is_not_taken_for_a_finished_one<A: Adapter>(a: &A) {
    async fn give_up(mut gives_up: impl Conn, mut sees: impl Conn, sight: Sight) {
        ping(&mut gives_up, &mut sees).await;
        send(&mut gives_up, QUESTION, 0..5000).await;
        receive(&mut sees, QUESTION, 0..5000).await;
        abort(gives_up);
        expect_over(&mut sees, sight).await;
    }
    async fn give_up_half_closed(mut gives_up: impl Conn, mut sees: impl Conn, sight: Sight) {
        sees.close().await.expect("a close");
        expect_over(&mut gives_up, Sight::End).await;
        abort(gives_up);
        expect_over(&mut sees, sight).await;
    }
    let sight = a.capabilities().abort;
    let (client, backend) = pair(a).await;
    give_up(client, backend, sight).await;
    let (client, backend) = pair(a).await;
    give_up(backend, client, sight).await;
    let (client, backend) = pair(a).await;
    give_up_half_closed(client, backend, sight).await;
    let (client, backend) = pair(a).await;
    give_up_half_closed(backend, client, sight).await;
}

/// A connection that is dropped without being finished looks aborted: half a stream doesn't pass
/// for a whole one, whichever end drops it, and even if the peer's write side was closed.
pub async fn a_connection_dropped_unfinished_is_not_taken_for_a_finished_one<A: Adapter>(a: &A) {
    async fn let_go(mut drops: impl Conn, mut sees: impl Conn, sight: Sight) {
        ping(&mut drops, &mut sees).await;
        send(&mut drops, QUESTION, 0..5000).await;
        receive(&mut sees, QUESTION, 0..5000).await;
        drop(drops);
        expect_over(&mut sees, sight).await;
    }
    async fn let_go_half_closed(mut drops: impl Conn, mut sees: impl Conn, sight: Sight) {
        sees.close().await.expect("a close");
        expect_over(&mut drops, Sight::End).await;
        drop(drops);
        expect_over(&mut sees, sight).await;
    }
    let sight = a.capabilities().abort;
    let (client, backend) = pair(a).await;
    let_go(client, backend, sight).await;
    let (client, backend) = pair(a).await;
    let_go(backend, client, sight).await;
    let (client, backend) = pair(a).await;
    let_go_half_closed(client, backend, sight).await;
    let (client, backend) = pair(a).await;
    let_go_half_closed(backend, client, sight).await;
}

/// An abort may lose bytes that are under way, and may not reorder or forge them: the peer reads a
/// prefix. The end that aborts had bytes left to read itself.
pub async fn an_abort_with_bytes_unread_leaves_a_prefix_and_a_cut<A: Adapter>(a: &A) {
    async fn give_up(mut gives_up: impl Conn, mut sees: impl Conn, sight: Sight) {
        send(&mut sees, ANSWER, 0..4000).await;
        receive(&mut gives_up, ANSWER, 0..1000).await;
        send(&mut gives_up, QUESTION, 0..4000).await;
        receive(&mut sees, QUESTION, 0..1000).await;
        abort(gives_up);
        let (read, seen) = receive_until_over(&mut sees, QUESTION, 1000).await;
        assert!(read <= 4000, "{read} bytes came of 4000");
        assert_eq!(seen, sight, "how the stream was over");
    }
    let sight = a.capabilities().abort_unread;
    let (client, backend) = pair(a).await;
    give_up(client, backend, sight).await;
    let (client, backend) = pair(a).await;
    give_up(backend, client, sight).await;
}

/// Once a write has failed, or a cut was noticed, what the peer sent before can still be read at
/// once: an answer that came with the cut isn't lost.
pub async fn what_came_before_a_cut_can_be_read_after_a_write_has_failed<A: Adapter>(a: &A) {
    async fn read(mut gives_up: impl Conn, mut writes: impl Conn) {
        send(&mut gives_up, ANSWER, 0..3000).await;
        abort(gives_up);
        while writes.write(&[0; 100]).await.is_ok() {}
        let mut read = 0;
        while read < 3000 {
            let mut buffer = [0; 4000];
            let now =
                poll_fn(|cx| Poll::Ready(Pin::new(&mut writes).poll_read(cx, &mut buffer))).await;
            let Poll::Ready(Ok(length @ 1..)) = now else {
                panic!("after {read} bytes of 3000, a read gives {now:?}");
            };
            ANSWER.check(read, &buffer[..length]);
            read += length as u64;
        }
    }
    let (client, backend) = pair(a).await;
    read(client, backend).await;
    let (client, backend) = pair(a).await;
    read(backend, client).await;
}

/// A writer that waits for room fails when the reader aborts: it doesn't wait for ever.
pub async fn an_abort_wakes_a_stuck_writer<A: Adapter>(a: &A) {
    let (mut writer, reader) = pair(a).await;
    let (mut client, mut backend) = pair(a).await;
    let bound = a.capabilities().in_flight_max;
    fill(&mut writer, QUESTION, bound, (&mut client, &mut backend)).await;
    let mut reader = Some(reader);
    let mut taken = 0;
    poll_fn(|cx| {
        // A system may still find a little room now and then.
        while let Poll::Ready(write) = Pin::new(&mut writer).poll_write(cx, &[0]) {
            if write.is_err() {
                return Poll::Ready(());
            }
            taken += 1;
            assert!(taken < 100_000, "bytes are taken that nobody can read");
        }
        // Aborted only once the writer waits, so that it has to be woken.
        reader.take().into_iter().for_each(abort);
        Poll::Pending
    })
    .await;
}

/// `poll_cut` reports a peer's abort, though bytes wait to be read, and also after the peer's end
/// of stream, when no read reports it any more; and it wakes the task that waits for it. An adapter that
/// doesn't notice says nothing at all, also when a read has failed.
pub async fn a_cut_is_noticed_without_reading<A: Adapter>(a: &A) {
    async fn unread(mut gives_up: impl Conn, mut sees: impl Conn, can: Capabilities) {
        send(&mut gives_up, QUESTION, 0..100).await;
        receive(&mut sees, QUESTION, 0..50).await;
        notice(gives_up, sees, can).await;
    }
    async fn ended(mut gives_up: impl Conn, mut sees: impl Conn, can: Capabilities) {
        send_all(&mut gives_up, QUESTION, 50).await;
        receive_all(&mut sees, QUESTION, 50).await;
        notice(gives_up, sees, can).await;
    }
    async fn notice(gives_up: impl Conn, mut sees: impl Conn, can: Capabilities) {
        assert!(!is_cut(&mut sees).await, "a live connection says that it was cut");
        if can.notices_cut && can.abort == Sight::Cut {
            let mut gives_up = Some(gives_up);
            poll_fn(|cx| {
                let cut = sees.poll_cut(cx);
                // Aborted only once a task waits, which has to be woken.
                gives_up.take().into_iter().for_each(abort);
                cut
            })
            .await;
        } else {
            abort(gives_up);
            assert!(!is_cut(&mut sees).await, "it notices more than it declares");
            receive_until_over(&mut sees, QUESTION, 50).await;
            assert!(!is_cut(&mut sees).await, "it notices more than it declares");
        }
    }
    let can = a.capabilities();
    let (client, backend) = pair(a).await;
    unread(client, backend, can).await;
    let (client, backend) = pair(a).await;
    unread(backend, client, can).await;
    let (client, backend) = pair(a).await;
    ended(client, backend, can).await;
    let (client, backend) = pair(a).await;
    ended(backend, client, can).await;
}

/// One task may wait for bytes, for room and for a cut at the same time: each still wakes it.
pub async fn who_watches_for_a_cut_still_gets_bytes_and_room<A: Adapter>(a: &A) {
    /// Polls all three, a read of a byte, a write of one and the cut, until the one that is meant
    /// is ready. A system may find a little room for a stuck writer now and then.
    async fn wait(watches: &mut impl Conn, sent: &mut u64, is_over: fn(bool, bool) -> bool) {
        poll_fn(|cx| {
            let read = Pin::new(&mut *watches).poll_read(cx, &mut [0]);
            let has_read = matches!(read, Poll::Ready(Ok(1)));
            assert_eq!(has_read, read.is_ready(), "a read that fails or ends");
            let next = QUESTION.take(*sent..*sent + 1);
            let write = Pin::new(&mut *watches).poll_write(cx, &next);
            let has_written = write.is_ready();
            if let Poll::Ready(write) = write {
                *sent += write.expect("a write") as u64;
                cx.waker().wake_by_ref();
            }
            assert!(watches.poll_cut(cx).is_pending(), "a live connection says that it was cut");
            if is_over(has_read, has_written) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await
    }
    let (mut watches, mut other) = pair(a).await;
    let (mut client, mut backend) = pair(a).await;
    let bound = a.capabilities().in_flight_max;
    let mut sent = fill(&mut watches, QUESTION, bound, (&mut client, &mut backend)).await;
    let stuck = sent;

    let read = wait(&mut watches, &mut sent, |has_read, _| has_read);
    join(read, send(&mut other, ANSWER, 0..1)).await;
    let written = wait(&mut watches, &mut sent, |_, has_written| has_written);
    join(written, receive(&mut other, QUESTION, 0..stuck)).await;
    receive(&mut other, QUESTION, stuck..sent).await;
}

/// `poll_cut` doesn't report an end of stream: neither before it is read nor after, while bytes
/// go the other way.
pub async fn an_end_of_stream_is_not_taken_for_a_cut<A: Adapter>(a: &A) {
    async fn end(mut ends: impl Conn, mut sees: impl Conn) {
        send_all(&mut ends, QUESTION, 100).await;
        let says_cut = "an end of stream says that it is a cut";
        assert!(!is_cut(&mut sees).await, "{says_cut}");
        send(&mut sees, ANSWER, 0..1000).await;
        receive(&mut ends, ANSWER, 0..1000).await;
        assert!(!is_cut(&mut sees).await, "{says_cut}");
        receive(&mut sees, QUESTION, 0..100).await;
        expect_over(&mut sees, Sight::End).await;
        let watch = poll_fn(|cx| match sees.poll_cut(cx) {
            Poll::Ready(error) => panic!("{says_cut}: {error}"),
            Poll::Pending => Poll::Ready(()),
        });
        watch.await;
        join(send(&mut sees, ANSWER, 1000..9000), receive(&mut ends, ANSWER, 1000..9000)).await;
        assert!(!is_cut(&mut sees).await, "{says_cut}");
    }
    let (client, backend) = pair(a).await;
    end(client, backend).await;
    let (client, backend) = pair(a).await;
    end(backend, client).await;
}
