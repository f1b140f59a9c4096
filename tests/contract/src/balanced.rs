//! A server with the adapter on both its sides: what clients and backends see through it.

use std::{thread, time::Duration};

use futures::{
    AsyncReadExt, AsyncWriteExt, FutureExt, StreamExt,
    channel::mpsc,
    future::{join, join4},
    io::{AsyncRead, AsyncWrite},
};
use tinylb_core::{BackendSet, Dialer, EndReason, Event, Listener, Removal, Server, Settings};

use super::{
    Accepted, Adapter, Capabilities, Dialled, Sight, TargetOf,
    drive::{
        ANSWER, QUESTION, abort, dial, expect_over, fill, ping, receive, receive_all,
        receive_until_over, send, send_all,
    },
    waiting::waiting,
};

/// What the relay may hold of one direction, beyond what the two connections do.
const RELAY_MAX: u64 = 1 << 20;

/// A server, and the backends of its set, in the order of their turns.
struct Bench<A: Adapter> {
    server: Server<A::Dialer>,
    front: TargetOf<A>,
    dialer: A::Dialer,
    backends: Vec<(A::Listener, TargetOf<A>)>,
    ended: mpsc::UnboundedReceiver<Ended>,
}

/// Why a session ended, and the bytes that it passed on: to the backend, and to the client.
type Ended = (EndReason, u64, u64);

impl<A: Adapter> Bench<A> {
    async fn new(a: &A, backends: usize) -> Self {
        let (sender, ended) = mpsc::unbounded();
        let observer = move |_: u64, event: &Event<TargetOf<A>>| {
            if let Event::Ended { reason, bytes_to_backend, bytes_to_client, .. } = event {
                let _ = sender.unbounded_send((*reason, *bytes_to_backend, *bytes_to_client));
            }
        };
        let settings = Settings::default();
        let server = Server::with_observer(a.dialer(), a.runtime(), settings, observer)
            .expect("a server with the default settings");
        let (listener, front) = a.listen().await.expect("a listener");
        server.listen(listener, a.relay(), a.runtime());
        let mut bench = Self { server, front, dialer: a.dialer(), backends: Vec::new(), ended };
        for _ in 0..backends {
            bench.backends.push(a.listen().await.expect("a listener"));
        }
        bench.set(0..backends).await;
        bench
    }

    /// Replaces the set by these of the backends, and waits until that is applied. How many
    /// sessions it cut.
    async fn set(&self, backends: impl IntoIterator<Item = usize>) -> usize {
        let backends = backends.into_iter().map(|b| (b.to_string(), self.backends[b].1.clone()));
        let set = BackendSet::new(backends).expect("a set");
        let applied = self.server.handle().replace(set).expect("a valid set");
        waiting(|| "a replacement to be applied".into(), applied).await.sessions_cut
    }

    /// A client, and the connection that reaches the backend whose turn it is.
    async fn connect(&mut self, backend: usize) -> (Dialled<A>, Accepted<A>) {
        let what = || format!("a connection to the backend {backend}");
        let accept = waiting(what, self.backends[backend].0.accept());
        let (client, backend) = join(dial::<A>(&self.dialer, &self.front), accept).await;
        (client, backend.expect("an accepted connection"))
    }

    /// Why the next session ends.
    async fn ended(&mut self) -> EndReason {
        self.ended_with().await.0
    }

    /// The bytes that it passed on.
    async fn ended_with(&mut self) -> Ended {
        let ended = waiting(|| "the end of a session".into(), self.ended.next());
        ended.await.expect("the server is there")
    }
}

/// Both directions of a session carry a payload at the same time, and then their ends.
pub async fn bytes_pass_intact_both_ways_at_odd_sizes<A: Adapter>(a: &A) {
    let volume = a.capabilities().volume;
    let mut bench = Bench::new(a, 1).await;
    let (client, backend) = bench.connect(0).await;
    let (mut client_reads, mut client_writes) = client.split();
    let (mut backend_reads, mut backend_writes) = backend.split();
    join4(
        send_all(&mut client_writes, QUESTION, volume),
        receive_all(&mut backend_reads, QUESTION, volume),
        send_all(&mut backend_writes, ANSWER, volume),
        receive_all(&mut client_reads, ANSWER, volume),
    )
    .await;
    assert_eq!(bench.ended().await, EndReason::Finished);
}

