use std::{
    env, fs,
    io::{Write, stderr},
    process::{Command, Stdio},
};

use tempfile::TempDir;

use super::binary;

const SCRIPT: &str = "ip link set lo up && mount --bind \"$1\" /etc/hosts \
    && mount --bind \"$2\" /etc/resolv.conf && shift 2 && exec \"$@\"";

/// Set for a test that runs in namespaces of its own.
const INSIDE: &str = "TINYLB_TEST_NAMESPACE";

/// Runs a test, by its full name, in namespaces of its own: as root there, with its own loopback,
/// `/etc/hosts` and `/etc/resolv.conf`. Returns whether this is that run. If not, that run has
/// passed, or there can be no such namespaces, which is then printed.
pub(crate) fn is_inside(test: &str, hosts: &str, resolv: &str) -> bool {
    if env::var_os(INSIDE).is_some() {
        return true;
    }
    let dir = TempDir::new().unwrap();
    let files = [("hosts", hosts), ("resolv.conf", resolv)].map(|(name, text)| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    });
    let enter = || {
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--net", "--mount", "sh", "-c", SCRIPT, "sh"]);
        command.args(&files);
        command
    };
    let trial = enter().arg("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !trial.is_ok_and(|status| status.success()) {
        // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
        let skipped = "SKIPPED: no namespaces (`unshare --user --net`, and `ip`) can be had here";
        let _ = writeln!(stderr(), "{skipped}");
        return false;
    }
    // Built here, where cargo has all that it may need.
    binary();
    let run = enter()
        .arg(env::current_exe().unwrap())
        .args(["--exact", "--nocapture", test])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = [run.stdout, run.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
    assert!(run.status.success(), "{}", said.concat());
    assert!(said[0].contains("1 passed"), "there is no test {test}: {}", said[0]);
    false
}
