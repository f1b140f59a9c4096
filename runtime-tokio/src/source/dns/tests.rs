use std::{
    collections::BTreeMap,
    mem,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use hickory_resolver::proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record,
        RecordType::{self, A, AAAA, CNAME, SRV},
        rdata,
    },
};
use tinylb_core::{BackendSet, BadEntry, Listener, Update};
use tokio::{net::UdpSocket, time::Instant};

use super::{DnsFamily, DnsOptions, DnsSource, Rounds, refresh};
use crate::{Address, TcpListener, TcpOptions};

/// A name server with one zone, which tests change as they like.
#[derive(Clone)]
struct NameServer {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
}

#[derive(Default)]
struct Zone {
    replies: BTreeMap<(&'static str, RecordType), Reply>,
    /// When questions for A came, whose answers are awaited in any case.
    asked: Vec<Instant>,
}

enum Reply {
    Records(Vec<RData>),
    /// Records that fit into a response by TCP only.
    LongRecords(Vec<RData>),
    Code(ResponseCode),
    Truncated,
    Silence,
}

impl NameServer {
    async fn start() -> Self {
        loop {
            let any = "127.0.0.1:0".parse().unwrap();
            let listener = TcpListener::bind(any, &TcpOptions::default()).unwrap();
            let address = listener.local_address().unwrap();
            // The port may be somebody's by UDP.
            let Ok(socket) = UdpSocket::bind(address).await else { continue };
            let server = Self { address, zone: Arc::default() };
            tokio::spawn(serve_udp(socket, Arc::clone(&server.zone)));
            tokio::spawn(serve_tcp(listener, Arc::clone(&server.zone)));
            return server;
        }
    }

    fn set(&self, name: &'static str, kind: RecordType, reply: Reply) {
        self.zone.lock().unwrap().replies.insert((name, kind), reply);
    }

    /// A name with these addresses, IPv4 and IPv6.
    fn set_addresses(&self, name: &'static str, addresses: &[&str]) {
        let (v4, v6) = addresses
            .iter()
            .map(|address| match address.parse().unwrap() {
                IpAddr::V4(ip) => RData::A(rdata::A(ip)),
                IpAddr::V6(ip) => RData::AAAA(rdata::AAAA(ip)),
            })
            .partition(|data| matches!(data, RData::A(_)));
        self.set(name, A, Reply::Records(v4));
        self.set(name, AAAA, Reply::Records(v6));
    }

    fn set_targets(&self, name: &'static str, targets: &[(u16, u16, &str)]) {
        let targets = targets.iter().map(|&(priority, port, target)| {
            RData::SRV(rdata::SRV::new(priority, port % 7, port, complete(target)))
        });
        self.set(name, SRV, Reply::Records(targets.collect()));
    }

    fn set_alias(&self, name: &'static str, alias: &str) {
        let alias = RData::CNAME(rdata::CNAME(complete(alias)));
        self.set(name, CNAME, Reply::Records(vec![alias]));
    }

