//! Checks of backends: which of them are used, what a reload and a PUT change, and what the program
//! logs and shows.

use std::{fs, net::TcpListener, process::Command};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::harness::{
    Backend, Client, Cluster, ConfigFile, End, Load, Socket, Tinylb, binary, free_address, get,
    output, put, until,
};

const WRITE: [&str; 3] = ["--admin", "127.0.0.1:0", "--admin-write"];

fn state(tinylb: &Tinylb) -> Value {
    get(&tinylb.admin(), "/services").json()["s"].clone()
}

/// What the checks say of a backend.
fn verdict(tinylb: &Tinylb, key: &str) -> String {
    state(tinylb)["checks"][key]["state"].as_str().unwrap_or_default().to_string()
}

/// The keys in force.
fn in_force(tinylb: &Tinylb) -> Vec<String> {
    let backends = &state(tinylb)["backends"];
    backends.as_object().map_or(Vec::new(), |set| set.keys().cloned().collect())
}

/// Edits the file and waits until the program has read it.
fn reload(tinylb: &Tinylb, file: &ConfigFile, text: &str) {
    let before = tinylb.log().iter().filter(|line| line.says("configuration reloaded")).count();
    file.replace(text);
    tinylb.lines(before + 1, "configuration reloaded");
}

/// Waits until each of these nodes has been asked twice more: one question has begun and ended.
fn asked_again(cluster: &Cluster, nodes: &[usize]) {
    let before: Vec<usize> = nodes.iter().map(|node| cluster.rest(*node).requests()).collect();
    until("more checks", || {
        nodes.iter().zip(&before).all(|(node, before)| cluster.rest(*node).requests() > before + 1)
    });
}

#[test]
fn when_the_primary_moves_its_clients_are_reset_and_new_ones_wait_for_the_next_without_an_error() {
    let cluster = Cluster::new(&[Some(200), Some(503)]);
    let wait = "empty = \"wait\"\nwaiting_timeout = \"1h\"";
    let file = ConfigFile::new(
        &cluster.config(&[1, 2], &format!("{}\n{wait}", cluster.check("/primary", ""))),
    );
    let tinylb = file.run_with(&WRITE);
    let address = tinylb.address();
    let mut load = Load::start(&address, 4);
    assert_eq!(load.count(|backend| backend == "n1"), 4, "the replica has a client");
    let request = cluster.rest(1).head();
    assert_eq!(request[0], "GET /primary HTTP/1.1");

    // Nobody is primary for a while.
    cluster.rest(1).set(Some(503));
    assert_eq!(load.ends("n1"), [End::Reset; 4]);
    let line = tinylb.line("no longer passes");
    let (n1, n2) = (cluster.address(1), cluster.address(2));
    assert_eq!(line.message(), format!("n1 ({n1}) no longer passes: 503 from /primary"));
    assert_eq!((line.field("level"), line.field("service")), ("WARN", "s"));
    assert_eq!((line.field("target"), &line.json["keys"]), (n1, &json!(["n1"])));
    let waiting: Vec<Socket> = (0..3).map(|_| Socket::connect(&address).unwrap()).collect();
    until("them to wait", || state(&tinylb)["waiting"] == 3);
    assert_eq!(in_force(&tinylb), [""; 0]);

    cluster.rest(2).set(Some(200));
    for socket in waiting {
        assert_eq!(Client::greeted(socket).unwrap().backend, "n2");
    }
    let clients = Client::several(&address, 3);
    assert!(clients.iter().all(|client| client.backend == "n2"));
    assert!(tinylb.line("passes again").message().starts_with(&format!("n2 ({n2})")));
    assert!(
        tinylb
            .log()
            .iter()
            .any(|line| { line.message() == format!("n2 ({n2}) doesn't pass: 503 from /primary") })
    );
    // The old primary comes back as a replica, and nobody goes there.
    asked_again(&cluster, &[1, 2]);
    assert!(Client::several(&address, 3).iter().all(|client| client.backend == "n2"));
    tinylb.stop_and_finish(clients);
}

#[test]
fn a_backend_that_hangs_is_told_from_one_that_says_no() {
    let cluster = Cluster::new(&[Some(200), Some(200)]);
    let check = cluster.check("/", ", timeout = \"200ms\", fall_unanswered = 2");
    let file = ConfigFile::new(&cluster.config(&[1, 2], &check));
    let tinylb = file.run_with(&WRITE);
    until("both to pass", || in_force(&tinylb).len() == 2);
    cluster.rest(1).set(None);
    let line = tinylb.line("no longer passes");
    let expected = format!("n1 ({}) no longer passes: no answer within 200ms", cluster.address(1));
    assert_eq!(line.message(), expected);
    until("it to leave", || in_force(&tinylb) == ["n2"]);
    // It answers again.
    cluster.rest(1).set(Some(200));
    until("it to return", || in_force(&tinylb).len() == 2);
}

