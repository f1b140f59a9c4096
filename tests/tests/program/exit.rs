//! Bad input: its cause and remedy in a line, the right exit code, and never a panic.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Backend, Client, ConfigFile, Tinylb, binary, free_address, output, service};

fn run(args: &[&str]) -> Output {
    output(Command::new(binary()).args(args))
}

/// Runs to the end, which is to come at once, and checks code and message.
fn fails(args: &[&str], code: i32, message: &str) -> String {
    let output = run(args);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
    assert!(error.contains(message), "{args:?}: {error}");
    assert!(!error.contains("panicked"), "{args:?}: {error}");
    assert!(output.stdout.is_empty(), "{args:?}");
    error
}

/// The same, for what went wrong at run time or in a file: exactly one line. It has the format of
/// the log, if there is a log.
fn fails_in_a_line(args: &[&str], message: &str) {
    let error = fails(args, 1, message);
    assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
    if args[0] == "run" {
        let line: Value = serde_json::from_str(&error).unwrap();
        assert!(line["message"].as_str().unwrap().contains(message), "{args:?}: {error}");
        assert!(line["level"] == "ERROR" && line["timestamp"].is_string(), "{args:?}: {error}");
        let error = fails(&[args, &["--log-format", "human"]].concat(), 1, message);
        assert_eq!(error.lines().count(), 1, "{args:?}: {error}");
        assert!(error.starts_with("tinylb: "), "{args:?}: {error}");
    } else {
        assert!(error.starts_with("tinylb: "), "{args:?}: {error}");
    }
}

