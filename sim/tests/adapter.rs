//! What the contract can't show of the adapter: links between hosts, and their faults.
#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{
    future::{Future, pending, poll_fn},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWrite, AsyncWriteExt, FutureExt, future::join};
use tinylb_core::{Conn, Dialer, Listener, Runtime};
use tinylb_sim::{
    Network, NetworkOptions, Packet, PacketFate, PacketKind, TurmoilConn, TurmoilDialer,
    TurmoilListener, TurmoilRuntime,
};
use turmoil::Sim;

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
const SERVICE: SocketAddr = SocketAddr::new(SERVER, 80);
const TICK: u64 = 5;
const LATENCY: u64 = 20;

/// A simulation of two hosts, and what their programs have said.
struct Bench {
    sim: Sim<'static>,
    network: Network,
    said: Said,
}

type Said = Arc<Mutex<Vec<(u64, String)>>>;

/// What a program has of its host.
#[derive(Clone)]
struct Host {
    network: Network,
    ip: IpAddr,
    said: Said,
}

impl Bench {
    fn new() -> Self {
        Self::with(NetworkOptions::default())
    }

    fn with(options: NetworkOptions) -> Self {
        let sim = turmoil::Builder::new()
            .rng_seed(options.seed)
            .simulation_duration(Duration::from_secs(3600))
            .tick_duration(Duration::from_millis(TICK))
            .min_message_latency(Duration::from_millis(LATENCY))
            .max_message_latency(Duration::from_millis(LATENCY))
            .tcp_capacity(options.tcp_capacity())
            .build();
        Self { sim, network: Network::new(options), said: Said::default() }
    }

    /// A host with a program, which is started again when the host is.
    fn host<F: Future<Output = ()> + 'static>(&mut self, ip: IpAddr, program: fn(Host) -> F) {
        let host = Host { network: self.network.clone(), ip, said: Arc::clone(&self.said) };
        self.sim.host(ip, move || {
            let program = program(host.clone());
            async move {
                program.await;
                // What the program has left to others goes on.
                pending().await
            }
        });
    }

    /// Client and server.
    fn hosts<F, G>(options: NetworkOptions, client: fn(Host) -> F, server: fn(Host) -> G) -> Self
    where
        F: Future<Output = ()> + 'static,
        G: Future<Output = ()> + 'static,
    {
        let mut bench = Self::with(options);
        bench.host(CLIENT, client);
        bench.host(SERVER, server);
        bench
    }

    fn run(&mut self, milliseconds: u64) {
        for _ in 0..milliseconds / TICK {
            self.sim.step().unwrap();
        }
        assert_eq!(self.network.take_panics(), [""; 0]);
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().iter().map(|(_, text)| text.clone()).collect()
    }

    /// When a program said this, in milliseconds.
    fn when(&self, text: &str) -> u64 {
        let said = self.said.lock().unwrap();
        let found = said.iter().find(|(_, said)| said == text);
        found.unwrap_or_else(|| panic!("{text:?} was not said: {said:?}")).0
    }
}

impl Host {
    fn say(&self, text: impl ToString) {
        let now = turmoil::sim_elapsed().unwrap().as_millis() as u64;
        self.said.lock().unwrap().push((now, text.to_string()));
    }

    async fn listen(&self) -> TurmoilListener {
        let address = SocketAddr::new(self.ip, SERVICE.port());
        TurmoilListener::bind(&self.network, address).await.unwrap()
    }

    async fn accept(&self) -> TurmoilConn {
        self.listen().await.accept().await.unwrap()
    }

    fn dialer(&self) -> TurmoilDialer {
        TurmoilDialer::new(&self.network, self.ip)
    }

    async fn dial(&self) -> TurmoilConn {
        self.dialer().dial(&SERVICE, Duration::MAX).await.unwrap()
    }
}

async fn sleep(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Reads until the stream is over: how many bytes came, and whether it was cut.
async fn read_all(conn: &mut TurmoilConn) -> (usize, bool) {
    let mut buffer = [0; 4096];
    let mut bytes = 0;
    loop {
        match conn.read(&mut buffer).await {
            Ok(0) => return (bytes, false),
            Ok(read) => bytes += read,
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                return (bytes, true);
            }
        }
    }
}

