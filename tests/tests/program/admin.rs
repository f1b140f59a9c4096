//! What the admin address shows, and whom it refuses.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::harness::{
    Answer, Backend, Client, ConfigFile, End, Socket, Tinylb, get, http, put, service, until,
};

const ADMIN: [&str; 2] = ["--admin", "127.0.0.1:0"];

/// Samples by name and labels.
fn metrics(address: &str) -> BTreeMap<String, f64> {
    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200, "{answer:?}");
    assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{answer:?}");
    let samples = answer.body.lines().filter(|line| !line.starts_with('#'));
    samples
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
            (name.to_string(), value.parse().unwrap_or_else(|_| panic!("{line}")))
        })
        .collect()
}

#[test]
fn a_program_that_serves_is_healthy_and_ready() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    tinylb.address();
    let admin = tinylb.admin();
    until("readiness", || get(&admin, "/readyz").status == 200);
    assert_eq!(get(&admin, "/readyz").body, "ready\n");
    assert_eq!(get(&admin, "/healthz").status, 200);
    tinylb.stop();
}

#[test]
fn a_set_that_is_empty_on_purpose_is_ready() {
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [], ""));
    let tinylb = file.run_with(&ADMIN);
    tinylb.address();
    until("readiness", || get(&tinylb.admin(), "/readyz").status == 200);
}

#[test]
fn a_program_that_shuts_down_is_healthy_but_not_ready() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let client = Client::connect(&tinylb.address());
    let admin = tinylb.admin();
    assert_eq!(get(&admin, "/readyz").status, 200);
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    until("unreadiness", || get(&admin, "/readyz").status == 503);
    let answer = get(&admin, "/readyz");
    assert_eq!(answer.body, "default: shutting down\n");
    assert_eq!(get(&admin, "/healthz").status, 200);
    assert_eq!(get(&admin, "/services").json()["default"]["shutting_down"], true);
    assert_eq!(client.finish(), End::Clean);
    tinylb.stop_after_signal();
}

#[test]
fn metrics_count_what_happened() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let tinylb = Tinylb::balance([&a, &b], &[&ADMIN[..], &["--workers", "3"]].concat());
    let mut clients = Client::several(&tinylb.address(), 6);
    clients[0].echo(1).unwrap();
    for client in clients.drain(..2) {
        assert_eq!(client.finish(), End::Clean);
    }
    let admin = tinylb.admin();
    until("two ends", || metrics(&admin)["tinylb_connections_live{service=\"default\"}"] == 4.0);
    let metrics = metrics(&admin);
    let value = |name: &str, labels: &str| {
        let name = format!("{name}{{service=\"default\"{labels}}}");
        *metrics.get(&name).unwrap_or_else(|| panic!("no {name} in {metrics:?}"))
    };
    assert_eq!(value("tinylb_connections_accepted_total", ""), 6.0);
    assert_eq!(value("tinylb_connections_ended_total", ",reason=\"finished\""), 2.0);
    assert_eq!(value("tinylb_connections_ended_total", ",reason=\"backend_removed\""), 0.0);
    assert_eq!(value("tinylb_bytes_total", ",direction=\"to_backends\""), 8.0);
    // Two greetings of two bytes, and an echo.
    assert_eq!(value("tinylb_bytes_total", ",direction=\"to_clients\""), 12.0);
    assert_eq!(value("tinylb_backends", ""), 2.0);
    assert_eq!(value("tinylb_listeners", ""), 3.0);
    for backend in [&a, &b] {
        let labels = format!(",target=\"{}\",state=\"connected\"", backend.address);
        assert_eq!(value("tinylb_backend_connections", &labels), 2.0);
    }
}