#[test]
fn if_nobody_passes_all_are_used_and_keep_their_sessions_if_the_file_says_so() {
    let cluster = Cluster::new(&[Some(500), Some(500)]);
    let check = cluster.check("/health", ", when_none = \"all\", timeout = \"100ms\"");
    let file = ConfigFile::new(&cluster.config(&[1, 2], &check));
    let tinylb = file.run_with(&WRITE);
    let mut load = Load::start(&tinylb.address(), 4);
    assert_eq!([load.count(|key| key == "n1"), load.count(|key| key == "n2")], [2, 2]);
    until("both to fail", || ["n1", "n2"].iter().all(|key| verdict(&tinylb, key) == "failing"));
    asked_again(&cluster, &[1, 2]);
    load.go_on(|_| true);
    let keys: Vec<String> =
        Client::several(&tinylb.address(), 2).into_iter().map(|client| client.backend).collect();
    assert!(keys.contains(&"n1".into()) && keys.contains(&"n2".into()), "{keys:?}");
    // Once one passes, those go that had time to pass and don't.
    cluster.rest(2).set(Some(200));
    assert_eq!(load.ends("n1"), [End::Reset; 2]);
    load.go_on(|key| key == "n2");
    assert_eq!(load.finish(), [End::Clean; 2]);
}

#[test]
fn a_reload_removes_a_backend_though_its_check_hangs() {
    let cluster = Cluster::new(&[Some(200), Some(200)]);
    let check = cluster.check("/", ", timeout = \"1m\"");
    let file = ConfigFile::new(&cluster.config(&[1, 2], &check));
    let tinylb = file.run_with(&WRITE);
    until("both to pass", || in_force(&tinylb).len() == 2);
    let mut load = Load::start(&tinylb.address(), 4);
    cluster.rest(1).set(None);
    cluster.rest(2).set(None);
    // Questions without an answer.
    let before = [1, 2].map(|node| cluster.rest(node).requests());
    until("a question", || (1..=2).all(|node| cluster.rest(node).requests() > before[node - 1]));
    reload(&tinylb, &file, &cluster.config(&[1], &check));
    // It is out of force by then: nothing has to be waited for.
    assert_eq!(in_force(&tinylb), ["n1"]);
    assert_eq!(load.ends("n2"), [End::Reset; 2]);
    load.go_on(|key| key == "n1");
    // It comes back, and has to pass first.
    reload(&tinylb, &file, &cluster.config(&[1, 2], &check));
    assert_eq!(in_force(&tinylb), ["n1"]);
    assert_eq!(verdict(&tinylb, "n2"), "undecided");
    cluster.rest(2).set(Some(200));
    until("it to pass", || in_force(&tinylb).len() == 2);
    load.go_on(|key| key == "n1");
    assert_eq!(load.finish(), [End::Clean; 2]);
}

#[test]
fn a_check_is_added_changed_and_removed_without_cutting_anybody_who_passes() {
    let cluster = Cluster::new(&[Some(200), None, Some(503)]);
    let all = [1, 2, 3];
    let file = ConfigFile::new(&cluster.config(&all, ""));
    let tinylb = file.run_with(&WRITE);
    let mut load = Load::start(&tinylb.address(), 6);
    assert_eq!(state(&tinylb)["checks"], Value::Null);

    // Added: who answers late isn't cut meanwhile, and who says no is.
    let patient = ", timeout = \"1m\"";
    let check = cluster.check("/a", patient);
    reload(&tinylb, &file, &cluster.config(&all, &check.replace("100ms", "1h")));
    assert_eq!(load.ends("n3"), [End::Reset; 2]);
    until("an answer", || verdict(&tinylb, "n1") == "passing");
    // Other times: only with these does another question come.
    reload(&tinylb, &file, &cluster.config(&all, &check));
    asked_again(&cluster, &[1, 3]);
    load.go_on(|_| true);
    assert_eq!(in_force(&tinylb), ["n1", "n2"]);
    cluster.rest(2).set(Some(200));

    // Another question: the same, and its answers count.
    cluster.rest(1).set(None);
    reload(&tinylb, &file, &cluster.config(&all, &cluster.check("/b", patient)));
    until("the other question", || cluster.rest(2).head()[0].starts_with("GET /b "));
    load.go_on(|_| true);
    cluster.rest(3).set(Some(200));
    until("n3 to pass", || in_force(&tinylb).len() == 3);
    load.go_on(|_| true);
    cluster.rest(1).set(Some(200));

    // Other times: after these, no check would come, and so they show that others are in force.
    let fast = cluster.check("/b", ", timeout = \"1m\", fall = 2, when_none = \"all\"");
    let before = all.map(|node| cluster.rest(node).requests());
    reload(&tinylb, &file, &cluster.config(&all, &fast.replace("100ms", "1h")));
    until("a last check", || all.iter().all(|n| cluster.rest(*n).requests() > before[n - 1]));
    reload(&tinylb, &file, &cluster.config(&all, &fast));
    asked_again(&cluster, &all);
    load.go_on(|_| true);

    // Removed: all are used.
    cluster.rest(3).set(Some(503));
    until("n3 to fail", || in_force(&tinylb).len() == 2);
    reload(&tinylb, &file, &cluster.config(&all, ""));
    assert_eq!(in_force(&tinylb).len(), 3);
    load.go_on(|_| true);
    assert_eq!(load.finish(), [End::Clean; 4]);
    tinylb.stop();
}

