//! Recordings, and what the judge makes of them. `Tinylb::start` has those of other tests judged.

use std::fs;

use tempfile::NamedTempFile;
use tinylb_sim::Law;

use crate::harness::{Backend, Client, ConfigFile, End, Tinylb, judged, service};

#[test]
fn all_sessions_of_a_program_are_judged_and_a_removal_that_is_missing_is_seen() {
    let [a, b] = ["a", "b"].map(Backend::echo);
    let file = ConfigFile::new(&service("web", "127.0.0.1:0", [&a, &b], ""));
    let tinylb = file.run();
    let address = tinylb.address();
    let (mut of_b, of_a): (Vec<_>, Vec<_>) =
        Client::several(&address, 6).into_iter().partition(|client| client.backend == "b");
    file.edit(&service("web", "127.0.0.1:0", [&a], ""));
    tinylb.line("backends replaced");
    assert!(of_b.iter_mut().all(|client| client.end() == End::Reset));
    assert!(of_a.into_iter().all(|client| client.finish() == End::Clean));
    let text = tinylb.stop_and_read_recording();

    let judgement = judged(&text);
    let [web] = &judgement.services[..] else { panic!("{judgement:?}") };
    assert_eq!((&*web.name, web.sessions, web.open), ("web", 6, 0));
    assert!(!judgement.is_broken() && web.stopped.is_none(), "{judgement:?}");

    // Without the line that says why, each end of a session of b is against a law.
    let text = String::from_utf8(text).unwrap();
    let removal = text.lines().find(|line| line.split(' ').skip(2).take(2).eq(["set", "2"]));
    let without: String =
        text.split_inclusive('\n').filter(|line| Some(line.trim_end()) != removal).collect();
    let broken: Vec<_> =
        judged(without.as_bytes()).services[0].broken.iter().map(|broken| broken.law).collect();
    assert_eq!(broken, [Law::Kept; 3]);
}

#[test]
fn a_recording_that_cannot_be_written_ends_with_a_line_and_costs_no_client() {
    let a = Backend::echo("a");
    let tinylb = Tinylb::start_unrecorded(Tinylb::balancer([&a], &["--record", "/dev/full"]));
    let mut clients = Client::several(&tinylb.address(), 4);
    let line = tinylb.line("the recording /dev/full ends");
    assert!(line.says("No space left on device") && line.says("make room"), "{line:?}");
    assert!(clients.iter_mut().all(Client::is_served));
    assert!(Client::connect(&tinylb.address()).is_served());
    drop(clients);
    tinylb.stop();
}

#[test]
fn a_recording_ends_at_its_bound_with_a_line_and_is_judged_up_to_it() {
    let a = Backend::echo("a");
    let file = NamedTempFile::new().unwrap();
    let record = ["--record", file.path().to_str().unwrap(), "--record-max", "1"];
    let tinylb = Tinylb::start_unrecorded(Tinylb::balancer([&a], &record));
    let is_at_its_bound = || tinylb.log().iter().any(|line| line.says("has reached its bound"));
    let mut served = 0;
    while !is_at_its_bound() {
        assert!(served < 50_000, "1 MiB is a lot");
        let clients = Client::several(&tinylb.address(), 100);
        served += clients.into_iter().map(Client::finish).count() as u64;
    }
    tinylb.stop();
    let text = fs::read(file.path()).unwrap();
    assert!((1 << 20..2 << 20).contains(&text.len()), "{} bytes", text.len());
    let judgement = judged(&text);
    assert!(judgement.is_full && !judgement.is_broken(), "{judgement:?}");
    let sessions = judgement.services[0].sessions;
    assert!(sessions > 1000 && sessions <= served, "{sessions} of {served} sessions");
}
