//! The end of the program.

use std::{fs, thread::sleep, time::Duration};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, ConfigFile, End, Tinylb, free_address, get, put, service, until,
};

const PATIENT: &str = "shutdown_timeout = \"24h\"";

#[test]
fn sessions_may_finish_when_the_program_stops() {
    for signal in [Signal::TERM, Signal::INT] {
        let a = Backend::echo("a");
        let mut tinylb = Tinylb::balance([&a], &["--log-level", "debug"]);
        let address = tinylb.address();
        let mut clients = Client::several(&address, 3);
        tinylb.signal(signal);
        until("the listener's end", || Client::try_connect(&address).is_err());
        for client in &mut clients {
            assert!(client.is_served());
        }
        assert!(tinylb.is_running());
        for client in clients {
            assert_eq!(client.finish(), End::Clean);
        }
        assert_eq!(tinylb.exit_code(), 0);
        let ended = tinylb.lines(3, "connection ended");
        assert!(ended.iter().all(|line| line.field("reason") == "finished"), "{ended:?}");
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let a = Backend::echo("a");
        let file =
            ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "shutdown_timeout = \"24h\""));
        let mut tinylb = file.run();
        let mut clients = Client::several(&tinylb.address(), 3);
        tinylb.signal(first);
        tinylb.line("shutting down");
        assert!(clients.iter_mut().all(Client::is_served));
        tinylb.signal(second);
        assert!(clients.iter_mut().all(|client| client.end() == End::Reset));
        assert_eq!(tinylb.exit_code(), 0);
        until("the ends at the backend", || a.ends() == [End::Reset; 3]);
    }
}

#[test]
fn sessions_that_do_not_finish_in_time_are_cut() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], "shutdown_timeout = \"300ms\""));
    let mut tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), 3);
    tinylb.signal(Signal::TERM);
    assert!(clients.iter_mut().all(|client| client.end() == End::Reset));
    assert_eq!(tinylb.exit_code(), 0);
}

#[test]
fn without_sessions_it_stops_at_once() {
    let a = Backend::echo("a");
    let mut tinylb = Tinylb::balance([&a], &[]);
    tinylb.address();
    tinylb.signal(Signal::INT);
    assert_eq!(tinylb.exit_code(), 0);
}

#[test]
fn an_idle_client_of_the_admin_address_holds_nothing_up() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::balance([&a], &["--admin", "127.0.0.1:0"]);
    tinylb.address();
    let _idle = crate::harness::Socket::connect(&tinylb.admin()).unwrap();
    tinylb.stop();
}

#[test]
fn sessions_of_a_removed_service_may_finish_at_shutdown_too() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let (of_s, of_t) = (free_address(), free_address());
    let (s, t) = (service("s", &of_s, [&a], ""), service("t", &of_t, [&b], ""));
    let file = ConfigFile::new(&(s + &t));
    let tinylb = file.run();
    tinylb.addresses(2);
    let (mut removed, mut other) = (Client::connect(&of_s), Client::connect(&of_t));
    file.edit(&t);
    tinylb.line("service removed");
    assert!(removed.is_served());

    // The first signal is the graceful one, for everybody.
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    until("the listener's end", || Client::try_connect(&of_t).is_err());
    assert!(other.is_served());
    assert!(removed.is_served());
    assert_eq!(removed.finish(), End::Clean);
    assert_eq!(other.finish(), End::Clean);
    tinylb.stop_after_signal();
}

#[test]
fn a_session_that_is_dialling_may_finish_too() {
    use crate::harness::{Hung, Socket};

    let (hung, b) = (Hung::tcp(), Backend::echo("b"));
    let text = format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nstart = 0\ndial_timeout = \"1s\"\n\
         backends = {{ a = {:?}, b = {:?} }}\n",
        hung.address, b.address
    );
    let file = ConfigFile::new(&text);
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let socket = Socket::connect(&tinylb.address()).unwrap();
    until("the session", || get(&tinylb.admin(), "/services").json()["s"]["live"] == 1);
    tinylb.signal(Signal::TERM);
    let mut client = Client::greeted(socket).unwrap();
    assert!(client.is_served());
    assert_eq!(client.finish(), End::Clean);
    tinylb.stop_after_signal();
}