#[test]
fn wrong_arguments_have_exit_code_2() {
    let listen = ["run", "--listen", "127.0.0.1:0"];
    let with = |more: &[&'static str]| [&listen, more].concat();
    for (args, message) in [
        (vec![], "Usage"),
        (vec!["frob"], "frob"),
        (vec!["run"], "there is nothing to balance"),
        (vec!["run", "--frob"], "--frob"),
        (vec!["check"], "--config"),
        (vec!["demo", "now"], "now"),
        (listen.to_vec(), "--backend"),
        (vec!["run", "--backend", "a=127.0.0.1:1"], "where clients connect, is missing"),
        (vec!["run", "--dns", "x:1"], "where clients connect, is missing"),
        (vec!["run", "--etcd", "http://127.0.0.1:1"], "where clients connect, is missing"),
        (vec!["run", "--prefix", "/x/"], "where clients connect, is missing"),
        (vec!["run", "--admin", "127.0.0.1:0"], "there is nothing to balance"),
        (listen.to_vec(), "there are no backends"),
        (with(&["--prefix", "/x/"]), "need `--etcd`"),
        (with(&["--etcd", "http://127.0.0.1:1"]), "give `--prefix`"),
        (with(&["--config", "x"]), "cannot be used with"),
        (with(&["--dns", "x:1", "--backend", "a=127.0.0.1:1"]), "cannot be used with"),
        (vec!["run", "--config", "x", "--backend", "a=127.0.0.1:1"], "cannot be used with"),
        (vec!["run", "--config", "x", "--dns", "x:1"], "cannot be used with"),
        (vec!["run", "--config", "x", "--prefix", "/x/"], "need `--etcd`"),
        (vec!["run", "--config", "x", "--admin-write"], "--admin"),
        (vec!["run", "--config", "x", "--config", "y"], "--config"),
        (with(&["--backend", "127.0.0.1:1"]), "KEY=ADDRESS"),
        (with(&["--backend", "=127.0.0.1:1"]), "the key is empty"),
        (with(&["--backend", "a="]), "--backend"),
        (with(&["--backend", "a=127.0.0.1"]), "has no port"),
        (with(&["--backend", "a=127.0.0.1:0"]), "port 0"),
        (with(&["--backend", "a=127.0.0.1:99999"]), "99999"),
        (with(&["--backend", "a=127.0.0.1:1", "--backend", "a=127.0.0.1:2"]), "there twice"),
        (with(&["--listen", "127.0.0.1:0", "--backend", "a=127.0.0.1:1"]), "once is enough"),
        (with(&["--backend", "a=127.0.0.1:1", "--config", "x"]), "--config"),
        (with(&["--backend", "a=127.0.0.1:1", "--admin-write"]), "--admin"),
        (with(&["--backend", "a=127.0.0.1:1", "--admin", "x"]), "--admin"),
        (with(&["--backend", "a=127.0.0.1:1", "--log-level", "loud"]), "loud"),
        (with(&["--backend", "a=127.0.0.1:1", "--log-format", "xml"]), "xml"),
        (with(&["--backend", "a=127.0.0.1:1", "--listen", "127.0.0.1:0"]), "given twice"),
        (
            with(&["--backend", "a=127.0.0.1:2", "--listen", "0.0.0.0:1", "--listen", "[::]:1"]),
            "[::]:1 covers 0.0.0.0:1",
        ),
        (vec!["run", "--listen", "localhost:1", "--backend", "a=127.0.0.1:1"], "is a name"),
        (vec!["run", "--listen", "127.0.0.1:1", "--backend", "a=127.0.0.1:1"], "127.0.0.1:1"),
        (vec!["run", "--listen", "::1:80", "--backend", "a=127.0.0.1:1"], "--listen"),
        (vec!["run", "--listen", "unix:", "--backend", "a=127.0.0.1:1"], "--listen"),
        (vec!["run", "--listen", "", "--backend", "a=127.0.0.1:1"], "--listen"),
        (
            "run --listen 127.0.0.1:9 --admin 127.0.0.1:9 --backend a=127.0.0.1:1"
                .split(' ')
                .collect(),
            "--admin 127.0.0.1:9 is where the service default listens",
        ),
    ] {
        fails(&args, 2, message);
    }
    for args in [&["run"][..], &["run", "--frob"], &listen, &["run", "--backend", "a=127.0.0.1:1"]]
    {
        fails(args, 2, "Usage: tinylb run");
    }
}

#[test]
fn an_admin_address_where_a_service_of_the_file_listens_is_refused() {
    let file = ConfigFile::new(&service("s", "127.0.0.1:9", [], ""));
    let path = file.path().to_str().unwrap();
    let args = ["run", "--config", path, "--admin", "127.0.0.1:9"];
    fails(&args, 2, "is where the service s listens");
}

#[test]
fn a_file_that_cannot_be_read_is_reported_in_a_line() {
    let dir = TempDir::new().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_string();
    for command in ["run", "check"] {
        fails_in_a_line(&[command, "--config", &path("missing")], "check the path");
        fails_in_a_line(&[command, "--config", &path("")], "give the path of a TOML file");
    }
}

#[test]
fn a_bad_file_is_reported_with_line_and_column() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.toml");
    for (text, message) in [
        ("", "x.toml:1:1: the file is empty"),
        ("# nothing\n", "the file is empty"),
        ("[services]\n", "there is no service"),
        ("[services.s]\nlisten = \"127.0.0.1:0\"\n", "x.toml:1:11: `s` has no `backends`"),
        ("[services.s]\nbackends = {}\n", "x.toml:1:11: `s` has no `listen`"),
        (
            "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {}\nidle_timeout = 3\n",
            "x.toml:4:16: ",
        ),
        (
            "[services.s]\nlisten = \"127.0.0.1:0\"\nbackends = {}\nbogus = 3\n",
            "x.toml:4:1: unknown key",
        ),
        (
            "[services.s]\nlisten = [\"127.0.0.1:0\", \"127.0.0.1:0\"]\nbackends = {}\n",
            "x.toml:2:26: ",
        ),
        ("[services.s\n", "x.toml:1:"),
    ] {
        fs::write(&path, text).unwrap();
        fails_in_a_line(&["run", "--config", path.to_str().unwrap()], message);
    }
    fs::write(&path, b"[services.s]\nlisten = \"\xff\"\n").unwrap();
    fails_in_a_line(&["run", "--config", path.to_str().unwrap()], "x.toml:2:11: ");
}

