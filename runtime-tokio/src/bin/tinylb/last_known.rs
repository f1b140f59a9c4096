use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use serde_json::{Map, Value, json};
use tinylb_core::{BackendSet, Handle, Update};
use tinylb_tokio::{Address, VerdictBoard, read_file, remove_file, replace_file, run_blocking};
use tokio::{
    sync::{self, Notify},
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{
    config::{FILE_BYTES_MAX, Place},
    log::EventLog,
};

/// The file that keeps a source's last set, for a start while the source doesn't answer.
pub(crate) struct LastKnown {
    path: PathBuf,
    /// Whose sets it keeps: those of another source can't be used.
    place: Place,
    turn: Arc<Turn>,
}

/// Held by the service that changes the file, until the change is on disk. A change can't be called off once
/// it has begun, so it may still go on when its service has left and another one has the file: with
/// a slow disk, the older set could come last.
type Turn = sync::Mutex<()>;

/// The turns of the files that are in use.
static TURNS: Mutex<BTreeMap<PathBuf, Weak<Turn>>> = Mutex::new(BTreeMap::new());

/// Pause before a file that could not be written is written again.
const WRITE_PAUSE: Duration = Duration::from_secs(10);

/// How long reading the file may take. After that, the source is queried without it.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// Puts the kept set in force, unless there is already a set. If it did, it returns a loss to report,
/// since the source itself hasn't answered yet. A set that `is_checked` isn't in force before that, so
/// it is returned to be reported as well.
pub(crate) async fn begin(
    file: Arc<LastKnown>,
    service: String,
    handle: Handle<Address>,
    is_checked: bool,
) -> Vec<Update<Address>> {
    if handle.set().is_some() {
        return Vec::new();
    }
    let reader = Arc::clone(&file);
    let read = timeout(READ_TIME_MAX, run_blocking(move || reader.read())).await;
    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|read| read);
    let path = file.path.display();
    let set = match read {
        Ok(set) => set,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            warn!(service, "can't use the last known backends in {path}: {error}");
            return Vec::new();
        }
    };
    // An empty set would serve no client, and clients may wait for the source's own set.
    if set.is_empty() {
        return Vec::new();
    }
    let taken = match is_checked {
        true => handle.validate(&set),
        false => handle.replace(set.clone()).map(drop),
    };
    if let Err(error) = taken {
        warn!(service, "can't use the last known backends in {path}: {error}");
        return Vec::new();
    }
    let lost = format!("no answer yet; the last known backends from {path} are in use");
    let lost = Update::Lost(lost.into());
    if is_checked { vec![Update::Set(set), lost] } else { vec![lost] }
}

/// Whose sets are kept.
pub(crate) struct Kept {
    pub(crate) handle: Handle<Address>,
    /// Knows all backends of the source, if only those are in force that pass a check.
    pub(crate) board: Option<VerdictBoard>,
    pub(crate) events: Arc<EventLog>,
}

/// What to do about the file.
enum Duty {
    Write(BackendSet<Address>),
    Remove,
}

impl Kept {
    /// What to do about the file now.
    fn duty(&self) -> Option<Duty> {
        let snapshot = self.handle.snapshot();
        let (in_force, is_lost) = (snapshot.set?, snapshot.source_lost.is_some());
        let Some(board) = &self.board else {
            return match is_lost {
                true => in_force.is_empty().then_some(Duty::Remove),
                false => Some(Duty::Write(in_force)),
            };
        };
        if is_lost {
            return self.events.is_stale().then_some(Duty::Remove);
        }
        // While a backend is in force that the source's newest set lacks, that set isn't taken yet, or is
        // held. Once it is, there is another call.
        let set = board.set()?;
        let is_taken = in_force.targets().iter().all(|target| set.keys_of(target).next().is_some());
        is_taken.then_some(Duty::Write(set))
    }
}

/// Keeps each set that is taken, except while the source is lost. If the set becomes stale then, the
/// file is removed: after a start, the set would be in use for as long again.
pub(crate) async fn keep(file: Arc<LastKnown>, kept: Kept, replaced: Arc<Notify>) {
    let service = kept.events.service();
    loop {
        replaced.notified().await;
        let turn = Arc::clone(&file.turn).lock_owned().await;
        // Only now, so that the newest set is written.
        let Some(duty) = kept.duty() else { continue };
        let (writer, path) = (Arc::clone(&file), file.path.display());
        let is_stale = matches!(duty, Duty::Remove);
        let keep = move || {
            let _turn = turn;
            match duty {
                Duty::Remove => remove_file(&writer.path),
                Duty::Write(set) => writer.write(&set),
            }
        };
        if let Err(error) = run_blocking(keep).await.and_then(|kept| kept) {
            match is_stale {
                true => warn!(service, "can't remove {path}, whose backends are stale: {error}"),
                false => warn!(service, "can't write the last known backends to {path}: {error}"),
            }
            sleep(WRITE_PAUSE).await;
            replaced.notify_one();
        }
    }
}

impl LastKnown {
    pub(crate) fn new(path: PathBuf, place: Place) -> Self {
        let turn = turn(&path);
        Self { path, place, turn }
    }