/// A program that stops, with a session to each of two backends; `remove` takes the first one out.
fn removes_while_it_stops(remove: impl FnOnce(&ConfigFile, &Tinylb, &str)) {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let text =
        |backends: &[&Backend]| service("s", "127.0.0.1:0", backends.iter().copied(), PATIENT);
    let file = ConfigFile::new(&text(&[&a, &b]));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0", "--admin-write"]);
    let address = tinylb.address();
    let (mut by_a, mut by_b) = (Client::connect(&address), Client::connect(&address));
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    remove(&file, &tinylb, &text(&[&b]));
    assert_eq!(by_a.end(), End::Reset);
    assert_eq!(tinylb.line(r#""removed":["a"]"#).json["sessions_cut"], 1);
    assert!(by_b.is_served());
    assert_eq!(by_b.finish(), End::Clean);
    tinylb.stop_after_signal();
}

#[test]
fn a_backend_that_leaves_the_file_during_shutdown_is_cut_at_once() {
    removes_while_it_stops(|file, tinylb, text| {
        file.edit(text);
        tinylb.line("configuration reloaded while shutting down");
    });
}

#[test]
fn a_hangup_during_shutdown_has_the_file_read_again() {
    removes_while_it_stops(|file, tinylb, text| {
        // Twice, the second time as it was.
        tinylb.signal(Signal::HUP);
        tinylb.line("configuration reloaded while shutting down");
        file.replace(text);
        tinylb.signal(Signal::HUP);
        tinylb.lines(2, "configuration reloaded while shutting down");
    });
}

#[test]
fn backends_that_are_put_during_shutdown_are_taken() {
    removes_while_it_stops(|_, tinylb, text| {
        let b = text.split_once("b = ").unwrap().1.split_once(' ').unwrap().0;
        assert_eq!(put(&tinylb.admin(), "s", &format!("{{\"b\": {b}}}")).status, 200);
    });
}

#[test]
fn a_file_that_is_bad_during_shutdown_changes_nothing_and_the_next_one_is_taken() {
    removes_while_it_stops(|file, tinylb, text| {
        file.edit("[services.s]\nlisten = 1\n");
        tinylb.line("configuration rejected, nothing changed");
        file.edit(text);
    });
}

#[test]
fn a_change_during_shutdown_starts_and_listens_to_nothing() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let [of_s, of_idle, of_new, more] = [(); 4].map(|()| free_address());
    let s = |listen: &str, backends: &[&Backend]| {
        service("s", listen, backends.iter().copied(), PATIENT)
    };
    let idle = service("idle", &of_idle, [&a], "");
    let file = ConfigFile::new(&(s(&of_s, &[&a, &b]) + &idle));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    tinylb.addresses(2);
    let (mut by_a, mut by_b) = (Client::connect(&of_s), Client::connect(&of_s));
    tinylb.signal(Signal::TERM);
    // It has no sessions, so that nothing is left of it.
    until("the end of one service", || {
        get(&tinylb.admin(), "/services").json().get("idle").is_none()
    });
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 503);

    let new = service("new", &of_new, [&b], "");
    file.edit(&(s(&format!("{of_s} {more}"), &[&b]) + &idle + &new));
    let line = tinylb.line("configuration reloaded while shutting down").json;
    assert_eq!((&line["services_reached"], &line["services_passed_over"]), (&1.into(), &2.into()));
    assert_eq!(by_a.end(), End::Reset);
    assert!(by_b.is_served());
    for address in [&of_s, &of_idle, &of_new, &more] {
        assert!(Client::try_connect(address).is_err(), "{address}");
    }
    assert_eq!(tinylb.addresses(2).len(), 2);
    // A service that the file lacks may finish all the same.
    file.edit(&new);
    tinylb.lines(2, "configuration reloaded while shutting down");
    assert!(by_b.is_served());
    assert_eq!(by_b.finish(), End::Clean);
    tinylb.stop_after_signal();
}

#[test]
fn the_time_that_is_left_can_be_changed_during_shutdown() {
    let a = Backend::echo("a");
    let text =
        |time: &str| service("s", "127.0.0.1:0", [&a], &format!("shutdown_timeout = {time:?}"));
    let file = ConfigFile::new(&text("24h"));
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    assert!(client.is_served());
    file.edit(&text("100ms"));
    assert_eq!(client.end(), End::Reset);
    tinylb.stop_after_signal();
}

#[test]
fn a_second_signal_ends_it_at_once_after_a_change_too() {
    let a = Backend::echo("a");
    let text =
        |time: &str| service("s", "127.0.0.1:0", [&a], &format!("shutdown_timeout = {time:?}"));
    let file = ConfigFile::new(&text("23h"));
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    tinylb.signal(Signal::TERM);
    file.edit(&text("24h"));
    tinylb.line("configuration reloaded while shutting down");
    assert!(client.is_served());
    tinylb.signal(Signal::TERM);
    assert_eq!(client.end(), End::Reset);
    tinylb.stop_after_signal();
}

