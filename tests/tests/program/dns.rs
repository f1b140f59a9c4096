//! Backends that are looked up in DNS, by a real server whose zone changes.

use std::{
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, ConfigFile, End, Knot, Load, Tinylb, binary, free_address, get, output, put,
    until,
};

/// Backends at one port of hosts of their own, as A records need it.
fn backends<const N: usize>(keys: [&str; N]) -> ([Backend; N], [String; N], String) {
    let first = free_address();
    let port = first.rsplit_once(':').unwrap().1.to_string();
    let hosts = keys.map(|_| free_address().rsplit_once(':').unwrap().0.to_string());
    let mut next = hosts.iter();
    let backends =
        keys.map(|key| Backend::echo_at(key, &format!("{}:{port}", next.next().unwrap())));
    (backends, hosts, port)
}

fn config(name: &str, server: &str, more: &str) -> ConfigFile {
    ConfigFile::new(&text(name, server, more))
}

fn text(name: &str, server: &str, more: &str) -> String {
    format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nstart = 0\nsource = {{ dns = \"{name}\", \
         servers = \"{server}\", refresh_min = \"100ms\", refresh_max = \"200ms\"{more} }}\n"
    )
}

#[test]
fn the_set_follows_a_zone_that_changes_under_load() {
    let (_backends, [a, b, c], port) = backends(["a", "b", "c"]);
    let records = [format!("web A {a}"), format!("web A {b}")];
    let Some(knot) = Knot::start(&records.each_ref().map(String::as_str)) else { return };
    let file = config(&format!("web.lb.test:{port}"), &knot.address(), "");
    let tinylb = file.run();
    let address = tinylb.address();
    let mut load = Load::start(&address, 10);
    assert_eq!((load.count(|key| key == "a"), load.count(|key| key == "b")), (5, 5));

    knot.change(&[&format!("unset web A {b}"), &format!("set web 1 A {c}")]);
    assert_eq!(load.ends("b"), [End::Reset; 5], "clients of a removed backend are reset");
    load.go_on(|_| true);
    let next = Client::several(&address, 4);
    assert_eq!(next.iter().filter(|client| client.backend == "c").count(), 2);
    // Answers come in changing order, which is no change: some are on their way in the meantime.
    thread::sleep(Duration::from_secs(1));
    assert_eq!(tinylb.lines(2, "backends replaced").len(), 2);
    assert_eq!(load.finish(), [End::Clean; 5]);
    tinylb.stop();
}

#[test]
fn while_the_name_server_is_away_the_last_set_serves() {
    let (_backends, [a], port) = backends(["a"]);
    let Some(knot) = Knot::start(&[&format!("web A {a}")]) else { return };
    let file = config(&format!("web.lb.test:{port}"), &knot.address(), "");
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let lost = || {
        let metrics = get(&admin, "/metrics").body;
        metrics.contains("tinylb_source_lost{service=\"s\"} 1")
    };
    let load = Load::start(&address, 3);
    let is_back = |count| tinylb.lines(count, "source of backends is back").len() == count;

    knot.signal(Signal::STOP);
    assert!(tinylb.line("source of backends lost").says("(timeout)"));
    assert!(lost());
    knot.signal(Signal::CONT);
    assert!(is_back(1) && !lost());

    knot.change(&[&format!("unset web A {a}")]);
    assert!(tinylb.lines(2, "source of backends lost")[1].says("NXDOMAIN"));
    knot.change(&["set web 1 TXT x"]);
    until("another reason", || {
        get(&admin, "/services").json()["s"]["source_lost"]
            .as_str()
            .unwrap()
            .contains("neither A nor AAAA")
    });
    load.go_on(|_| true);
    assert!(Client::connect(&address).is_served());
    knot.change(&[&format!("set web 1 A {a}")]);
    assert!(is_back(2));
    assert_eq!(load.finish(), [End::Clean; 3]);
    tinylb.stop_and_log(|lines| {
        let count = |text: &str| lines.iter().filter(|line| line.says(text)).count();
        assert_eq!(count("source of backends lost"), 2, "a loss is logged once");
        assert_eq!(count("backends replaced"), 1);
    });
}

/// A name server that has one IPv4 address for each name and no IPv6 address. Queries for AAAA fail
/// at first.
struct Ipv4Server {
    address: String,
    state: Arc<Ipv4State>,
}

#[derive(Default)]
struct Ipv4State {
    is_repaired: AtomicBool,
    /// Answers to AAAA queries so far: those that failed, and the others.
    failed: AtomicUsize,
    answered: AtomicUsize,
}

impl Ipv4Server {
    fn start(ip: &str) -> Self {
        let ip = ip.parse::<Ipv4Addr>().unwrap().octets();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (address, state) = (socket.local_addr().unwrap().to_string(), Arc::default());
        let server = Self { address, state: Arc::clone(&state) };
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((_, client)) = socket.recv_from(&mut query) {
                let answer = state.answer(&query, ip);
                socket.send_to(&answer, client).unwrap();
            }
        });
        server
    }

    /// Answers AAAA queries from now on.
    fn repair(&self) {
        self.state.is_repaired.store(true, Ordering::SeqCst);
    }

    /// Waits for some more of these answers.
    fn answers(&self, what: &str, count: impl Fn(&Ipv4State) -> &AtomicUsize) {
        let count = || count(&self.state).load(Ordering::SeqCst);
        let before = count();
        until(what, || count() >= before + 3);
    }
}