    fn asked(&self) -> Vec<Instant> {
        self.zone.lock().unwrap().asked.clone()
    }
}

async fn serve_udp(socket: UdpSocket, zone: Arc<Mutex<Zone>>) {
    let mut query = [0; 4096];
    loop {
        let (length, client) = socket.recv_from(&mut query).await.unwrap();
        let response = zone.lock().unwrap().respond(&query[..length], false);
        if let Some(response) = response {
            socket.send_to(&response, client).await.unwrap();
        }
    }
}

/// One question for each connection, one connection after the other.
async fn serve_tcp(mut listener: TcpListener, zone: Arc<Mutex<Zone>>) {
    loop {
        let mut conn = listener.accept().await.unwrap();
        let mut length = [0; 2];
        conn.read_exact(&mut length).await.unwrap();
        let mut query = vec![0; u16::from_be_bytes(length).into()];
        conn.read_exact(&mut query).await.unwrap();
        let response = zone.lock().unwrap().respond(&query, true);
        if let Some(response) = response {
            let length = u16::try_from(response.len()).unwrap().to_be_bytes();
            conn.write_all(&[&length, &*response].concat()).await.unwrap();
        }
    }
}

impl Zone {
    /// As a server that knows only its zone: an alias is told without what it leads to.
    fn respond(&mut self, query: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).unwrap();
        let question = query.queries[0].clone();
        if question.query_type() == A {
            self.asked.push(Instant::now());
        }
        let asked = question.name().to_ascii();
        let asked = asked.trim_end_matches('.');
        let mut response = Message::response(query.id, OpCode::Query);
        let kinds = [question.query_type(), CNAME];
        let reply = kinds
            .iter()
            .find_map(|&kind| self.replies.iter().find(|(key, _)| **key == (asked, kind)));
        match reply {
            Some((_, Reply::Silence)) => return None,
            Some((_, Reply::Code(code))) => response.metadata.response_code = *code,
            Some((_, Reply::Truncated)) => response.metadata.truncation = true,
            Some((_, Reply::LongRecords(_))) if !by_tcp => response.metadata.truncation = true,
            Some((_, Reply::Records(records) | Reply::LongRecords(records))) => {
                let records = records.iter().cloned();
                let record = |data: RData| {
                    let ttl = match data.record_type() {
                        CNAME => 10,
                        SRV => 20,
                        _ => 30,
                    };
                    Record::from_rdata(complete(asked), ttl, data)
                };
                response.answers = records.map(record).collect();
            }
            None if self.replies.keys().any(|(name, _)| *name == asked) => {}
            None => response.metadata.response_code = ResponseCode::NXDomain,
        };
        response.add_query(question);
        Some(response.to_vec().unwrap())
    }
}

fn complete(name: &str) -> Name {
    format!("{}.", name.trim_end_matches('.')).parse().unwrap()
}

fn source(name: &str, servers: &[&NameServer]) -> DnsSource {
    let servers = servers.iter().map(|server| server.address).collect();
    let refresh = Duration::from_millis(1);
    let options = DnsOptions { servers, refresh_max: refresh, ..DnsOptions::default() };
    DnsSource::new(name.parse().unwrap()).with_options(options)
}

fn rounds(name: &str, servers: &[&NameServer]) -> Rounds {
    Rounds::new(source(name, servers))
}

/// An update as text: the keys and what is left out, or "lost" and why, with SERVER for a server's
/// address.
fn text(update: &Update<Address>) -> String {
    let keys = |set: &BackendSet<Address>| {
        set.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>().join(" ")
    };
    match update {
        Update::Set(set) => keys(set),
        Update::Partial(set, entries) => {
            let without = |entry: &BadEntry| format!(" without {}", masked(&entry.to_string()));
            keys(set) + &entries.iter().map(without).collect::<String>()
        }
        Update::Lost(reason) => format!("lost: {}", masked(reason)),
        Update::Narrowed(_) => unreachable!("nothing is checked here"),
    }
}

fn masked(reason: &str) -> String {
    let words = reason.split(' ').map(|word| match word.strip_prefix("127.0.0.1:") {
        Some(port) => ["SERVER", port.trim_start_matches(char::is_numeric)].concat(),
        None => word.to_string(),
    });
    words.collect::<Vec<_>>().join(" ")
}

async fn next(rounds: &mut Rounds) -> String {
    text(&rounds.next().await)
}

