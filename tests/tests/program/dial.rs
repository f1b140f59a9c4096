//! Backends that are dead or hang.

use std::{
    fs,
    io::{Read, Write},
    process::Command,
};

use crate::harness::{
    Backend, Client, ConfigFile, End, Hung, Socket, Tinylb, free_address, get,
    namespace::is_inside, put, service, until,
};

/// A service's text with a backend at an address where nobody answers.
fn with_silent(silent: &str, live: &[&Backend], settings: &str) -> String {
    let live: String = live.iter().map(|b| format!(", {} = {:?}", b.key, b.address)).collect();
    format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ a = {silent:?}{live} }}\n\
         start = 0\n{settings}\n"
    )
}

#[test]
fn a_dead_backend_is_skipped() {
    let [b, c] = ["b", "c"].map(Backend::echo);
    let file = ConfigFile::new(&with_silent(&free_address(), &[&b, &c], ""));
    let tinylb = file.run();
    let clients = Client::several(&tinylb.address(), 8);
    // Its turns are spread over the others.
    let of_b = clients.iter().filter(|client| client.backend == "b").count();
    assert_eq!(of_b, 4);
    let line = tinylb.line("dial failed");
    assert_eq!((line.field("level"), line.field("backend")), ("WARN", "a"));
    for client in clients {
        assert_eq!(client.finish(), End::Clean);
    }
    tinylb.stop();
}

#[test]
fn clients_of_dead_backends_alone_are_reset_and_the_program_goes_on() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&with_silent(&free_address(), &[], ""));
    let tinylb = file.run();
    for _ in 0..5 {
        let end = End::from(Client::try_connect(&tinylb.address()).map(|_| ()));
        assert_eq!(end, End::Reset);
    }
    file.edit(&service("s", "127.0.0.1:0", [&a], ""));
    tinylb.lines(2, "backends replaced");
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
    tinylb.stop();
}

/// The first backend hangs; the client gets the second one.
fn hung_is_given_up(hung: &Hung) {
    let b = Backend::echo("b");
    let settings = "dial_timeout = \"300ms\"\ndial_patience = \"off\"\nejection = false";
    let file = ConfigFile::new(&with_silent(&hung.address, &[&b], settings));
    let tinylb = file.run();
    for _ in 0..2 {
        assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    }
    let line = tinylb.line("dial failed");
    assert_eq!(line.field("backend"), "a");
    assert!(line.says("timed out"), "{line:?}");
    tinylb.stop();
}

#[test]
fn a_hung_backend_is_given_up_for_the_next() {
    hung_is_given_up(&Hung::tcp());
}

#[test]
fn a_hung_unix_backend_is_given_up_for_the_next() {
    hung_is_given_up(&Hung::unix());
}

#[test]
fn a_hung_backend_holds_up_no_other_client() {
    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let patience = "dial_timeout = \"1h\"\ndial_time_max = \"1h\"\n\
                    dial_patience = \"off\"\nejection = false";
    let file = ConfigFile::new(&with_silent(&hung.address, &[&b], patience));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let admin = tinylb.admin();
    let dialling = |count: u64| {
        until("the dial", || {
            let services = get(&admin, "/services").json();
            let targets = services["s"]["targets"].as_array().unwrap();
            targets.iter().flat_map(|target| target["dialling"].as_u64()).sum::<u64>() == count
        });
    };
    let waiting = Socket::connect(&tinylb.address()).unwrap();
    dialling(1);
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    let also_waiting = Socket::connect(&tinylb.address()).unwrap();
    dialling(2);
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");

    // Removed, it lets go of those who wait for it.
    file.edit(&service("s", "127.0.0.1:0", [&b], ""));
    let line = tinylb.line(r#""removed":["a"]"#);
    assert_eq!(line.json["dials_revoked"], 2, "{line:?}");
    for socket in [waiting, also_waiting] {
        assert_eq!(Client::greeted(socket).unwrap().backend, "b");
    }
}

#[test]
fn a_revoked_dial_takes_the_client_to_the_new_set() {
    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let arguments = [
        "--listen",
        "127.0.0.1:0",
        "--backend",
        &format!("a={}", hung.socket_address()),
        "--admin",
        "127.0.0.1:0",
        "--admin-write",
    ];
    let tinylb = Tinylb::run(&arguments);
    let waiting = Socket::connect(&tinylb.address()).unwrap();
    let admin = tinylb.admin();
    let services = || get(&admin, "/services").json();
    until("the dial", || services()["default"]["targets"][0]["dialling"] == 1);
    let answer = put(&admin, "default", &format!("{{\"b\": {:?}}}", b.address));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["dials_revoked"], 1, "{answer:?}");
    assert_eq!(Client::greeted(waiting).unwrap().backend, "b");
}