    fn read(&self) -> io::Result<BackendSet<Address>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let text: Value = serde_json::from_slice(&read_file(&self.path, FILE_BYTES_MAX)?)?;
        if !text["source"].as_str().is_some_and(|source| self.place.was(source)) {
            return Err(bad("they come from another source"));
        }
        let mut backends = Vec::new();
        for (key, target) in text["backends"].as_object().ok_or_else(|| bad("there are none"))? {
            let target = target.as_str().ok_or_else(|| bad("an address is no string"))?;
            let target: Address = target.parse().map_err(io::Error::other)?;
            backends.push((key.as_str(), target));
        }
        BackendSet::new(backends).map_err(io::Error::other)
    }

    fn write(&self, set: &BackendSet<Address>) -> io::Result<()> {
        let backends = set.iter().map(|(key, target)| (key.to_string(), target.to_string().into()));
        let backends: Map<String, Value> = backends.collect();
        let text = json!({ "source": self.place.to_string(), "backends": backends });
        replace_file(&self.path, format!("{text}\n").as_bytes())
    }
}

/// The turn of a file, shared by all that have this file.
fn turn(path: &Path) -> Arc<Turn> {
    let mut turns = TURNS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(turn) = turns.get(path).and_then(Weak::upgrade) {
        return turn;
    }
    turns.retain(|_, turn| turn.strong_count() > 0);
    let turn = Arc::default();
    turns.insert(path.into(), Arc::downgrade(&turn));
    turn
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tinylb_core::{Server, Settings};
    use tinylb_tokio::{AddressDialer, DnsOptions, TokioRuntime};

    use super::*;

    fn set(backends: &[(&str, &str)]) -> BackendSet<Address> {
        let backends = backends.iter().map(|(key, target)| (*key, target.parse().unwrap()));
        BackendSet::new(backends).unwrap()
    }

    #[test]
    fn what_was_kept_is_there_again_and_nothing_else_is_used() {
        let directory = std::env::temp_dir().join(format!("tinylb-known-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = |name: &str| {
            let place = Place::Dns(name.parse().unwrap(), DnsOptions::default());
            LastKnown::new(directory.join("known"), place)
        };
        let kept = file("a:1");
        let missing = kept.read().unwrap_err();
        assert_eq!(missing.kind(), io::ErrorKind::NotFound);
        for backends in [&[("a", "10.0.0.1:1"), ("\"é", "unix:/a b")][..], &[]] {
            kept.write(&set(backends)).unwrap();
            assert_eq!(kept.read().unwrap(), set(backends));
        }
        for _ in 0..2 {
            remove_file(&kept.path).unwrap();
            assert_eq!(kept.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        kept.write(&set(&[])).unwrap();
        let other = file("b:1").read().unwrap_err();
        assert_eq!(other.to_string(), "they come from another source");
        for damaged in ["", "{", "[]", r#"{"source":"dns a:1"}"#] {
            fs::write(directory.join("known"), damaged).unwrap();
            assert!(kept.read().is_err(), "{damaged}");
        }
        for target in ["5", r#""x""#] {
            let damaged = format!(r#"{{"source":"dns a:1","backends":{{"a":{target}}}}}"#);
            fs::write(directory.join("known"), damaged).unwrap();
            assert!(kept.read().is_err(), "{target}");
        }
        fs::remove_dir_all(directory).unwrap();
    }

    #[tokio::test]
    async fn a_write_of_the_service_before_does_not_come_after_the_next_ones() {
        let directory = std::env::temp_dir().join(format!("tinylb-turns-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("known");
        let file = |name: &str| {
            let place = Place::Dns(name.parse().unwrap(), DnsOptions::default());
            Arc::new(LastKnown::new(path.clone(), place))
        };
        let (before, next) = (file("a:1"), file("b:1"));
        // A write that goes on while its service is forgotten.
        let writing = Arc::clone(&before.turn).lock_owned().await;
        drop(before);
        let runtime = TokioRuntime::current();
        let server = Server::new(AddressDialer::default(), runtime, Settings::default()).unwrap();
        drop(server.handle().replace(set(&[("b", "10.0.0.2:1")])).unwrap());
        let replaced = Arc::new(Notify::new());
        let events = Arc::new(EventLog::new("s"));
        let kept = Kept { handle: server.handle(), board: None, events };
        let keeping = tokio::spawn(keep(Arc::clone(&next), kept, Arc::clone(&replaced)));
        replaced.notify_one();
        sleep(Duration::from_millis(100)).await;
        assert!(!path.exists(), "it would be overwritten");
        fs::write(&path, "the set of the service before").unwrap();
        drop(writing);
        let written = async {
            while next.read().is_err() {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), written).await.expect("it is written after all");
        assert_eq!(next.read().unwrap(), set(&[("b", "10.0.0.2:1")]));
        keeping.abort();
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_nobody_has_any_more_is_forgotten() {
        let [one, other] = ["/one", "/other"].map(Path::new);
        let first = turn(one);
        assert!(Arc::ptr_eq(&first, &turn(one)));
        drop(first);
        let _other = turn(other);
        assert!(!TURNS.lock().unwrap().contains_key(one));
    }
}
