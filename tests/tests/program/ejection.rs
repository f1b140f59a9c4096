//! Backends that don't accept connections: what the program logs, counts and shows of them, and what
//! its settings change.

use std::{
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpListener},
    process::Command,
};

use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use socket2::{Domain, Type};

use crate::harness::{
    Backend, Client, ConfigFile, End, Hung, Line, Socket, Tinylb, free_address, get,
    namespace::is_inside, until,
};

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

/// A service `s` with these backends, whose rotation begins with the first key.
fn config(backends: &[(&str, &str)], settings: &str) -> String {
    let backends: Vec<String> =
        backends.iter().map(|(key, address)| format!("{key} = {address:?}")).collect();
    format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ {} }}\nstart = 0\n{settings}\n",
        backends.join(", ")
    )
}

/// The state of the service.
fn state(tinylb: &Tinylb) -> Value {
    get(&tinylb.admin(), "/services").json()["s"].clone()
}

/// A metric of the service, by its name and further labels.
fn metric(tinylb: &Tinylb, name: &str, labels: &str) -> u64 {
    let metrics = get(&tinylb.admin(), "/metrics").body;
    let sample = format!("{name}{{service=\"s\"{labels}}} ");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&sample));
    line.unwrap_or_else(|| panic!("no {sample}: {metrics}")).parse().unwrap()
}

fn count(lines: &[Line], text: &str) -> usize {
    lines.iter().filter(|line| line.says(text)).count()
}

/// Listens where nobody did, and takes nothing by itself.
fn listen(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

fn has_accepted(listener: &TcpListener) -> bool {
    match listener.accept() {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
            false
        }
    }
}

#[test]
fn a_backend_that_dies_is_skipped_and_is_back_soon_after_it_has_restarted_without_seeing_a_probe() {
    const RESTARTS: usize = 5;
    let (a, address) = (Backend::echo("a"), free_address());
    let fast = "probe_interval_min = \"50ms\"\nprobe_interval_max = \"50ms\"";
    let file = ConfigFile::new(&config(&[("a", &a.address), ("b", &address)], fast));
    let tinylb = file.run_with(&ADMIN);
    let mut rounds_with_probes = 0;
    for round in 1..=RESTARTS {
        // One of the two has the turn of the dead one.
        let clients = Client::several(&tinylb.address(), 4);
        assert!(clients.iter().all(|client| client.backend == "a"));
        let ejected = tinylb.lines(round, "backend ejected").remove(round - 1);
        assert_eq!((ejected.field("level"), ejected.field("cause")), ("WARN", "refused"));
        assert_eq!(ejected.field("target"), address);
        assert_eq!(ejected.json["keys"], serde_json::json!(["b"]));
        let listener = listen(&address);
        let back = tinylb.lines(round, "backend is back").remove(round - 1);
        assert_eq!((back.field("level"), back.field("target")), ("INFO", &*address));
        assert!(back.json["ejected_seconds"].as_f64().unwrap() > 0.0, "{back:?}");
        // The system hides probes for as long as the process doesn't stand still.
        rounds_with_probes += usize::from(has_accepted(&listener));
    }
    assert!(rounds_with_probes < RESTARTS, "the backend accepts probes");
    assert_eq!(metric(&tinylb, "tinylb_returns_total", ""), RESTARTS as u64);
    assert!(count(&tinylb.log(), "dial failed") <= RESTARTS);
    tinylb.stop();
}

