//! The program as its users meet it.

#![cfg(feature = "cli")]
#![allow(clippy::unwrap_used)] // Tests and what serves only them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

fn tinylb_sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tinylb-sim")).args(args).output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A file of its own for each test.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::write(&path, text).unwrap();
    path
}

const GOOD: &str = "seed 7\nclients 3\nduration 300\nat 0 replace k0=b0\n";

#[test]
fn bad_input_is_one_line_with_cause_and_remedy() {
    let bad = file("bad.txt", "seed 1\nbackends 99\n");
    for (args, expected) in [
        (vec!["replay", "no-such-file.txt"], "give a seed, or a scenario's file"),
        (vec!["replay", bad.to_str().unwrap()], "line 2: backends is 99; it must be 1 to 32"),
        (vec!["corpus", "no-such-directory"], "name a directory of scenarios"),
        (vec!["timeline", "1", "-o", "/no/such/directory/x.html"], "name another file"),
        (vec!["meta", "--seeds", "0.."], "it must look like 0..5"),
        (vec!["meta", "--seeds", "0..1", "--against", "/no/such/program"], "name another build"),
        (vec!["zoo", "--root", "/no/such/directory"], "--root"),
    ] {
        let output = tinylb_sim(&args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.starts_with("tinylb-sim: ") && said.contains(expected), "{args:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{args:?}: {said}");
    }
}

#[test]
fn a_bad_option_says_what_it_must_be() {
    for (args, expected) in [
        (["run", "--seeds", "7"], "it must look like 0..100"),
        (["run", "--seeds", "9..3"], "no seed is in it"),
        (["run", "--profile", "slow"], "it must be fast or small-window or long"),
        (["run", "--level", "none"], "it must be decisions"),
        (["run", "--budget", "5"], "such as 1.5s"),
        (["run", "--jobs", "0"], "it must be 1 to 1024"),
        (["zoo", "--jobs", "0"], "it must be 1 to 1024"),
    ] {
        let output = tinylb_sim(&args);
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        assert!(stderr(&output).contains(expected), "{args:?}: {}", stderr(&output));
    }
}

#[test]
fn sums_do_not_depend_on_the_number_of_threads() {
    let run = |jobs: &str| {
        let output = tinylb_sim(&["run", "--seeds", "10..60", "--jobs", jobs, "--counts"]);
        assert!(output.status.success());
        let text = stdout(&output);
        assert!(text.contains("50 seeds from 10, 0 failures"), "{text}");
        // The line with the time that it took is the only one that may differ.
        text.lines().filter(|line| !line.contains("simulated in")).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(run("1"), run("3"));
    let other = stdout(&tinylb_sim(&["run", "--seeds", "11..61"]));
    let hash = other.lines().find(|line| line.starts_with("hash ")).unwrap();
    assert!(!run("1").contains(hash), "{hash}");
}

#[test]
fn seeds_that_reach_too_little_fail_if_that_is_asked_for() {
    let seeds = ["run", "--seeds", "0..1"];
    assert!(tinylb_sim(&seeds).status.success());
    let output = tinylb_sim(&[&seeds[..], &["--require-sometimes"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("never: "), "{}", stdout(&output));
}

#[test]
fn a_budget_ends_seeds_without_end() {
    let output = tinylb_sim(&["run", "--seeds", "5..", "--budget", "300ms"]);
    assert!(output.status.success());
    assert!(stdout(&output).contains(" seeds from 5, 0 failures"), "{}", stdout(&output));
}

#[test]
fn a_run_that_never_ends_is_reported_and_ends_the_program() {
    let run = ["run", "--seeds", "0..1000", "--profile", "long", "--hang", "0s"];
    let output = tinylb_sim(&run);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("hangs") && said.contains("--profile long"), "{said}");
}

#[test]
fn a_replay_shows_the_scenario_and_what_happens_up_to_a_time() {
    let path = file("good.txt", GOOD);
    let path = path.to_str().unwrap();
    let whole = stdout(&tinylb_sim(&["replay", path]));
    assert!(whole.starts_with(GOOD), "{whole}");
    assert!(whole.contains("step 0: replace k0=b0"), "{whole}");
    assert!(whole.contains("no law is broken"), "{whole}");
    let hash = stdout(&tinylb_sim(&["replay", path, "--hash-only"]));
    assert!(whole.trim_end().ends_with(hash.trim_end()), "{hash}\n{whole}");
    let early = stdout(&tinylb_sim(&["replay", path, "--until", "100ms"]));
    assert!(early.contains(" records more") && early.len() < whole.len(), "{early}");
}

#[test]
fn a_timeline_is_one_page_that_needs_nothing_else() {
    let path = file("timeline.txt", GOOD);
    let page_path = path.with_extension("html");
    let (path, page_path) = (path.to_str().unwrap(), page_path.to_str().unwrap());
    assert!(tinylb_sim(&["timeline", path, "-o", page_path]).status.success());
    let page = fs::read_to_string(page_path).unwrap();
    assert!(page.starts_with("<!DOCTYPE html>") && page.trim_end().ends_with("</html>"));
    for outside in ["http://", "https://", "src=", "href=", "url("] {
        assert!(!page.contains(outside), "{outside}");
    }
}

#[test]
fn what_breaks_no_law_can_not_be_made_smaller() {
    let path = file("nothing.txt", GOOD);
    let small = path.with_extension("small");
    let output = tinylb_sim(&["minimize", path.to_str().unwrap(), "-o", small.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("breaks no law"), "{}", stderr(&output));
    assert!(!small.exists());
}

#[test]
fn a_seed_gives_one_trace_in_every_way_and_another_program_is_found_out() {
    let own = env!("CARGO_BIN_EXE_tinylb-sim");
    let output = tinylb_sim(&["meta", "--seeds", "3..5", "--against", own]);
    assert!(output.status.success(), "{}", stdout(&output));
    assert_eq!(stdout(&output).lines().count(), 2);
    let liar = file("liar", "#!/bin/sh\ncase \"$*\" in *hash*) echo 12ab;; *) echo other;; esac\n");
    make_executable(&liar);
    let output = tinylb_sim(&["meta", "--seeds", "3..4", "--against", liar.to_str().unwrap()]);
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("00000000000012ab") && said.contains("record 0 is"), "{said}");
}

fn make_executable(path: &PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_corpus_is_run_as_a_whole() {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("corpus");
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("a.txt"), GOOD).unwrap();
    let dir = dir.to_str().unwrap();
    let output = tinylb_sim(&["corpus", dir]);
    assert!(output.status.success());
    assert_eq!(stdout(&output), "0 of 1 scenarios break a law\n");
}