#[test]
fn a_client_that_resets_during_a_dial_ends_the_dial() {
    let hung = Hung::tcp();
    let patience = "dial_timeout = \"1h\"\ndial_time_max = \"1h\"";
    let file = ConfigFile::new(&with_silent(&hung.address, &[], patience));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0", "--log-level", "debug"]);
    let admin = tinylb.admin();
    let client = Socket::connect(&tinylb.address()).unwrap();
    let services = || get(&admin, "/services").json();
    until("the dial", || services()["s"]["targets"][0]["dialling"] == 1);
    client.reset();
    let line = tinylb.line("connection ended");
    assert_eq!((line.field("reason"), line.field("backend")), ("client_failed", "a"));
    let services = services();
    assert_eq!((&services["s"]["live"], &services["s"]["accepted"]), (&0.into(), &1.into()));
    tinylb.stop();
}

#[test]
fn a_client_that_has_sent_all_it_had_during_a_dial_is_served() {
    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let file = ConfigFile::new(&with_silent(&hung.address, &[&b], "dial_timeout = \"500ms\""));
    let tinylb = file.run();
    let mut socket = Socket::connect(&tinylb.address()).unwrap();
    socket.write_all(b"this is all").unwrap();
    socket.shutdown_write();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "b\nthis is all");
}

#[test]
fn a_backend_that_is_gone_is_not_taken_for_the_end_that_dials_it() {
    let test = "dial::a_backend_that_is_gone_is_not_taken_for_the_end_that_dials_it";
    if !is_inside(test, "", "") {
        return;
    }
    // Each socket that connects gets the port of the backend that is gone, and one that connects
    // there meets itself.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "40000 40000").unwrap();
    let address = "127.0.0.1:9000";
    let tinylb = Tinylb::run(&["--listen", address, "--backend", "a=127.0.0.1:40000"]);
    tinylb.line("backends replaced");
    let end = End::from(Client::try_connect(address).map(|_| ()));
    assert_eq!(end, End::Reset);
    assert!(tinylb.line("dial failed").says("refused"));
    tinylb.stop();
}

#[test]
fn a_balancer_that_dials_from_another_address_still_knows_itself() {
    let test = "dial::a_balancer_that_dials_from_another_address_still_knows_itself";
    if !is_inside(test, "127.0.0.1 localhost\n", "") {
        return;
    }
    // An address of this machine that doesn't look like one.
    let ip = Command::new("ip").args(["address", "add", "192.0.2.7/32", "dev", "lo"]).status();
    assert!(ip.unwrap().success());
    let port = free_address().rsplit_once(':').unwrap().1.to_string();
    let file = ConfigFile::new(&format!(
        "[services.s]\nlisten = \"0.0.0.0:{port}\"\nbackends = {{ a = \"192.0.2.7:{port}\" }}\n\
         dial_from = [\"127.0.0.71\", \"127.0.0.72\"]\n"
    ));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    tinylb.line("backends replaced");
    let end = End::from(Client::try_connect(&format!("127.0.0.1:{port}")).map(|_| ()));
    assert_eq!(end, End::Reset);
    assert!(tinylb.line("dial failed").says("the balancer itself listens"));
    // What it began with itself has come to nothing as well.
    let services = || get(&tinylb.admin(), "/services").json();
    until("the end of all", || services()["s"]["live"] == 0);
    tinylb.stop();
}

#[test]
fn backends_are_dialled_from_the_addresses_that_are_given_and_bad_ones_cost_a_retry() {
    let a = Backend::with("a", |socket| {
        let Socket::Tcp(stream) = socket else { unreachable!("it listens at TCP") };
        let peer = stream.peer_addr()?.ip().to_string();
        stream.write_all(peer.as_bytes())
    });
    let config = |from: &str| service("s", "127.0.0.1:0", [&a], &format!("dial_from = {from}"));
    let file = ConfigFile::new(&config("[\"127.0.0.71\", \"127.0.0.72\"]"));
    let tinylb = file.run();
    let seen = || {
        let mut peer = String::new();
        let mut client = Client::connect(&tinylb.address());
        client.socket.read_to_string(&mut peer).unwrap();
        peer
    };
    let mut peers = [seen(), seen()];
    peers.sort();
    assert_eq!(peers, ["127.0.0.71", "127.0.0.72"]);
    // No address of this machine: the log says so, and it can be mended while it runs.
    file.edit(&config("\"192.0.2.1\""));
    tinylb.line("configuration reloaded");
    assert!(Client::try_connect(&tinylb.address()).is_err());
    let line = tinylb.line("dial failed");
    assert!(line.says("192.0.2.1") && line.says("give an address of this machine"), "{line:?}");
    file.edit(&config("\"127.0.0.73\""));
    tinylb.lines(2, "configuration reloaded");
    assert_eq!(seen(), "127.0.0.73");
    tinylb.stop();
}