#[test]
fn an_ejected_backend_is_shown_and_counted_and_leaves_the_program_ready() {
    let address = free_address();
    let slow = "probe_interval_min = \"1h\"\nprobe_interval_max = \"1h\"\ndial_attempts_max = 1";
    let file = ConfigFile::new(&config(&[("b", &address)], slow));
    let tinylb = file.run_with(&ADMIN);
    for _ in 0..20 {
        let end = End::from(Client::try_connect(&tinylb.address()).map(|_| ()));
        assert_eq!(end, End::Reset);
    }
    // The first probe goes out at once.
    until("a probe", || metric(&tinylb, "tinylb_probes_total", ",result=\"failed\"") == 1);
    let state = state(&tinylb);
    let ejected = &state["ejected"][0];
    assert_eq!((&ejected["target"], &ejected["cause"]), (&address.into(), &"refused".into()));
    assert!(ejected["ejected_seconds"].as_f64().unwrap() > 0.0, "{state}");
    let next = ejected["next_probe_seconds"].as_f64().unwrap();
    assert!((1000.0..=3600.0).contains(&next), "{state}");
    assert_eq!(state["probes"], 0);
    for (name, labels, value) in [
        ("tinylb_targets_ejected", "", 1),
        ("tinylb_targets_all_ejected", "", 1),
        ("tinylb_ejections_total", ",cause=\"refused\"", 1),
        ("tinylb_ejections_total", ",cause=\"timed_out\"", 0),
        ("tinylb_dial_failures_total", "", 20),
        ("tinylb_returns_total", "", 0),
    ] {
        assert_eq!(metric(&tinylb, name, labels), value, "{name}{labels}");
    }
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 200);
    tinylb.stop_and_log(|lines| {
        assert_eq!((count(lines, "dial failed"), count(lines, "backend ejected")), (1, 1));
    });
}

#[test]
fn a_dial_of_a_last_resort_that_succeeds_returns_the_backend() {
    let address = free_address();
    let slow = "probe_interval_min = \"1h\"\nprobe_interval_max = \"1h\"\ndial_attempts_max = 1";
    let file = ConfigFile::new(&config(&[("b", &address)], slow));
    let tinylb = file.run_with(&ADMIN);
    for _ in 0..3 {
        assert!(Client::try_connect(&tinylb.address()).is_err());
    }
    until("a probe", || metric(&tinylb, "tinylb_probes_total", ",result=\"failed\"") == 1);
    let _b = Backend::echo_at("b", &address);
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    // The dials that failed after the first one.
    let back = tinylb.line("backend is back in rotation");
    assert_eq!(back.json["dials_failed"], 2, "{back:?}");
    let shown = state(&tinylb);
    assert_eq!(shown["ejected"], serde_json::json!([]), "{shown}");
    assert_eq!(metric(&tinylb, "tinylb_targets_all_ejected", ""), 0);
    tinylb.stop();
}

fn hung_is_ejected(hung: Hung) {
    let b = Backend::echo("b");
    // Longer than this machine stands still.
    let settings = "dial_patience = \"1s\"\ndial_timeout = \"1h\"\ndial_time_max = \"1h\"";
    let file = ConfigFile::new(&config(&[("a", &hung.address), ("b", &b.address)], settings));
    let tinylb = file.run_with(&[&ADMIN[..], &["--log-level", "debug"]].concat());
    let clients = Client::several(&tinylb.address(), 6);
    assert!(clients.iter().all(|client| client.backend == "b"));
    // Only the first client was on its way to it.
    assert_eq!(metric(&tinylb, "tinylb_dials_given_up_total", ""), 1);
    assert_eq!(metric(&tinylb, "tinylb_dial_failures_total", ""), 0);
    assert_eq!(metric(&tinylb, "tinylb_ejections_total", ",cause=\"timed_out\""), 1);
    let shown = state(&tinylb);
    assert_eq!(shown["ejected"][0]["cause"], "timed_out", "{shown}");
    hung.answer("a");
    tinylb.line("backend is back in rotation");
    assert!(tinylb.line("probe succeeded").field("level") == "DEBUG");
    let mut backends: Vec<_> =
        Client::several(&tinylb.address(), 2).into_iter().map(|client| client.backend).collect();
    backends.sort();
    assert_eq!(backends, ["a", "b"]);
}

#[test]
fn a_hung_backend_keeps_one_client_waiting_and_the_next_ones_go_elsewhere() {
    hung_is_ejected(Hung::tcp());
}

#[test]
fn a_hung_unix_backend_keeps_one_client_waiting_and_the_next_ones_go_elsewhere() {
    hung_is_ejected(Hung::unix());
}

