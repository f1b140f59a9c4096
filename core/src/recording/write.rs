use std::{collections::BTreeMap, io, io::Write, mem, time::Duration};

use super::{HEADER, RecordedFailure, settings_fields};
use crate::{
    BackendKey, BackendSet, DialFailure, EmptySet, Event, Fault, Removal, Report, Settings, Target,
};

/// Makes the text of a recording. It does no I/O: the caller writes what [`Self::take`] returns.
pub struct RecordingWriter<T> {
    keys: BTreeMap<BackendKey, u32>,
    targets: BTreeMap<T, u32>,
    services: u32,
    /// The time of the last line, in microseconds.
    at: u64,
    text: Vec<u8>,
    /// How many bytes were taken.
    taken: u64,
}

impl<T: Target> RecordingWriter<T> {
    /// A recording that begins.
    pub fn new() -> Self {
        let text = format!("{HEADER}\n").into_bytes();
        let (keys, targets) = (BTreeMap::new(), BTreeMap::new());
        Self { keys, targets, services: 0, at: 0, text, taken: 0 }
    }

    /// The text that waits to be taken.
    pub fn waiting(&self) -> usize {
        self.text.len()
    }

    /// The length of the recording so far, in bytes.
    pub fn length(&self) -> u64 {
        self.taken + self.text.len() as u64
    }

    /// The text since the last call; `spare` is used for what comes.
    pub fn take(&mut self, mut spare: Vec<u8>) -> Vec<u8> {
        spare.clear();
        self.taken += self.text.len() as u64;
        mem::replace(&mut self.text, spare)
    }

    /// Names another service. Returns its number.
    pub fn add_service(&mut self, name: &str) -> u32 {
        let number = self.services;
        self.services += 1;
        self.define("service", number, name);
        number
    }

    /// The settings that a service begins with.
    pub fn settings(&mut self, at: Duration, service: u32, settings: &Settings) {
        self.begin(at, service, "settings");
        macro_rules! write_fields {
            ($($kind:ident $name:ident;)*) => {
                $(write_fields!(@$kind $name settings.$name);)*
            };
            (@time $name:ident $value:expr) => {
                self.field(stringify!($name), $value.as_micros() as u64)
            };
            (@option $name:ident $value:expr) => {
                match $value {
                    Some(time) => self.field(stringify!($name), time.as_micros() as u64),
                    None => self.word(concat!(stringify!($name), "=off")),
                }
            };
            (@flag $name:ident $value:expr) => {
                self.field(stringify!($name), u64::from($value))
            };
            (@count $name:ident $value:expr) => {
                self.field(stringify!($name), $value as u64)
            };
        }
        settings_fields!(write_fields);
        self.field("start", settings.start);
        self.field("empty_waits", u64::from(settings.empty == EmptySet::Wait));
        match settings.removal {
            Removal::Abort => self.word("drain=off"),
            Removal::Drain(time) => self.field("drain", time.as_micros() as u64),
        }
        self.end();
    }

    /// An event of a service. `classify`: whose fault a dialer's error is.
    pub fn event(
        &mut self,
        at: Duration,
        service: u32,
        event: &Event<T>,
        classify: impl Fn(&io::Error) -> Fault,
    ) {
        match event {
            Event::Accepted { id, .. } => {
                self.begin(at, service, "accept");
                self.number(id.serial());
            }
            Event::Admitted { id, pick } => {
                let (key, target) = (self.key(&pick.key), self.target(&pick.target));
                self.begin(at, service, "pick");
                self.number(id.serial());
                self.number(key.into());
                self.number(target.into());
            }
            Event::DialStarted { id, pick } => {
                self.attempt(at, service, "dial", id.serial(), &pick.target);
            }
            Event::DialFailed { id, pick, failure } => {
                self.attempt(at, service, "fail", id.serial(), &pick.target);
                self.word(failure_word(failure, classify));
            }
            Event::Connected { id, pick } => {
                self.attempt(at, service, "connect", id.serial(), &pick.target);
            }
            Event::HalfClosed { id, by } => {
                self.begin(at, service, "half");
                self.number(id.serial());
                self.word(match by {
                    crate::Side::Client => "client",
                    crate::Side::Backend => "backend",
                });
            }
            Event::Ended { id, reason, bytes_to_backend, bytes_to_client, .. } => {
                self.begin(at, service, "end");
                self.number(id.serial());
                self.word(reason.as_str());
                self.number(*bytes_to_backend);
                self.number(*bytes_to_client);
            }
            Event::Ejected { target, fault } => {
                self.target_line(at, service, "eject", target);
                self.word(fault.as_str());
            }
            Event::Probed { target, failure } => {
                self.target_line(at, service, "probe", target);
                self.word(failure.as_ref().map_or("ok", |failure| failure_word(failure, classify)));
            }
            Event::Returned { target, ejected_for } => {
                self.target_line(at, service, "return", target);
                self.number(ejected_for.as_micros() as u64);
            }
            Event::SetReplaced { report, set } => return self.set(at, service, report, set),
            Event::Configured(settings) => return self.settings(at, service, settings),
            Event::SourceLost { .. } => self.begin(at, service, "lost"),
            Event::SourceBack { .. } => self.begin(at, service, "back"),
            Event::SourceStale { .. } => self.begin(at, service, "stale"),
            Event::ShutdownBegan => self.begin(at, service, "shutdown"),
            Event::Closed => self.begin(at, service, "closed"),
            // The judgement needs nothing of these.
            Event::SetHeld(_)
            | Event::EntriesLeftOut(_)
            | Event::LimitReached(_)
            | Event::LimitLeft
            | Event::AcceptFailed { .. } => return,
        }
        self.end();
    }

