use std::{fmt, str, time::Duration};

use super::{HEADER, Record, Recorded, RecordedFailure, RecordedSet, settings_fields};
use crate::{EmptySet, EndReason, Fault, Removal, Settings, Side};

/// A recording that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// The services' names.
    pub services: Vec<String>,
    /// The backends' keys.
    pub keys: Vec<String>,
    /// The targets, as text.
    pub targets: Vec<String>,
    /// What happened.
    pub records: Vec<Record>,
}

/// A text that is no recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub cause: String,
}

impl fmt::Display for RecordingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.cause)
    }
}

impl std::error::Error for RecordingError {}

/// The longest recording: some 35 years.
const TIME_MAX: Duration = Duration::from_micros(1 << 50);

impl Recording {
    /// Reads a recording. What follows the last line break is ignored.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn read(text: &[u8]) -> Result<Self, RecordingError> {
        let mut recording = Self::default();
        let mut at = Duration::ZERO;
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let mut lines = text[..whole].split_inclusive(|byte| *byte == b'\n');
        let fail = |line, cause: &str| RecordingError { line, cause: cause.into() };
        if lines.next().is_none_or(|line| line.trim_ascii_end() != HEADER.as_bytes()) {
            return Err(fail(1, &format!("it isn't `{HEADER}`, so this is no recording")));
        }
        for (number, line) in (2..).zip(lines) {
            let line = str::from_utf8(&line[..line.len() - 1])
                .map_err(|_| fail(number, "it isn't UTF-8"))?;
            recording.line(line, &mut at).map_err(|cause| fail(number, cause))?;
        }
        Ok(recording)
    }

    fn line(&mut self, line: &str, at: &mut Duration) -> Result<(), &'static str> {
        let mut words = Words(line.split(' '));
        let first = words.word()?;
        let names = match first {
            "service" => &mut self.services,
            "key" => &mut self.keys,
            "target" => &mut self.targets,
            _ => {
                let since = first.parse().map_err(|_| "it begins with no time")?;
                *at += time(since);
                if *at > TIME_MAX {
                    return Err("the time is too long");
                }
                let service = words.small()?;
                let what = self.what(&mut words)?;
                if words.0.next().is_some() {
                    return Err("there is something after its end");
                }
                let is_named = (service as usize) < self.services.len();
                if !is_named && !matches!(what, Recorded::Tick | Recorded::Full) {
                    return Err("its service has no name");
                }
                self.records.push(Record { at: *at, service, what });
                return Ok(());
            }
        };
        if words.small()? as usize != names.len() {
            return Err("its number isn't the next one");
        }
        let (_, name) = line.split_once(' ').ok_or("it has no name")?;
        let (_, name) = name.split_once(' ').ok_or("it has no name")?;
        names.push(unescaped(name));
        Ok(())
    }

    fn what(&self, words: &mut Words<'_>) -> Result<Recorded, &'static str> {
        let key = |words: &mut Words<'_>| words.place(self.keys.len());
        let target = |words: &mut Words<'_>| words.place(self.targets.len());
        Ok(match words.word()? {
            "accept" => Recorded::Accepted { serial: words.number()? },
            "pick" => Recorded::Admitted {
                serial: words.number()?,
                key: key(words)?,
                target: target(words)?,
            },
            "dial" => Recorded::DialStarted { serial: words.number()?, target: target(words)? },
            "fail" => Recorded::DialFailed {
                serial: words.number()?,
                target: target(words)?,
                failure: failure(words.word()?)?,
            },
            "connect" => Recorded::Connected { serial: words.number()?, target: target(words)? },
            "half" => Recorded::HalfClosed {
                serial: words.number()?,
                by: match words.word()? {
                    "client" => Side::Client,
                    "backend" => Side::Backend,
                    _ => return Err("the side is unknown"),
                },
            },
            "end" => Recorded::Ended {
                serial: words.number()?,
                reason: {
                    let word = words.word()?;
                    let found = EndReason::ALL.into_iter().find(|reason| reason.as_str() == word);
                    found.ok_or("the reason is unknown")?
                },
                bytes_to_backend: words.number()?,
                bytes_to_client: words.number()?,
            },
            "eject" => Recorded::Ejected { target: target(words)?, fault: fault(words.word()?)? },
            "probe" => Recorded::Probed {
                target: target(words)?,
                failure: match words.word()? {
                    "ok" => None,
                    word => Some(failure(word)?),
                },
            },
            "return" => {
                Recorded::Returned { target: target(words)?, ejected_for: time(words.number()?) }
            }
            "set" => Recorded::SetReplaced(Box::new(self.set(words)?)),
            "settings" => Recorded::Settings(Box::new(settings(words)?)),
            "lost" => Recorded::SourceLost,
            "back" => Recorded::SourceBack,
            "stale" => Recorded::SourceStale,
            "shutdown" => Recorded::ShutdownBegan,
            "closed" => Recorded::Closed,
            "over" => Recorded::Over,
            "dropped" => Recorded::Dropped { count: words.number()? },
            "full" => Recorded::Full,
            "tick" => Recorded::Tick,
            _ => return Err("what happened is unknown: another version has written it"),
        })
    }

    fn set(&self, words: &mut Words<'_>) -> Result<RecordedSet, &'static str> {
        let generation = words.number()?;
        let [sessions_cut, dials_revoked, sessions_draining] =
            [words.number()?, words.number()?, words.number()?].map(|count| count as usize);
        let mut backends = Vec::new();
        for word in words.0.by_ref() {
            let (key, target) = word.split_once(':').ok_or("a backend has no `:`")?;
            let place = |text: &str, length| place(text, length);
            backends.push((place(key, self.keys.len())?, place(target, self.targets.len())?));
        }
        Ok(RecordedSet { generation, sessions_cut, dials_revoked, sessions_draining, backends })
    }
}

struct Words<'a>(str::Split<'a, char>);

