use std::{io, sync::Arc, time::Duration};

use super::{Record, Recorded, RecordedFailure, RecordedSet, Recording, RecordingWriter};
use crate::{
    BackendSet, DialFailure, EmptySet, EndReason, Event, Fault, Generation, ListenerId, Pick,
    Removal, Report, SessionId, Settings, Side,
};

const ID: SessionId = SessionId { serial: 7, slot: 0 };

fn at(us: u64) -> Duration {
    Duration::from_micros(us)
}

fn settings() -> Settings {
    Settings {
        dial_patience: None,
        ejection: false,
        cut_silent: Some(at(2_000_000)),
        waiting_max: 3,
        empty: EmptySet::Wait,
        removal: Removal::Drain(at(5_000)),
        start: 12,
        ..Settings::default()
    }
}

/// Every kind of event, as it is written and as it is to be read.
fn pairs() -> Vec<(Event<&'static str>, Recorded)> {
    let pick = || Pick { key: "a key".into(), target: "127.0.0.1:1" };
    let (serial, target, key) = (7, 1, 2);
    let report = Arc::new(Report {
        generation: Generation(3),
        is_change: true,
        backends: 2,
        added: Vec::new(),
        removed: Vec::new(),
        retargeted: Vec::new(),
        sessions_cut: 4,
        dials_revoked: 5,
        sessions_draining: 6,
    });
    let set = BackendSet::new([("b\n\\c", "unix:/a b"), ("d", "127.0.0.1:1")]).unwrap();
    let backends = vec![(0, 0), (1, 1)];
    let refused = || DialFailure::Failed(io::ErrorKind::ConnectionRefused.into());
    let recorded = |failure| Recorded::DialFailed { serial, target, failure };
    vec![
        (
            Event::SetReplaced { report, set },
            Recorded::SetReplaced(Box::new(RecordedSet {
                generation: 3,
                sessions_cut: 4,
                dials_revoked: 5,
                sessions_draining: 6,
                backends,
            })),
        ),
        (
            Event::Accepted { id: ID, listener: ListenerId(0), peer: "p".into() },
            Recorded::Accepted { serial },
        ),
        (Event::Admitted { id: ID, pick: pick() }, Recorded::Admitted { serial, key, target }),
        (Event::DialStarted { id: ID, pick: pick() }, Recorded::DialStarted { serial, target }),
        (
            Event::DialFailed { id: ID, pick: pick(), failure: refused() },
            recorded(RecordedFailure::Failed(Fault::Refused)),
        ),
        (
            Event::DialFailed { id: ID, pick: pick(), failure: DialFailure::TimedOut },
            recorded(RecordedFailure::TimedOut),
        ),
        (
            Event::DialFailed { id: ID, pick: pick(), failure: DialFailure::GivenUp },
            recorded(RecordedFailure::GivenUp),
        ),
        (
            Event::DialFailed { id: ID, pick: pick(), failure: DialFailure::Revoked },
            recorded(RecordedFailure::Revoked),
        ),
        (Event::Connected { id: ID, pick: pick() }, Recorded::Connected { serial, target }),
        (
            Event::HalfClosed { id: ID, by: Side::Backend },
            Recorded::HalfClosed { serial, by: Side::Backend },
        ),
        (
            Event::Ended {
                id: ID,
                pick: None,
                reason: EndReason::IdleTimedOut,
                bytes_to_backend: u64::MAX,
                bytes_to_client: 0,
            },
            Recorded::Ended {
                serial,
                reason: EndReason::IdleTimedOut,
                bytes_to_backend: u64::MAX,
                bytes_to_client: 0,
            },
        ),
        (
            Event::Ejected { target: "127.0.0.1:1", fault: Fault::TimedOut },
            Recorded::Ejected { target, fault: Fault::TimedOut },
        ),
        (
            Event::Probed { target: "127.0.0.1:1", failure: Some(refused()) },
            Recorded::Probed { target, failure: Some(RecordedFailure::Failed(Fault::Refused)) },
        ),
        (
            Event::Probed { target: "127.0.0.1:1", failure: None },
            Recorded::Probed { target, failure: None },
        ),
        (
            Event::Returned { target: "127.0.0.1:1", ejected_for: at(9) },
            Recorded::Returned { target, ejected_for: at(9) },
        ),
        (Event::Configured(Arc::new(settings())), Recorded::Settings(Box::new(settings()))),
        (Event::SourceLost { reason: "r".into(), set_age: None }, Recorded::SourceLost),
        (Event::SourceBack { lost_for: at(1) }, Recorded::SourceBack),
        (Event::SourceStale { reason: "r".into() }, Recorded::SourceStale),
        (Event::ShutdownBegan, Recorded::ShutdownBegan),
        (Event::Closed, Recorded::Closed),
    ]
}