#[test]
fn every_problem_of_a_file_is_reported_at_the_start() {
    let file = ConfigFile::new("[services.s]\nlisten = 1\nbackends = { a = 2 }\nbogus = 3\n");
    let error = fails(&["run", "--config", file.path().to_str().unwrap()], 1, "toml:2:10: ");
    assert_eq!(error.lines().count(), 3, "{error}");
    // A line of the log for each.
    assert!(error.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{error}");
}

#[test]
fn a_file_of_garbage_is_reported_in_a_few_lines() {
    let garbage: String =
        (0..100_000).map(|n| format!("[services.s{n}]\nlisten = {n}\n")).collect();
    let noise: String = (0..500_000).map(|n| format!("%{n}{{\u{1}=\n")).collect();
    for text in [garbage, noise] {
        let file = ConfigFile::new(&text);
        let error = fails(&["run", "--config", file.path().to_str().unwrap()], 1, ":1:");
        assert!(error.lines().count() <= 20, "{} lines", error.lines().count());
        assert!(error.len() < 20_000, "{} bytes", error.len());
    }
}

#[test]
fn a_file_that_cannot_hold_a_recording_is_refused_and_left_alone() {
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [], ""));
    let path = file.path().to_str().unwrap();
    let run = |record| ["run", "--config", path, "--record", record];
    fails_in_a_line(&run(path), "it holds something else than a recording: give another file");
    assert!(fs::read_to_string(path).unwrap().contains("[services.s]"));
    let nowhere = file.in_dir("missing/recording");
    let message = "No such file or directory (os error 2): give another file";
    fails_in_a_line(&run(nowhere.to_str().unwrap()), message);
}

/// The program with room for this many threads. The limit holds for a user who isn't root.
fn with_threads(count: usize, args: &[&str]) -> Command {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nproc={count}")).arg(binary()).args(args);
    if rustix::process::geteuid().is_root() {
        // No other process has this user, so only these threads count.
        command.uid(0x7000_0000 + std::process::id());
    }
    command
}

#[test]
fn a_lack_of_threads_at_the_start_is_reported_with_its_remedy() {
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [], ""));
    let dir = file.path().parent().unwrap();
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let path = file.path().to_str().unwrap();
    let args = ["run", "--workers", "1", "--config", path];
    // The first thread that is lacking is the log's, then the worker's, then the one that watches
    // the file.
    for (threads, what) in [(1, "writes the log"), (2, "worker 0"), (3, "watch the file")] {
        let output = output(&mut with_threads(threads, &args));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{threads}: {error}");
        let last: Value = serde_json::from_str(error.lines().last().unwrap()).unwrap();
        let message = last["message"].as_str().unwrap();
        assert!(message.contains(what), "{threads}: {error}");
        assert!(message.contains("raise the limit"), "{threads}: {error}");
        assert!(!error.contains("panicked"), "{threads}: {error}");
    }
    let tinylb = Tinylb::start_unrecorded(with_threads(4, &args));
    tinylb.address();
    tinylb.stop();
    // One is enough for these.
    for args in [&["check", "--config", path][..], &["demo"]] {
        let output = output(&mut with_threads(1, args));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {error}");
    }
}

#[test]
fn a_lack_of_descriptors_at_the_start_is_reported_with_its_remedy() {
    // With fewer, the system can't load the program.
    for descriptors in 4..24 {
        let mut command = Command::new("prlimit");
        command.arg(format!("--nofile={descriptors}")).arg(binary());
        command.args(["run", "--workers", "4", "--listen", "127.0.0.1:0", "--backend"]);
        let output = output(command.arg("a=127.0.0.1:1"));
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{descriptors}: {error}");
        assert!(!error.contains("panicked"), "{descriptors}: {error}");
        assert!(error.contains("raise the limit"), "{descriptors}: {error}");
    }
}