/// Writes until there is no room: how many bytes.
async fn fill(conn: &mut TurmoilConn) -> usize {
    let mut written = 0;
    poll_fn(|cx| {
        while let Poll::Ready(length) = Pin::new(&mut *conn).poll_write(cx, &[7; 50_000]) {
            written += length.unwrap();
        }
        Poll::Ready(written)
    })
    .await
}

async fn dials(host: Host) {
    host.say("dialling");
    let _conn = host.dial().await;
    host.say("connected");
    pending::<()>().await;
}

async fn holds(host: Host) {
    let mut conn = host.accept().await;
    conn.finish();
    host.say("accepted");
    pending::<()>().await;
}

#[test]
fn a_dial_across_a_cut_link_hangs_until_it_is_whole() {
    let mut bench = Bench::hosts(NetworkOptions::default(), dials, holds);
    assert_eq!(bench.network.partition(&bench.sim, CLIENT, SERVER), []);
    bench.run(10_000);
    assert_eq!(bench.said(), ["dialling"]);
    bench.network.release(&bench.sim, CLIENT, SERVER);
    bench.run(100);
    assert_eq!(bench.said(), ["dialling", "accepted", "connected"]);
}

#[test]
fn a_dial_whose_syn_is_lost_hangs_until_the_link_is_whole() {
    let mut bench = Bench::hosts(NetworkOptions::default(), dials, holds);
    bench.run(10);
    let lost = bench.network.partition(&bench.sim, CLIENT, SERVER);
    let [Packet { from, to: SERVICE, kind: PacketKind::Syn, fate: PacketFate::Dropped }] = lost[..]
    else {
        panic!("{lost:?}");
    };
    assert!(!bench.network.is_lossy(from, SERVICE), "no stream was hurt");
    bench.run(10_000);
    assert_eq!(bench.said(), ["dialling"]);
    bench.network.release(&bench.sim, SERVER, CLIENT);
    bench.run(100);
    assert_eq!(bench.said(), ["dialling", "accepted", "connected"]);
}

#[test]
fn a_dial_that_nobody_listens_for_is_refused() {
    async fn is_refused(host: Host) {
        let error = host.dialer().dial(&SERVICE, Duration::MAX).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        host.say("refused");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), is_refused, |_| pending());
    // A cut that is over has nothing to do with it.
    bench.network.partition(&bench.sim, CLIENT, SERVER);
    bench.network.release(&bench.sim, CLIENT, SERVER);
    bench.run(100);
    assert!((LATENCY..=LATENCY + 2 * TICK).contains(&bench.when("refused")));
}

#[test]
fn a_dial_hangs_if_only_the_way_back_is_cut() {
    // From the beginning, and while the SYN is under way, which arrives.
    for (before, accepted) in [(0, false), (10, true)] {
        let mut bench = Bench::hosts(NetworkOptions::default(), dials, holds);
        bench.run(before);
        assert_eq!(bench.network.partition_oneway(&bench.sim, SERVER, CLIENT), []);
        bench.run(10_000);
        assert!(!bench.said().contains(&"connected".into()));
        assert_eq!(bench.said().contains(&"accepted".into()), accepted);
        bench.network.release(&bench.sim, CLIENT, SERVER);
        bench.run(100);
        assert_eq!(bench.said(), ["dialling", "accepted", "connected"]);
    }
}

#[test]
fn a_dial_across_a_held_link_connects_when_it_is_released() {
    let mut bench = Bench::hosts(NetworkOptions::default(), dials, holds);
    // A dial that waits because of a cut is held as well.
    bench.network.partition(&bench.sim, CLIENT, SERVER);
    bench.run(100);
    bench.network.hold(&bench.sim, CLIENT, SERVER);
    let network = bench.network.clone();
    let held: Arc<Mutex<Vec<Packet>>> = Arc::default();
    let seen = Arc::clone(&held);
    network.watch(move |packet| seen.lock().unwrap().push(packet), || bench.run(1000));
    assert_eq!(bench.said(), ["dialling"]);
    let held = held.lock().unwrap();
    assert_eq!((held[1].kind, held[1].fate), (PacketKind::Syn, PacketFate::Held));
    bench.network.release(&bench.sim, CLIENT, SERVER);
    bench.run(100);
    assert_eq!(bench.said(), ["dialling", "accepted", "connected"]);
}