#[test]
fn metrics_are_in_the_form_that_prometheus_reads() {
    let a = Backend::echo("a");
    let text = ["s", "t"].map(|name| service(name, "127.0.0.1:0", [&a], "")).concat();
    let file = ConfigFile::new(&text);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let body = get(&tinylb.admin(), "/metrics").body;
    assert!(body.ends_with('\n'));
    let (mut metric, mut seen) = ("", Vec::new());
    for line in body.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            metric = help.split(' ').next().unwrap();
            assert!(!seen.contains(&metric), "{metric} stands in two places");
            seen.push(metric);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, metric);
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            assert_eq!(name, metric, "{line}");
        }
    }
    assert!(seen.len() > 10, "{seen:?}");
}

#[test]
fn services_are_shown_as_they_are() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let text = service("s", "127.0.0.1:0 127.0.0.2:0", [&a, &b], "")
        + &service("t", "127.0.0.1:0", [], "");
    let file = ConfigFile::new(&text);
    let tinylb = file.run_with(&[&ADMIN[..], &["--workers", "1"]].concat());
    let addresses = tinylb.addresses(3);
    let mut clients = Client::several(&addresses[0], 3);
    let answer = get(&tinylb.admin(), "/services");
    assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    let services = answer.json();
    let s = &services["s"];
    assert_eq!(s["backends"]["a"], a.address.as_str());
    assert_eq!(s["backends"]["b"], b.address.as_str());
    assert_eq!((&s["accepted"], &s["live"], &s["listeners"]), (&3.into(), &3.into(), &2.into()));
    assert_eq!(s["ended"]["finished"], 0);
    let connected = |target: &str| {
        let targets = s["targets"].as_array().unwrap();
        targets.iter().find(|t| t["target"] == target).unwrap()["connected"].clone()
    };
    assert_eq!((connected(&a.address), connected(&b.address)), (2.into(), 1.into()));
    assert_eq!(services["t"]["backends"], serde_json::json!({}));
    assert!(clients.iter_mut().all(Client::is_served));
}

#[test]
fn accepted_is_always_live_plus_ended() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let coming_and_going = std::thread::spawn(move || {
        for _ in 0..200 {
            Client::connect(&address).finish();
        }
    });
    while !coming_and_going.is_finished() {
        let service = &get(&admin, "/services").json()["default"];
        let ended = service["ended"].as_object().unwrap().values();
        let ended: u64 = ended.map(|count| count.as_u64().unwrap()).sum();
        let live = service["live"].as_u64().unwrap();
        assert_eq!(service["accepted"].as_u64().unwrap(), live + ended, "{service}");
    }
    coming_and_going.join().unwrap();
}

#[test]
fn unknown_paths_and_wrong_methods_are_refused() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    let admin = tinylb.admin();
    tinylb.address();
    for path in
        ["/", "/x", "/healthz/", "/services/default", "/services/default/backends/a", "/services/"]
    {
        assert_eq!(get(&admin, path).status, 404, "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics", "/services"] {
        for method in ["PUT", "POST", "DELETE"] {
            let answer = http(&admin, method, path, b"");
            assert_eq!(answer.status, 405, "{method} {path}");
            assert!(answer.head.contains("\r\nallow: get"), "{answer:?}");
        }
    }
    for method in ["GET", "POST", "DELETE", "PATCH"] {
        let answer = http(&admin, method, "/services/default/backends", b"{}");
        assert_eq!(answer.status, 405, "{method}");
        assert!(answer.head.contains("\r\nallow: put"), "{answer:?}");
    }
    assert_eq!(put(&admin, "nobody", "{}").status, 404);
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
}

#[test]
fn head_is_answered_as_get_is_but_without_a_body() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let admin = tinylb.admin();
    tinylb.address();
    for path in ["/healthz", "/readyz", "/metrics", "/services", "/x"] {
        // A set's age takes more digits at one time than at another.
        until(&format!("HEAD of {path} gives the length of what GET gives"), || {
            let (shown, head) = (get(&admin, path), http(&admin, "HEAD", path, b""));
            assert_eq!((head.status, head.body.as_str()), (shown.status, ""), "{path}: {head:?}");
            head.head.contains(&format!("content-length: {}\r\n", shown.body.len()))
        });
    }
    assert_eq!(http(&admin, "HEAD", "/services/default/backends", b"").status, 405);
}