/// Either side may end first; what the other sends afterwards arrives whole, and the session is
/// finished.
pub async fn an_answer_passes_whole_after_the_end_of_the_question<A: Adapter>(a: &A) {
    async fn ask(
        mut asks: impl AsyncRead + AsyncWrite + Unpin,
        mut answers: impl AsyncRead + AsyncWrite + Unpin,
        volume: u64,
    ) {
        send_all(&mut asks, QUESTION, 1000).await;
        receive_all(&mut answers, QUESTION, 1000).await;
        let answer = send_all(&mut answers, ANSWER, volume);
        join(answer, receive_all(&mut asks, ANSWER, volume)).await;
    }
    let volume = a.capabilities().volume;
    let mut bench = Bench::new(a, 1).await;
    let (client, backend) = bench.connect(0).await;
    ask(client, backend, volume).await;
    assert_eq!(bench.ended().await, EndReason::Finished);
    let (client, backend) = bench.connect(0).await;
    ask(backend, client, volume).await;
    assert_eq!(bench.ended().await, EndReason::Finished);
}

/// If one side's stream is cut, so is the other's: neither takes it for finished. Where an abort
/// looks like an end of stream, it is passed on as one, and the session ends when the other side
/// writes to a peer that is gone.
pub async fn an_abort_is_passed_on_to_the_other_side<A: Adapter>(a: &A) {
    async fn give_up(
        mut gives_up: impl tinylb_core::Conn,
        mut sees: impl AsyncRead + AsyncWrite + Unpin,
        can: Capabilities,
    ) {
        send(&mut gives_up, QUESTION, 0..5000).await;
        receive(&mut sees, QUESTION, 0..5000).await;
        abort(gives_up);
        expect_over(&mut sees, can.abort).await;
        if can.abort == Sight::End {
            while sees.write(&[0; 100]).await.is_ok() {}
        }
    }
    let can = a.capabilities();
    let mut bench = Bench::new(a, 1).await;
    let (client, backend) = bench.connect(0).await;
    give_up(client, backend, can).await;
    assert_eq!(bench.ended().await, EndReason::ClientFailed);
    let (client, backend) = bench.connect(0).await;
    give_up(backend, client, can).await;
    assert_eq!(bench.ended().await, EndReason::BackendFailed);
}

/// A backend may answer before it has read the question, and close: the answer arrives, whether or
/// not a failed write is how the balancer notices. The same holds for a client.
pub async fn an_answer_arrives_whose_backend_takes_no_more_of_the_question<A: Adapter>(a: &A) {
    async fn answer(
        mut asks: impl tinylb_core::Conn,
        mut answers: impl tinylb_core::Conn,
        sight: Sight,
    ) {
        send(&mut asks, QUESTION, 0..5000).await;
        receive(&mut answers, QUESTION, 0..5000).await;
        send(&mut answers, ANSWER, 0..3000).await;
        abort(answers);
        // The rest of the question is lost, unless it was too late anyway. A write that fails has seen
        // the cut: a system may report that once, and an end of stream from then on.
        let has_failed = asks.write_all(&QUESTION.take(5000..9000)).await.is_err();
        let (read, seen) = receive_until_over(&mut asks, ANSWER, 0).await;
        assert_eq!(read, 3000, "bytes of the answer");
        assert!(seen == sight || has_failed, "the answer was over by {seen:?}");
    }
    let sight = a.capabilities().abort;
    let mut bench = Bench::new(a, 1).await;
    for _ in 0..5 {
        let (client, backend) = bench.connect(0).await;
        answer(client, backend, sight).await;
        let (client, backend) = bench.connect(0).await;
        answer(backend, client, sight).await;
    }
}