#[test]
fn a_dial_that_is_given_up_leaves_nothing_behind() {
    async fn gives_up(host: Host) {
        for _ in 0..10 {
            // One that never began, one that has no SYN out yet or waits for the link, and one
            // whose SYN is under way.
            for wait in [None, Some(0), Some(10)] {
                let dialer = host.dialer();
                let mut dial = dialer.dial(&SERVICE, Duration::MAX);
                if let Some(wait) = wait {
                    assert!(futures::poll!(&mut dial).is_pending());
                    sleep(wait).await;
                }
            }
        }
        host.say("gave up");
    }
    async fn counts(host: Host) {
        let mut listener = host.listen().await;
        loop {
            let mut conn = listener.accept().await.unwrap();
            assert_eq!(read_all(&mut conn).await, (0, true));
            host.say("accepted what was cut");
        }
    }
    let streams = |bench: &mut Bench| {
        bench.sim.client("10.0.0.3", async {
            for ip in [CLIENT, SERVER] {
                assert_eq!(turmoil::established_tcp_stream_count_on(ip), 0, "on {ip}");
            }
            Ok(())
        });
        bench.run(10);
    };
    let mut bench = Bench::hosts(NetworkOptions::default(), gives_up, counts);
    bench.run(1000);
    bench.when("gave up");
    assert_eq!(bench.said().len(), 1 + 10, "only SYNs that were out arrive: {:?}", bench.said());
    assert_eq!(bench.network.open_ends(), 0);
    streams(&mut bench);

    let mut bench = Bench::hosts(NetworkOptions::default(), gives_up, counts);
    bench.network.partition(&bench.sim, CLIENT, SERVER);
    bench.run(1000);
    bench.network.release(&bench.sim, CLIENT, SERVER);
    bench.run(1000);
    assert_eq!(bench.said(), ["gave up"]);
    streams(&mut bench);
}

#[test]
fn an_abort_is_seen_as_a_cut_and_a_finished_drop_as_an_end_when_the_network_brings_it() {
    async fn leaves(host: Host) {
        for aborts in [true, false] {
            let mut conn = host.dial().await;
            conn.write_all(&[1; 100]).await.unwrap();
            sleep(100).await;
            if aborts {
                conn.abort();
            } else {
                conn.finish();
            }
            drop(conn);
            host.say(format!("left {aborts}"));
            sleep(1000).await;
        }
    }
    async fn sees(host: Host) {
        let mut listener = host.listen().await;
        for aborts in [true, false] {
            let mut conn = listener.accept().await.unwrap();
            assert_eq!(read_all(&mut conn).await, (100, aborts));
            host.say(format!("saw {aborts}"));
            // It stays so.
            assert_eq!(read_all(&mut conn).await, (0, aborts));
            assert_eq!(conn.write_all(&[0]).await.is_err(), aborts);
        }
    }
    for held in [false, true] {
        let mut bench = Bench::hosts(NetworkOptions::default(), leaves, sees);
        bench.run(80);
        if held {
            bench.network.hold(&bench.sim, CLIENT, SERVER);
            bench.run(500);
            assert_eq!(bench.said(), ["left true"]);
            bench.network.release(&bench.sim, CLIENT, SERVER);
        }
        bench.run(5000);
        for aborts in [true, false] {
            let took = bench.when(&format!("saw {aborts}")) - bench.when(&format!("left {aborts}"));
            let is_direct = (LATENCY..=LATENCY + 2 * TICK).contains(&took);
            assert_eq!(is_direct, !(held && aborts), "{took} ms");
        }
    }
}

#[test]
fn an_abort_after_the_end_of_the_stream_is_noticed() {
    async fn leaves(host: Host) {
        let mut conn = host.dial().await;
        conn.close().await.unwrap();
        sleep(100).await;
        conn.abort();
    }
    async fn sees(host: Host) {
        let mut conn = host.accept().await;
        assert_eq!(read_all(&mut conn).await, (0, false));
        host.say("ended");
        poll_fn(|cx| conn.poll_cut(cx)).await;
        host.say("cut");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), leaves, sees);
    bench.run(1000);
    assert_eq!(bench.said(), ["ended", "cut"]);
    assert!(bench.when("cut") - bench.when("ended") >= 90);
}