#[tokio::test]
async fn every_address_of_a_name_is_a_backend() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.2", "::1", "10.0.0.1", "2001:db8::1"]);
    let mut rounds = rounds("db.test:5432", &[&server]);
    let expected = "10.0.0.1:5432 10.0.0.2:5432 [2001:db8::1]:5432 [::1]:5432";
    assert_eq!(next(&mut rounds).await, expected);
    assert_eq!(rounds.answer().await.unwrap().0.ttl, 30);
    // One family alone: the other's NODATA is an answer.
    server.set_addresses("db.test", &["10.0.0.1"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:5432");
    server.set_addresses("db.test", &["::1"]);
    assert_eq!(next(&mut rounds).await, "[::1]:5432");
}

#[tokio::test]
async fn a_source_goes_on_and_an_order_that_changes_is_no_change() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1", "10.0.0.2"]);
    let mut updates = pin!(source("db.test:1", &[&server]).updates());
    let Some(Update::Set(first)) = updates.next().await else { panic!("no set") };
    server.set_addresses("db.test", &["10.0.0.2", "10.0.0.1", "10.0.0.2"]);
    let Some(Update::Set(second)) = updates.next().await else { panic!("no set") };
    assert_eq!(first, second);
    server.set_addresses("db.test", &["10.0.0.2"]);
    let Some(Update::Set(third)) = updates.next().await else { panic!("no set") };
    assert_ne!(second, third);
}

