//! The core stays free of runtimes: what it is built from, and what its public API names.

#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// All that the core may be built from. None of these reads a clock, a random number or a socket.
const DEPENDENCIES: [&str; 19] = [
    "async-trait",
    "futures",
    "futures-channel",
    "futures-core",
    "futures-io",
    "futures-macro",
    "futures-sink",
    "futures-task",
    "futures-util",
    "memchr",
    "pin-project-lite",
    "proc-macro2",
    "quote",
    "slab",
    "syn",
    "thiserror",
    "thiserror-impl",
    "tinylb-core",
    "unicode-ident",
];

/// All that its public API may name.
const API: [&str; 5] = ["alloc", "core", "futures_core", "futures_io", "std"];

#[test]
fn the_core_is_built_from_nothing_that_knows_a_runtime() {
    let tree = run(cargo().args(["tree", "-p", "tinylb-core", "-e", "normal", "--prefix", "none"]));
    let found: BTreeSet<&str> =
        tree.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(found.contains("tinylb-core"), "cargo tree said: {tree}");
    let foreign = strangers(&found, &DEPENDENCIES);
    assert!(foreign.is_empty(), "the core depends on {foreign:?}");
}

#[test]
fn the_public_api_of_the_core_names_only_std_and_futures() {
    let target = target_dir().join("core-gate");
    run(cargo()
        .args(["rustdoc", "-p", "tinylb-core", "--lib", "--target-dir"])
        .arg(&target)
        .args(["--", "-Z", "unstable-options", "--output-format", "json"])
        // The JSON output of stable rustdoc is the same, but for this.
        .env("RUSTC_BOOTSTRAP", "1"));
    let json = fs::read(target.join("doc/tinylb_core.json")).unwrap();
    let docs: Value = serde_json::from_slice(&json).unwrap();
    let names = foreign_names(&docs);
    assert!(names.contains("futures_io"), "the walk misses the traits of Conn: {names:?}");
    let names: BTreeSet<&str> = names.iter().map(String::as_str).collect();
    let foreign = strangers(&names, &API);
    assert!(foreign.is_empty(), "the public API of the core names {foreign:?}");
}

#[test]
fn a_stranger_in_the_core_is_seen() {
    let found = BTreeSet::from(["tokio", "slab"]);
    assert_eq!(strangers(&found, &DEPENDENCIES), ["tokio"]);
}

fn strangers<'a>(found: &BTreeSet<&'a str>, allowed: &[&str]) -> Vec<&'a str> {
    found.iter().copied().filter(|name| !allowed.contains(name)).collect()
}

/// The crates whose types and traits stand in a public item.
fn foreign_names(docs: &Value) -> BTreeSet<String> {
    let mut crates = BTreeSet::new();
    for item in docs["index"].as_object().unwrap().values() {
        let is_own = item["crate_id"] == 0;
        // `impl<T> Trait for T` of other crates holds for any type, and says nothing of ours.
        let is_blanket = !item["inner"]["impl"]["blanket_impl"].is_null();
        if is_own && !is_blanket {
            collect(&item["inner"], docs, &mut crates);
        }
    }
    crates
}

fn collect(value: &Value, docs: &Value, crates: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            if let (Some(id), true) = (fields.get("id"), fields.contains_key("args")) {
                let place = &docs["paths"][id.to_string()]["crate_id"];
                if let Some(name) = docs["external_crates"][place.to_string()]["name"].as_str() {
                    crates.insert(name.to_string());
                }
            }
            fields.values().for_each(|value| collect(value, docs, crates));
        }
        Value::Array(values) => values.iter().for_each(|value| collect(value, docs, crates)),
        _ => {}
    }
}

fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or("cargo".into()));
    cargo.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap());
    // A gate looks at the core as it ships, whatever the tests around it are built with.
    cargo.env_remove("RUSTFLAGS");
    cargo
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// Where the running test was built: `target/debug/deps/core_gate-…`.
fn target_dir() -> PathBuf {
    env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned()
}