#[test]
fn who_only_watches_for_a_cut_is_woken_by_it() {
    async fn leaves(host: Host) {
        let mut conn = host.dial().await;
        sleep(100).await;
        conn.abort();
    }
    async fn watches(host: Host) {
        let mut conn = host.accept().await;
        poll_fn(|cx| conn.poll_cut(cx)).await;
        host.say("cut");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), leaves, watches);
    bench.run(1000);
    assert!((120..200).contains(&bench.when("cut")));
}

/// Like the balancer: a crash doesn't pass for an end.
async fn holds_unfinished(host: Host) {
    let _conn = host.accept().await;
    host.say("accepted");
    pending::<()>().await;
}

#[test]
fn a_crash_is_an_end_of_stream_if_it_was_finished_and_all_was_read_and_else_a_reset() {
    for (sent, is_finished, is_cut) in [(0, true, false), (100, true, true), (0, false, true)] {
        let mut bench = Bench::new();
        if is_finished {
            bench.host(SERVER, holds);
        } else {
            bench.host(SERVER, holds_unfinished);
        }
        let sees = move |host: Host| async move {
            let mut conn = host.dial().await;
            conn.write_all(&vec![0; sent]).await.unwrap();
            assert_eq!(read_all(&mut conn).await, (0, is_cut));
            host.say("over");
        };
        let said = Arc::clone(&bench.said);
        let host = Host { network: bench.network.clone(), ip: CLIENT, said };
        bench.sim.client(CLIENT, sees(host).map(Ok));
        bench.run(200);
        assert_eq!(bench.said(), ["accepted"]);
        bench.sim.crash(SERVER);
        bench.run(200);
        assert_eq!(bench.said(), ["accepted", "over"]);
        bench.sim.bounce(SERVER);
        bench.run(200);
    }
}

#[test]
fn bytes_that_are_cut_off_with_the_link_make_their_stream_lossy() {
    async fn writes(host: Host) {
        let mut conns = [host.dial().await, host.dial().await];
        for conn in &conns {
            host.say(conn.local_address());
        }
        sleep(100).await;
        conns[0].write_all(b"!").await.unwrap();
        sleep(100).await;
        // To a link that is cut.
        conns[1].write_all(b"!").await.unwrap();
        pending::<()>().await;
    }
    async fn reads(host: Host) {
        let mut listener = host.listen().await;
        let mut conns = [listener.accept().await.unwrap(), listener.accept().await.unwrap()];
        let [a, b] = &mut conns;
        join(read_all(a), read_all(b)).await;
        host.say("something came");
    }
    for watched in [false, true] {
        let mut bench = Bench::hosts(NetworkOptions::default(), writes, reads);
        let network = bench.network.clone();
        let mut run = || {
            bench.run(100);
            let addresses: Vec<SocketAddr> =
                bench.said().iter().map(|address| address.parse().unwrap()).collect();
            let is_lossy = |end: usize| {
                let either = bench.network.is_lossy(addresses[end], SERVICE);
                assert_eq!(either, bench.network.is_lossy(SERVICE, addresses[end]));
                either
            };
            while bench.sim.elapsed() < Duration::from_millis(155) {
                bench.sim.step().unwrap();
            }
            assert!(!is_lossy(0) && !is_lossy(1));
            let lost = bench.network.partition_oneway(&bench.sim, SERVER, CLIENT);
            assert_eq!((lost, is_lossy(0)), (vec![], false), "the other way");
            let lost = bench.network.partition(&bench.sim, SERVER, CLIENT);
            assert_eq!(lost.len(), 1);
            assert_eq!((lost[0].from, lost[0].kind), (addresses[0], PacketKind::Data));
            assert!(is_lossy(0) && !is_lossy(1));
            for _ in 0..40 {
                bench.sim.step().unwrap();
            }
            assert_eq!(is_lossy(1), watched, "turmoil reports only to a watcher");
            bench.network.release(&bench.sim, SERVER, CLIENT);
            bench.run(1000);
            assert_eq!(bench.said().len(), 2, "nothing comes after the gap");
        };
        if watched { network.watch(|_| {}, run) } else { run() }
    }
}