#[test]
fn an_address_that_cannot_be_used_is_reported_in_a_line() {
    let taken = Backend::echo("a");
    let backend = ["--backend", "a=127.0.0.1:1"];
    let line = |more: &[&str]| [&["run"], more, &backend].concat().join(" ");
    for (args, message) in [
        (line(&["--listen", &taken.address]), "in use"),
        (line(&["--listen", "127.0.0.1:0", "--admin", &taken.address]), "in use"),
        (line(&["--listen", "192.0.2.1:0"]), "choose an address of this machine"),
        (line(&["--listen", "unix:/nonexistent/dir/socket"]), "make the directory first"),
    ] {
        fails_in_a_line(&args.split(' ').collect::<Vec<_>>(), message);
    }
    let file = ConfigFile::new(&service("s", &taken.address, [], ""));
    fails_in_a_line(&["run", "--config", file.path().to_str().unwrap()], "in use");
}

#[test]
fn a_path_too_long_for_a_socket_is_reported_in_a_line() {
    let listen = format!("unix:/{}", "x".repeat(200));
    let output = run(&["run", "--listen", &listen, "--backend", "a=127.0.0.1:1"]);
    let error = String::from_utf8(output.stderr).unwrap();
    assert!([Some(1), Some(2)].contains(&output.status.code()), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_balancer_in_front_of_itself_is_refused() {
    let address = crate::harness::free_address();
    let text = format!("[services.s]\nlisten = {address:?}\nbackends = {{ a = {address:?} }}\n");
    let file = ConfigFile::new(&text);
    fails_in_a_line(&["run", "--config", file.path().to_str().unwrap()], "tinylb.toml:3:18: ");
}

#[test]
fn help_and_version_are_no_errors() {
    for args in [&["--help"][..], &["--version"], &["run", "--help"], &["help", "check"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(output.stderr.is_empty() && !output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_address_that_tinylb_itself_has_is_blamed_on_nobody_else() {
    let address = free_address();
    let port = address.rsplit(':').next().unwrap();
    let wide = format!("0.0.0.0:{port}");
    let file = |listen: &str| ConfigFile::new(&service("s", listen, [], ""));

    let both = file(&format!("{wide} [::]:{port}"));
    let path = both.path().to_str().unwrap();
    for command in ["check", "run"] {
        let output = run(&[command, "--config", path]);
        let all = [output.stdout, output.stderr].concat();
        let all = String::from_utf8(all).unwrap();
        assert_eq!(output.status.code(), Some(1), "{all}");
        assert!(all.contains(&format!("[::]:{port} covers {wide}: keep one of them")), "{all}");
    }
    let path = file(&wide);
    let args = ["run", "--config", path.path().to_str().unwrap(), "--admin", &address];
    let error = String::from_utf8(run(&args).stderr).unwrap();
    assert!(error.contains("this is the admin address (--admin)"), "{error}");
    assert!(!error.contains("end the program"), "{error}");

    let narrow = file(&address);
    let tinylb = narrow.run();
    tinylb.address();
    narrow.edit(&service("s", &wide, [], ""));
    let line = tinylb.line("configuration rejected");
    assert!(line.says(&format!("tinylb itself listens at {address}")), "{line:?}");
    tinylb.stop();
}

#[test]
fn little_address_space_is_enough() {
    let a = Backend::echo("a");
    // What the allocator would like to have for itself is a GiB, and 32 MiB for each thread.
    for space in ["400", "200", "100"] {
        let bytes = format!("--as={space}000000");
        let mut command = Command::new("prlimit");
        command.arg(bytes).arg(binary());
        command.args(["run", "--workers", "4", "--listen", "127.0.0.1:0"]);
        command.args(["--backend", &a.argument()]);
        let tinylb = Tinylb::start_unrecorded(command);
        let mut clients = Client::several(&tinylb.address(), 20);
        assert!(clients.iter_mut().all(Client::is_served), "{space} MB");
        drop(clients);
        tinylb.stop();
    }
}
