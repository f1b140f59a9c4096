//! Backends that come from a file of their own.

use std::{fs, os::unix::fs::symlink, process::Command, thread, time::Duration};

use rustix::process::Signal;

use crate::harness::{Backend, Client, ConfigFile, End, free_address, get, until};

#[test]
fn the_set_follows_a_file_and_damage_to_it_closes_nothing() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let line = |backend: &Backend| format!("{} = {:?}\n", backend.key, backend.address);
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nsource = { file = \"backends.toml\" }\n",
    );
    fs::write(file.in_dir("backends.toml"), line(&a)).unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let address = tinylb.address();
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "a");

    let age = || get(&tinylb.admin(), "/services").json()["s"]["set_age_seconds"].as_f64();
    until("some age", || age() > Some(0.5));
    let before = age();
    fs::write(file.in_dir("backends.toml"), format!("{}b = 5\n", line(&a))).unwrap();
    let lost = tinylb.line("source of backends lost");
    assert!(lost.says("b: it is no string"));
    let logged = lost.json["set_age_seconds"].as_f64();
    assert!(logged >= before && logged <= age(), "{logged:?}");
    fs::remove_file(file.in_dir("backends.toml")).unwrap();
    until("another reason", || {
        let services = get(&tinylb.admin(), "/services").json();
        services["s"]["source_lost"].as_str().unwrap().contains("No such file")
    });
    assert!(client.is_served());
    fs::write(file.in_dir("backends.toml"), line(&b)).unwrap();
    assert_eq!(client.end(), End::Reset);
    assert_eq!(Client::connect(&address).backend, "b");
    tinylb.line("source of backends is back");
    tinylb.stop();
}

#[test]
fn a_file_that_is_emptied_closes_nothing_and_one_that_says_so_closes_all() {
    let a = Backend::echo("a");
    let line = format!("a = {:?}\n", a.address);
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nsource = { file = \"backends.toml\" }\n",
    );
    let backends = file.in_dir("backends.toml");
    fs::write(&backends, &line).unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let mut client = Client::connect(&tinylb.address());
    let lost = |text: &str| {
        until(text, || {
            let services = get(&tinylb.admin(), "/services").json();
            services["s"]["source_lost"].as_str().is_some_and(|reason| reason.contains(text))
        });
    };
    for (place, nothing) in ["", "# a = \"127.0.0.1:1\"\n", "\n\n"].iter().enumerate() {
        fs::write(&backends, nothing).unwrap();
        lost("it has no entry: write `backends = {}` if there should be none");
        assert!(client.is_served(), "{nothing:?}");
        fs::write(&backends, &line).unwrap();
        tinylb.lines(place + 1, "source of backends is back");
    }
    // As a writer leaves it that failed in the middle.
    fs::write(&backends, format!("{line}b = {:?}\n", a.address)).unwrap();
    tinylb.lines(2, "backends replaced");
    fs::write(&backends, line.trim_end()).unwrap();
    lost("it lacks b, which it had before, and may have been cut off");
    assert!(client.is_served());
    fs::write(&backends, "backends = {}\n").unwrap();
    assert_eq!(client.end(), End::Reset);
    tinylb.stop();
}

#[test]
fn a_set_that_was_given_up_does_not_come_back_with_a_restart() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let line = |backend: &Backend| format!("{} = {:?}\n", backend.key, backend.address);
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\n\
         source = { file = \"backends.toml\", max_stale = \"1s\", last_known = \"known\" }\n",
    );
    let (backends, known) = (file.in_dir("backends.toml"), file.in_dir("known"));
    fs::write(&backends, line(&a)).unwrap();
    let tinylb = file.run();
    let mut client = Client::connect(&tinylb.address());
    assert_eq!(client.backend, "a");
    until("a file of the last backends", || known.exists());
    fs::remove_file(&backends).unwrap();
    tinylb.line("no backend is left");
    assert_eq!(client.end(), End::Reset);
    until("no file any more", || !known.exists());
    tinylb.stop_and_log(|lines| {
        assert!(!lines.iter().any(|line| line.says("last known")), "nothing went wrong");
    });

    let tinylb = file.run();
    let lost = tinylb.line("source of backends lost");
    assert!(!lost.says("last known") && lost.json["set_age_seconds"].is_null(), "{lost:?}");
    fs::write(&backends, line(&b)).unwrap();
    assert_eq!(Client::connect(&tinylb.address()).backend, "b");
    until("a file of the next backends", || known.exists());
    tinylb.stop();
}