#[test]
fn a_put_removes_at_once_and_adds_who_passes_and_a_reload_of_the_check_keeps_it() {
    let cluster = Cluster::new(&[Some(200), Some(200), None]);
    let check = cluster.check("/", ", timeout = \"1m\"");
    let file = ConfigFile::new(&cluster.config(&[1, 2], &check));
    let tinylb = file.run_with(&WRITE);
    until("both to pass", || in_force(&tinylb).len() == 2);
    let mut load = Load::start(&tinylb.address(), 4);
    let admin = tinylb.admin();
    cluster.rest(1).set(None);
    cluster.rest(2).set(None);

    let answer = put(&admin, "s", &cluster.table(&[2, 3], ": "));
    assert_eq!(answer.status, 200, "{answer:?}");
    let report = answer.json();
    assert_eq!((&report["removed"], &report["sessions_cut"]), (&json!(["n1"]), &2.into()));
    assert_eq!((&report["added"], &report["backends"]), (&json!([]), &1.into()));
    // It is applied by now.
    let shown = state(&tinylb);
    assert_eq!(shown["ended"]["backend_removed"], 2, "{shown}");
    assert_eq!(in_force(&tinylb), ["n2"]);
    assert_eq!(load.ends("n1"), [End::Reset; 2]);
    load.go_on(|_| true);
    // What is new has to pass.
    assert_eq!(verdict(&tinylb, "n3"), "undecided");
    cluster.rest(3).set(Some(200));
    until("it to pass", || in_force(&tinylb) == ["n2", "n3"]);

    // A reload of the check keeps what was put; a reload of the table doesn't.
    reload(&tinylb, &file, &cluster.config(&[1, 2], &cluster.check("/", ", fall = 9")));
    assert_eq!(in_force(&tinylb), ["n2", "n3"]);
    load.go_on(|_| true);
    // Without a check, all that was put is used.
    cluster.rest(2).set(Some(200));
    cluster.rest(3).set(Some(503));
    until("it to fail", || in_force(&tinylb) == ["n2"]);
    reload(&tinylb, &file, &cluster.config(&[1, 2], ""));
    assert_eq!(in_force(&tinylb), ["n2", "n3"]);
    load.go_on(|_| true);
    reload(&tinylb, &file, &cluster.config(&[2], &check));
    assert_eq!(in_force(&tinylb), ["n2"]);
    load.go_on(|_| true);

    // A bad set changes nothing, and an empty one cuts all.
    let bad = put(&admin, "s", "{\"x\": \"224.0.0.1:80\"}");
    assert_eq!(bad.status, 400, "{bad:?}");
    load.go_on(|_| true);
    let none = put(&admin, "s", "{}");
    assert_eq!((none.status, &none.json()["sessions_cut"]), (200, &2.into()));
    assert_eq!(load.ends("n2"), [End::Reset; 2]);
}

