//! Backends that are put by way of the admin address.

use std::io::Write;

use crate::harness::{
    Answer, Backend, Client, ConfigFile, End, Socket, Tinylb, get, http, http_with, put, service,
    until,
};

const WRITE: [&str; 3] = ["--admin", "127.0.0.1:0", "--admin-write"];

fn body<'a>(backends: impl IntoIterator<Item = &'a Backend>) -> String {
    let pairs: Vec<_> =
        backends.into_iter().map(|b| format!("{:?}: {:?}", b.key, b.address)).collect();
    format!("{{{}}}", pairs.join(", "))
}

#[test]
fn a_put_answers_with_what_it_did_once_that_is_applied() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::echo);
    let tinylb = Tinylb::balance([&a, &b], &WRITE);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let clients = Client::several(&address, 6);

    let answer = put(&admin, "default", &body([&b, &c]));
    assert_eq!(answer.status, 200, "{answer:?}");
    let report = answer.json();
    let expected = serde_json::json!({
        "generation": report["generation"],
        "backends": 2,
        "added": ["c"],
        "removed": ["a"],
        "retargeted": [],
        "sessions_cut": 3,
        "dials_revoked": 0,
        "sessions_draining": 0,
    });
    assert_eq!(report, expected);
    // It is applied by now: nothing has to be waited for.
    let service = &get(&admin, "/services").json()["default"];
    assert_eq!((&service["live"], &service["ended"]["backend_removed"]), (&3.into(), &3.into()));
    for mut client in clients {
        match client.backend.as_str() {
            "a" => assert_eq!(client.end(), End::Reset),
            _ => assert!(client.is_served()),
        }
    }
    until("the ends at the backend", || a.ends() == [End::Reset; 3]);
    let keys: Vec<_> = Client::several(&address, 4).into_iter().map(|c| c.backend).collect();
    assert!(["bcbc", "cbcb"].contains(&keys.concat().as_str()), "{keys:?}");
    tinylb.stop();
}

#[test]
fn putting_what_is_there_already_changes_nothing() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut client = Client::connect(&tinylb.address());
    let answer = put(&tinylb.admin(), "default", &body([&a]));
    assert_eq!((answer.status, &answer.json()["sessions_cut"]), (200, &0.into()));
    assert!(client.is_served());
}

#[test]
fn putting_nothing_cuts_everybody() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut clients = Client::several(&tinylb.address(), 3);
    let answer = put(&tinylb.admin(), "default", "{}");
    assert_eq!((answer.status, &answer.json()["sessions_cut"]), (200, &3.into()));
    assert!(clients.iter_mut().all(|client| client.end() == End::Reset));
    let refused = Client::try_connect(&tinylb.address());
    assert_eq!(End::from(refused.map(|_| ())), End::Reset);
    // It is a set, empty on purpose.
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 200);
}

#[test]
fn without_the_right_to_write_nothing_is_put() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0"]);
    let mut client = Client::connect(&tinylb.address());
    let answer = put(&tinylb.admin(), "default", "{}");
    assert_eq!(answer.status, 403, "{answer:?}");
    assert!(answer.body.contains("--admin-write"), "{answer:?}");
    assert!(client.is_served());
}

#[test]
fn a_web_page_of_a_stranger_puts_nothing() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut client = Client::connect(&tinylb.address());
    let admin = tinylb.admin();
    let put =
        |headers: &str| http_with(&admin, "PUT", "/services/default/backends", headers, b"{}");
    let rebound = "Host: example.org\r\nOrigin: http://example.org\r\n";
    let foreign = format!("Host: {admin}\r\nOrigin: http://example.org\r\n");
    for (headers, remedy) in [
        ("Host: example.org\r\n", "Host: localhost"),
        (rebound, "Host: localhost"),
        (foreign.as_str(), "without a browser"),
        ("Host: localhost\r\nOrigin: null\r\n", "without a browser"),
    ] {
        let answer = put(headers);
        assert_eq!(answer.status, 403, "{headers}: {answer:?}");
        let json = answer.json();
        assert!(json["error"].as_str().unwrap().contains(remedy), "{headers}: {answer:?}");
    }
    assert!(client.is_served());
    // And by no page at all.
    assert_eq!(put("Host: localhost\r\n").status, 200);
}