impl<'a> Words<'a> {
    fn word(&mut self) -> Result<&'a str, &'static str> {
        self.0.next().ok_or("something is missing")
    }

    fn number(&mut self) -> Result<u64, &'static str> {
        self.word()?.parse().map_err(|_| "a number is none")
    }

    fn small(&mut self) -> Result<u32, &'static str> {
        self.word()?.parse().map_err(|_| "a number is none")
    }

    /// A number of a list that is this long.
    fn place(&mut self, length: usize) -> Result<u32, &'static str> {
        place(self.word()?, length)
    }
}

/// Microseconds. What takes longer than a recording may is as good as endless.
fn time(micros: u64) -> Duration {
    Duration::from_micros(micros).min(TIME_MAX)
}

fn place(text: &str, length: usize) -> Result<u32, &'static str> {
    let place: u32 = text.parse().map_err(|_| "a number is none")?;
    if (place as usize) < length { Ok(place) } else { Err("a key or a target has no name") }
}

fn failure(word: &str) -> Result<RecordedFailure, &'static str> {
    Ok(match word {
        "late" => RecordedFailure::TimedOut,
        "given_up" => RecordedFailure::GivenUp,
        "revoked" => RecordedFailure::Revoked,
        word => RecordedFailure::Failed(fault(word)?),
    })
}

fn fault(word: &str) -> Result<Fault, &'static str> {
    Fault::ALL.into_iter().find(|fault| fault.as_str() == word).ok_or("the fault is unknown")
}

/// A setting that isn't named has its default.
fn settings(words: &mut Words<'_>) -> Result<Settings, &'static str> {
    let mut settings = Settings::default();
    for word in words.0.by_ref() {
        let (name, value) = word.split_once('=').ok_or("a setting has no `=`")?;
        let number = match value {
            "off" => None,
            value => Some(value.parse::<u64>().map_err(|_| "a setting is no number")?),
        };
        let time = number.map(time);
        macro_rules! read_fields {
            ($($kind:ident $field:ident;)*) => {
                match name {
                    $(stringify!($field) => read_fields!(@$kind settings.$field),)*
                    "start" => settings.start = number.ok_or("a setting is no number")?,
                    "empty_waits" => {
                        settings.empty =
                            if number == Some(1) { EmptySet::Wait } else { EmptySet::Reset };
                    }
                    "drain" => settings.removal = time.map_or(Removal::Abort, Removal::Drain),
                    _ => return Err("a setting is unknown: another version has written it"),
                }
            };
            (@time $field:expr) => { $field = time.ok_or("a setting is no time")? };
            (@option $field:expr) => { $field = time };
            (@flag $field:expr) => { $field = number == Some(1) };
            (@count $field:expr) => { $field = number.ok_or("a setting is no number")? as usize };
        }
        settings_fields!(read_fields);
    }
    Ok(settings)
}

fn unescaped(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    let mut rest = name.chars();
    while let Some(letter) = rest.next() {
        text.push(match letter {
            '\\' if rest.next() == Some('n') => '\n',
            letter => letter,
        });
    }
    text
}
