//! How `tinylb register` ends, and the command that it runs.

use std::{fs, process::Command, thread, time::Duration};

use rustix::process::Signal;

use super::{
    harness::{Cluster, PREFIX},
    register::register,
    tinylb::harness::{Tinylb, binary, output, until},
};

/// How a script begins a loop that ends with its keeper: else it would outlive a test that fails,
/// and keep its standard error open.
const WAIT: &str = "while kill -0 $PPID 2>/dev/null &&";

#[tokio::test]
async fn a_keeper_ends_soon_when_it_is_signalled_though_etcd_is_away() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let [mut once, mut twice] = ["a", "b"].map(|key| {
        let keeper = register(&cluster, key, "127.0.0.1:1", &["--ttl", "1h"]);
        keeper.line("\"registered\"");
        keeper
    });
    let mut never = {
        let mut command = Command::new(binary());
        command.args(["register", "--etcd", "127.0.0.1:1", "--prefix", PREFIX, "--key", "c"]);
        command.args(["--address", "127.0.0.1:1", "--ttl", "1h"]);
        Tinylb::start(command)
    };
    cluster.freeze(0);
    // Until all of its threads have stopped, and then until the first signal was heard.
    thread::sleep(Duration::from_millis(500));
    twice.signal(Signal::TERM);
    thread::sleep(Duration::from_millis(500));
    twice.signal(Signal::TERM);
    assert_eq!(twice.exit_code(), 1);
    twice.line(
        "can't take b out of etcd, where it expires within 3600s after etcd is back: \
                stopped by a second signal",
    );
    cluster.thaw(0);
    cluster.kill(0);
    once.line("etcd lost");
    once.signal(Signal::TERM);
    assert_eq!(once.exit_code(), 1);
    assert!(once.line("can't take a out of etcd").says("Connection refused"));
    // There is nothing to take out.
    never.line("etcd lost");
    never.signal(Signal::TERM);
    assert_eq!(never.exit_code(), 0);
}

#[tokio::test]
async fn a_keeper_takes_its_key_out_by_another_member_when_its_own_hangs() {
    let Some(cluster) = Cluster::start(3).await else { return };
    for round in 0..6 {
        let place = round % 3;
        cluster.lead((place + 1) % 3).await;
        let key = format!("k{round}");
        let mut keeper = register(&cluster, &key, "127.0.0.1:1", &["--ttl", "1h"]);
        keeper.line("\"registered\"");
        // One of three times it is the one that the keeper uses.
        cluster.freeze(place);
        keeper.signal(Signal::TERM);
        assert_eq!(keeper.exit_code(), 0, "{:?}", keeper.log());
        cluster.thaw(place);
        cluster.ready(place).await;
        assert_eq!(cluster.value(&key).await, None);
    }
}

#[tokio::test]
async fn a_command_ends_as_it_would_though_etcd_is_away() {
    let Some(mut cluster) = Cluster::start(1).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let script = format!("{WAIT} ! test -e {}; do sleep 0.02; done; exit 4", go.display());
    let start = |key: &str, script: &str| {
        let command = ["--ttl", "1h", "--", "sh", "-c", script];
        let keeper = register(&cluster, key, "127.0.0.1:1", &command);
        keeper.line("\"registered\"");
        keeper
    };
    let mut ends = start("a", &script);
    let mut signalled = start("b", &format!("trap 'exit 5' TERM; {WAIT} :; do sleep 0.02; done"));
    cluster.kill(0);
    fs::write(&go, "").unwrap();
    assert_eq!(ends.exit_code(), 4);
    ends.line("can't take a out of etcd");
    signalled.signal(Signal::TERM);
    assert_eq!(signalled.exit_code(), 5);
    signalled.line("can't take b out of etcd");
}

#[tokio::test]
async fn a_command_is_registered_while_it_runs_and_its_exit_code_is_the_exit_code() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let go = directory.path().join("go");
    let wait = format!("{WAIT} ! test -e {}; do sleep 0.02; done; exit 7", go.display());
    let mut keeper = register(&cluster, "a", "127.0.0.1:1", &["--", "sh", "-c", &wait]);
    cluster.until("a", Some("127.0.0.1:1")).await;
    fs::write(&go, "").unwrap();
    assert_eq!(keeper.exit_code(), 7);
    assert_eq!(cluster.value("a").await, None);
    let mut killed = register(&cluster, "a", "127.0.0.1:1", &["--", "sh", "-c", "kill -9 $$"]);
    assert_eq!(killed.exit_code(), 128 + 9);
    for (command, code) in [("/nowhere/to/be/found", 127), ("/", 126)] {
        let mut never = register(&cluster, "a", "127.0.0.1:1", &["--", command]);
        assert_eq!(never.exit_code(), code);
        never.line("can't run");
    }
    assert_eq!(cluster.value("a").await, None);
}

#[tokio::test]
async fn a_command_gets_the_signal_to_end_once_balancers_send_nobody_to_it() {
    let Some(cluster) = Cluster::start(1).await else { return };
    let directory = tempfile::tempdir().unwrap();
    let [go, caught] =
        ["go", "caught"].map(|name| directory.path().join(name).display().to_string());
    let script = format!(
        "trap 'touch {caught}; {WAIT} ! test -e {go}; do sleep 0.02; done; exit 5' TERM; \
         {WAIT} :; do sleep 0.02; done"
    );
    let mut keeper = register(&cluster, "a", "127.0.0.1:1", &["--", "sh", "-c", &script]);
    keeper.line("\"registered\"");
    keeper.signal(Signal::TERM);
    until("the command's signal", || fs::exists(&caught).unwrap());
    assert_eq!(cluster.value("a").await, None);
    assert!(keeper.is_running());
    fs::write(&go, "").unwrap();
    assert_eq!(keeper.exit_code(), 5);
}

#[tokio::test]
async fn bad_arguments_are_refused_with_a_remedy() {
    for (arguments, remedy) in [
        (&["--etcd", "a:1", "--prefix", "/lb/", "--address", "0.0.0.0:1"][..], "no machine's"),
        (&["--etcd", "a:1", "--prefix", "/lb/", "--ttl", "2500ms"], "in whole seconds"),
        (&["--etcd", "a:1", "--prefix", "/lb/", "--ttl", "2.5s"], "which is not a length of time"),
        (&["--etcd", "a:1", "--prefix", "/lb/", "--ttl", "2h"], "1s to 1h"),
        (&["--etcd", "a:1", "--prefix", "/lb"], "doesn't end in `/`"),
        (&["--etcd", "a", "--prefix", "/lb/"], "write http://HOST:PORT"),
        (&["--etcd", "a:1", "--prefix", ""], "etcd has no prefix"),
        (&["--etcd", "a:1"], "give `--prefix`, for example /lb/web/"),
        (&["--prefix", "/lb/"], "need `--etcd`: give the members"),
        (&[], "no etcd to register in: give `--etcd` and `--prefix`"),
    ] {
        let mut command = Command::new(binary());
        command.args(["register", "--key", "a"]).args(arguments);
        if !arguments.contains(&"--address") {
            command.args(["--address", "127.0.0.1:1"]);
        }
        let output = output(&mut command);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(remedy), "{said}");
    }
}