#[test]
fn a_service_is_found_by_its_name_with_dots_or_percent_encoded() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("\"a.b-c\"", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&WRITE);
    let mut client = Client::connect(&tinylb.address());
    for (name, status) in [("a.b-c", 200), ("%61%2eb%2Dc", 200), ("a.b", 404), ("a%2", 404)] {
        assert_eq!(put(&tinylb.admin(), name, &body([&a])).status, status, "{name}");
    }
    assert!(client.is_served());
}

#[test]
fn a_body_that_does_not_come_is_answered_and_changes_nothing() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut client = Client::connect(&tinylb.address());
    for (headers, body, ends, status) in [
        ("Content-Length: 9", "{", false, 408),
        ("Transfer-Encoding: chunked", "2\r\n{", false, 408),
        ("Content-Length: 9", "{", true, 400),
        ("Transfer-Encoding: chunked", "2\r\n{}\r\n", true, 400),
        ("Transfer-Encoding: chunked", "zz\r\n", false, 400),
    ] {
        let mut socket = Socket::connect(&tinylb.admin()).unwrap();
        let head = "PUT /services/default/backends HTTP/1.1\r\nHost: localhost\r\n";
        socket.write_all(format!("{head}{headers}\r\n\r\n{body}").as_bytes()).unwrap();
        if ends {
            socket.shutdown_write();
        }
        let answer = Answer::read(&mut socket);
        assert_eq!(answer.status, status, "{headers}, {body}: {answer:?}");
    }
    assert!(client.is_served());
}

#[test]
fn a_bad_body_is_refused_with_the_reason_and_changes_nothing() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let mut client = Client::connect(&address);
    let before = get(&admin, "/services").json()["default"]["generation"].clone();
    let own = format!("{{\"a\": {address:?}}}");
    for (body, reason) in [
        ("", "JSON object"),
        ("{", "JSON object"),
        ("[]", "JSON object"),
        ("null", "JSON object"),
        ("{\"a\": 1}", "line 1 column 7"),
        ("{\"a\": \"x\"}", "the address of a"),
        ("{\"a\": \"127.0.0.1:0\"}", "port 0"),
        ("{\"\": \"127.0.0.1:1\"}", "empty key"),
        ("{\"a\": \"127.0.0.1:1\", \"a\": \"127.0.0.1:2\"}", "there twice"),
        ("{\"b\": \"127.0.0.1:1\"} {}", "trailing"),
        (&own, "the balancer itself listens"),
    ] {
        let answer = put(&admin, "default", body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        let json = answer.json();
        let error = json["error"].as_str().unwrap();
        assert!(error.contains(reason), "{body}: {answer:?}");
        assert!(!error.contains('\n'), "{body}: {answer:?}");
    }
    let invalid_utf8 = http(&admin, "PUT", "/services/default/backends", b"{\"a\": \"\xff\"}");
    assert_eq!(invalid_utf8.status, 400);
    assert_eq!(get(&admin, "/services").json()["default"]["generation"], before);
    assert!(client.is_served());
}

#[test]
fn a_body_over_the_limit_is_refused_and_changes_nothing() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut client = Client::connect(&tinylb.address());
    for excess in [1, 4 << 20] {
        let long = vec![b' '; (16 << 20) + excess];
        let answer = http(&tinylb.admin(), "PUT", "/services/default/backends", &long);
        assert_eq!(answer.status, 413, "{answer:?}");
    }
    assert!(client.is_served());
    assert_eq!(get(&tinylb.admin(), "/healthz").status, 200);
}