#[test]
fn a_reload_changes_where_backends_come_from() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let head = "[services.s]\nlisten = \"127.0.0.1:0\"\n";
    let given = format!("{head}backends = {{ a = {:?} }}\n", a.address);
    let other = free_address();
    let followed = format!("{head}source = {{ file = \"b.toml\" }}\n");
    let file = ConfigFile::new(&given);
    fs::write(file.in_dir("b.toml"), format!("b = {:?}\n", b.address)).unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let address = tinylb.address();
    let mut client = Client::connect(&address);
    file.replace(&followed);
    assert_eq!(client.end(), End::Reset);
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "b");
    // What the source says from now on is nobody's concern.
    file.replace(&given);
    assert_eq!(client.end(), End::Reset);
    fs::write(file.in_dir("b.toml"), format!("b = {other:?}\n")).unwrap();
    thread::sleep(Duration::from_secs(1));
    let mut client = Client::connect(&address);
    assert_eq!(client.backend, "a");
    assert_eq!(tinylb.lines(3, "backends replaced").len(), 3);
    // A source that stays as it is isn't asked anew: its set is not taken again.
    file.replace(&followed);
    tinylb.lines(4, "backends replaced");
    assert_eq!(client.end(), End::Reset);
    let age = || get(&tinylb.admin(), "/services").json()["s"]["set_age_seconds"].as_f64().unwrap();
    until("some age", || age() > 0.5);
    file.replace(&(followed.clone() + "idle_timeout = \"1h\"\n"));
    tinylb.lines(4, "configuration reloaded");
    thread::sleep(Duration::from_millis(300));
    assert!(age() > 0.5, "the source was asked anew");
}

#[test]
fn a_file_of_the_last_backends_that_is_none_holds_up_nobody() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\n\
         source = { file = \"backends.toml\", last_known = \"known\" }\n",
    );
    let (known, precious) = (file.in_dir("known"), file.in_dir("precious"));
    fs::write(file.in_dir("backends.toml"), format!("a = {:?}\n", a.address)).unwrap();
    let pipe = || assert!(Command::new("mkfifo").arg(&known).status().unwrap().success());
    let endless = || symlink("/dev/zero", &known).unwrap();
    // The name beside it that its next content once had.
    fs::write(&precious, "kept").unwrap();
    symlink(&precious, file.in_dir("known.new")).unwrap();
    for (what, make) in [("pipe", &pipe as &dyn Fn()), ("device", &endless)] {
        make();
        let tinylb = file.run();
        assert!(
            tinylb.line("can't use the last known backends").says("it isn't a regular file"),
            "{what}"
        );
        assert!(Client::connect(&tinylb.address()).is_served());
        assert!(
            tinylb.line("can't write the last known").says("it isn't a regular file"),
            "{what}"
        );
        tinylb.stop();
        fs::remove_file(&known).unwrap();
    }
    let tinylb = file.run();
    until("a file of the last backends", || known.exists());
    tinylb.stop();
    assert_eq!(fs::read(&precious).unwrap(), b"kept");
}

