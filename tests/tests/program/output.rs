//! The log, and what becomes of the program when nobody reads it.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

use crate::harness::{
    Backend, Client, ConfigFile, End, Kill, Socket, Tinylb, binary, eventually, output, put,
    service,
};

/// Has a child shut down of which the test looks after the streams itself.
fn stop(mut tinylb: Kill) {
    kill_process(Pid::from_child(&tinylb.0), Signal::TERM).unwrap();
    let status = eventually("the end of the program", || tinylb.0.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "{status}");
}

/// A service at a Unix socket, whose address needs not be read from the log.
struct Place {
    backend: Backend,
    front: String,
    file: ConfigFile,
    _dir: TempDir,
}

impl Place {
    fn new() -> Self {
        let (backend, dir) = (Backend::echo("a"), TempDir::new().unwrap());
        let front = format!("unix:{}", dir.path().join("front").display());
        let file = ConfigFile::new(&service("s", &front, [&backend], ""));
        Self { backend, front, file, _dir: dir }
    }

    /// `tinylb run` with many log lines, to be started by `sh` with some redirections.
    fn command(&self, redirections: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" \"$@\" {redirections}")]).arg(binary());
        command.args(["run", "--log-level", "debug", "--config"]).arg(self.file.path());
        command.stdin(Stdio::null());
        command
    }

    /// Checks that it serves, in ways that make log lines.
    fn is_served(&self) {
        eventually("the first client", || Client::try_connect(&self.front).ok());
        for _ in 0..50 {
            let mut client = Client::connect(&self.front);
            assert!(client.is_served());
            assert_eq!(client.finish(), End::Clean);
        }
        assert_eq!(self.backend.accepted(), 51);
    }
}

#[test]
fn closed_standard_streams_do_not_kill_it() {
    for redirections in [">&- 2>&-", "<&- >&- 2>&-", "2>&-", ">&-"] {
        let place = Place::new();
        let mut command = place.command(redirections);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let tinylb = Kill(command.spawn().unwrap());
        place.is_served();
        stop(tinylb);
    }
}

