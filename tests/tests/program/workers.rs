//! Several threads that carry connections, and changes of their number.

use std::{
    collections::BTreeSet,
    io::Read,
    process::Command,
    sync::{Arc, Mutex},
};

use crate::harness::{
    Backend, Client, ConfigFile, End, Socket, Tinylb, binary, get, service, until,
};

/// Enough for each of four backlogs to get some.
const CLIENTS: usize = 40;

/// How many threads of the program carry connections.
fn threads(tinylb: &Tinylb) -> usize {
    until("each has its name", || {
        tinylb.threads().iter().filter(|name| *name == "tinylb").count() == 1
    });
    let workers = tinylb.threads().into_iter().filter(|name| name.starts_with("worker "));
    workers.collect::<BTreeSet<_>>().len()
}

#[test]
fn all_workers_share_one_rotation() {
    let backends = ["a", "b", "c"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", &backends, ""));
    let tinylb = file.run_with(&["--workers", "4"]);
    let address = tinylb.address();
    assert_eq!(threads(&tinylb), 4);
    let clients: Vec<Client> = (0..CLIENTS).map(|_| Client::connect(&address)).collect();
    let order: String = clients.iter().map(|client| client.backend.as_str()).collect();
    assert_eq!(order, "abc".repeat(CLIENTS)[..CLIENTS]);
    assert!(clients.into_iter().all(|mut client| client.is_served()));
}

#[test]
fn another_instance_fails_since_the_address_is_in_use() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--workers", "2"]);
    for workers in ["1", "2"] {
        let mut command = Command::new(binary());
        command.args(["run", "--listen", &tinylb.address(), "--backend", &a.argument()]);
        let output = command.args(["--workers", workers]).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.contains("end the program that listens there"), "{message}");
    }
    assert!(Client::connect(&tinylb.address()).is_served());
}

/// Fills a service that takes one connection, so that clients wait in the backlogs; changes the
/// file; and has all of them served.
fn nobody_waits_in_vain(before: &str, after: &str) {
    let a = Backend::echo("a");
    let text = |workers: &str| {
        let service = service("s", "127.0.0.1:0", [&a], "max_connections = 1");
        format!("{workers}\n{service}")
    };
    let file = ConfigFile::new(&text(before));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut first = Client::connect(&address);
    let waiting: Vec<Socket> = (0..CLIENTS).map(|_| Socket::connect(&address).unwrap()).collect();
    file.replace(&text(after));
    tinylb.line("configuration reloaded");
    // It is a worker's that may be gone by now.
    assert!(first.is_served());
    assert_eq!(first.finish(), End::Clean);
    assert_eq!(Client::each(waiting, Client::finish), [End::Clean; CLIENTS]);
    assert_eq!(a.accepted(), 1 + CLIENTS);
    for _ in 0..CLIENTS {
        assert_eq!(Client::connect(&address).finish(), End::Clean);
    }
    tinylb.stop();
}

#[test]
fn fewer_workers_lose_no_client_that_waits_to_be_accepted() {
    nobody_waits_in_vain("workers = 4", "workers = 1");
    nobody_waits_in_vain("workers = 4", "workers = 3");
}

#[test]
fn more_workers_lose_no_client_that_waits_to_be_accepted() {
    nobody_waits_in_vain("workers = 1", "workers = 4");
    nobody_waits_in_vain("workers = 2", "workers = 3");
}

#[test]
fn an_address_that_moves_to_another_service_loses_no_client_that_waits() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let address = crate::harness::free_address();
    let text = |name: &str, backend: &Backend| {
        "workers = 3\n".to_string() + &service(name, &address, [backend], "max_connections = 1")
    };
    let file = ConfigFile::new(&text("s", &a));
    let tinylb = file.run();
    tinylb.address();
    let first = Client::connect(&address);
    let waiting: Vec<Socket> = (0..CLIENTS).map(|_| Socket::connect(&address).unwrap()).collect();
    file.replace(&text("t", &b));
    tinylb.line("configuration reloaded");
    let served = Client::each(waiting, |client| (client.backend.clone(), client.finish()));
    assert_eq!(served, vec![("b".to_string(), End::Clean); CLIENTS]);
    assert_eq!(first.finish(), End::Clean);
    tinylb.stop();
}

#[test]
fn all_workers_together_keep_to_the_limit() {
    let open = Arc::new(Mutex::new((0, 0)));
    let a = Backend::with("a", {
        let open = Arc::clone(&open);
        move |socket| {
            let count = |more: i32| {
                let (now, most) = &mut *open.lock().unwrap();
                *now += more;
                *most = *now.max(most);
            };
            count(1);
            let end = socket.read_to_end(&mut Vec::new());
            count(-1);
            end.map(|_| ())
        }
    });
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "max_connections = 3"));
    let tinylb = file.run_with(&["--workers", "4"]);
    let address = tinylb.address();
    for _ in 0..5 {
        let clients = (0..CLIENTS).map(|_| Socket::connect(&address).unwrap()).collect();
        assert_eq!(Client::each(clients, Client::finish), [End::Clean; CLIENTS]);
    }
    assert_eq!(open.lock().unwrap().1, 3);
}

#[test]
fn an_argument_counts_for_more_than_the_file() {
    let a = Backend::echo("a");
    let text = |workers: &str| workers.to_string() + &service("s", "127.0.0.1:0", [&a], "");
    for (workers, arguments, count) in
        [("workers = 3\n", &[][..], 3), ("workers = 3\n", &["--workers", "2"], 2)]
    {
        let file = ConfigFile::new(&text(workers));
        let tinylb = file.run_with(arguments);
        assert!(Client::connect(&tinylb.address()).is_served());
        assert_eq!(threads(&tinylb), count);
    }
}

#[test]
fn every_worker_that_accepts_is_counted() {
    let a = Backend::echo("a");
    let text = |workers: usize| {
        format!("workers = {workers}\n") + &service("s", "127.0.0.1:0 127.0.0.2:0", [&a], "")
    };
    let file = ConfigFile::new(&text(3));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let admin = tinylb.admin();
    let listeners = || get(&admin, "/services").json()["s"]["listeners"].clone();
    until("3 for each of 2 addresses", || listeners() == 6);
    file.replace(&text(5));
    until("5 for each", || listeners() == 10);
    assert_eq!(get(&admin, "/readyz").status, 200);
    // Each of the three sockets of each address is accepted from, and no more than that.
    file.replace(&text(1));
    until("3 for each", || listeners() == 6);
    assert_eq!(get(&admin, "/readyz").status, 200);
}
