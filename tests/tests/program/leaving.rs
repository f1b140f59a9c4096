//! Services that have left the file, while their sessions finish, and services that come back.

use std::{fs, io::Write, thread::sleep, time::Duration};

use crate::harness::{
    Answer, Backend, Client, ConfigFile, End, Socket, Tinylb, free_address, get, put, service,
    until,
};

const ADMIN: [&str; 3] = ["--admin", "127.0.0.1:0", "--admin-write"];

/// Sessions may take any time, so no time limit ends them.
const PATIENT: &str = "shutdown_timeout = \"24h\"";

/// Another service, since a file without one is no file.
fn other() -> String {
    service("other", "127.0.0.1:0", [], "")
}

fn removed(file: &ConfigFile, tinylb: &Tinylb, count: usize) {
    file.edit(&other());
    tinylb.lines(count, "service removed");
}

#[test]
fn a_removal_reaches_the_sessions_of_a_service_that_left_and_came_back() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let at = free_address();
    let s = |backends: &[&Backend]| service("s", &at, backends.iter().copied(), PATIENT) + &other();
    let file = ConfigFile::new(&s(&[&a, &b]));
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let (mut by_a, mut by_b) = (Client::connect(&at), Client::connect(&at));
    // More than once, since each return takes up what the one before did.
    for count in 1..=3 {
        removed(&file, &tinylb, count);
        assert!(by_a.is_served() && by_b.is_served());
        file.edit(&s(&[&a, &b]));
        tinylb.lines(count, "service is back");
    }
    // One rotation and one count, over all of it.
    let mut next = Client::connect(&at);
    assert_eq!(next.backend, "a");
    assert_eq!(get(&tinylb.admin(), "/services").json()["s"]["accepted"], 3);

    file.edit(&s(&[&b]));
    assert_eq!((by_a.end(), next.end()), (End::Reset, End::Reset));
    assert_eq!(tinylb.line(r#""removed":["a"]"#).json["sessions_cut"], 2);
    assert!(by_b.is_served());
    tinylb.stop_and_finish([by_b]);
}

#[test]
fn a_removal_reaches_a_service_that_comes_back_without_the_backend() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let (at, elsewhere) = (free_address(), free_address());
    let file = ConfigFile::new(&(service("s", &at, [&a, &b], PATIENT) + &other()));
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let (mut by_a, mut by_b) = (Client::connect(&at), Client::connect(&at));
    removed(&file, &tinylb, 1);
    // From another source, and at another address.
    fs::write(file.in_dir("backends.toml"), format!("b = {:?}\n", b.address)).unwrap();
    let followed = "source = { file = \"backends.toml\" }\nshutdown_timeout = \"24h\"\n";
    file.edit(&format!("[services.s]\nlisten = {elsewhere:?}\n{followed}{}", other()));
    assert_eq!(by_a.end(), End::Reset);
    assert!(by_b.is_served());
    assert!(Client::try_connect(&at).is_err());
    until("the other address", || Client::try_connect(&elsewhere).is_ok_and(|c| c.backend == "b"));
    tinylb.stop_and_finish([by_b]);
}

#[test]
fn a_service_that_left_is_shown_until_its_last_session_is_over() {
    let a = Backend::echo("a");
    let at = free_address();
    let file = ConfigFile::new(&(service("s", &at, [&a], PATIENT) + &other()));
    let tinylb = file.run_with(&ADMIN);
    let admin = tinylb.admin();
    tinylb.addresses(2);
    let mut clients = Client::several(&at, 3);
    removed(&file, &tinylb, 1);
    assert_eq!(tinylb.line("service removed").json["sessions"], 3);
    // A client that came before would be a session more.
    until("the service to stop accepting", || {
        get(&admin, "/services").json()["s"]["listeners"] == 0
    });
    until("the service's address to be closed", || Client::try_connect(&at).is_err());

    let shown = get(&admin, "/services").json();
    assert_eq!((&shown["s"]["live"], &shown["s"]["shutting_down"]), (&3.into(), &true.into()));
    assert_eq!(shown["other"]["shutting_down"], false);
    let metrics = get(&admin, "/metrics").body;
    for sample in [
        "tinylb_connections_live{service=\"s\"} 3\n",
        "tinylb_shutting_down{service=\"s\"} 1\n",
        "tinylb_shutting_down{service=\"other\"} 0\n",
    ] {
        assert!(metrics.contains(sample), "{sample}");
    }
    // It isn't missed.
    assert_eq!(get(&admin, "/readyz").status, 200);

    clients.remove(0).socket.reset();
    for client in clients {
        assert_eq!(client.finish(), End::Clean);
    }
    let ended = tinylb.line("service ended").json;
    assert_eq!((&ended["service"], &ended["sessions_finished"]), (&"s".into(), &2.into()));
    assert_eq!(
        (&ended["sessions_cut"], &ended["sessions_ended_otherwise"]),
        (&0.into(), &1.into())
    );
    until("its end", || get(&admin, "/services").json().get("s").is_none());
    assert!(!get(&admin, "/metrics").body.contains("service=\"s\""));
    tinylb.stop();
}