#[test]
fn before_the_first_verdict_a_put_replaces_the_table_and_clients_wait() {
    let cluster = Cluster::new(&[None, None]);
    let check = cluster.check("/", ", timeout = \"1m\"");
    let file = ConfigFile::new(&cluster.config(&[1], &check));
    let tinylb = file.run_with(&WRITE);
    let waiting = Socket::connect(&tinylb.address()).unwrap();
    until("it to wait", || state(&tinylb)["waiting"] == 1);
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 503);
    let answer = put(&tinylb.admin(), "s", &cluster.table(&[2], ": "));
    assert_eq!((answer.status, &answer.json()["backends"]), (200, &0.into()));
    // The one that was put away passes too late.
    cluster.rest(1).set(Some(200));
    cluster.rest(2).set(Some(200));
    assert_eq!(Client::greeted(waiting).unwrap().backend, "n2");
    assert_eq!(get(&tinylb.admin(), "/readyz").status, 200);
}

#[test]
fn the_backends_of_a_source_are_checked_also_while_it_is_lost_and_all_of_them_are_kept() {
    let cluster = Cluster::new(&[Some(200), Some(503)]);
    let file = ConfigFile::new("");
    let (backends, known) = (file.in_dir("backends.toml"), file.in_dir("known"));
    let names = |nodes: &[usize]| {
        let line = |node: &usize| format!("n{node} = {:?}\n", cluster.address(*node));
        nodes.iter().map(line).collect::<String>()
    };
    fs::write(&backends, names(&[1])).unwrap();
    let config = |check: &str| {
        format!(
            "[services.s]\nlisten = \"127.0.0.1:0\"\n{check}\n\
             source = {{ file = \"backends.toml\", last_known = \"known\" }}\n"
        )
    };
    let check = cluster.check("/primary", "");
    file.edit(&config(&check));
    let tinylb = file.run_with(&WRITE);
    until("a backend", || in_force(&tinylb) == ["n1"]);
    // A set that changes nothing of those that pass is kept as well.
    fs::write(&backends, names(&[1, 2])).unwrap();
    let kept = || fs::read_to_string(&known).unwrap_or_default();
    until("both to be kept", || kept().contains(cluster.address(2)));
    assert_eq!(in_force(&tinylb), ["n1"]);

    // The source is lost, and the primary moves.
    fs::remove_file(&backends).unwrap();
    tinylb.line("source of backends lost");
    let mut load = Load::start(&tinylb.address(), 2);
    cluster.rest(1).set(Some(503));
    assert_eq!(load.ends("n1"), [End::Reset; 2]);
    cluster.rest(2).set(Some(200));
    until("the other", || in_force(&tinylb) == ["n2"]);
    assert!(state(&tinylb)["source_lost"].is_string(), "a verdict is no word of the source");
    assert!(kept().contains(cluster.address(1)) && kept().contains(cluster.address(2)));
    tinylb.stop();

    // It starts with the last known backends, and checks them.
    cluster.rest(2).set(Some(503));
    cluster.rest(1).set(Some(200));
    let again = file.run_with(&WRITE);
    assert!(Client::several(&again.address(), 3).iter().all(|client| client.backend == "n1"));
    // The source's own loss may come at any moment.
    assert!(again.line("source of backends lost").says("the last known backends from"));
    let shown = state(&again);
    assert!(shown["source_lost"].is_string(), "{shown}");
    assert_eq!(shown["checks"].as_object().unwrap().len(), 2, "{shown}");
    // Another question, while the source is still lost.
    reload(&again, &file, &config(&cluster.check("/replica", "")));
    cluster.rest(2).set(Some(200));
    until("both", || in_force(&again).len() == 2);
    // The source is back with a backend fewer.
    fs::write(&backends, names(&[2])).unwrap();
    again.line("source of backends is back");
    until("one to be removed", || in_force(&again) == ["n2"]);
    again.stop();
}

#[test]
fn while_the_program_shuts_down_a_backend_that_no_longer_passes_is_cut() {
    let cluster = Cluster::new(&[Some(200), Some(200)]);
    let file = ConfigFile::new(&cluster.config(&[1, 2], &cluster.check("/", "")));
    let tinylb = file.run_with(&WRITE);
    until("both to pass", || in_force(&tinylb).len() == 2);
    let (mut load, mut client) = (Load::start(&tinylb.address(), 2), None);
    while client.as_ref().is_none_or(|client: &Client| client.backend != "n2") {
        client = Some(Client::connect(&tinylb.address()));
    }
    tinylb.signal(Signal::TERM);
    tinylb.line("shutting down");
    cluster.rest(1).set(Some(503));
    assert_eq!(load.ends("n1"), [End::Reset]);
    load.go_on(|key| key == "n2");
    assert_eq!(load.finish(), [End::Clean]);
    assert_eq!(client.unwrap().finish(), End::Clean);
    tinylb.stop_after_signal();
}