#[test]
fn nonsense_is_refused_and_does_no_harm() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let admin = tinylb.admin();
    let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(1 << 20));
    for text in
        ["\0\r\n\r\n", "GET\r\n\r\n", "get / http\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", &endless]
    {
        let mut socket = Socket::connect(&admin).unwrap();
        let _ = socket.write_all(text.as_bytes());
        let answer = Answer::read(&mut socket);
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    assert_eq!(get(&admin, "/healthz").status, 200);
}

#[test]
fn a_slow_client_of_the_admin_address_holds_up_no_other() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let admin = tinylb.admin();
    // Fewer than may be served at a time.
    let slow: Vec<Socket> = (0..8)
        .map(|_| {
            let mut socket = Socket::connect(&admin).unwrap();
            socket.write_all(b"GET /healthz HT").unwrap();
            socket
        })
        .collect();
    assert_eq!(get(&admin, "/healthz").status, 200);
    // More: they are given up in time.
    let more: Vec<Socket> = (0..32).map(|_| Socket::connect(&admin).unwrap()).collect();
    assert_eq!(get(&admin, "/healthz").status, 200);
    drop((slow, more));
}

/// What a liveness probe may wait before its program is killed. Generous: the answer needs nothing.
const PROBE_TIME_MAX: Duration = Duration::from_secs(20);

/// Asks whether the program is alive, as a probe does.
fn probe(admin: &str) -> u16 {
    let mut socket = Socket::connect(admin).unwrap();
    socket.limit_time(PROBE_TIME_MAX);
    socket.write_all(b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    Answer::read(&mut socket).status
}

#[test]
fn clients_that_do_not_read_their_answers_silence_no_probe_and_are_given_up() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &ADMIN);
    let admin = tinylb.admin();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(100);
    let mut deaf: Vec<Socket> = (0..16)
        .map(|_| {
            let mut socket = Socket::connect(&admin).unwrap();
            socket.limit_time(Duration::from_millis(300));
            // Until the server, which can't answer, reads no more.
            while socket.write_all(request.as_bytes()).is_ok() {}
            socket
        })
        .collect();
    assert_eq!(probe(&admin), 200);
    let is_closed = |socket: &mut Socket| {
        let written = socket.write(b"x");
        written.is_err_and(|error| error.kind() != ErrorKind::WouldBlock)
    };
    until("the end of all who don't read", || deaf.iter_mut().all(is_closed));
    assert_eq!(get(&admin, "/metrics").status, 200);
}

/// A PUT whose body doesn't come, but for its beginning.
fn begin_put(admin: &str, beginning: &str) -> Socket {
    let mut socket = Socket::connect(admin).unwrap();
    let head = "PUT /services/default/backends HTTP/1.1\r\nContent-Length: 9\r\n\r\n";
    socket.write_all(format!("{head}{beginning}").as_bytes()).unwrap();
    socket
}

#[test]
fn requests_that_are_worked_on_silence_no_probe_and_each_is_answered() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    let admin = tinylb.admin();
    let mut putting: Vec<Socket> = (0..20).map(|_| begin_put(&admin, "")).collect();
    assert_eq!(probe(&admin), 200);
    let statuses: Vec<u16> = putting.iter_mut().map(|put| Answer::read(put).status).collect();
    // The body didn't come, or there was no place for the request.
    assert!(statuses.iter().all(|status| [408, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&408), "{statuses:?}");
    assert_eq!(put(&admin, "default", "{}").status, 200);
}

/// Each client that waits in the backlog before the probe has its turn first.
#[test]
fn bodies_that_do_not_come_silence_no_probe_however_many_they_are() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    let admin = tinylb.admin();
    let mut putting: Vec<Socket> = (0..200).map(|_| begin_put(&admin, "{")).collect();
    assert_eq!(probe(&admin), 200);
    // Clients that had to make room were answered, too.
    let statuses: Vec<u16> = putting.iter_mut().map(|put| Answer::read(put).status).collect();
    assert!(statuses.iter().all(|status| [408, 503].contains(status)), "{statuses:?}");
    assert_eq!(put(&admin, "default", "{}").status, 200);
}