    /// A service's shutdown is complete.
    pub fn over(&mut self, at: Duration, service: u32) {
        self.begin(at, service, "over");
        self.end();
    }

    /// The recording lacks this many events of a service here.
    pub fn dropped(&mut self, at: Duration, service: u32, count: u64) {
        self.begin(at, service, "dropped");
        self.number(count);
        self.end();
    }

    /// Nothing that comes later is recorded.
    pub fn full(&mut self, at: Duration) {
        self.begin(at, 0, "full");
        self.end();
    }

    /// The program runs.
    pub fn tick(&mut self, at: Duration) {
        self.begin(at, 0, "tick");
        self.end();
    }

    // Lines.

    fn attempt(&mut self, at: Duration, service: u32, word: &str, serial: u64, target: &T) {
        let target = self.target(target);
        self.begin(at, service, word);
        self.number(serial);
        self.number(target.into());
    }

    fn target_line(&mut self, at: Duration, service: u32, word: &str, target: &T) {
        let target = self.target(target);
        self.begin(at, service, word);
        self.number(target.into());
    }

    fn set(&mut self, at: Duration, service: u32, report: &Report, set: &BackendSet<T>) {
        let backends: Vec<_> =
            set.iter().map(|(key, target)| (self.key(key), self.target(target))).collect();
        self.begin(at, service, "set");
        self.number(report.generation.number());
        self.number(report.sessions_cut as u64);
        self.number(report.dials_revoked as u64);
        self.number(report.sessions_draining as u64);
        for (key, target) in backends {
            self.number(key.into());
            self.text.push(b':');
            self.digits(target.into());
        }
        self.end();
    }

    fn begin(&mut self, at: Duration, service: u32, word: &str) {
        // Threads read the clock one after the other; where they don't, time stands still.
        let at = (at.as_micros() as u64).max(self.at);
        self.digits(at - self.at);
        self.at = at;
        self.number(service.into());
        self.word(word);
    }

    fn end(&mut self) {
        self.text.push(b'\n');
    }

    fn word(&mut self, word: &str) {
        self.text.push(b' ');
        self.text.extend_from_slice(word.as_bytes());
    }

    fn field(&mut self, name: &str, value: u64) {
        self.word(name);
        self.text.push(b'=');
        self.digits(value);
    }

    fn number(&mut self, number: u64) {
        self.text.push(b' ');
        self.digits(number);
    }

    /// Several times faster than `write!`, and there are a dozen numbers for each connection.
    fn digits(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.text.extend_from_slice(&digits[first..]);
    }

    // Names.

    fn key(&mut self, key: &BackendKey) -> u32 {
        if let Some(number) = self.keys.get(key) {
            return *number;
        }
        let number = self.keys.len() as u32;
        self.define("key", number, key.as_str());
        self.keys.insert(key.clone(), number);
        number
    }

    fn target(&mut self, target: &T) -> u32 {
        if let Some(number) = self.targets.get(target) {
            return *number;
        }
        let number = self.targets.len() as u32;
        self.define("target", number, &target.to_string());
        self.targets.insert(target.clone(), number);
        number
    }

    /// A name is the rest of its line, with line breaks and backslashes escaped.
    fn define(&mut self, what: &str, number: u32, name: &str) {
        let name = name.replace('\\', r"\\").replace('\n', r"\n");
        // Writing to memory never fails.
        let _ = writeln!(self.text, "{what} {number} {name}");
    }
}

impl<T: Target> Default for RecordingWriter<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn failure_word(failure: &DialFailure, classify: impl Fn(&io::Error) -> Fault) -> &'static str {
    let failure = match failure {
        DialFailure::Failed(error) => RecordedFailure::Failed(classify(error)),
        DialFailure::TimedOut => RecordedFailure::TimedOut,
        DialFailure::GivenUp => RecordedFailure::GivenUp,
        DialFailure::Revoked => RecordedFailure::Revoked,
    };
    failure.word()
}

impl RecordedFailure {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Failed(fault) => fault.as_str(),
            Self::TimedOut => "late",
            Self::GivenUp => "given_up",
            Self::Revoked => "revoked",
        }
    }
}
