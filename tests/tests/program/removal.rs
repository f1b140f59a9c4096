//! What becomes of connections whose backend is removed.

use serde_json::json;

use crate::harness::{Backend, Client, ConfigFile, End, Load, service, until};

const CLIENTS: usize = 18;

/// Removes one of three backends by a change of the file, while clients of all three talk.
fn remove_under_load(make: fn(&str) -> ConfigFile, change: fn(&ConfigFile, &str)) {
    let backends = ["a", "b", "c"].map(Backend::echo);
    let [a, b, c] = &backends;
    let file = make(&service("s", "127.0.0.1:0", &backends, ""));
    let tinylb = file.run();
    let address = tinylb.address();
    let mut load = Load::start(&address, CLIENTS);
    assert_eq!(load.count(|key| key == "b"), CLIENTS / 3);

    change(&file, &service("s", "127.0.0.1:0", [a, c], ""));
    let line = tinylb.line(r#""removed":["b"]"#);
    assert_eq!(line.json["sessions_cut"], CLIENTS / 3, "{line:?}");
    // They see ECONNRESET, and never a clean end.
    assert_eq!(load.ends("b"), [End::Reset; CLIENTS / 3]);
    until("the end of the backend's side", || b.ends().len() == CLIENTS / 3);
    assert!(b.ends().iter().all(|end| *end == End::Reset), "{:?}", b.ends());

    // The others go on, and new ones go to those that stay.
    load.go_on(|_| true);
    let came = b.accepted();
    assert!(Client::several(&address, 6).iter().all(|client| client.backend != "b"));
    assert_eq!(b.accepted(), came);
    assert_eq!(load.finish(), [End::Clean; CLIENTS * 2 / 3]);
    tinylb.stop();
}

#[test]
fn an_edit_in_place_cuts_the_clients_of_the_removed_and_nobody_else() {
    remove_under_load(ConfigFile::new, ConfigFile::edit);
}

#[test]
fn an_atomic_rename_cuts_the_clients_of_the_removed_and_nobody_else() {
    remove_under_load(ConfigFile::new, ConfigFile::replace);
}

#[test]
fn a_swapped_symlink_cuts_the_clients_of_the_removed_and_nobody_else() {
    remove_under_load(ConfigFile::mounted, ConfigFile::mount);
}

#[test]
fn a_config_map_can_be_changed_again_and_again() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let text = |backend| service("s", "127.0.0.1:0", [backend], "");
    let file = ConfigFile::mounted(&text(&a));
    let tinylb = file.run();
    tinylb.address();
    for (place, backend) in [&b, &a, &b].into_iter().enumerate() {
        file.mount(&text(backend));
        tinylb.lines(place + 2, "backends replaced");
        assert_eq!(Client::connect(&tinylb.address()).backend, backend.key);
    }
}

#[test]
fn a_set_that_is_empty_on_purpose_cuts_everybody_and_takes_nobody() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), 4);

    file.edit(&service("s", "127.0.0.1:0", [], ""));
    for client in &mut clients {
        assert_eq!(client.end(), End::Reset);
    }
    let refused = Client::try_connect(&tinylb.address());
    assert_eq!(End::from(refused.map(|_| ())), End::Reset);
    assert_eq!(a.accepted(), 4);

    file.edit(&service("s", "127.0.0.1:0", [&a], ""));
    tinylb.lines(3, "backends replaced");
    assert_eq!(Client::connect(&tinylb.address()).backend, "a");
}

#[test]
fn a_service_may_begin_with_a_set_that_is_empty_on_purpose() {
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [], ""));
    let tinylb = file.run();
    let refused = Client::try_connect(&tinylb.address());
    assert_eq!(End::from(refused.map(|_| ())), End::Reset);
    tinylb.stop();
}

#[test]
fn a_renamed_backend_keeps_its_connections_and_one_that_moved_loses_them() {
    let [a, b, elsewhere] = ["a", "b", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a, &b], ""));
    let tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), 2);

    let renamed = format!(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {{ x = {:?}, b = {:?} }}",
        a.address, elsewhere.address
    );
    file.edit(&renamed);
    let line = tinylb.lines(2, "backends replaced").remove(1);
    assert_eq!(
        ["added", "removed", "retargeted"].map(|field| &line.json[field]),
        [&json!(["x"]), &json!(["a"]), &json!(["b"])],
        "{line:?}"
    );
    assert_eq!(clients[1].end(), End::Reset);
    assert!(clients[0].is_served());
}

#[test]
fn removal_by_draining_lets_a_session_finish_and_takes_no_new_one() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let settings = r#"removal = { drain = "1h" }"#;
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a, &b], settings));
    let tinylb = file.run();
    let mut old = Client::connect(&tinylb.address());
    assert_eq!(old.backend, "a");
    file.edit(&service("s", "127.0.0.1:0", [&b], settings));
    let line = tinylb.line(r#""removed":["a"]"#);
    assert_eq!(
        (&line.json["sessions_draining"], &line.json["sessions_cut"]),
        (&1.into(), &0.into())
    );
    assert!(Client::several(&tinylb.address(), 3).iter().all(|client| client.backend == "b"));
    assert!(old.is_served());
    assert_eq!(old.finish(), End::Clean);
}

#[test]
fn a_drain_that_takes_too_long_is_cut() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let settings = r#"removal = { drain = "1ms" }"#;
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a, &b], settings));
    let tinylb = file.run();
    let mut clients = Client::several(&tinylb.address(), 2);
    file.edit(&service("s", "127.0.0.1:0", [&b], settings));
    assert_eq!(clients[0].end(), End::Reset);
    assert!(clients[1].is_served());
}
