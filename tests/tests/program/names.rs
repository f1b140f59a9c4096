//! Backends that are given by a name.

use std::{fs, net::UdpSocket};

use serde_json::json;

use crate::harness::{
    Backend, Client, ConfigFile, Hung, Socket, Tinylb, get, namespace::is_inside, until,
};

/// More than tokio has threads for what blocks.
const CLIENTS: usize = 600;

#[test]
fn a_name_that_hangs_holds_up_no_service_that_does_not_need_it() {
    let test = "names::a_name_that_hangs_holds_up_no_service_that_does_not_need_it";
    let hosts = "127.0.0.1 localhost\n127.0.0.1 good.example\n";
    if !is_inside(test, hosts, "nameserver 127.0.0.99\noptions timeout:30 attempts:3\n") {
        return;
    }
    // It takes questions and answers none.
    let _server = UdpSocket::bind("127.0.0.99:53").unwrap();
    let (b, good) = (Backend::echo("b"), Backend::echo("good"));
    let port = good.address.rsplit_once(':').unwrap().1;
    let file = ConfigFile::new(&format!(
        "workers = 1\n\
         [services.hung]\nlisten = \"127.0.0.1:0\"\nbackends = {{ a = \"hung.example:1\" }}\n\
         dial_timeout = \"1h\"\ndial_time_max = \"1h\"\n\
         [services.next]\nlisten = \"127.0.0.2:0\"\nstart = 0\ndial_timeout = \"300ms\"\n\
         backends = {{ a = \"hung.example:1\", b = {:?} }}\n\
         [services.other]\nlisten = \"127.0.0.3:0\"\n\
         backends = {{ a = \"good.example:{port}\" }}\n",
        b.address
    ));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let (addresses, admin) = (tinylb.addresses(3), tinylb.admin());
    let at = |host: &str| addresses.iter().find(|address| address.starts_with(host)).unwrap();
    let waiting: Vec<_> =
        (0..CLIENTS).map(|_| Socket::connect(at("127.0.0.1:")).unwrap()).collect();
    let services = || get(&admin, "/services").json();
    until("the dials", || services()["hung"]["targets"][0]["dialling"] == CLIENTS);
    // The worker has its hands free for others.
    for _ in 0..2 {
        assert!(Client::connect(at("127.0.0.3:")).is_served());
        assert_eq!(Client::connect(at("127.0.0.2:")).backend, "b");
    }
    drop(waiting);
    // Nor does a lookup hold up the end.
    tinylb.stop();
}

#[test]
fn of_a_name_with_a_dead_address_the_other_one_serves() {
    let test = "names::of_a_name_with_a_dead_address_the_other_one_serves";
    let hosts = "127.0.0.1 localhost\n127.0.0.66 two.example\n127.0.0.67 two.example\n";
    if !is_inside(test, hosts, "") {
        return;
    }
    let hung = Hung::tcp_at("127.0.0.66:0");
    let port = hung.socket_address().port();
    let live = Backend::echo_at("live", &format!("127.0.0.67:{port}"));
    // As long as a share of the time would be, nobody waits.
    let file = ConfigFile::new(&format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ a = \"two.example:{port}\" }}\n\
         dial_timeout = \"1h\"\ndial_time_max = \"1h\"\n"
    ));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    for _ in 0..5 {
        assert!(Client::connect(&address).is_served());
    }
    assert_eq!(live.accepted(), 5);
    let line = tinylb.line("127.0.0.66 of the backend's name failed");
    assert_eq!(line.field("level"), "WARN");
    let metrics = get(&admin, "/metrics").body;
    assert!(metrics.contains("tinylb_address_failures_total{service=\"s\"} 1\n"), "{metrics}");
    tinylb.stop();
}

#[test]
fn a_name_that_moves_is_logged_once_since_open_connections_stay() {
    let test = "names::a_name_that_moves_is_logged_once_since_open_connections_stay";
    let hosts = |addresses: &[&str]| {
        let lines = addresses.iter().map(|address| format!("{address} moved.example\n"));
        format!("127.0.0.1 localhost\n{}", lines.collect::<String>())
    };
    if !is_inside(test, &hosts(&["127.0.0.66"]), "") {
        return;
    }
    let old = Backend::echo_at("old", "127.0.0.66:0");
    let port = old.address.rsplit_once(':').unwrap().1;
    let _new =
        ["127.0.0.67", "127.0.0.68"].map(|ip| Backend::echo_at("new", &format!("{ip}:{port}")));
    let file = ConfigFile::new(&format!(
        "workers = 4\n[services.s]\nlisten = \"127.0.0.1:0\"\n\
         backends = {{ a = \"moved.example:{port}\" }}\n"
    ));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "old");
    // Another order is no change.
    for addresses in [["127.0.0.67", "127.0.0.68"], ["127.0.0.68", "127.0.0.67"]] {
        fs::write("/etc/hosts", hosts(&addresses)).unwrap();
        let others = Client::several(&address, 20);
        assert!(others.iter().all(|client| client.backend == "new"));
    }
    assert!(client.is_served());
    drop(client);
    tinylb.stop_and_log(|lines| {
        let lines: Vec<_> = lines
            .iter()
            .filter(|line| line.says("the addresses of the backend's name have changed"))
            .collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        let fields = ["level", "service", "name"].map(|name| lines[0].field(name));
        assert_eq!(fields, ["INFO", "s", "moved.example"]);
        let addresses = ["old", "new"].map(|name| lines[0].json[name].clone());
        assert_eq!(addresses, [json!(["127.0.0.66"]), json!(["127.0.0.67", "127.0.0.68"])]);
    });
}

#[test]
fn a_lookup_for_which_there_is_no_thread_costs_the_client_a_retry() {
    let (a, b) = (Backend::echo("a"), Backend::echo("b"));
    let port = a.address.rsplit_once(':').unwrap().1;
    let tinylb = Tinylb::run(&[
        "--listen",
        "127.0.0.1:0",
        "--workers",
        "1",
        "--backend",
        &format!("a=localhost:{port}"),
        "--backend",
        &b.argument(),
    ]);
    let address = tinylb.address();
    tinylb.line("backends replaced");
    let before = tinylb.deny_threads();
    for _ in 0..4 {
        assert_eq!(Client::connect(&address).backend, "b");
    }
    let line = tinylb.line("dial failed");
    assert!(line.says("no thread can be started") && line.says("ulimit -u"), "{line:?}");
    tinylb.limit_memory(before);
    let backends = Client::several(&address, 2);
    assert!(backends.iter().any(|client| client.backend == "a"), "it is tried again");
    tinylb.stop();
}
