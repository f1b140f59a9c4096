//! The end of the program.

use rustix::process::Signal;

use crate::harness::{Backend, Client, ConfigFile, End, Tinylb, free_address, service, until};

#[test]
fn sessions_may_finish_when_the_program_is_told_to_stop() {
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
fn without_sessions_it_ends_when_told() {
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
    use crate::harness::{Hung, Socket, get};

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