#[tokio::test]
async fn whoever_reads_the_log_can_tell_why_a_name_was_lost() {
    let server = NameServer::start().await;
    let mut rounds = rounds("db.test:1", &[&server]);
    assert_eq!(next(&mut rounds).await, "lost: db.test: no such name (NXDOMAIN)");
    server.set("db.test", RecordType::TXT, Reply::Silence);
    let nothing = "lost: db.test: neither A nor AAAA records (NODATA)";
    assert_eq!(next(&mut rounds).await, nothing);
    server.set_addresses("db.test", &["10.0.0.1"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
    for (code, mnemonic) in [
        (ResponseCode::ServFail, "SERVFAIL"),
        (ResponseCode::Refused, "REFUSED"),
        (ResponseCode::Unknown(14), "UNKNOWN(14)"),
    ] {
        server.set("db.test", A, Reply::Code(code));
        let expected = format!("lost: db.test: error {mnemonic} for A from SERVER");
        assert_eq!(next(&mut rounds).await, expected);
    }
    server.set_addresses("db.test", &[]);
    assert_eq!(next(&mut rounds).await, nothing);
}

#[tokio::test]
async fn one_family_that_fails_takes_no_backends_of_the_other() {
    for is_v4 in [true, false] {
        let server = NameServer::start().await;
        let mut rounds = rounds("db.test:1", &[&server]);
        let (kind, ip, other) =
            if is_v4 { (AAAA, "10.0.0.1", "10.0.0.2") } else { (A, "::1", "::2") };
        let (before, moved, kept) = match is_v4 {
            true => ("10.0.0.1:1", "10.0.0.2:1", "10.0.0.2:1 [::1]:1"),
            false => ("[::1]:1", "[::2]:1", "10.0.0.1:1 [::2]:1"),
        };
        let fail = |code| server.set("db.test", kind, Reply::Code(code));
        let codes = [
            ResponseCode::NotImp,
            ResponseCode::Refused,
            ResponseCode::ServFail,
            ResponseCode::NXDomain,
            ResponseCode::FormErr,
        ];
        // From the start, when nothing is known of it.
        server.set_addresses("db.test", &[ip]);
        for code in codes {
            fail(code);
            assert_eq!(next(&mut rounds).await, before, "{code}");
        }
        // It is asked again sooner than the records say.
        rounds.options.refresh_max = Duration::from_secs(3600);
        assert_eq!(next(&mut rounds).await, before);
        assert!(rounds.pause < Duration::from_secs(30), "{:?}", rounds.pause);
        server.set_addresses("db.test", &["10.0.0.1", "::1"]);
        assert_eq!(next(&mut rounds).await, "10.0.0.1:1 [::1]:1");
        for code in codes {
            server.set_addresses("db.test", &[other]);
            fail(code);
            assert_eq!(next(&mut rounds).await, kept, "{code}");
        }
        rounds.options.max_stale = Some(Duration::ZERO);
        assert_eq!(next(&mut rounds).await, moved);
        rounds.options.max_stale = None;
        server.set_addresses("db.test", &[other]);
        assert_eq!(next(&mut rounds).await, moved);
        fail(ResponseCode::ServFail);
        assert_eq!(next(&mut rounds).await, moved, "it has said that it has none");
    }
}

#[tokio::test]
async fn a_family_that_keeps_failing_is_reported_once_and_so_is_its_end() {
    let server = NameServer::start().await;
    let reports: Arc<Mutex<Vec<String>>> = Arc::default();
    let observe = {
        let reports = Arc::clone(&reports);
        move |reason: Option<&str>| {
            reports.lock().unwrap().push(reason.map_or("all answer".into(), masked));
        }
    };
    let source = source("db.test:1", &[&server]).on_partial_failure(observe);
    let mut rounds = Rounds::new(source);
    let reports = || mem::take(&mut *reports.lock().unwrap());
    let set = "10.0.0.1:1 [::1]:1";
    server.set_addresses("db.test", &["10.0.0.1", "::1"]);
    assert_eq!(next(&mut rounds).await, set);
    assert!(reports().is_empty());
    for _ in 0..2 {
        for _ in 0..3 {
            server.set("db.test", AAAA, Reply::Code(ResponseCode::ServFail));
            assert_eq!(next(&mut rounds).await, set);
        }
        // A loss of all of it is reported as such, and ends nothing.
        server.set("db.test", A, Reply::Code(ResponseCode::ServFail));
        assert!(next(&mut rounds).await.starts_with("lost: "));
        server.set_addresses("db.test", &["10.0.0.1"]);
        server.set("db.test", AAAA, Reply::Code(ResponseCode::Refused));
        assert_eq!(next(&mut rounds).await, set);
        assert_eq!(reports(), ["error SERVFAIL for AAAA from SERVER"]);
        server.set_addresses("db.test", &["10.0.0.1", "::1"]);
        for _ in 0..2 {
            assert_eq!(next(&mut rounds).await, set);
        }
        assert_eq!(reports(), ["all answer"]);
    }
}

#[tokio::test]
async fn a_family_that_is_silent_delays_the_other_by_no_more_than_a_second() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1"]);
    server.set("db.test", AAAA, Reply::Silence);
    let mut rounds = rounds("db.test:1", &[&server, &server]);
    // A share of it is longer than this may take.
    rounds.options.timeout = Duration::from_secs(60);
    let update = tokio::time::timeout(Duration::from_secs(25), next(&mut rounds)).await;
    assert_eq!(update.expect("what A has"), "10.0.0.1:1");
}

#[tokio::test]
async fn one_family_can_be_had_alone() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1", "::1"]);
    let mut rounds = rounds("db.test:1", &[&server]);
    for (family, keys) in [
        (DnsFamily::Ipv4, "10.0.0.1:1"),
        (DnsFamily::Ipv6, "[::1]:1"),
        (DnsFamily::Both, "10.0.0.1:1 [::1]:1"),
    ] {
        rounds.options.family = family;
        assert_eq!(next(&mut rounds).await, keys);
    }
    rounds.options.family = DnsFamily::Ipv6;
    server.set("db.test", AAAA, Reply::Records(Vec::new()));
    assert_eq!(next(&mut rounds).await, "lost: db.test: no AAAA records (NODATA)");
    server.set("db.test", AAAA, Reply::Code(ResponseCode::ServFail));
    let expected = "lost: db.test: error SERVFAIL for AAAA from SERVER";
    assert_eq!(next(&mut rounds).await, expected);
}