impl Ipv4State {
    fn answer(&self, query: &[u8], ip: [u8; 4]) -> Vec<u8> {
        let name = query[12..].iter().position(|byte| *byte == 0).unwrap();
        let question = &query[12..12 + name + 5];
        // The last of the type's two bytes.
        let is_a = question[name + 2] == 1;
        let fails = !is_a && !self.is_repaired.load(Ordering::SeqCst);
        if !is_a {
            let count = if fails { &self.failed } else { &self.answered };
            count.fetch_add(1, Ordering::SeqCst);
        }
        let code = if fails { 2 } else { 0 };
        let head = [query[0], query[1], 0x84, code, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0];
        let record = [&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4][..], &ip].concat();
        let answer: &[u8] = if is_a { &record } else { &[] };
        [&head[..], question, answer].concat()
    }
}

#[test]
fn lookups_of_one_family_that_keep_failing_are_logged_once_and_so_is_their_end() {
    let (_backends, [a], port) = backends(["a"]);
    let server = Ipv4Server::start(&a);
    let file = config(&format!("web.lb.test:{port}"), &server.address, "");
    let tinylb = file.run();
    let failing = tinylb.line("some lookups of the source fail");
    assert_eq!((failing.field("level"), failing.field("service")), ("WARN", "s"));
    assert!(failing.says("SERVFAIL for AAAA"), "{failing:?}");
    assert!(Client::connect(&tinylb.address()).is_served());
    server.answers("several lookups that fail", |state| &state.failed);
    server.repair();
    assert_eq!(tinylb.line("are answered again").field("level"), "INFO");
    server.answers("several lookups that don't", |state| &state.answered);
    tinylb.stop_and_log(|lines| {
        let count = |text: &str| lines.iter().filter(|line| line.says(text)).count();
        assert_eq!((count("lookups of the source fail"), count("are answered again")), (1, 1));
        assert_eq!(count("source of backends lost"), 0);
    });
}

#[test]
fn failing_lookups_that_a_reload_ends_have_their_end_in_the_log() {
    let (_backends, [a], port) = backends(["a"]);
    let server = Ipv4Server::start(&a);
    let name = format!("web.lb.test:{port}");
    let file = config(&name, &server.address, "");
    let tinylb = file.run();
    tinylb.line("some lookups of the source fail");
    file.edit(&text(&name, &server.address, ", family = \"ipv4\""));
    assert_eq!(tinylb.line("the source that failed is no longer followed").field("service"), "s");
    // The next source is another matter.
    file.edit(&text(&name, &server.address, ""));
    tinylb.lines(2, "some lookups of the source fail");
    server.repair();
    tinylb.line("are answered again");
    tinylb.stop_and_log(|lines| {
        let count = |text: &str| lines.iter().filter(|line| line.says(text)).count();
        assert_eq!((count("no longer followed"), count("are answered again")), (1, 1));
    });
}

