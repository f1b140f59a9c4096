//! Changes of the file that are no change of backends, and those that must change nothing.

use std::{thread, time::Duration};

use rustix::process::Signal;

use crate::harness::{
    Backend, Client, ConfigFile, End, Strace, Tinylb, eventually, free_address, get, service, until,
};

/// A program with one client, whose service a bad change is to leave alone.
fn survives(change: impl FnOnce(&ConfigFile), error: &[&str]) {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let good = |backends: &[&Backend]| service("s", "127.0.0.1:0", backends.iter().copied(), "");
    let file = ConfigFile::new(&good(&[&a]));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut client = Client::connect(&address);

    change(&file);
    let line = tinylb.line("configuration rejected, nothing changed");
    assert_eq!(line.field("level"), "ERROR");
    for part in error {
        assert!(line.message().contains(part), "{part}: {line:?}");
    }
    assert!(client.is_served());
    assert_eq!(Client::connect(&address).backend, "a");

    // The next good file is taken.
    file.replace(&good(&[&b]));
    assert_eq!(client.end(), End::Reset);
    assert_eq!(Client::connect(&address).backend, "b");
    tinylb.stop();
}

#[test]
fn a_hangup_has_the_file_read_again() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    // The file hasn't changed, so that nothing else has it read.
    for count in 1..=3 {
        tinylb.signal(Signal::HUP);
        tinylb.lines(count, "configuration reloaded");
    }
    assert!(client.is_served());
    assert_eq!(tinylb.lines(1, "backends replaced").len(), 1);
}

#[test]
fn a_file_system_that_hangs_holds_up_nothing_but_its_file() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let (address, admin) = (tinylb.address(), tinylb.admin());
    let hang = || {
        let strace = Strace::hang(&tinylb, "openat", file.path())?;
        tinylb.signal(Signal::HUP);
        strace.wait_for("openat");
        Some(strace)
    };
    let Some(strace) = hang() else { return };
    assert_eq!(get(&admin, "/healthz").status, 200);
    assert_eq!(Client::connect(&address).backend, "a");
    // Another hangup has the file read again afterwards.
    tinylb.signal(Signal::HUP);
    assert_eq!(get(&admin, "/healthz").status, 200);
    drop(strace);
    tinylb.lines(2, "configuration reloaded");
    // Nor is the end held up; though while strace has one of its threads, the process is not gone.
    let strace = hang();
    tinylb.signal(Signal::TERM);
    tinylb.line("stopped");
    drop(strace);
    tinylb.stop_after_signal();
}

#[test]
fn a_hangup_does_no_harm_to_a_program_without_a_file() {
    let a = Backend::echo("a");
    let mut tinylb = Tinylb::balance([&a], &[]);
    let mut client = Client::connect(&tinylb.address());
    tinylb.signal(Signal::HUP);
    assert!(client.is_served());
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
    assert!(tinylb.is_running());
}

#[test]
fn a_bad_file_changes_nothing_and_its_error_says_where() {
    let bad = "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = { a = \"127.0.0.1\" }\n";
    survives(|file| file.edit(bad), &["tinylb.toml:3:18: ", "has no port"]);
}

#[test]
fn a_file_that_is_no_toml_changes_nothing() {
    survives(|file| file.replace("[services.s]\nlisten = 127\nwhat\n"), &["tinylb.toml:"]);
}

#[test]
fn an_unknown_key_changes_nothing() {
    let bad = "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {}\ndial_timeot = \"3s\"\n";
    survives(|file| file.edit(bad), &["tinylb.toml:4:1: ", "did you mean `dial_timeout`?"]);
}

#[test]
fn a_file_that_became_empty_is_no_empty_set() {
    survives(|file| file.edit(""), &["the file is empty"]);
}

#[test]
fn a_file_without_its_backends_is_no_empty_set() {
    let bad = "[services.s]\nlisten = \"127.0.0.1:0\"\n";
    survives(|file| file.edit(bad), &["tinylb.toml:1:11: ", "no `backends`"]);
}

#[test]
fn a_file_that_was_removed_changes_nothing() {
    survives(|file| std::fs::remove_file(file.path()).unwrap(), &["No such file"]);
}

#[test]
fn an_address_that_cannot_be_used_changes_nothing() {
    let holder = Backend::echo("holder");
    let bad = service("s", "127.0.0.1:0", [], "") + &service("t", &holder.address, [], "");
    survives(|file| file.edit(&bad), &["can't listen at", "in use"]);
}

#[test]
fn several_errors_are_all_logged_on_reload() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run();
    tinylb.address();
    file.edit("[services.s]\nlisten = \"x\"\nbackends = { a = 1 }\n");
    let lines = tinylb.lines(2, "configuration rejected");
    assert!(lines[0].says("tinylb.toml:2:10: "), "{lines:?}");
    assert!(lines[1].says("tinylb.toml:3:18: "), "{lines:?}");
}

#[test]
fn a_change_that_came_without_threads_is_taken_when_there_are_some_and_logged_once() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut client = Client::connect(&address);
    until("the file is watched", || tinylb.threads().iter().any(|name| name == "watch"));
    let before = tinylb.deny_threads();
    file.edit(&service("s", "127.0.0.1:0", [&b], ""));
    let line = tinylb.line("configuration rejected, nothing changed: no thread can be started");
    assert!(line.says("ulimit -u"), "{line:?}");
    // It is tried again each second.
    thread::sleep(Duration::from_millis(2500));
    assert!(client.is_served());
    tinylb.limit_memory(before);
    assert_eq!(client.end(), End::Reset);
    assert_eq!(Client::connect(&address).backend, "b");
    tinylb.stop_and_log(|lines| {
        let failed = lines.iter().filter(|line| line.says("configuration rejected")).count();
        assert_eq!(failed, 1, "{lines:?}");
    });
}