#[test]
fn verdicts_are_shown_and_counted() {
    let cluster = Cluster::new(&[Some(200), Some(404), Some(404)]);
    let check = cluster.check("/primary", ", host = \"db.example\"");
    let file = ConfigFile::new(&cluster.config(&[1, 2, 3], &check));
    let tinylb = file.run_with(&WRITE);
    until("verdicts", || {
        let verdicts = ["n1", "n2", "n3"].map(|key| verdict(&tinylb, key));
        verdicts == ["passing", "failing", "failing"]
    });
    assert!(cluster.rest(1).head().iter().any(|line| line == "host: db.example"));
    let checks = state(&tinylb)["checks"].clone();
    assert_eq!(checks["n1"]["reason"], Value::Null, "{checks}");
    assert_eq!(checks["n1"]["target"], cluster.address(1), "{checks}");
    assert_eq!(checks["n2"]["reason"], "404 from /primary", "{checks}");
    assert!(checks["n2"]["since_seconds"].as_f64().unwrap() >= 0.0, "{checks}");
    let metrics = get(&tinylb.admin(), "/metrics").body;
    for (name, labels, value) in [
        ("tinylb_backend_check_passing", format!(",target={:?}", cluster.address(1)), 1),
        ("tinylb_backend_check_passing", format!(",target={:?}", cluster.address(2)), 0),
        ("tinylb_targets_checked", String::new(), 3),
        ("tinylb_targets_passing", String::new(), 1),
        ("tinylb_check_changes_total", ",verdict=\"passing\"".into(), 1),
        ("tinylb_check_changes_total", ",verdict=\"failing\"".into(), 2),
    ] {
        let sample = format!("{name}{{service=\"s\"{labels}}} {value}");
        assert!(metrics.lines().any(|line| line == sample), "no {sample}: {metrics}");
    }
}

#[test]
fn a_check_by_arguments_uses_only_backends_that_accept_connections_and_all_if_none_does() {
    let (a, dead) = (Backend::echo("a"), free_address());
    let tinylb = Tinylb::balance(
        [&a],
        &["--backend", &format!("b={dead}"), "--check-tcp", "--check-interval", "100ms"],
    );
    let line = tinylb.line("doesn't pass");
    assert_eq!(line.message(), format!("b ({dead}) doesn't pass: connection refused"));
    let clients = Client::several(&tinylb.address(), 4);
    assert!(clients.iter().all(|client| client.backend == "a"));
    assert!(!tinylb.log().iter().any(|line| line.says("backend ejected")), "b was dialled");
    // It listens now.
    let _b = Backend::echo_at("b", &dead);
    tinylb.line("passes again");
    until("b", || Client::connect(&tinylb.address()).backend == "b");
    tinylb.stop_and_finish(clients);

    let dead = format!("b={}", free_address());
    let args = ["--backend", &dead, "--check-tcp", "--check-interval", "100ms"];
    let tinylb = Tinylb::balance([], &[&args[..], &["--admin", "127.0.0.1:0"]].concat());
    let metrics = || get(&tinylb.admin(), "/metrics").body;
    let used = |line: &str| line.starts_with("tinylb_backends{") && line.ends_with(" 1");
    until("it to be used", || metrics().lines().any(used));
}

#[test]
fn a_bad_check_is_refused_before_the_program_starts() {
    let run = |args: &[&str]| {
        let output = output(Command::new(binary()).args(args));
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let file = ConfigFile::new(
        "[services.s]\nlisten = \"127.0.0.1:0\"\ncheck = { http = \"/primary\", prt = 8008 }\n\
         source = { dns = \"db:5432\", keep_absent = \"5s\" }\n",
    );
    let (code, text) = run(&["check", "--config", file.path().to_str().unwrap()]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("toml:3:30: unknown key `prt`: did you mean `port`?"), "{text}");
    assert!(text.contains("toml:3:9: `keep_absent` of the source would keep backends"), "{text}");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = listener.local_addr().unwrap().to_string();
    let given = ["run", "--listen", &listen, "--backend", "a=127.0.0.1:1"];
    for (more, cause) in [
        (&["--check-port", "80"][..], "give `--check-http PATH`, `--check-https PATH` or"),
        (&["--check-http", "x"], "`x` is no path of HTTP"),
        (
            &["--check-tcp", "--check-timeout", "2m"],
            "--check-timeout is 120s; it must be 10ms to 1m",
        ),
    ] {
        let (code, text) = run(&[&given[..], more].concat());
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(cause), "{text}");
    }
}