#[test]
fn a_writer_gets_as_far_as_the_window_and_an_end_passes_when_it_is_full() {
    async fn writes(host: Host) {
        let mut conn = host.dial().await;
        assert_eq!(fill(&mut conn).await, 5000);
        sleep(500).await;
        assert_eq!(fill(&mut conn).await, 0, "nothing was read");
        conn.close().await.unwrap();
        assert_eq!(read_all(&mut conn).await, (0, false));
        host.say("over");
    }
    async fn reads(host: Host) {
        let mut conn = host.accept().await;
        sleep(1000).await;
        // Watching doesn't read.
        assert!(poll_fn(|cx| Poll::Ready(conn.poll_cut(cx))).await.is_pending());
        assert_eq!(read_all(&mut conn).await, (5000, false));
        conn.finish();
        host.say("read");
    }
    for chunk_max in [1, 100_000] {
        let options = NetworkOptions { window: 5000, chunk_max, ..NetworkOptions::default() };
        let mut bench = Bench::hosts(options, writes, reads);
        bench.run(5000);
        assert_eq!(bench.said(), ["read", "over"]);
    }
}

#[test]
fn a_dropped_connection_loses_no_byte_and_is_an_end_if_it_was_read_and_a_reset_if_not() {
    async fn drops(host: Host) {
        let mut conn = host.dial().await;
        conn.write_all(&[1; 50_000]).await.unwrap();
        conn.finish();
        drop(conn);
        assert_eq!(host.network.open_ends(), 1);
        pending::<()>().await;
    }
    async fn drops_later(host: Host) {
        let mut conn = host.dial().await;
        conn.write_all(&[1; 50_000]).await.unwrap();
        conn.finish();
        // The other end's has come, and nobody has read it.
        sleep(100).await;
    }
    async fn ends(host: Host) {
        let mut conn = host.accept().await;
        conn.close().await.unwrap();
        sleep(200).await;
        assert_eq!(read_all(&mut conn).await, (50_000, false));
        assert!(poll_fn(|cx| Poll::Ready(conn.poll_cut(cx))).await.is_pending());
        host.say("whole");
    }
    async fn writes(host: Host) {
        let mut conn = host.accept().await;
        sleep(100).await;
        conn.write_all(b"!").await.unwrap();
        assert_eq!(read_all(&mut conn).await, (50_000, false));
        // Nobody reads what was written.
        poll_fn(|cx| conn.poll_cut(cx)).await;
        host.say("reset");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), drops, ends);
    bench.run(1000);
    assert_eq!(bench.said(), ["whole"]);
    let mut bench = Bench::hosts(NetworkOptions::default(), drops_later, ends);
    bench.run(1000);
    assert_eq!(bench.said(), ["whole"]);
    async fn asks(host: Host) {
        let mut conn = host.accept().await;
        conn.write_all(b"!").await.unwrap();
        sleep(200).await;
        assert_eq!(read_all(&mut conn).await, (50_000, true));
        host.say("not read");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), drops_later, asks);
    bench.run(1000);
    assert_eq!(bench.said(), ["not read"]);
    let mut bench = Bench::hosts(NetworkOptions::default(), drops, writes);
    bench.run(1000);
    assert_eq!(bench.said(), ["reset"]);
}

#[test]
fn a_port_is_free_once_its_listener_is_dropped_and_who_waits_there_is_reset() {
    async fn rebinds(host: Host) {
        drop(host.listen().await);
        let listener = host.listen().await;
        let other = TurmoilListener::bind(&host.network, SERVICE).await;
        assert_eq!(other.err().unwrap().kind(), io::ErrorKind::AddrInUse);
        sleep(200).await;
        drop(listener);
    }
    async fn waits(host: Host) {
        let mut conn = host.dial().await;
        assert_eq!(read_all(&mut conn).await, (0, true));
        host.say("reset");
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), waits, rebinds);
    bench.run(1000);
    assert!(bench.when("reset") >= 200);
    assert!(!bench.network.fail_accept(SERVICE, io::ErrorKind::Other.into()), "nobody is there");
}

