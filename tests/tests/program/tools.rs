//! `tinylb check` and `tinylb demo`.

use std::{
    fs,
    process::{Command, Output},
};

use crate::harness::{Backend, ConfigFile, binary, output, service};

fn check(file: &ConfigFile) -> Output {
    output(Command::new(binary()).args(["check", "--config"]).arg(file.path()))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_finds_every_problem_at_once_and_shows_where() {
    let file = ConfigFile::new(
        "[services.web]\n\
         listen = \"127.0.0.1\"\n\
         backends = { a = \"127.0.0.1:0\", b = 7 }\n\
         dial_timeout = \"3\"\n\
         \n\
         [services.db]\n\
         listen = \"127.0.0.1:5432\"\n\
         max_conections = 5\n",
    );
    let output = check(&file);
    assert_eq!(output.status.code(), Some(1));
    let (out, path) = (text(&output.stdout), file.path().display());
    for place in ["2:10", "3:18", "3:37", "4:16", "6:11", "8:1"] {
        assert!(out.contains(&format!("{path}:{place}: ")), "{place}: {out}");
    }
    assert!(out.contains("4 | dial_timeout = \"3\"\n  |                ^"), "{out}");
    assert!(out.contains("did you mean `max_connections`?"), "{out}");
    let error = text(&output.stderr);
    assert_eq!(error, format!("tinylb: {path}: 6 problems\n"));
}

#[test]
fn check_has_nothing_to_say_of_a_good_file() {
    let a = Backend::echo("a");
    let settings = "dial_timeout = \"3s\"\ndial_attempts_max = 3\ndial_time_max = \"8s\"\n\
                    waiting_max = 10\nwaiting_timeout = \"10s\"\nhalf_close_timeout = \"off\"\n\
                     idle_timeout = \"5m\"\ndelivery_timeout = \"30s\"\nmax_connections = 100\n\
                     removal = { drain = \"30s\" }\nbackends_max = 10\npeer_timeout = \"1m\"\n\
                     shutdown_timeout = \"30s\"";
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], settings));
    let output = check(&file);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    assert!(output.stderr.is_empty(), "{}", text(&output.stderr));
    // And it is as good for a start.
    let tinylb = file.run();
    tinylb.address();
    tinylb.stop();
}

#[test]
fn check_does_nothing_but_look() {
    let a = Backend::echo("a");
    let file = ConfigFile::new("");
    let front = file.in_dir("front");
    // An address that is in use, and a socket's file that would be made.
    let listen = format!("{} unix:{}", a.address, front.display());
    file.edit(&service("s", &listen, [], ""));
    let before = fs::read(file.path()).unwrap();
    assert_eq!(check(&file).status.code(), Some(0));
    assert!(!front.exists());
    assert_eq!(fs::read(file.path()).unwrap(), before);
    assert_eq!(fs::read_dir(file.path().parent().unwrap()).unwrap().count(), 1);
    assert_eq!(a.accepted(), 0);
}

#[test]
fn the_demo_shows_a_removal_and_ends_with_a_verdict() {
    let output = output(Command::new(binary()).arg("demo"));
    let (out, error) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(0), "{out}{error}");
    assert!(error.is_empty(), "{error}");
    for line in ["remove b: ", "add d and bring b back: ", "remove a and c at once: "] {
        let line =
            out.lines().find(|l| l.contains(line)).unwrap_or_else(|| panic!("{line}: {out}"));
        assert!(line.ends_with(", 0 survived"), "{line}");
    }
    let is_cut = |line: &&str| line.contains("remove b: ") && !line.contains(": 0 connections");
    assert_eq!(out.lines().filter(is_cut).count(), 1, "{out}");
    let is_back = |line: &&str| line.contains("b takes connections again, and was back in ");
    assert_eq!(out.lines().filter(is_back).count(), 1, "{out}");
    let verdict = out.lines().last().unwrap();
    assert!(verdict.starts_with("PASS: "), "{out}");
    assert!(verdict.ends_with("; none looked like a normal close."), "{out}");
}