#[test]
fn an_empty_set_that_was_kept_turns_no_client_away() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nwaiting_timeout = \"1m\"\n\
         source = { file = \"backends.toml\", last_known = \"known\" }\n",
    );
    let kept = format!(
        "{{\"source\": \"file {}\", \"backends\": {{}}}}",
        file.in_dir("backends.toml").display()
    );
    fs::write(file.in_dir("known"), kept).unwrap();
    let tinylb = file.run();
    let lost = tinylb.line("source of backends lost");
    assert!(lost.json["set_age_seconds"].is_null(), "{lost:?}");
    let address = tinylb.address();
    let client = thread::spawn(move || Client::connect(&address).backend.clone());
    fs::write(file.in_dir("backends.toml"), format!("a = {:?}\n", a.address)).unwrap();
    assert_eq!(client.join().unwrap(), "a");
}

#[test]
fn a_moment_without_threads_loses_no_source_for_good() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let services = |backends: &str| -> String {
        let service = |n| format!("[services.s{n}]\nlisten = \"127.0.0.1:0\"\n{backends}\n");
        (0..SERVICES).map(service).collect()
    };
    let file = ConfigFile::new(&services(&format!("backends = {{ a = {:?} }}", a.address)));
    fs::write(file.in_dir("b.toml"), format!("b = {:?}\n", b.address)).unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let addresses = tinylb.addresses(SERVICES);
    let mut clients: Vec<_> = addresses.iter().map(|address| Client::connect(address)).collect();
    // The thread that reads the configuration stays for 10 s. It is the only one that the sources
    // find, and they all look for one at once.
    tinylb.signal(Signal::HUP);
    tinylb.line("configuration reloaded");
    let before = tinylb.deny_threads();
    file.replace(&services("source = { file = \"b.toml\" }"));
    let lost = tinylb.line("source of backends lost");
    assert!(lost.says("no thread"), "{lost:?}");
    tinylb.limit_memory(before);
    for client in &mut clients {
        assert_eq!(client.end(), End::Reset, "its backend has left at last");
    }
    for address in &addresses {
        assert_eq!(Client::connect(address).backend, "b");
    }
    let service = &get(&tinylb.admin(), "/services").json()[lost.field("service")];
    assert_eq!(service["source_restarts"], 0, "it was a loss, and no panic");
    tinylb.stop();
}

/// More than one thread can serve at once.
const SERVICES: usize = 20;

#[test]
fn a_backend_that_is_mentioned_no_more_is_kept_for_as_long_as_that_is_set() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let line = |backend: &Backend| format!("{} = {:?}\n", backend.key, backend.address);
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\nstart = 0\n\
         source = { file = \"backends.toml\", keep_absent = \"3s\" }\n",
    );
    let backends = file.in_dir("backends.toml");
    fs::write(&backends, line(&a) + &line(&b)).unwrap();
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0"]);
    let address = tinylb.address();
    let mut clients = Client::several(&address, 2);
    clients.sort_by(|one, other| one.backend.cmp(&other.backend));
    let shown = || get(&tinylb.admin(), "/services").json()["s"]["absent_seconds"].clone();
    assert_eq!(shown().as_object().unwrap().len(), 0);
    // The one and the other, as an answer does that rotates.
    for _ in 0..3 {
        for present in [&a, &b] {
            fs::write(&backends, line(present)).unwrap();
            let other = if present.key == "a" { "b" } else { "a" };
            until("the other's absence", || {
                let shown = shown();
                shown[other].is_number() && shown[&present.key].is_null()
            });
        }
    }
    assert!(clients.iter_mut().all(Client::is_served), "each was absent for a moment only");
    assert!(
        get(&tinylb.admin(), "/metrics").body.contains("tinylb_backends_absent{service=\"s\"} 1")
    );
    assert_eq!(clients.remove(0).end(), End::Reset, "a has been absent for long");
    assert!(clients[0].is_served());
    assert_eq!(shown().as_object().unwrap().len(), 0);
    tinylb.stop_and_log(|lines| {
        let replaced = lines.iter().filter(|line| line.says("\"removed\":[\"a\"]")).count();
        assert_eq!(replaced, 1, "{lines:?}");
    });
}