#[tokio::test]
async fn what_one_server_cannot_answer_another_is_asked_for() {
    let (half, whole) = (NameServer::start().await, NameServer::start().await);
    half.set_addresses("db.test", &["10.0.0.1"]);
    half.set("db.test", AAAA, Reply::Code(ResponseCode::ServFail));
    whole.set_addresses("db.test", &["10.0.0.1", "::1"]);
    let mut rounds = rounds("db.test:1", &[&half, &whole]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1 [::1]:1");
    for kind in [A, AAAA] {
        whole.set("db.test", kind, Reply::Code(ResponseCode::Refused));
    }
    half.set_addresses("db.test", &["10.0.0.2"]);
    half.set("db.test", AAAA, Reply::Code(ResponseCode::ServFail));
    assert_eq!(next(&mut rounds).await, "10.0.0.2:1 [::1]:1", "half is better than nothing");
}

#[tokio::test]
async fn a_server_that_is_down_costs_no_time() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1"]);
    // Another address of this machine: nobody listens there.
    let nobody = SocketAddr::new([127, 0, 0, 99].into(), server.address.port());
    let down = NameServer { address: nobody, zone: Arc::default() };
    let mut rounds = rounds("db.test:1", &[&down, &server]);
    rounds.options.timeout = Duration::from_secs(60);
    let update = tokio::time::timeout(Duration::from_secs(25), next(&mut rounds)).await;
    assert_eq!(update.expect("what the other server says"), "10.0.0.1:1");
}

#[tokio::test]
async fn a_truncated_answer_is_no_smaller_set() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1"]);
    server.set("db.test", A, Reply::Truncated);
    let expected = "lost: db.test: truncated answer for A from SERVER";
    assert_eq!(next(&mut rounds("db.test:1", &[&server])).await, expected);
}

#[tokio::test]
async fn more_backends_than_one_packet_holds_come_by_tcp() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &[]);
    let addresses =
        (0..1000).map(|n| RData::A(rdata::A::new(10, 0, (n / 250) as u8, (n % 250) as u8)));
    server.set("db.test", A, Reply::LongRecords(addresses.collect()));
    let keys = next(&mut rounds("db.test:1", &[&server])).await;
    assert_eq!(keys.split(' ').count(), 1000, "{keys}");
}

// With paused time, which goes on as soon as nothing else does: so never where a packet is awaited
// that comes.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_given_up_in_time() {
    let servers = [NameServer::start().await, NameServer::start().await];
    for server in &servers {
        for kind in [A, AAAA] {
            server.set("db.test", kind, Reply::Silence);
        }
    }
    let began = Instant::now();
    let mut updates = pin!(source("db.test:1", &[&servers[0], &servers[1]]).updates());
    let expected = "lost: db.test: no answer for A (timeout) from SERVER; \
        no answer for A (timeout) from SERVER";
    assert_eq!(text(&updates.next().await.unwrap()), expected);
    let took = began.elapsed();
    assert!((4999..=5010).contains(&took.as_millis()), "{took:?}");
    // The second had its share of the time.
    let wait = servers[1].asked()[0] - began;
    assert!((2499..4000).contains(&wait.as_millis()), "{wait:?}");
    // And a server isn't flooded because it is silent.
    assert_eq!(text(&updates.next().await.unwrap()), expected);
    let took = began.elapsed();
    assert!((10_098..=10_320).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test]
async fn a_network_that_fails_is_told_from_a_server_that_does() {
    let mut rounds = rounds("db.test:1", &[]);
    // The system sends nothing there: a socket must ask to broadcast.
    rounds.options.servers = vec!["255.255.255.255:53".parse().unwrap()];
    let expected = "lost: db.test: network error for A (nothing could be sent or received) \
        from 255.255.255.255:53";
    assert_eq!(next(&mut rounds).await, expected);
}

#[tokio::test]
async fn a_timeout_that_is_too_long_costs_no_backends() {
    let server = NameServer::start().await;
    server.set_addresses("db.test", &["10.0.0.1"]);
    let mut rounds = rounds("db.test:1", &[&server]);
    rounds.options.timeout = Duration::MAX;
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
}