#[test]
fn a_unix_backend_that_restarts_is_skipped_meanwhile_though_its_file_is_gone() {
    let a = Backend::echo("a");
    let file = ConfigFile::new("");
    let b = format!("unix:{}", file.in_dir("b.sock").display());
    file.edit(&config(&[("a", &a.address), ("b", &b)], ""));
    let tinylb = file.run();
    let clients = Client::several(&tinylb.address(), 4);
    assert!(clients.iter().all(|client| client.backend == "a"));
    assert_eq!(tinylb.line("backend ejected").field("cause"), "refused");
    let _b = Backend::echo_at("b", &b);
    tinylb.line("backend is back in rotation");
    let clients = Client::several(&tinylb.address(), 2);
    assert!(clients.iter().any(|client| client.backend == "b"));
}

// Our own failures.

fn leave_one_descriptor(tinylb: &Tinylb) {
    let open: Vec<u64> = fs::read_dir(format!("/proc/{}/fd", tinylb.id()))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().parse().unwrap())
        .collect();
    let free = (0..).find(|number| !open.contains(number)).unwrap();
    let maximum = getrlimit(Resource::Nofile).maximum;
    limit_descriptors(tinylb, Rlimit { current: Some(free + 1), maximum });
}

fn limit_descriptors(tinylb: &Tinylb, limit: Rlimit) {
    prlimit(Pid::from_raw(tinylb.id() as i32), Resource::Nofile, limit).unwrap();
}

#[test]
fn no_backend_is_ejected_for_lack_of_descriptors() {
    let (a, b) = (Backend::echo("a"), Backend::echo("b"));
    let file = ConfigFile::new(&config(&[("a", &a.address), ("b", &b.address)], ""));
    let tinylb = file.run_with(&[&ADMIN[..], &["--workers", "1"]].concat());
    tinylb.line("backends replaced");
    // It stays, so that no descriptor comes free.
    let mut first = Client::connect(&tinylb.address());
    assert!(first.is_served());
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    until("a dial without a descriptor", || {
        // One for the client, and none for the dial.
        leave_one_descriptor(&tinylb);
        let client = Client::try_connect(&tinylb.address());
        limit_descriptors(&tinylb, Rlimit { current: maximum, maximum });
        client.is_err() && metric(&tinylb, "tinylb_dial_failures_total", "") > 0
    });
    assert!(Client::connect(&tinylb.address()).is_served());
    assert_eq!(first.finish(), End::Clean);
    tinylb.stop_and_log(|lines| assert_eq!(count(lines, "backend ejected"), 0, "{lines:?}"));
}

/// A client that connects from this address.
fn connect_from(from: &str, address: &str) -> Socket {
    let socket = socket2::Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&from.parse::<SocketAddr>().unwrap().into()).unwrap();
    socket.connect(&address.parse::<SocketAddr>().unwrap().into()).unwrap();
    Socket::Tcp(socket.into())
}

#[test]
fn no_backend_is_ejected_for_lack_of_ports_or_by_what_this_machine_forbids() {
    let test = "ejection::no_backend_is_ejected_for_lack_of_ports_or_by_what_this_machine_forbids";
    if !is_inside(test, "", "") {
        return;
    }
    for route in ["prohibit 192.0.2.1", "unreachable 192.0.2.2", "throw 192.0.2.3"] {
        let args = ["route", "add"].into_iter().chain(route.split(' '));
        assert!(Command::new("ip").args(args).status().unwrap().success());
    }
    // One port for each pair of addresses.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
    let b = Backend::echo_at("b", "127.0.0.1:9001");
    let file = ConfigFile::new(&format!(
        "[services.near]\nlisten = \"127.0.0.1:9000\"\nbackends = {{ b = {:?} }}\n\
         dial_attempts_max = 1\n\
         [services.far]\nlisten = \"127.0.0.1:9002\"\nbackends = {{ forbidden = \
         \"192.0.2.1:80\", unreachable = \"192.0.2.2:80\", unknown = \"192.0.2.3:80\" }}\n\
         dial_attempts_max = 3\n",
        b.address
    ));
    let tinylb = file.run();
    tinylb.lines(2, "backends replaced");
    let end = |from, address| {
        let client = Client::greeted(connect_from(from, address));
        End::from(client.map(|_| ()))
    };
    let first = Client::greeted(connect_from("127.0.0.2:1001", "127.0.0.1:9000")).unwrap();
    assert_eq!(end("127.0.0.2:1002", "127.0.0.1:9000"), End::Reset);
    assert!(tinylb.line("\"service\":\"near\",\"backend\":\"b\"").says("no port left"));
    for from in ["127.0.0.2:1003", "127.0.0.2:1004"] {
        assert_eq!(end(from, "127.0.0.1:9002"), End::Reset);
    }
    assert_eq!(first.finish(), End::Clean);
    tinylb.stop_and_log(|lines| {
        let ejected: Vec<_> = lines.iter().filter(|line| line.says("backend ejected")).collect();
        assert_eq!(ejected.len(), 1, "{ejected:?}");
        // What the network says of the way to it.
        let fields = ["target", "cause"].map(|name| ejected[0].field(name));
        assert_eq!(fields, ["192.0.2.2:80", "unreachable"]);
    });
}