#[test]
fn a_shutdown_says_how_many_sessions_finished_and_how_many_it_cut() {
    let a = Backend::echo("a");
    let (of_s, of_t) = (free_address(), free_address());
    let text = service("s", &of_s, [&a], PATIENT) + &service("t", &of_t, [&a], PATIENT);
    let file = ConfigFile::new(&text);
    let tinylb = file.run();
    tinylb.addresses(2);
    // Sessions that ended before don't count for the shutdown.
    assert_eq!(Client::connect(&of_s).finish(), End::Clean);
    let (finishing, mut staying) = (Client::several(&of_s, 2), Client::several(&of_t, 3));
    let resetting = Client::connect(&of_t);
    tinylb.signal(Signal::TERM);
    assert_eq!(tinylb.line("shutting down").json["sessions"], 6);
    for client in finishing {
        assert_eq!(client.finish(), End::Clean);
    }
    resetting.socket.reset();
    until("the end at the backend", || a.ends().contains(&End::Reset));
    assert!(staying.iter_mut().all(Client::is_served));
    tinylb.stop_and_log(|lines| {
        let of = |message: &str, service: &str| {
            let is_it = |line: &&crate::harness::Line| {
                line.message() == message && line.field("service") == service
            };
            let line = &lines.iter().find(is_it).unwrap().json;
            [
                "sessions_finished",
                "sessions_cut",
                "sessions_cut_by_removal",
                "sessions_ended_otherwise",
            ]
            .map(|field| line[field].as_u64().unwrap())
        };
        assert_eq!(of("service ended", "s"), [2, 0, 0, 0]);
        assert_eq!(of("service ended", "t"), [0, 3, 0, 1]);
        assert_eq!(of("stopped", ""), [2, 3, 0, 1]);
    });
    assert!(staying.iter_mut().all(|client| client.end() == End::Reset));
}

/// A program that stops, while a client of `a` stays. Its file of the last known backends has `a` and
/// `b`.
fn stopping_with_a_source(a: &Backend) -> (ConfigFile, Tinylb, Client) {
    let file = ConfigFile::new(&format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nstart = 0\n{PATIENT}\n\
         source = {{ file = \"backends.toml\", last_known = \"known\" }}\n"
    ));
    let backends = format!("a = {:?}\nb = \"127.0.0.1:1\"\n", a.address);
    fs::write(file.in_dir("backends.toml"), backends).unwrap();
    let tinylb = file.run();
    let client = Client::connect(&tinylb.address());
    until("the file", || known(&file).contains("\"b\""));
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    (file, tinylb, client)
}

fn known(file: &ConfigFile) -> String {
    fs::read_to_string(file.in_dir("known")).unwrap_or_default()
}

#[test]
fn a_set_that_comes_during_shutdown_is_there_at_the_next_start() {
    let a = Backend::echo("a");
    let (file, tinylb, client) = stopping_with_a_source(&a);
    fs::write(file.in_dir("backends.toml"), format!("a = {:?}\n", a.address)).unwrap();
    until("the new set in the file", || !known(&file).contains("\"b\""));
    assert_eq!(client.finish(), End::Clean);
    tinylb.stop_after_signal();

    fs::remove_file(file.in_dir("backends.toml")).unwrap();
    let tinylb = file.run();
    tinylb.line("source of backends lost");
    assert!(Client::several(&tinylb.address(), 2).iter().all(|client| client.backend == "a"));
    tinylb.stop();
}

#[test]
fn during_shutdown_a_service_that_the_file_lacks_no_longer_writes_its_last_known() {
    let a = Backend::echo("a");
    let (file, tinylb, client) = stopping_with_a_source(&a);
    let text = fs::read_to_string(file.path()).unwrap();
    file.edit(&service("other", "127.0.0.1:0", [&a], ""));
    tinylb.line("configuration reloaded while shutting down");
    fs::write(file.in_dir("backends.toml"), format!("a = {:?}\n", a.address)).unwrap();
    tinylb.line(r#""removed":["b"]"#);
    for _ in 0..10 {
        assert!(known(&file).contains("\"b\""), "it may be another service's");
        sleep(Duration::from_millis(100));
    }
    file.edit(&text);
    until("the new set in the file", || !known(&file).contains("\"b\""));
    assert_eq!(client.finish(), End::Clean);
    tinylb.stop_after_signal();
}