#[test]
fn a_listener_or_a_dialer_that_is_given_a_wrong_host_says_so() {
    async fn listens(host: Host) {
        let wrong = SocketAddr::new(CLIENT, SERVICE.port());
        let mut listener = TurmoilListener::bind(&host.network, wrong).await.unwrap();
        let error = listener.accept().await.err().unwrap();
        host.say(error.kind());
    }
    async fn dials(host: Host) {
        let dial = TurmoilDialer::new(&host.network, SERVER);
        host.say(dial.dial(&SERVICE, Duration::MAX).await.err().unwrap().kind());
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), dials, listens);
    bench.run(1000);
    let invalid = io::ErrorKind::InvalidInput.to_string();
    assert_eq!(bench.said(), [invalid.clone(), invalid]);
}

#[test]
fn tasks_are_counted_and_their_panics_are_kept() {
    async fn spawns(host: Host) {
        let runtime = TurmoilRuntime::current(&host.network);
        runtime.spawn(Box::pin(pending()));
        runtime.spawn(Box::pin(async { panic!("a {}", "panic") }));
        runtime.spawn(Box::pin(async { std::panic::panic_any(1) }));
        let slept = runtime.sleep(Duration::from_millis(50));
        runtime.spawn(Box::pin(slept.map(move |()| host.say("slept"))));
    }
    let mut bench = Bench::new();
    bench.host(SERVER, spawns);
    for _ in 0..5 {
        bench.sim.step().unwrap();
    }
    assert_eq!(bench.network.live_tasks(), 2);
    assert_eq!(bench.network.take_panics(), ["a panic", "a panic without a text"]);
    bench.run(100);
    assert_eq!(bench.when("slept"), 50);
    assert_eq!(bench.network.live_tasks(), 1);
    bench.sim.crash(SERVER);
    assert_eq!(bench.network.live_tasks(), 0);
}

#[test]
fn all_hosts_have_one_clock_whenever_they_start() {
    async fn says_the_time(host: Host) {
        let runtime = TurmoilRuntime::current(&host.network);
        loop {
            let now = runtime.now();
            assert_eq!(Some(now), turmoil::sim_elapsed());
            host.say(now.as_millis());
            sleep(50).await;
        }
    }
    let mut bench = Bench::hosts(NetworkOptions::default(), says_the_time, says_the_time);
    bench.run(60);
    bench.sim.crash(SERVER);
    bench.run(30);
    bench.sim.bounce(SERVER);
    bench.run(20);
    assert_eq!(bench.said(), ["0", "0", "50", "50", "90", "100"]);
}

/// A session with a bit of everything, as who watches sees it.
fn watched(options: NetworkOptions) -> Vec<Packet> {
    async fn asks(host: Host) {
        let mut conn = host.dial().await;
        conn.write_all(&[1; 3000]).await.unwrap();
        conn.close().await.unwrap();
        assert_eq!(read_all(&mut conn).await, (3000, false));
        conn.finish();
        drop(conn);
        let mut conn = host.dial().await;
        conn.write_all(b"!").await.unwrap();
        sleep(200).await;
        conn.abort();
    }
    async fn answers(host: Host) {
        let mut listener = host.listen().await;
        let mut conn = listener.accept().await.unwrap();
        assert_eq!(read_all(&mut conn).await, (3000, false));
        conn.write_all(&[1; 3000]).await.unwrap();
        conn.close().await.unwrap();
        let mut conn = listener.accept().await.unwrap();
        conn.write_all(b"?").await.unwrap();
        pending::<()>().await;
    }
    let mut bench = Bench::hosts(options, asks, answers);
    let network = bench.network.clone();
    let packets: Arc<Mutex<Vec<Packet>>> = Arc::default();
    let seen = Arc::clone(&packets);
    network.watch(move |packet| seen.lock().unwrap().push(packet), || bench.run(1000));
    let packets = packets.lock().unwrap();
    packets.clone()
}