// Settings, changed while the program runs.

#[test]
fn ejection_can_be_switched_off_and_returns_who_was_ejected() {
    let (a, dead) = (Backend::echo("a"), free_address());
    let backends = [("a", &*a.address), ("b", &*dead)];
    let slow = "probe_interval_min = \"1h\"\nprobe_interval_max = \"1h\"";
    let file = ConfigFile::new(&config(&backends, slow));
    let tinylb = file.run_with(&ADMIN);
    drop(Client::several(&tinylb.address(), 2));
    tinylb.line("backend ejected");
    file.edit(&config(&backends, &format!("{slow}\nejection = false")));
    tinylb.line("backend is back in rotation");
    let failures = || metric(&tinylb, "tinylb_dial_failures_total", "");
    let before = failures();
    drop(Client::several(&tinylb.address(), 10));
    assert!(failures() > before + 1, "each turn of it costs a dial again");
    file.edit(&config(&backends, slow));
    tinylb.lines(2, "configuration reloaded");
    drop(Client::several(&tinylb.address(), 2));
    tinylb.lines(2, "backend ejected");
}

#[test]
fn the_patience_of_dials_can_be_changed() {
    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let backends = [("a", &*hung.address), ("b", &*b.address)];
    let off = "ejection = false\ndial_timeout = \"1s\"";
    let file = ConfigFile::new(&config(&backends, &format!("{off}\ndial_patience = \"off\"")));
    let tinylb = file.run_with(&ADMIN);
    let given_up = || metric(&tinylb, "tinylb_dials_given_up_total", "");
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    assert!(tinylb.line("dial failed").says("timed out"));
    assert_eq!(given_up(), 0);
    let failures = metric(&tinylb, "tinylb_dial_failures_total", "");
    file.edit(&config(&backends, &format!("{off}\ndial_patience = \"300ms\"")));
    tinylb.line("configuration reloaded");
    // One of them has the turn of the one that hangs.
    assert!(Client::several(&tinylb.address(), 2).iter().all(|client| client.backend == "b"));
    assert!(given_up() > 0);
    assert_eq!(metric(&tinylb, "tinylb_dial_failures_total", ""), failures);
}

#[test]
fn the_pauses_between_probes_can_be_changed() {
    let (a, dead) = (Backend::echo("a"), free_address());
    let backends = [("a", &*a.address), ("b", &*dead)];
    let pauses = |time: &str| {
        config(
            &backends,
            &format!("probe_interval_min = \"{time}\"\nprobe_interval_max = \"{time}\""),
        )
    };
    let file = ConfigFile::new(&pauses("20ms"));
    let tinylb = file.run_with(&ADMIN);
    drop(Client::several(&tinylb.address(), 2));
    let failed = || metric(&tinylb, "tinylb_probes_total", ",result=\"failed\"");
    until("many probes", || failed() > 10);
    file.edit(&pauses("1h"));
    until("a longer pause", || {
        state(&tinylb)["ejected"][0]["next_probe_seconds"].as_f64().is_some_and(|s| s > 1000.0)
    });
}

