//! Records what the services do, for `tinylb-sim judge`.
//!
//! The observer of a service only adds lines to a buffer. A separate thread writes the buffer to the
//! file ten times a second. If the buffer is full, events are dropped, and the recording has their
//! number.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    mem,
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tinylb_core::{Dialer, Event, RecordingWriter, Settings};
use tinylb_tokio::{Address, UnixDialer};
use tracing::{error, warn};

use crate::{Failure, args};

/// How often the buffer is written.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the recording says that the program runs.
const TICK: Duration = Duration::from_secs(1);
/// Bytes that may wait to be written: at 100,000 connections a second, those of half a second.
const WAITING_MAX: usize = 8 << 20;
/// How long the program waits for the rest to be written when it ends.
const END_WAIT_MAX: Duration = Duration::from_secs(5);

/// Takes what is to be recorded. Clones share it.
#[derive(Clone)]
pub(crate) struct Recorder(Arc<Shared>);

/// Writes what waits, and ends the recording, when it is dropped.
pub(crate) struct Guard(Recorder);

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    began: Instant,
    length_max: u64,
    /// Classifies errors as every dialer here does, by the system's number.
    dialer: UnixDialer,
}

struct State {
    writer: RecordingWriter<Address>,
    /// How many events of each service were dropped since the last `dropped` line.
    dropped: BTreeMap<u32, u64>,
    phase: Phase,
    /// The thread has nothing left to do.
    is_written: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Phase {
    Recording,
    /// The bound is reached or the file can't be written: nothing more is taken.
    Stopped,
    /// The program ends.
    Ending,
}

/// Starts to record, if the arguments ask for it.
///
/// # Errors
/// The file can't be written, or no thread can be started.
pub(crate) fn start(args: &args::Run) -> Result<Option<(Recorder, Guard)>, Failure> {
    let Some(path) = &args.record else { return Ok(None) };
    let name = path.display();
    let fail = |error: io::Error, remedy: &str| {
        Failure::Error(format!("can't record to {name}: {error}: {remedy}"))
    };
    let file = open(path).map_err(|error| fail(error, "give another file to `--record`"))?;
    let recorder = Recorder::new(args.record_max << 20);
    let (writing, name) = (recorder.clone(), name.to_string());
    thread::Builder::new()
        .name("record".into())
        .spawn(move || writing.write_out(file, &name))
        .map_err(|error| fail(error, "raise the limit on threads (`ulimit -u`)"))?;
    Ok(Some((recorder.clone(), Guard(recorder))))
}

/// Opens a file for a new recording. One that holds anything but a recording is left alone.
fn open(path: &Path) -> io::Result<File> {
    let mut file =
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    if file.metadata()?.is_file() {
        let mut begin = Vec::new();
        (&mut file).take(16).read_to_end(&mut begin)?;
        if !begin.is_empty() && !begin.starts_with(b"tinylb-recording") {
            return Err(io::Error::other("it holds something else than a recording"));
        }
        file.set_len(0)?;
        io::Seek::rewind(&mut file)?;
    }
    Ok(file)
}

impl Recorder {
    fn new(length_max: u64) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State {
                writer: RecordingWriter::new(),
                dropped: BTreeMap::new(),
                phase: Phase::Recording,
                is_written: false,
            }),
            changed: Condvar::new(),
            began: Instant::now(),
            length_max,
            dialer: UnixDialer::default(),
        }))
    }

    /// A service begins, with these settings. Returns its number.
    pub(crate) fn add(&self, name: &str, settings: &Settings) -> u32 {
        let mut state = self.lock();
        let service = state.writer.add_service(name);
        state.writer.settings(self.0.began.elapsed(), service, settings);
        service
    }

    /// Records an event of a service. Call it for one event after the other.
    pub(crate) fn event(&self, service: u32, event: &Event<Address>) {
        self.line(service, |writer, at| {
            writer.event(at, service, event, |error| self.0.dialer.classify(error));
        });
    }

    /// A service's shutdown is complete.
    pub(crate) fn over(&self, service: u32) {
        self.line(service, |writer, at| writer.over(at, service));
    }

    fn line(&self, service: u32, write: impl FnOnce(&mut RecordingWriter<Address>, Duration)) {
        let mut state = self.lock();
        if state.phase == Phase::Stopped {
            return;
        }
        let is_full = state.writer.waiting() >= WAITING_MAX;
        if is_full {
            *state.dropped.entry(service).or_default() += 1;
            return;
        }
        // Behind the lock, so that times ascend as lines do.
        let at = self.0.began.elapsed();
        state.say_dropped(at);
        write(&mut state.writer, at);
    }

    /// Writes the buffer to the file, again and again.
    fn write_out(&self, mut file: File, name: &str) {
        let (mut text, mut ticked) = (Vec::new(), Duration::ZERO);
        loop {
            let is_on = |state: &mut State| state.phase == Phase::Recording;
            let waited = self.0.changed.wait_timeout_while(self.lock(), PAUSE, is_on);
            let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
            let at = self.0.began.elapsed();
            let is_full = state.writer.length() >= self.0.length_max;
            let is_ending = state.phase == Phase::Ending;
            state.say_dropped(at);
            if is_full {
                state.writer.full(at);
                state.phase = Phase::Stopped;
            } else if at >= ticked + TICK || is_ending {
                state.writer.tick(at);
                ticked = at;
            }
            text = state.writer.take(text);
            drop(state);
            let written = file.write_all(&text);
            match &written {
                Ok(()) if is_full => warn!(
                    "the recording {name} has reached its bound and ends: raise `--record-max` to \
                     record more"
                ),
                Ok(()) => {}
                Err(error) => error!(
                    "the recording {name} ends, since it can't be written: {error}: make room, and \
                     start again to record; connections are balanced as before"
                ),
            }
            if is_full || is_ending || written.is_err() {
                let mut state = self.lock();
                state.phase = Phase::Stopped;
                state.is_written = true;
                // It takes no more memory.
                state.writer = RecordingWriter::new();
                return self.0.changed.notify_all();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn say_dropped(&mut self, at: Duration) {
        for (service, count) in mem::take(&mut self.dropped) {
            self.writer.dropped(at, service, count);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let Recorder(shared) = &self.0;
        let mut state = self.0.lock();
        if state.phase == Phase::Recording {
            state.phase = Phase::Ending;
        }
        shared.changed.notify_all();
        let is_unwritten = |state: &mut State| !state.is_written;
        drop(shared.changed.wait_timeout_while(state, END_WAIT_MAX, is_unwritten));
    }
}

#[cfg(test)]
mod tests {
    use tinylb_core::{Recorded, Recording};

    use super::*;

    #[test]
    fn what_cannot_be_written_in_time_is_dropped_and_counted_where_it_is_missing() {
        let recorder = Recorder::new(1 << 30);
        let service = recorder.add("s", &Settings::default());
        let mut written = 0;
        while recorder.lock().dropped.is_empty() {
            recorder.event(service, &Event::ShutdownBegan);
            written += 1;
        }
        recorder.event(service, &Event::ShutdownBegan);
        let mut text = recorder.lock().writer.take(Vec::new());
        recorder.event(service, &Event::Closed);
        text.extend(recorder.lock().writer.take(Vec::new()));
        let records = Recording::read(&text).unwrap().records;
        // The first is its settings, and the last of those that were written was one too many.
        assert_eq!(records[written].what, Recorded::Dropped { count: 2 });
        assert_eq!(records[written + 1].what, Recorded::Closed);
        assert_eq!(records.len(), written + 2);
    }

    #[test]
    fn a_file_that_is_no_recording_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("tinylb-record-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        std::fs::write(&path, "precious").unwrap();
        assert!(open(&path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::write(&path, "tinylb-recording 1\n0 0 tick\n").unwrap();
        drop(open(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"", "an old recording makes room");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