#[test]
fn sessions_that_a_removal_cut_are_called_that_when_their_service_has_ended() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let at = free_address();
    let s = |removal: &str| service("s", &at, [&a, &b], &format!("{PATIENT}\n{removal}"));
    for removal in ["", "removal = { drain = \"100ms\" }"] {
        let file = ConfigFile::new(&(s(removal) + &other()));
        let tinylb = file.run_with(&ADMIN);
        tinylb.addresses(2);
        let (mut by_a, by_b) = (Client::connect(&at), Client::connect(&at));
        removed(&file, &tinylb, 1);
        let b_only = format!("{{\"b\": {:?}}}", b.address);
        assert_eq!(put(&tinylb.admin(), "s", &b_only).status, 200);
        assert_eq!(by_a.end(), End::Reset);
        assert_eq!(by_b.finish(), End::Clean);
        let ended = tinylb.line("service ended").json;
        let of = |ends: &str| ended[&format!("sessions_{ends}")].as_u64();
        assert_eq!((of("cut_by_removal"), of("finished")), (Some(1), Some(1)), "{ended}");
        assert_eq!((of("cut"), of("ended_otherwise")), (Some(0), Some(0)), "{ended}");
        tinylb.stop();
    }
}

#[test]
fn a_service_that_leaves_no_longer_writes_the_file_of_its_successor() {
    let a = Backend::echo("a");
    let at = free_address();
    let s = |name: &str, from: &str| {
        format!(
            "[services.{name}]\nlisten = {at:?}\nstart = 0\n{PATIENT}\n\
             source = {{ file = {from:?}, last_known = \"known\" }}\n"
        )
    };
    let file = ConfigFile::new(&s("s", "of_s.toml"));
    let line = format!("a = {:?}\n", a.address);
    let say = |from: &str, key: &str| {
        fs::write(file.in_dir(from), format!("{line}{key} = \"127.0.0.1:1\"\n")).unwrap();
    };
    say("of_s.toml", "s1");
    say("of_t.toml", "t1");
    let tinylb = file.run_with(&ADMIN);
    let known = || fs::read_to_string(file.in_dir("known")).unwrap_or_default();
    until("the set of s", || known().contains("s1"));
    let mut client = Client::connect(&at);
    file.edit(&s("t", "of_t.toml"));
    tinylb.line("service removed");
    until("the set of its successor", || known().contains("t1"));

    say("of_s.toml", "s2");
    // Its set still follows the source.
    tinylb.line(r#""added":["s2"]"#);
    for _ in 0..10 {
        assert!(known().contains("t1"), "{}", known());
        sleep(Duration::from_millis(100));
    }
    assert!(client.is_served());

    // It writes again once it is back, even a set that has not changed since.
    file.edit(&s("s", "of_s.toml"));
    tinylb.line("service is back");
    say("of_s.toml", "s3");
    until("the set of s again", || known().contains("s3"));
    file.edit(&s("t", "of_t.toml"));
    until("the set of t again", || known().contains("t1"));
    file.edit(&s("s", "of_s.toml"));
    until("the set of s as it was", || known().contains("s3"));
    tinylb.stop_and_finish([client]);
}

#[test]
fn a_service_whose_time_is_over_is_cut_and_comes_back_as_new() {
    let a = Backend::echo("a");
    let at = free_address();
    let s =
        |time: &str| service("s", &at, [&a], &format!("shutdown_timeout = {time:?}")) + &other();
    let file = ConfigFile::new(&s("300ms"));
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let mut client = Client::connect(&at);
    removed(&file, &tinylb, 1);
    assert_eq!(client.end(), End::Reset);
    let ended = tinylb.line("service ended").json;
    assert_eq!((&ended["sessions_cut"], &ended["sessions_finished"]), (&1.into(), &0.into()));

    file.edit(&s("24h"));
    tinylb.addresses(3);
    let mut client = Client::connect(&at);
    assert!(client.is_served());
    assert_eq!(get(&tinylb.admin(), "/services").json()["s"]["accepted"], 1);
    // And its time has not begun before it leaves again.
    removed(&file, &tinylb, 2);
    assert!(client.is_served());
    assert_eq!(client.finish(), End::Clean);
    tinylb.lines(2, "service ended");
    assert!(!tinylb.log().iter().any(|line| line.says("service is back")));
    tinylb.stop();
}

#[test]
fn a_put_whose_body_comes_late_reaches_the_service_that_has_the_name_by_then() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let at = free_address();
    let s = service("s", &at, [&a], "") + &other();
    let file = ConfigFile::new(&s);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let backends = format!("{{\"b\":{:?}}}", b.address);
    let mut socket = Socket::connect(&tinylb.admin()).unwrap();
    let head = "PUT /services/s/backends HTTP/1.1\r\nHost: localhost\r\n";
    let length = backends.len();
    socket.write_all(format!("{head}Content-Length: {length}\r\n\r\n").as_bytes()).unwrap();
    until("the request to be read", || get(&tinylb.admin(), "/services").status == 200);

    removed(&file, &tinylb, 1);
    tinylb.line("service ended");
    file.edit(&s);
    tinylb.addresses(3);
    assert_eq!(Client::connect(&at).backend, "a");
    socket.write_all(backends.as_bytes()).unwrap();
    let answer = Answer::read(&mut socket);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(Client::connect(&at).backend, "b");
    tinylb.stop();
}

