//! Bytes and their end, on a connection without a balancer.

use futures::{AsyncReadExt, AsyncWriteExt, future::join, future::join4};
use tinylb_core::Conn;

use super::{
    Adapter, Sight,
    drive::{
        ANSWER, QUESTION, expect_over, fill, is_cut, pair, ping, receive, receive_all, send,
        send_all,
    },
};

/// Both directions carry a payload at the same time, written and read in pieces of odd sizes, and
/// then their ends.
pub async fn bytes_arrive_intact_both_ways_at_odd_sizes<A: Adapter>(a: &A) {
    let volume = a.capabilities().volume;
    let (client, backend) = pair(a).await;
    let (mut client_reads, mut client_writes) = client.split();
    let (mut backend_reads, mut backend_writes) = backend.split();
    join4(
        send_all(&mut client_writes, QUESTION, volume),
        receive_all(&mut backend_reads, QUESTION, volume),
        send_all(&mut backend_writes, ANSWER, volume),
        receive_all(&mut client_reads, ANSWER, volume),
    )
    .await;
}

/// `poll_close` ends one direction, and the other goes on: a long answer arrives whole. So for
/// either end.
pub async fn an_answer_after_the_end_of_the_question_arrives_whole<A: Adapter>(a: &A) {
    async fn ask(mut asks: impl Conn, mut answers: impl Conn, volume: u64) {
        send_all(&mut asks, QUESTION, 1000).await;
        receive_all(&mut answers, QUESTION, 1000).await;
        let answer = send_all(&mut answers, ANSWER, volume);
        join(answer, receive_all(&mut asks, ANSWER, volume)).await;
    }
    let volume = a.capabilities().volume;
    let (client, backend) = pair(a).await;
    ask(client, backend, volume).await;
    let (client, backend) = pair(a).await;
    ask(backend, client, volume).await;
}

/// An end of stream doesn't overtake bytes, however many are under way, and no byte follows it.
pub async fn an_end_of_stream_comes_after_every_byte_and_nothing_after_it<A: Adapter>(a: &A) {
    let volume = a.capabilities().volume;
    for length in [0, 1, 4_095, 65_537, volume] {
        let (mut client, mut backend) = pair(a).await;
        join(send_all(&mut client, QUESTION, length), receive_all(&mut backend, QUESTION, length))
            .await;
        join(send_all(&mut backend, ANSWER, length), receive_all(&mut client, ANSWER, length))
            .await;
    }
}

/// A connection that is finished and dropped, after it has read the other's end and sent its own,
/// loses nothing that it sent: the other reads it all, and an end of stream.
pub async fn a_connection_finished_after_its_ends_is_not_cut<A: Adapter>(a: &A) {
    async fn finish(mut leaves: impl Conn, mut stays: impl Conn) {
        send_all(&mut stays, QUESTION, 1000).await;
        receive_all(&mut leaves, QUESTION, 1000).await;
        send_all(&mut leaves, ANSWER, 3000).await;
        leaves.finish();
        drop(leaves);
        receive(&mut stays, ANSWER, 0..2000).await;
        assert!(!is_cut(&mut stays).await, "a finished connection says that it was cut");
        receive(&mut stays, ANSWER, 2000..3000).await;
        expect_over(&mut stays, Sight::End).await;
        assert!(!is_cut(&mut stays).await, "a finished connection says that it was cut");
    }
    let (client, backend) = pair(a).await;
    finish(client, backend).await;
    let (client, backend) = pair(a).await;
    finish(backend, client).await;
}

/// The same for a connection that has sent more than the other takes: what waits to be sent isn't
/// lost, whether the other reads late, and whichever end comes first.
pub async fn a_connection_finished_with_much_to_send_loses_nothing<A: Adapter>(a: &A) {
    async fn finish<A: Adapter>(
        a: &A,
        mut leaves: impl Conn,
        mut stays: impl Conn,
        is_first_to_end: bool,
    ) {
        let (mut client, mut backend) = pair(a).await;
        let bound = a.capabilities().in_flight_max;
        if !is_first_to_end {
            send_all(&mut stays, QUESTION, 1000).await;
            receive_all(&mut leaves, QUESTION, 1000).await;
        }
        let other = (&mut client, &mut backend);
        let written = fill(&mut leaves, ANSWER, bound, other).await;
        // An adapter may need room for the end itself.
        let room = written / 2;
        let end = async { leaves.close().await.expect("a close") };
        join(end, receive(&mut stays, ANSWER, 0..room)).await;
        if is_first_to_end {
            send_all(&mut stays, QUESTION, 1000).await;
            receive_all(&mut leaves, QUESTION, 1000).await;
        }
        leaves.finish();
        drop(leaves);
        ping(&mut client, &mut backend).await;
        receive(&mut stays, ANSWER, room..written).await;
        expect_over(&mut stays, Sight::End).await;
    }
    for is_first_to_end in [true, false] {
        let (client, backend) = pair(a).await;
        finish(a, client, backend, is_first_to_end).await;
        let (client, backend) = pair(a).await;
        finish(a, backend, client, is_first_to_end).await;
    }
}

/// Backpressure: a writer whose bytes nobody reads gets stuck before it has written more than a
/// bound; the other direction goes on meanwhile, and so does the writer once it is read.
pub async fn a_writer_waits_for_a_reader_that_does_not_read<A: Adapter>(a: &A) {
    async fn stall<A: Adapter>(a: &A, mut writer: impl Conn, mut reader: impl Conn) {
        let (mut client, mut backend) = pair(a).await;
        let bound = a.capabilities().in_flight_max;
        let written = fill(&mut writer, QUESTION, bound, (&mut client, &mut backend)).await;
        assert_ne!(written, 0, "the writer was stuck from the beginning");
        join(send(&mut reader, ANSWER, 0..1000), receive(&mut writer, ANSWER, 0..1000)).await;

        let length = written + 1_000_000;
        let rest = async {
            send(&mut writer, QUESTION, written..length).await;
            writer.close().await.expect("a close");
        };
        join(rest, receive_all(&mut reader, QUESTION, length)).await;
    }
    let (client, backend) = pair(a).await;
    stall(a, client, backend).await;
    let (client, backend) = pair(a).await;
    stall(a, backend, client).await;
}