#[test]
fn service_records_give_ports_and_of_several_priorities_the_first() {
    let backends = ["a", "b", "c"].map(|key| {
        let backend = Backend::echo(key);
        let port = backend.address.rsplit_once(':').unwrap().1.to_string();
        (backend, port)
    });
    let srv = |priority: u8, n: usize| format!("_db._tcp SRV {priority} 1 {} host", backends[n].1);
    let records = [srv(10, 0), srv(10, 1), srv(20, 2), "host A 127.0.0.1".into()];
    let Some(knot) = Knot::start(&records.each_ref().map(String::as_str)) else { return };
    let file = config("_db._tcp.lb.test", &knot.address(), "");
    let tinylb = file.run();
    let address = tinylb.address();
    let served = || {
        let mut keys: Vec<_> =
            Client::several(&address, 4).iter().map(|c| c.backend.clone()).collect();
        keys.sort();
        keys.join("")
    };
    assert_eq!(served(), "aabb");
    let mut client = Client::connect(&address);
    knot.change(&[
        "unset _db._tcp SRV",
        &format!("set _db._tcp 1 SRV 20 1 {} host", backends[2].1),
    ]);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(served(), "cccc");
}

#[test]
fn what_was_last_known_serves_until_the_source_answers() {
    let (_backends, [a, b], port) = backends(["a", "b"]);
    let Some(knot) = Knot::start(&[&format!("web A {a}")]) else { return };
    let known = ConfigFile::new("");
    let more = format!(", last_known = {:?}", known.in_dir("known"));
    let file = config(&format!("web.lb.test:{port}"), &knot.address(), &more);
    let tinylb = file.run();
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
    until("the file", || known.in_dir("known").exists());
    tinylb.stop();

    knot.signal(Signal::STOP);
    let tinylb = file.run();
    let address = tinylb.address();
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "a");
    assert!(tinylb.line("source of backends lost").says("last known"));
    knot.signal(Signal::CONT);
    knot.change(&[&format!("unset web A {a}"), &format!("set web 1 A {b}")]);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(Client::connect(&address).backend, "b");
    tinylb.stop();

    // A damaged one is a warning.
    std::fs::write(known.in_dir("known"), "{").unwrap();
    let tinylb = file.run();
    assert_eq!(tinylb.line("can't use the last known backends").field("level"), "WARN");
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
}

#[test]
fn a_source_from_the_command_line_is_the_only_one_that_changes_its_set() {
    let name = "nobody.example.invalid:5432";
    let tinylb = Tinylb::run(&[
        "--listen",
        "127.0.0.1:0",
        "--dns",
        name,
        "--admin",
        "127.0.0.1:0",
        "--admin-write",
    ]);
    let answer = put(&tinylb.admin(), "default", r#"{"a":"127.0.0.1:1"}"#);
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("dns nobody.example.invalid:5432"), "{}", answer.body);
    let services = get(&tinylb.admin(), "/services").json();
    assert_eq!(services["default"]["source"], format!("dns {name}"));
}

#[test]
fn a_name_that_is_none_is_refused_with_a_remedy() {
    for (arguments, remedy) in [
        (&["--dns", "db.example.org"][..], "no port"),
        (&["--dns", "10.0.0.1:80"], "IP address"),
        (&["--dns", "a.b:1", "--backend", "a=127.0.0.1:1"], "cannot be used with"),
        (&[], "--dns"),
    ] {
        let mut command = Command::new(binary());
        command.args(["run", "--listen", "127.0.0.1:0"]).args(arguments);
        let output = output(&mut command);
        let printed = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{printed}");
        assert!(printed.contains(remedy), "{printed}");
    }
}