/// A side fails after sending more than the other takes at once. What the balancer received before
/// arrives, however slowly it is read; the balancer counts exactly that as passed on; and no end of
/// stream follows.
pub async fn what_a_side_sent_before_it_failed_reaches_a_slow_reader<A: Adapter>(a: &A) {
    async fn fail(
        mut fails: impl tinylb_core::Conn,
        mut reads: impl tinylb_core::Conn,
        client: &mut (impl AsyncRead + AsyncWrite + Unpin),
        backend: &mut (impl AsyncRead + AsyncWrite + Unpin),
        can: Capabilities,
    ) -> u64 {
        let bound = 2 * can.in_flight_max + RELAY_MAX;
        fill(&mut fails, QUESTION, bound, (&mut *client, &mut *backend)).await;
        abort(fails);
        // This is how the balancer notices.
        reads.write_all(&ANSWER.take(0..100)).await.expect("a write");
        for _ in 0..20 {
            ping(client, backend).await;
        }
        let (read, seen) = receive_until_over(&mut reads, QUESTION, 0).await;
        if can.abort == Sight::Cut {
            assert_eq!(seen, Sight::Cut, "half a stream passes for a whole one");
        }
        assert_ne!(read, 0, "nothing has arrived");
        read
    }
    let can = a.capabilities();
    let check = |passed_on: u64, read: u64| {
        if can.knows_unacknowledged {
            assert_eq!(passed_on, read, "bytes passed on, and bytes that arrived");
        } else {
            assert!(passed_on >= read, "{read} bytes arrived of {passed_on} that were passed on");
        }
    };
    let mut bench = Bench::new(a, 2).await;
    let (client, backend) = bench.connect(0).await;
    let (mut other_client, mut other_backend) = bench.connect(1).await;
    let read = fail(client, backend, &mut other_client, &mut other_backend, can).await;
    check(bench.ended_with().await.1, read);
    let (client, backend) = bench.connect(0).await;
    let read = fail(backend, client, &mut other_client, &mut other_backend, can).await;
    check(bench.ended_with().await.2, read);
}

/// A replacement is applied at once although a session that it cuts is still delivering what its
/// backend sent before it failed: the client gets a prefix, and a cut.
pub async fn a_removal_does_not_wait_for_what_a_failed_side_had_sent<A: Adapter>(a: &A) {
    let can = a.capabilities();
    let mut bench = Bench::new(a, 2).await;
    let (mut client, mut backend) = bench.connect(0).await;
    let (mut other_client, mut other_backend) = bench.connect(1).await;
    let bound = 2 * can.in_flight_max + RELAY_MAX;
    let other = (&mut other_client, &mut other_backend);
    let written = fill(&mut backend, ANSWER, bound, other).await;
    abort(backend);
    client.write_all(&QUESTION.take(0..100)).await.expect("a write");
    for _ in 0..20 {
        ping(&mut other_client, &mut other_backend).await;
    }
    assert_eq!(bench.ended.next().now_or_never(), None, "the client has read nothing yet");

    assert_eq!(bench.set([1]).await, 1, "sessions that were cut");
    assert_eq!(bench.ended().await, EndReason::BackendRemoved);
    let (read, _) = receive_until_over(&mut client, ANSWER, 0).await;
    assert!(read < written, "{read} bytes came of {written}");
    ping(&mut other_client, &mut other_backend).await;
}

/// Backpressure passes through: the writer gets stuck before it has written more than two
/// connections and the relay hold. The other direction and other sessions go on meanwhile, and so
/// does the writer once it is read.
pub async fn a_slow_reader_stalls_its_own_writer_and_nobody_else<A: Adapter>(a: &A) {
    async fn stall<A: Adapter>(
        a: &A,
        bench: &mut Bench<A>,
        mut writer: impl AsyncRead + AsyncWrite + Unpin,
        mut reader: impl AsyncRead + AsyncWrite + Unpin,
    ) {
        let (mut client, mut backend) = bench.connect(1).await;
        let bound = 2 * a.capabilities().in_flight_max + RELAY_MAX;
        let written = fill(&mut writer, QUESTION, bound, (&mut client, &mut backend)).await;
        join(send(&mut reader, ANSWER, 0..9000), receive(&mut writer, ANSWER, 0..9000)).await;
        ping(&mut client, &mut backend).await;

        let length = written + 1_000_000;
        let rest = async {
            send(&mut writer, QUESTION, written..length).await;
            writer.close().await.expect("a close");
        };
        join(rest, receive_all(&mut reader, QUESTION, length)).await;
    }
    let mut bench = Bench::new(a, 2).await;
    let (client, backend) = bench.connect(0).await;
    stall(a, &mut bench, client, backend).await;
    let (client, backend) = bench.connect(0).await;
    stall(a, &mut bench, backend, client).await;
}

/// A replacement that removes a backend cuts its sessions: client and backend see a cut and no end
/// of stream, and when the replacement is applied, this has happened. Other sessions go on.
pub async fn a_removed_backend_is_cut_from_its_clients_and_others_are_not<A: Adapter>(a: &A) {
    let sight = a.capabilities().abort;
    let mut bench = Bench::new(a, 2).await;
    let (mut client, mut backend) = bench.connect(0).await;
    let (mut other_client, mut other_backend) = bench.connect(1).await;
    ping(&mut client, &mut backend).await;
    ping(&mut other_client, &mut other_backend).await;

    assert_eq!(bench.set([1]).await, 1, "sessions that were cut");
    let ended = bench.ended.next().now_or_never().flatten().map(|ended| ended.0);
    assert_eq!(ended, Some(EndReason::BackendRemoved), "when the replacement is applied");
    expect_over(&mut client, sight).await;
    expect_over(&mut backend, sight).await;
    ping(&mut other_client, &mut other_backend).await;
    let (mut client, mut backend) = bench.connect(1).await;
    ping(&mut client, &mut backend).await;
}