#[test]
fn a_large_set_can_be_put() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &WRITE);
    let mut client = Client::connect(&tinylb.address());
    let many: Vec<String> = (0..100_000)
        .map(|n| format!("\"k{n}\": \"10.{}.{}.{}:9000\"", n >> 16, (n >> 8) & 255, n & 255))
        .collect();
    let body = format!("{{{}, {:?}: {:?}}}", many.join(","), a.key, a.address);
    let answer = put(&tinylb.admin(), "default", &body);
    assert_eq!((answer.status, &answer.json()["backends"]), (200, &100_001.into()));
    assert!(client.is_served());
}

#[test]
fn what_was_put_stays_until_the_file_says_something_else() {
    let [a, b, c] = ["a", "b", "c"].map(Backend::echo);
    let text = |backend: &Backend, settings: &str, of_t: &[&Backend]| {
        service("s", "127.0.0.1:0", [backend], settings)
            + &service("t", "127.0.0.1:0", of_t.iter().copied(), "")
    };
    let file = ConfigFile::new(&text(&a, "", &[&a]));
    let tinylb = file.run_with(&WRITE);
    let (address, admin) = (tinylb.addresses(2).remove(0), tinylb.admin());
    assert_eq!(put(&admin, "s", &body([&b])).status, 200);
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "b");

    // Other settings, another service, the same file again: all unrelated.
    file.edit(&text(&a, "dial_timeout = \"1s\"", &[&a]));
    tinylb.lines(1, "configuration reloaded");
    file.edit(&text(&a, "dial_timeout = \"1s\"", &[&a, &c]));
    tinylb.lines(2, "configuration reloaded");
    tinylb.signal(rustix::process::Signal::HUP);
    tinylb.lines(3, "configuration reloaded");
    assert!(client.is_served());
    assert_eq!(Client::connect(&address).backend, "b");

    // A bad file is no word about the backends either.
    file.edit("");
    tinylb.line("configuration rejected");
    assert_eq!(Client::connect(&address).backend, "b");

    file.edit(&text(&c, "", &[&a]));
    assert_eq!(client.end(), End::Reset);
    assert_eq!(Client::connect(&address).backend, "c");
    tinylb.stop();
}

#[test]
fn an_empty_set_that_was_put_stays_too() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&WRITE);
    let address = tinylb.address();
    assert_eq!(put(&tinylb.admin(), "s", "{}").status, 200);
    file.edit(&service("s", "127.0.0.1:0", [&a], "dial_timeout = \"1s\""));
    tinylb.line("configuration reloaded");
    assert_eq!(End::from(Client::try_connect(&address).map(|_| ())), End::Reset);
}

#[test]
fn a_restart_forgets_what_was_put() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&WRITE);
    tinylb.address();
    assert_eq!(put(&tinylb.admin(), "s", &body([&b])).status, 200);
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    tinylb.stop();
    let tinylb = file.run_with(&WRITE);
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
}

#[test]
fn puts_at_the_same_time_take_effect_one_after_the_other() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let tinylb = Tinylb::balance([&a, &b], &WRITE);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let putting: Vec<_> = [body([&a]), body([&b])]
        .into_iter()
        .map(|body| {
            let admin = admin.clone();
            std::thread::spawn(move || {
                let put = || put(&admin, "default", &body).json()["generation"].as_u64().unwrap();
                (0..30).map(|_| put()).collect::<Vec<_>>()
            })
        })
        .collect();
    for _ in 0..100 {
        // There is always a set with a backend in it, so that everybody is greeted or cut.
        if let Err(error) = Client::try_connect(&address) {
            assert_eq!(End::from(Err(error)), End::Reset);
        }
    }
    let mut generations: Vec<u64> =
        putting.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
    generations.sort_unstable();
    let last = generations[generations.len() - 1];
    assert_eq!(get(&admin, "/services").json()["default"]["generation"], last);
    // The last one reported what is there now.
    let set = get(&admin, "/services").json()["default"]["backends"].clone();
    assert_eq!(set.as_object().unwrap().len(), 1);
}
