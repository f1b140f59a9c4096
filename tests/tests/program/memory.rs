//! What the program keeps in memory.

use std::fs;

use crate::harness::{Backend, ConfigFile, Tinylb, put, service, until};

/// The resident memory of a process, in MiB.
fn resident(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn a_large_set_that_has_gone_leaves_no_memory_behind() {
    let a = Backend::echo("a");
    let file = ConfigFile::new(&service("s", "127.0.0.1:0", [&a], ""));
    let mut command = file.command();
    command.args(["--admin", "127.0.0.1:0", "--admin-write"]);
    // A recording keeps the names of all backends.
    let tinylb = Tinylb::start_unrecorded(command);
    let admin = tinylb.admin();
    let before = resident(tinylb.id());
    let backend =
        |n: u32| format!("\"k{n:06}\": \"10.{}.{}.{}:80\"", n >> 16, n >> 8 & 255, n & 255);
    let large: Vec<String> = (0..300_000).map(backend).collect();
    assert_eq!(put(&admin, "s", &format!("{{{}}}", large.join(","))).status, 200);
    let most = resident(tinylb.id());
    assert!(most > before + 20, "the set takes memory: {before} MiB before and {most} with it");
    assert_eq!(put(&admin, "s", &format!("{{\"a\": {:?}}}", a.address)).status, 200);
    until("memory to be given back", || resident(tinylb.id()) < before + 8);
    tinylb.stop();
}