/// A replacement is applied though the session that it cuts is stuck, with bytes under way that
/// the backend doesn't read: the backend gets a prefix of them.
pub async fn a_removal_does_not_wait_for_a_peer_that_stalls<A: Adapter>(a: &A) {
    let can = a.capabilities();
    let mut bench = Bench::new(a, 2).await;
    let (mut client, mut backend) = bench.connect(0).await;
    let (mut other_client, mut other_backend) = bench.connect(1).await;
    let bound = 2 * can.in_flight_max + RELAY_MAX;
    let other = (&mut other_client, &mut other_backend);
    let written = fill(&mut client, QUESTION, bound, other).await;

    assert_eq!(bench.set([1]).await, 1, "sessions that were cut");
    let (read, seen) = receive_until_over(&mut backend, QUESTION, 0).await;
    assert!(read < written, "{read} bytes came of {written}");
    assert_eq!(seen, can.abort, "how the backend's stream was over");
    // The balancer had bytes of the client left to read.
    expect_over(&mut client, can.abort_unread).await;
    ping(&mut other_client, &mut other_backend).await;
}

/// A dial that is refused sends the client to the next backend.
pub async fn a_backend_that_refuses_costs_no_client<A: Adapter>(a: &A) {
    let mut bench = Bench::new(a, 1).await;
    let set = [("dead".to_string(), a.nowhere()), ("live".into(), bench.backends[0].1.clone())];
    let set = BackendSet::new(set).expect("a set");
    let _ = bench.server.handle().replace(set).expect("a valid set").await;
    for _ in 0..5 {
        let (mut client, mut backend) = bench.connect(0).await;
        ping(&mut client, &mut backend).await;
    }
}

/// Failed accepts and clients that are gone before they are accepted don't end the listener.
pub async fn an_accept_that_fails_costs_no_client<A: Adapter>(a: &A) {
    let mut bench = Bench::new(a, 1).await;
    for _ in 0..3 {
        a.fail_accept(&bench.front);
        abort(bench.dialer.dial(&bench.front, Duration::from_secs(60)).await.expect("a dial"));
    }
    let mut client = dial::<A>(&bench.dialer, &bench.front).await;
    client.write_all(b"!").await.expect("a write");
    loop {
        // What came of those that were gone is over without a byte.
        let mut backend = bench.backends[0].0.accept().await.expect("an accepted connection");
        if let Ok(1) = backend.read(&mut [0]).await {
            return ping(&mut client, &mut backend).await;
        }
    }
}

/// The server spawns and sleeps by its runtime from whichever thread calls its handle.
pub async fn a_thread_outside_every_runtime_steers_the_server<A: Adapter>(a: &A) {
    const HOUR: Duration = Duration::from_secs(3600);
    let mut bench = Bench::new(a, 2).await;
    let (mut client, mut backend) = bench.connect(0).await;
    // The balancer may not have seen yet that its dial has succeeded.
    ping(&mut client, &mut backend).await;
    let handle = bench.server.handle();
    let next = BackendSet::new([("1".to_string(), bench.backends[1].1.clone())]).expect("a set");
    let steer = move || {
        let mut settings = Settings::default();
        settings.removal = Removal::Drain(HOUR);
        handle.configure(settings).expect("valid settings");
        let replacement = handle.replace(next).expect("a valid set");
        (replacement.report().sessions_draining, handle.shutdown(HOUR), handle)
    };
    let (draining, shutdown, handle) = thread::spawn(steer).join().expect("no panic");
    assert_eq!(draining, 1);
    ping(&mut client, &mut backend).await;

    // The second one ends what the first has let finish.
    thread::spawn(move || drop(handle.shutdown(HOUR))).join().expect("no panic");
    shutdown.await;
    assert_eq!(bench.ended().await, EndReason::Shutdown);
    let seen = a.capabilities().abort;
    expect_over(&mut client, seen).await;
    expect_over(&mut backend, seen).await;
}