#[test]
fn a_client_that_has_ended_its_requests_is_still_answered() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    let admin = tinylb.admin();
    let put = |body: &str| {
        let mut socket = Socket::connect(&admin).unwrap();
        let head = "PUT /services/default/backends HTTP/1.1\r\nContent-Length: 2\r\n\r\n";
        socket.write_all(format!("{head}{body}").as_bytes()).unwrap();
        socket
    };
    // Requests whose bodies don't come hold up the one that is there.
    let held_up: Vec<Socket> = (0..8).map(|_| put("")).collect();
    let mut socket = put("{}");
    socket.shutdown_write();
    let answer = Answer::read(&mut socket);
    assert_eq!((answer.status, &answer.json()["removed"][0]), (200, &"a".into()));
    drop(held_up);
}

#[test]
fn a_slow_reader_of_a_large_answer_gets_all_of_it() {
    let dir = TempDir::new().unwrap();
    let admin = format!("unix:{}", dir.path().join("admin").display());
    let many: Vec<String> =
        (0..20_000).map(|n| format!("k{n} = \"10.0.{}.{}:9000\"", n >> 8, n & 255)).collect();
    let text =
        format!("[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ {} }}\n", many.join(", "));
    let file = ConfigFile::new(&text);
    let tinylb = file.run_with(&["--admin", &admin]);
    tinylb.address();
    let mut socket = Socket::connect(&admin).unwrap();
    socket.write_all(b"GET /services HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
    let (mut answer, mut part) = (Vec::new(), vec![0; 10_000]);
    loop {
        match socket.read(&mut part).unwrap() {
            0 => break,
            count => answer.extend(&part[..count]),
        }
        // As over a line of 20 kB/s.
        sleep(Duration::from_millis(500));
    }
    let answer = String::from_utf8(answer).unwrap();
    let body: serde_json::Value =
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    assert_eq!(body["s"]["backends"].as_object().unwrap().len(), 20_000);
}

#[test]
fn a_request_in_progress_is_answered_however_old_its_connection_is() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0", "--admin-write"]);
    let began = Instant::now();
    let mut socket = Socket::connect(&tinylb.admin()).unwrap();
    // A connection lives for 60 s.
    while began.elapsed() < Duration::from_secs(57) {
        socket.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
        sleep(Duration::from_secs(1));
    }
    let body = format!("{{\"b\": {:?}}}", b.address);
    let head = format!(
        "PUT /services/default/backends HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).unwrap();
    for part in body.as_bytes().chunks(body.len().div_ceil(6)) {
        sleep(Duration::from_secs(1));
        socket.write_all(part).unwrap();
    }
    let answer = Answer::read(&mut socket);
    assert_eq!((answer.status, &answer.json()["added"][0]), (200, &"b".into()));
}

#[test]
fn the_admin_address_may_be_a_unix_socket() {
    let (a, dir) = (Backend::echo("a"), TempDir::new().unwrap());
    let path = dir.path().join("admin");
    let address = format!("unix:{}", path.display());
    let tinylb = Tinylb::balance([&a], &["--admin", &address, "--admin-write"]);
    tinylb.address();
    assert_eq!(tinylb.admin(), address);
    assert_eq!(get(&address, "/healthz").status, 200);
    assert_eq!(put(&address, "default", "{}").json()["removed"][0], "a");
    tinylb.stop();
    assert!(!path.exists(), "the socket's file is left behind");
}

#[test]
fn without_being_asked_for_there_is_no_admin_address() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &[]);
    Client::connect(&tinylb.address());
    assert!(!tinylb.log().iter().any(|line| line.says("admin")));
}