#[tokio::test]
async fn one_bad_server_of_several_loses_nothing() {
    let (bad, good) = (NameServer::start().await, NameServer::start().await);
    bad.set_addresses("db.test", &[]);
    bad.set("db.test", A, Reply::Code(ResponseCode::ServFail));
    good.set_addresses("db.test", &["10.0.0.1"]);
    let mut rounds = rounds("db.test:1", &[&bad, &good]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
    // From then on the good one is asked first.
    let asked = bad.asked();
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
    assert_eq!(bad.asked(), asked);
    good.set("db.test", A, Reply::Code(ResponseCode::Refused));
    let expected = "lost: db.test: error REFUSED for A from SERVER; \
        error SERVFAIL for A from SERVER";
    assert_eq!(next(&mut rounds).await, expected);
    // That there is no such name is an answer, which another server can't better.
    let asked = bad.asked();
    good.set("db.test", A, Reply::Code(ResponseCode::NXDomain));
    assert_eq!(next(&mut rounds).await, "lost: db.test: no such name (NXDOMAIN)");
    assert_eq!(bad.asked(), asked);
}

#[tokio::test]
async fn a_name_behind_aliases_has_its_backends() {
    let server = NameServer::start().await;
    server.set_alias("www.test", "b.test");
    server.set_alias("b.test", "db.test");
    server.set_addresses("db.test", &["10.0.0.1"]);
    let mut rounds = rounds("www.test:1", &[&server]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
    assert_eq!(rounds.answer().await.unwrap().0.ttl, 10);
    server.set_alias("b.test", "gone.test");
    assert_eq!(next(&mut rounds).await, "lost: www.test: gone.test: no such name (NXDOMAIN)");
    server.set_alias("b.test", "www.test");
    assert_eq!(next(&mut rounds).await, "lost: www.test: more than 8 aliases from SERVER");
}

#[tokio::test]
async fn the_best_targets_of_a_service_are_its_backends_each_once() {
    let server = NameServer::start().await;
    let targets = [(20, 1, "c.test"), (10, 5432, "a.test"), (10, 5433, "b.test")];
    server.set_targets("_pg._tcp.test", &targets);
    server.set_addresses("a.test", &["10.0.0.1"]);
    server.set_addresses("b.test", &["10.0.0.2", "::1"]);
    let mut rounds = rounds("_pg._tcp.test", &[&server]);
    // The standby isn't even looked up: there is none.
    assert_eq!(next(&mut rounds).await, "10.0.0.1:5432 10.0.0.2:5433 [::1]:5433");
    assert_eq!(rounds.answer().await.unwrap().0.ttl, 20);
    server.set_targets("_pg._tcp.test", &[(10, 1, "a.test"), (10, 1, "b.test"), (10, 2, "a.test")]);
    server.set_addresses("b.test", &["10.0.0.1"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1 10.0.0.1:2");
    server.set_targets("_pg._tcp.test", &targets[..1]);
    server.set_addresses("c.test", &["10.0.0.3"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.3:1");
    // More than are resolved at once, as many as a response by UDP holds.
    let ports: Vec<u16> = (1..=34).collect();
    let names: Vec<String> = ports.iter().map(|port| format!("t{port}.test")).collect();
    let many: Vec<_> = ports.iter().zip(&names).map(|(&port, name)| (1, port, &**name)).collect();
    server.set_targets("_pg._tcp.test", &many);
    for name in names {
        server.set_addresses(name.leak(), &["10.0.0.1"]);
    }
    assert_eq!(next(&mut rounds).await.split(' ').count(), 34);
}

#[tokio::test]
async fn a_service_behind_an_alias_has_its_backends() {
    let server = NameServer::start().await;
    server.set_alias("_pg._tcp.test", "_pg._tcp.other.test");
    server.set_targets("_pg._tcp.other.test", &[(0, 5432, "a.test")]);
    server.set_addresses("a.test", &["10.0.0.1"]);
    assert_eq!(next(&mut rounds("_pg._tcp.test", &[&server])).await, "10.0.0.1:5432");
}

#[tokio::test]
async fn a_service_that_is_not_available_empties_the_set_and_one_without_records_does_not() {
    let server = NameServer::start().await;
    let mut rounds = rounds("_pg._tcp.test", &[&server]);
    assert_eq!(next(&mut rounds).await, "lost: _pg._tcp.test: no such name (NXDOMAIN)");
    server.set_targets("_pg._tcp.test", &[(0, 0, ".")]);
    assert_eq!(next(&mut rounds).await, "");
    server.set_targets("_pg._tcp.test", &[]);
    assert_eq!(next(&mut rounds).await, "lost: _pg._tcp.test: no SRV records (NODATA)");
    server.set_targets("_pg._tcp.test", &[(0, 0, "."), (1, 1, "a.test")]);
    let lost = next(&mut rounds).await;
    assert!(lost.contains("beside others"), "{lost}");
}

#[tokio::test]
async fn a_target_that_cannot_be_resolved_is_named_and_takes_no_others_with_it() {
    let server = NameServer::start().await;
    server.set_targets("_pg._tcp.test", &[(0, 1, "a.test"), (0, 1, "b.test")]);
    server.set_addresses("a.test", &["10.0.0.1"]);
    let mut rounds = rounds("_pg._tcp.test", &[&server]);
    let without = |reason: &str| format!("10.0.0.1:1 without b.test: {reason}");
    let nxdomain = "no such name (NXDOMAIN)";
    assert_eq!(next(&mut rounds).await, without(nxdomain));
    server.set_addresses("b.test", &[]);
    assert_eq!(next(&mut rounds).await, without("neither A nor AAAA records (NODATA)"));
    server.set("b.test", AAAA, Reply::Code(ResponseCode::ServFail));
    assert_eq!(next(&mut rounds).await, without("error SERVFAIL for AAAA from SERVER"));
    server.set_addresses("b.test", &["10.0.0.2"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1 10.0.0.2:1");
    // One that can't be asked is where it was, and one that is gone is gone.
    server.set("b.test", A, Reply::Code(ResponseCode::ServFail));
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1 10.0.0.2:1");
    server.set("b.test", A, Reply::Code(ResponseCode::NXDomain));
    assert_eq!(next(&mut rounds).await, without(nxdomain));
    // A service isn't empty because none of its targets has an address.
    server.set("a.test", A, Reply::Code(ResponseCode::NXDomain));
    assert_eq!(next(&mut rounds).await, format!("lost: _pg._tcp.test: a.test: {nxdomain}"));
}

#[tokio::test]
async fn a_name_that_stays_away_is_asked_less_and_less_until_it_is_back() {
    let server = NameServer::start().await;
    let mut rounds = rounds("db.test:1", &[&server]);
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        assert!(next(&mut rounds).await.starts_with("lost"));
        assert!((100..=10_000).contains(&rounds.pause.as_millis()), "{:?}", rounds.pause);
        longest = longest.max(rounds.pause);
    }
    assert!(longest > Duration::from_secs(1), "{longest:?}");
    server.set_addresses("db.test", &["10.0.0.1"]);
    assert_eq!(next(&mut rounds).await, "10.0.0.1:1");
    assert_eq!(rounds.pause, rounds.options.refresh_max);
    server.set("db.test", A, Reply::Code(ResponseCode::ServFail));
    assert!(next(&mut rounds).await.starts_with("lost"));
    assert!(rounds.pause <= Duration::from_millis(300), "{:?}", rounds.pause);
}

#[test]
fn a_change_is_seen_as_soon_as_records_expire_but_a_server_is_not_flooded() {
    let options = DnsOptions::default();
    for (ttl, seconds) in [(0, 1), (1, 1), (2, 2), (300, 300), (301, 300), (u32::MAX, 300)] {
        assert_eq!(refresh(&options, ttl).as_secs(), seconds, "{ttl}");
    }
    let options = DnsOptions { refresh_min: Duration::ZERO, ..options };
    assert_eq!(refresh(&options, 0), Duration::from_millis(1));
    let options = DnsOptions { refresh_min: Duration::from_secs(400), ..options };
    assert_eq!(refresh(&options, 0), options.refresh_max);
    let options = DnsOptions { refresh_max: Duration::ZERO, ..options };
    assert_eq!(refresh(&options, 300), Duration::from_millis(1));
}