#[test]
fn a_log_whose_reader_went_away_does_not_kill_it() {
    let place = Place::new();
    let mut command = place.command("");
    let mut tinylb = Kill(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    drop(tinylb.0.stdout.take());
    let mut line = String::new();
    let mut stderr = BufReader::new(tinylb.0.stderr.take().unwrap());
    stderr.read_line(&mut line).unwrap();
    assert!(line.contains("listening on"), "{line}");
    drop(stderr);
    place.is_served();
    stop(tinylb);
}

#[test]
fn a_full_device_does_not_kill_it() {
    let place = Place::new();
    let mut command = place.command(">/dev/full 2>/dev/full");
    let tinylb = Kill(command.spawn().unwrap());
    place.is_served();
    stop(tinylb);
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_traffic() {
    // More lines than a pipe and the program's own buffer hold.
    const CONNECTIONS: usize = 12_000;
    // Nor does it hold up the end, even if no line about it can be written.
    for redirections in ["", ">/dev/full"] {
        let place = Place::new();
        place.file.edit(&service("s", &place.front, [], ""));
        let mut command = place.command(redirections);
        let tinylb = Kill(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        eventually("the first client", || Socket::connect(&place.front).ok());
        for _ in 0..CONNECTIONS {
            // A Unix socket can't be reset.
            let mut socket = Socket::connect(&place.front).unwrap();
            assert_eq!(socket.read(&mut [0]).unwrap(), 0);
        }
        stop(tinylb);
    }
}

#[test]
fn tools_whose_output_nobody_reads_do_not_panic() {
    let file = ConfigFile::new("[services.s]\nbogus = 1\n");
    for (redirections, code) in [(">&-", 1), (">/dev/full", 1), (">/dev/full 2>/dev/full", 1)] {
        let mut command = Command::new("sh");
        command.args(["-c", &format!("exec \"$0\" \"$@\" {redirections}")]).arg(binary());
        let output = output(command.args(["check", "--config"]).arg(file.path()));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{redirections}: {error}");
        assert!(!error.contains("panicked"), "{error}");
    }
}

#[test]
fn each_connection_has_one_line_with_its_reason_at_debug_level() {
    let a = Backend::with("a", |socket| {
        let mut order = [0];
        while socket.read(&mut order)? > 0 {
            if order[0] == b'r' {
                socket.another().reset();
                return Ok(());
            }
        }
        Ok(())
    });
    let admin = ["--admin", "127.0.0.1:0", "--admin-write", "--log-level", "debug"];
    let tinylb = Tinylb::balance([&a], &admin);
    let address = tinylb.address();
    let ends = |count: usize| tinylb.lines(count, "\"connection ended\"");

    for _ in 0..3 {
        assert_eq!(Client::connect(&address).finish(), End::Clean);
    }
    ends(3);
    Client::connect(&address).socket.reset();
    ends(4);
    let mut client = Client::connect(&address);
    std::io::Write::write_all(&mut client.socket, b"r").unwrap();
    assert_eq!(client.end(), End::Reset);
    ends(5);
    let mut cut = Client::connect(&address);
    assert_eq!(put(&tinylb.admin(), "default", "{}").status, 200);
    assert_eq!(cut.end(), End::Reset);
    ends(6);
    assert!(Client::try_connect(&address).is_err());

    let lines = ends(7);
    let reasons: Vec<&str> = lines.iter().map(|line| line.field("reason")).collect();
    let expected = [
        "finished",
        "finished",
        "finished",
        "client_failed",
        "backend_failed",
        "backend_removed",
        "no_backends",
    ];
    assert_eq!(reasons, expected);
    for (place, line) in lines.iter().enumerate() {
        assert_eq!((line.field("level"), line.field("service")), ("DEBUG", "default"));
        assert_eq!(line.json["backend"].as_str(), (place < 6).then_some("a"), "{line:?}");
        assert!(line.field("client").starts_with("127.0.0.1:"), "{line:?}");
        let bytes = |field: &str| line.json[field].as_u64().unwrap();
        assert_eq!(bytes("bytes_to_client"), if place < 6 { 2 } else { 0 }, "{line:?}");
        assert_eq!(bytes("bytes_to_backend"), u64::from(place == 4), "{line:?}");
    }
    let debug = tinylb.log().iter().filter(|line| line.field("level") == "DEBUG").count();
    assert_eq!(debug, 7, "other lines at debug level");
}

#[test]
fn each_replacement_has_one_line_at_info_level_and_connections_have_none() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&["--admin", "127.0.0.1:0", "--admin-write"]);
    let clients = Client::several(&tinylb.address(), 3);
    file.edit(&service("s", "127.0.0.1:0", [&a, &b], ""));
    tinylb.lines(2, "backends replaced");
    file.edit(&service("s", "127.0.0.1:0", [&b], ""));
    tinylb.lines(3, "backends replaced");
    assert_eq!(put(&tinylb.admin(), "s", "{}").status, 200);
    // The same again is no replacement.
    assert_eq!(put(&tinylb.admin(), "s", "{}").status, 200);
    drop(clients);
    tinylb.stop_and_log(|log| {
        let lines: Vec<_> =
            log.iter().filter(|line| line.message() == "backends replaced").collect();
        let logged: Vec<_> = lines
            .iter()
            .map(|line| json!([line.json["level"], line.json["added"], line.json["removed"]]))
            .collect();
        let expected = [
            json!(["INFO", ["a"], []]),
            json!(["INFO", ["b"], []]),
            json!(["INFO", [], ["a"]]),
            json!(["INFO", [], ["b"]]),
        ];
        assert_eq!(logged, expected);
        assert_eq!(lines[2].json["sessions_cut"], 3);
        assert!(!log.iter().any(|line| line.says("connection ended")));
    });
}

#[test]
fn every_line_of_the_log_is_json_when_nobody_watches() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let tinylb = file.run_with(&["--log-level", "debug", "--admin", "127.0.0.1:0"]);
    assert_eq!(Client::connect(&tinylb.address()).finish(), End::Clean);
    file.edit("what = \"is \\u001b this\"\n\"quoted\\n\" = 1\n");
    tinylb.lines(2, "configuration rejected");
    tinylb.stop_and_log(|log| {
        assert!(log.len() >= 7, "{log:?}");
        for line in log {
            assert!(line.json.is_object(), "{line:?}");
            assert!(line.json["timestamp"].is_string() && line.json["level"].is_string());
            assert!(!line.message().is_empty());
        }
    });
}

#[test]
fn a_line_names_ten_keys_of_many_as_a_list() {
    let backends: Vec<String> = (10..30).map(|n| format!("k{n}=127.0.0.1:{n}")).collect();
    let backends = backends.iter().flat_map(|backend| ["--backend", backend]);
    let args: Vec<&str> = ["--listen", "127.0.0.1:0"].into_iter().chain(backends).collect();
    let tinylb = Tinylb::run(&args);
    let line = tinylb.line("backends replaced");
    let added = line.json["added"].as_array().unwrap();
    assert_eq!((added.len(), &added[9], &line.json["added_more"]), (10, &"k19".into(), &10.into()));
    assert_eq!((&line.json["removed"], &line.json["removed_more"]), (&json!([]), &json!(null)));
    let tinylb = Tinylb::run(&[&args[..], &["--log-format", "human"]].concat());
    let line = tinylb.line("backends replaced");
    assert!(line.says("added=[k10, k11, ") && line.says(", k19, and 10 more]"), "{line:?}");
    assert!(line.says("removed=[]"), "{line:?}");
}

#[test]
fn the_log_is_for_people_on_demand() {
    let (a, dir) = (Backend::echo("a"), TempDir::new().unwrap());
    let front = format!("unix:{}", dir.path().join("front").display());
    let argument = a.argument();
    let tinylb =
        Tinylb::run(&["--listen", &front, "--backend", &argument, "--log-format", "human"]);
    let line = tinylb.line(&format!("listening on {front}"));
    assert!(line.json.is_null(), "{line:?}");
    assert!(!line.says("\u{1b}"), "colours, and no terminal: {line:?}");
    tinylb.stop();
}
