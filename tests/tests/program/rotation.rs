//! Who gets the next connection.

use std::net::TcpListener;

use tempfile::TempDir;

use crate::harness::{Backend, Client, ConfigFile, End, Socket, Tinylb, service};

/// The backends that answer, one connection after the other, each kept open.
fn picks(addresses: &[&str], count: usize) -> (String, Vec<Client>) {
    let clients: Vec<Client> =
        (0..count).map(|n| Client::connect(addresses[n % addresses.len()])).collect();
    (clients.iter().map(|client| client.backend.as_str()).collect(), clients)
}

#[test]
fn connections_take_turns_in_key_order() {
    let [c, a, b] = ["c", "a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&c, &a, &b], ""));
    let tinylb = file.run();
    let (order, clients) = picks(&[&tinylb.address()], 7);
    assert_eq!(order, "abcabca");
    for client in clients {
        assert_eq!(client.finish(), End::Clean);
    }
    assert_eq!((a.accepted(), b.accepted(), c.accepted()), (3, 2, 2));
    tinylb.stop();
}

#[test]
fn all_listeners_of_a_service_share_one_rotation() {
    let backends = ["a", "b", "c"].map(Backend::echo);
    let dir = TempDir::new().unwrap();
    let unix = format!("unix:{}", dir.path().join("front").display());
    let listen = format!("127.0.0.1:0 127.0.0.2:0 {unix}");
    let file = ConfigFile::new(&service("s", &listen, &backends, ""));
    let tinylb = file.run();
    let addresses = tinylb.addresses(3);
    assert!(addresses.contains(&unix), "{addresses:?}");
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    // Two times each, so that the listener doesn't decide.
    let twice: Vec<&str> = addresses.iter().flat_map(|address| [*address; 2]).collect();
    assert_eq!(picks(&twice, 12).0, "abcabcabcabc");
}

#[test]
fn services_do_not_take_each_others_turns() {
    let backends = ["a", "b", "c"].map(Backend::echo);
    let text = ["s", "t"].map(|name| service(name, "127.0.0.1:0", &backends, ""));
    let file = ConfigFile::new(&text.concat());
    let tinylb = file.run();
    let addresses = tinylb.addresses(2);
    assert_eq!(picks(&[&addresses[0], &addresses[1]], 6).0, "aabbcc");
}

#[test]
fn unix_sockets_are_balanced_between_too() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| format!("unix:{}", dir.path().join(name).display());
    let backends = ["a", "b"].map(|key| Backend::echo_at(key, &path(key)));
    let [a, b] = &backends;
    let front = path("front");
    let tinylb =
        Tinylb::run(&["--listen", &front, "--backend", &a.argument(), "--backend", &b.argument()]);
    assert_eq!(tinylb.address(), front);
    let (order, clients) = picks(&[&front], 4);
    assert!(["abab", "baba"].contains(&order.as_str()), "{order}");
    for mut client in clients {
        client.echo(7).unwrap();
        assert_eq!(client.finish(), End::Clean);
    }
    tinylb.stop();
}

#[test]
fn ipv6_is_balanced_on_both_sides() {
    if TcpListener::bind("[::1]:0").is_err() {
        return; // This machine has none.
    }
    let a = Backend::echo_at("a", "[::1]:0");
    let file = ConfigFile::new(&service("s", "[::1]:0", [&a], ""));
    let tinylb = file.run();
    assert!(tinylb.address().starts_with("[::1]:"));
    let mut client = Client::connect(&tinylb.address());
    client.echo(7).unwrap();
    assert_eq!(client.finish(), End::Clean);
}

#[test]
fn a_name_leads_to_the_address_that_answers() {
    let a = Backend::echo("a");
    let port = a.address.rsplit(':').next().unwrap();
    let target = format!("a=localhost:{port}");
    let tinylb = Tinylb::run(&["--listen", "127.0.0.1:0", "--backend", &target]);
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
}

#[test]
fn processes_do_not_all_begin_with_the_first_backend() {
    let backends = ["a", "b"].map(Backend::echo);
    let mut first = Vec::new();
    // Each process has another number, but not always an odd one after an even one.
    while !(first.contains(&"a".to_string()) && first.contains(&"b".to_string())) {
        assert!(first.len() < 40, "{first:?}");
        let tinylb = Tinylb::balance(&backends, &[]);
        first.push(Client::connect(&tinylb.address()).backend);
    }
}

#[test]
fn the_address_is_logged_before_the_first_accept() {
    // Who connects as soon as the line is there is served: nothing has to be tried again.
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &[]);
    let socket = Socket::connect(&tinylb.address()).unwrap();
    assert_eq!(Client::greeted(socket).unwrap().backend, "a");
    let lines = tinylb.lines(1, "listening on");
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!(lines[0].field("level"), "INFO");
}

#[test]
fn the_address_is_logged_at_every_level() {
    let a = Backend::echo("a");
    for level in ["error", "warn"] {
        let tinylb = Tinylb::balance([&a], &["--log-level", level]);
        assert_eq!(Client::connect(&tinylb.address()).backend, "a");
    }
}