#[test]
fn settings_change_while_sessions_go_on() {
    let a = Backend::echo("a");
    let text = |settings: &str| service("s", "127.0.0.1:0", [&a], settings);
    let file = ConfigFile::new(&text("max_connections = 100"));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let mut clients = Client::several(&tinylb.address(), 3);
    assert!(
        get(&tinylb.admin(), "/metrics")
            .body
            .contains("tinylb_connections_max{service=\"s\"} 100\n")
    );

    // Below what is there already: those stay, and the next one has to wait.
    file.edit(&text("max_connections = 2"));
    tinylb.line("configuration reloaded");
    assert!(
        get(&tinylb.admin(), "/metrics").body.contains("tinylb_connections_max{service=\"s\"} 2\n")
    );
    assert!(clients.iter_mut().all(Client::is_served));

    // A time limit holds for sessions that begin now, and not for those before.
    file.edit(&text("idle_timeout = \"100ms\""));
    tinylb.lines(2, "configuration reloaded");
    let mut idle = Client::connect(&tinylb.address());
    assert_eq!(idle.end(), End::Reset);
    assert!(clients.iter_mut().all(Client::is_served));
    assert_eq!(tinylb.lines(1, "backends replaced").len(), 1);
}

#[test]
fn the_way_of_removal_can_be_changed_while_sessions_go_on() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a, &b], ""));
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    // Both in one change: the new way holds for it.
    let drain = "removal = { drain = \"1h\" }";
    file.edit(&service("s", "127.0.0.1:0", [&b], drain));
    let line = tinylb.line(r#""removed":["a"]"#);
    assert_eq!(line.json["sessions_draining"], 1, "{line:?}");
    assert!(client.is_served());
}

#[test]
fn an_address_is_added_and_removed_while_its_sessions_go_on() {
    let a = Backend::echo("a");
    let (first, second) = (free_address(), free_address());
    let text = |listen: &str| service("s", listen, [&a], "");
    let file = ConfigFile::new(&text(&first));
    let tinylb = file.run();
    tinylb.address();
    let mut by_first = Client::connect(&first);
    assert!(Client::try_connect(&second).is_err());

    file.edit(&text(&format!("{first} {second}")));
    tinylb.line(&format!("listening on {second}"));
    let mut by_second = Client::connect(&second);

    file.edit(&text(&second));
    until("the first address to be closed", || Client::try_connect(&first).is_err());
    assert!(by_first.is_served() && by_second.is_served());
    assert!(Client::connect(&second).is_served());

    // And back.
    file.edit(&text(&first));
    eventually("the first address to listen again", || Client::try_connect(&first).ok());
    assert!(by_first.is_served() && by_second.is_served());
    assert_eq!((by_first.finish(), by_second.finish()), (End::Clean, End::Clean));
    tinylb.stop();
}

#[test]
fn an_address_moves_to_another_service_without_a_refusal() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let (moving, other) = (free_address(), free_address());
    let text =
        |of_s: &str, of_t: &str| service("s", of_s, [&a], "") + &service("t", of_t, [&b], "");
    let file = ConfigFile::new(&text(&format!("{moving} 127.0.0.1:0"), &other));
    let tinylb = file.run();
    tinylb.addresses(3);
    let mut old = Client::connect(&moving);
    assert_eq!(old.backend, "a");

    file.edit(&text("127.0.0.1:0", &format!("{moving} {other}")));
    // No connection is refused or cut on the way.
    until("the other service at that address", || {
        let mut client = Client::connect(&moving);
        assert!(client.is_served());
        client.backend == "b"
    });
    assert!(old.is_served());
    assert_eq!(old.finish(), End::Clean);
    tinylb.stop();
}

#[test]
fn a_service_is_added_and_removed_while_its_sessions_go_on() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let (of_s, of_t) = (free_address(), free_address());
    let (s, t) = (service("s", &of_s, [&a], ""), service("t", &of_t, [&b], ""));
    let file = ConfigFile::new(&s);
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    tinylb.address();
    let mut client = Client::connect(&of_s);

    file.edit(&(s + &t));
    tinylb.line(&format!("listening on {of_t}"));
    let mut other = Client::connect(&of_t);
    assert_eq!(other.backend, "b");
    assert!(client.is_served());

    file.edit(&t);
    tinylb.line("service removed");
    until("the removed service's address to be closed", || Client::try_connect(&of_s).is_err());
    assert!(client.is_served() && other.is_served());
    assert_eq!(client.finish(), End::Clean);
    until("the removed service's end", || {
        get(&tinylb.admin(), "/services").json().get("s").is_none()
    });
    assert_eq!(other.finish(), End::Clean);
    tinylb.stop();
}

#[test]
fn a_service_that_comes_back_listens_at_its_address_again() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let (of_s, of_t) = (free_address(), free_address());
    let (s, t) = (service("s", &of_s, [&a], ""), service("t", &of_t, [&b], ""));
    let file = ConfigFile::new(&(s.clone() + &t));
    let tinylb = file.run();
    tinylb.addresses(2);
    let mut old = Client::connect(&of_s);
    file.edit(&t);
    tinylb.line("service removed");
    file.edit(&(s + &t));
    tinylb.lines(2, &format!("listening on {of_s}"));
    let mut new = Client::connect(&of_s);
    assert!(old.is_served() && new.is_served());
    assert_eq!(old.finish(), End::Clean);
    assert_eq!(new.finish(), End::Clean);
    tinylb.stop();
}