#[test]
fn who_watches_sees_every_packet_with_its_kind_and_fate() {
    use {PacketFate::*, PacketKind::*};
    let options = NetworkOptions { chunk_max: 1 << 20, ..NetworkOptions::default() };
    let packets = watched(options);
    assert!(packets.iter().all(|packet| (packet.from == SERVICE) != (packet.to == SERVICE)));
    let port = |packet: &Packet| packet.from.port().max(packet.to.port());
    let first = port(&packets[0]);
    // What happened, to how many, of both directions together.
    let counts = |is_first: bool, kind: PacketKind| {
        [Sent, Delivered].map(|fate| {
            let is_it = |packet: &&Packet| {
                (packet.kind, packet.fate, port(packet) == first) == (kind, fate, is_first)
            };
            packets.iter().filter(is_it).count()
        })
    };
    assert_eq!(counts(true, Syn), [1, 1]);
    // It isn't carried by the network.
    assert_eq!(counts(true, SynAck), [1, 0]);
    let [sent, delivered] = counts(true, Data);
    assert!(sent >= 2 && sent == delivered);
    assert_eq!(counts(true, End), [2, 2]);
    assert_eq!(counts(true, Rst)[0], counts(true, Rst)[1]);
    // The one who aborts has a byte unread.
    assert_eq!(counts(false, End), [0, 0]);
    assert_eq!(counts(false, Data), [2, 2]);
    assert_eq!(counts(false, Rst), [1, 1]);
    assert!(packets.iter().all(|packet| !matches!(packet.fate, Held | Dropped)));
}

#[test]
fn who_watches_sees_what_is_held_and_what_is_dropped() {
    async fn writes(host: Host) {
        let mut conn = host.dial().await;
        loop {
            conn.write_all(b"!").await.unwrap();
            sleep(50).await;
        }
    }
    use {PacketFate::*, PacketKind::*};
    for (is_held, fate) in [(true, Held), (false, Dropped)] {
        let mut bench = Bench::hosts(NetworkOptions::default(), writes, holds);
        bench.run(135);
        let link = |network: &Network, sim: &Sim<'_>| {
            if is_held {
                network.hold(sim, CLIENT, SERVER);
            } else {
                assert_eq!(network.partition(sim, CLIENT, SERVER).len(), 1);
            }
        };
        link(&bench.network, &bench.sim);
        let packets: Arc<Mutex<Vec<Packet>>> = Arc::default();
        let seen = Arc::clone(&packets);
        let network = bench.network.clone();
        network.watch(move |packet| seen.lock().unwrap().push(packet), || bench.run(100));
        let packets = packets.lock().unwrap();
        let fates: Vec<_> = packets.iter().map(|packet| (packet.kind, packet.fate)).collect();
        assert_eq!(fates, [(Data, Sent), (Data, fate), (Data, Sent), (Data, fate)]);
        let Packet { from, to, .. } = packets[0];
        assert_eq!((from.ip(), to), (CLIENT, SERVICE));
        assert_eq!(bench.network.is_lossy(from, to), !is_held);
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let run = |seed, yield_percent| {
        let options = NetworkOptions { seed, yield_percent, window: 1000, chunk_max: 100 };
        watched(options)
    };
    let first = run(1, 0);
    assert!(first.len() > 200, "{} packets", first.len());
    #[allow(clippy::disallowed_methods)] // Not of a simulation: a whole one runs on it.
    let elsewhere = std::thread::spawn(move || run(1, 0));
    assert_eq!(first, elsewhere.join().unwrap());
    assert_eq!(first, run(1, 0));
    assert_ne!(first, run(2, 0));
}

#[test]
fn the_order_of_tasks_varies_with_the_seed_if_tasks_are_put_back() {
    async fn spawns(host: Host) {
        let runtime = TurmoilRuntime::current(&host.network);
        for task in 0..10 {
            let host = host.clone();
            runtime.spawn(Box::pin(async move { host.say(task) }));
        }
    }
    let order = |seed, yield_percent| {
        let options = NetworkOptions { seed, yield_percent, ..NetworkOptions::default() };
        let mut bench = Bench::with(options);
        bench.host(SERVER, spawns);
        bench.run(10);
        bench.said()
    };
    let in_order: Vec<String> = (0..10).map(|task| task.to_string()).collect();
    assert_eq!(order(1, 0), in_order);
    assert_ne!(order(1, 50), in_order);
    assert_ne!(order(1, 50), order(2, 50));
    assert_eq!(order(1, 50), order(1, 50));
    // Each is put back once at a time.
    assert_eq!(order(1, 100).len(), 10);
}