fn classify(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => Fault::Refused,
        _ => Fault::Ours,
    }
}

/// A recording of them all, and the records that are to be read.
fn whole() -> (Vec<u8>, Vec<Record>) {
    let mut writer = RecordingWriter::new();
    assert_eq!((writer.add_service("first"), writer.add_service("the \\ second")), (0, 1));
    let mut due = Vec::new();
    for (number, (event, what)) in (10..).zip(pairs()) {
        writer.event(at(number), 1, &event, classify);
        due.push(Record { at: at(number), service: 1, what });
    }
    writer.over(at(100), 1);
    writer.dropped(at(100), 0, 17);
    // Time never goes back.
    writer.tick(at(99));
    writer.full(at(101));
    let rest = [
        (100, 1, Recorded::Over),
        (100, 0, Recorded::Dropped { count: 17 }),
        (100, 0, Recorded::Tick),
        (101, 0, Recorded::Full),
    ];
    due.extend(rest.map(|(us, service, what)| Record { at: at(us), service, what }));
    assert_eq!(writer.length(), writer.waiting() as u64);
    let length = writer.length();
    let text = writer.take(Vec::new());
    assert_eq!((writer.length(), writer.waiting()), (length, 0));
    (text, due)
}

#[test]
fn what_is_written_is_read_again() {
    let (text, due) = whole();
    let read = Recording::read(&text).unwrap();
    assert_eq!(read.services, ["first", "the \\ second"]);
    assert_eq!(read.keys, ["b\n\\c", "d", "a key"]);
    assert_eq!(read.targets, ["unix:/a b", "127.0.0.1:1"]);
    assert_eq!(read.records, due);
}

#[test]
fn a_recording_that_breaks_off_anywhere_is_read_as_far_as_it_goes() {
    let (text, due) = whole();
    let header = text.iter().position(|byte| *byte == b'\n').unwrap();
    assert!(Recording::read(&text[..header]).is_err(), "there is no recording yet");
    for end in header + 1..text.len() {
        let read = Recording::read(&text[..end]).unwrap();
        assert_eq!(read.records, due[..read.records.len()]);
    }
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let mut lines = vec!["tinylb-recording 1", "service 0 s", "0 0 accept 0"];
    let read = |lines: &[&str]| Recording::read((lines.join("\n") + "\n").as_bytes());
    assert!(read(&lines).is_ok());
    for wrong in [
        "x",
        "1",
        "1 0",
        "1 0 nonsense",
        "1 0 accept",
        "1 0 accept 1 2",
        "1 1 accept 0",
        "1 0 pick 0 0 0",
        "1 0 set 1 0 0 0 0:0",
        "1 0 end 0 nonsense 0 0",
        "service 5 t",
        "key 0",
        "1 0 settings x=1",
        "1 0 settings dial_timeout=off",
    ] {
        lines.push(wrong);
        assert_eq!(read(&lines).unwrap_err().line, 4, "{wrong}");
        lines.pop();
    }
    assert_eq!(read(&["tinylb-recording 2"]).unwrap_err().line, 1);
}