#[test]
fn a_return_calls_the_end_off() {
    let a = Backend::echo("a");
    let at = free_address();
    let s =
        |time: &str| service("s", &at, [&a], &format!("shutdown_timeout = {time:?}")) + &other();
    let file = ConfigFile::new(&s("5s"));
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let mut client = Client::connect(&at);
    let began = std::time::Instant::now();
    removed(&file, &tinylb, 1);
    file.edit(&s("5s"));
    tinylb.line("service is back");
    until("the time at which it would have ended", || began.elapsed().as_secs() >= 6);
    assert!(client.is_served());
    // The end of one session isn't the end of the service.
    assert_eq!(client.finish(), End::Clean);
    assert!(Client::connect(&at).is_served());
    assert!(!tinylb.log().iter().any(|line| line.says("service ended")));
    tinylb.stop();
}

#[test]
fn the_source_of_a_service_that_left_is_followed_until_its_last_session_is_over() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let at = free_address();
    let s = format!("[services.s]\nlisten = {at:?}\nstart = 0\n{PATIENT}\n");
    let file = ConfigFile::new(&(s + "source = { file = \"backends.toml\" }\n" + &other()));
    let write = |backends: &[&Backend]| {
        let lines = backends.iter().map(|b| format!("{} = {:?}\n", b.key, b.address));
        fs::write(file.in_dir("new"), lines.collect::<String>()).unwrap();
        fs::rename(file.in_dir("new"), file.in_dir("backends.toml")).unwrap();
    };
    write(&[&a, &b]);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let (mut by_a, mut by_b) = (Client::connect(&at), Client::connect(&at));
    removed(&file, &tinylb, 1);
    write(&[&b]);
    assert_eq!(by_a.end(), End::Reset);
    assert!(by_b.is_served());
    tinylb.stop_and_finish([by_b]);
}

#[test]
fn backends_can_be_put_while_a_service_leaves_and_are_forgotten_if_it_returns() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let at = free_address();
    let s = service("s", &at, [&a, &b], PATIENT) + &other();
    let file = ConfigFile::new(&s);
    let tinylb = file.run_with(&ADMIN);
    tinylb.addresses(2);
    let (mut by_a, mut by_b) = (Client::connect(&at), Client::connect(&at));
    removed(&file, &tinylb, 1);
    let answer = put(&tinylb.admin(), "s", &format!("{{\"b\": {:?}}}", b.address));
    assert_eq!((answer.status, &answer.json()["sessions_cut"]), (200, &1.into()));
    assert_eq!(by_a.end(), End::Reset);
    assert!(by_b.is_served());

    // The file gives the backends again.
    file.edit(&s);
    tinylb.line("service is back");
    let mut backends = [Client::connect(&at).backend, Client::connect(&at).backend];
    backends.sort();
    assert_eq!(backends, ["a", "b"]);
    tinylb.stop_and_finish([by_b]);
}

#[test]
fn a_service_that_is_renamed_says_how_many_sessions_it_cost() {
    let a = Backend::echo("a");
    let at = free_address();
    let named = |name: &str| service(name, &at, [&a], "shutdown_timeout = \"300ms\"");
    let file = ConfigFile::new(&named("web"));
    let tinylb = file.run_with(&ADMIN);
    tinylb.address();
    let mut clients = Client::several(&at, 5);
    file.edit(&named("www"));
    assert_eq!(tinylb.line("service removed").json["sessions"], 5);
    assert!(clients.iter_mut().all(|client| client.end() == End::Reset));
    assert_eq!(tinylb.line("service ended").json["sessions_cut"], 5);
    assert!(Client::connect(&at).is_served());
    tinylb.stop();
}