#[test]
fn the_number_of_probes_can_be_changed() {
    let (hung, also_hung, c) = (Hung::tcp(), Hung::tcp(), Backend::echo("c"));
    let backends = [("a", &*hung.address), ("b", &*also_hung.address), ("c", &*c.address)];
    let config = |max: usize| {
        let patience = "dial_patience = \"500ms\"\ndial_timeout = \"1h\"\ndial_time_max = \"1h\"";
        config(&backends, &format!("{patience}\nprobes_max = {max}"))
    };
    let file = ConfigFile::new(&config(1));
    let tinylb = file.run_with(&ADMIN);
    assert_eq!(Client::connect(&tinylb.address()).backend, "c");
    tinylb.lines(2, "backend ejected");
    until("a probe", || state(&tinylb)["probes"] == 1);
    assert_eq!(metric(&tinylb, "tinylb_targets_ejected", ""), 2);
    file.edit(&config(2));
    tinylb.line("configuration reloaded");
    until("another probe", || state(&tinylb)["probes"] == 2);
}

#[test]
fn sessions_of_a_silent_backend_stay_until_that_is_changed() {
    let (listener, b) = (TcpListener::bind("127.0.0.1:0").unwrap(), Backend::echo("b"));
    let address = listener.local_addr().unwrap().to_string();
    let backends = [("a", &*address), ("b", &*b.address)];
    let file = ConfigFile::new(&config(&backends, ""));
    let tinylb = file.run_with(&ADMIN);
    let client = Socket::connect(&tinylb.address()).unwrap();
    let (mut of_a, _) = listener.accept().unwrap();
    of_a.write_all(b"a\n").unwrap();
    let mut client = Client::greeted(client).unwrap();
    let _hung = Hung::from(listener);
    assert!(Client::several(&tinylb.address(), 4).iter().all(|client| client.backend == "b"));
    assert_eq!(tinylb.line("backend ejected").field("cause"), "timed_out");
    // Sessions stay by default.
    until("another probe", || metric(&tinylb, "tinylb_probes_total", ",result=\"failed\"") > 0);
    assert_eq!(state(&tinylb)["live"], 1);
    file.edit(&config(&backends, "cut_silent = \"1s\""));
    tinylb.line("configuration reloaded");
    until("an end", || {
        // So that another one answers after the silence has begun.
        drop(Client::connect(&tinylb.address()));
        metric(&tinylb, "tinylb_connections_ended_total", ",reason=\"backend_silent\"") == 1
    });
    let line = tinylb.line("its sessions are cut");
    assert_eq!(line.json["keys"], serde_json::json!(["a"]), "{line:?}");
    assert_eq!(client.end(), End::Reset);
}

#[test]
fn clients_can_wait_while_there_is_no_backend() {
    let b = Backend::echo("b");
    let file = ConfigFile::new(&config(&[], ""));
    let tinylb = file.run_with(&ADMIN);
    tinylb.line("backends replaced");
    let end = || End::from(Client::try_connect(&tinylb.address()).map(|_| ()));
    assert_eq!(end(), End::Reset);
    let wait = "empty = \"wait\"\nwaiting_timeout = \"1h\"";
    file.edit(&config(&[], wait));
    tinylb.line("configuration reloaded");
    let waiting: Vec<_> = (0..3).map(|_| Socket::connect(&tinylb.address()).unwrap()).collect();
    until("them to wait", || state(&tinylb)["waiting"] == 3);
    assert_eq!(metric(&tinylb, "tinylb_connections_waiting", ""), 3);
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 200);
    file.edit(&config(&[("b", &b.address)], wait));
    for socket in waiting {
        assert_eq!(Client::greeted(socket).unwrap().backend, "b");
    }
    // And back: those who wait then are reset.
    file.edit(&config(&[], wait));
    tinylb.line(r#""removed":["b"]"#);
    let last = Socket::connect(&tinylb.address()).unwrap();
    until("it to wait", || state(&tinylb)["waiting"] == 1);
    file.edit(&config(&[], ""));
    assert_eq!(End::from(Client::greeted(last).map(|_| ())), End::Reset);
    assert_eq!(end(), End::Reset);
    tinylb.stop();
}
