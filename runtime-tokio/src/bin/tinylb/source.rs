use std::{
    fmt, io, mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    future::ready,
    stream::{self, BoxStream},
};
use serde_json::{Map, Value, json};
use tinylb_core::{BackendSet, Following, Handle, Update};
use tinylb_tokio::{
    Address, DnsSource, FileSource, read_file, remove_file, replace_file, restarting, run_blocking,
};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::{
    config::{FILE_BYTES_MAX, Followed, Place},
    log::EventLog,
};

/// A source that a service follows; until this is dropped.
pub(crate) struct Source {
    following: Following,
    /// Where its last set is kept, and the task that does so, if it is.
    file: Option<Arc<LastKnown>>,
    keeping: Option<JoinHandle<()>>,
}

impl Source {
    /// Follows a source, whose sets aren't kept yet. `replaced` is notified when a set has been
    /// taken; `restarts` counts how often the source was restarted.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub(crate) fn follow(
        service: &str,
        followed: &Followed,
        handle: &Handle<Address>,
        replaced: &Arc<Notify>,
        restarts: &Arc<AtomicU64>,
        events: &Arc<EventLog>,
    ) -> Result<Self, String> {
        let in_service = |error: &dyn fmt::Display| format!("service {service}: {error}");
        let updates = updates(&followed.place, Arc::clone(restarts), events)
            .map_err(|error| in_service(&error))?;
        let place = followed.place.clone();
        let file = followed.last_known.clone().map(|path| Arc::new(LastKnown { path, place }));
        let known = file.clone().map(|file| begin(file, service.to_string(), handle.clone()));
        let known = stream::iter(known).then(|known| known).filter_map(ready);
        let following = handle
            .follow_with(known.chain(updates), followed.settings.clone())
            .map_err(|error| in_service(&error))?;
        // Of the source before, if there was one.
        let _ = replaced.notified().now_or_never();
        Ok(Self { following, file, keeping: None })
    }

    /// Keeps its sets in the file of the last known backends, if it has one.
    pub(crate) fn keep(&mut self, service: &str, handle: &Handle<Address>, replaced: &Arc<Notify>) {
        let keep = |file| keep(file, service.to_string(), handle.clone(), Arc::clone(replaced));
        if self.keeping.is_none() {
            self.keeping = self.file.clone().map(|file| tokio::spawn(keep(file)));
        }
    }

    /// Writes that file no more.
    pub(crate) fn stop_keeping(&mut self) {
        if let Some(keeping) = self.keeping.take() {
            keeping.abort();
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.following.stop();
        self.stop_keeping();
    }
}

fn updates(
    place: &Place,
    restarts: Arc<AtomicU64>,
    events: &Arc<EventLog>,
) -> Result<BoxStream<'static, Update<Address>>, String> {
    let mut count = restarts_counted(restarts, Arc::clone(events));
    Ok(match place {
        Place::Dns(name, options) => {
            let events = Arc::clone(events);
            let source = DnsSource::new(name.clone())
                .with_options(options.clone())
                .on_partial_failure(move |reason| match reason {
                    Some(reason) => events.lookups_fail(reason),
                    None => events.lookups_succeed(),
                });
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(etcd) => {
            let source = tinylb_tokio::EtcdSource::new(etcd.options()?);
            let source = source.map_err(|error| error.to_string())?;
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(_) => return Err(crate::config::WITHOUT_ETCD.into()),
        Place::File(path) => {
            let source = FileSource::new(path);
            restarting(move || {
                count();
                source.clone().updates()
            })
            .boxed()
        }
    })
}

/// What to call at each start of a source: all but the first are restarts.
fn restarts_counted(restarts: Arc<AtomicU64>, events: Arc<EventLog>) -> impl FnMut() {
    let mut has_begun = false;
    move || {
        if mem::replace(&mut has_begun, true) {
            restarts.fetch_add(1, Ordering::Relaxed);
            events.source_restarted();
        }
    }
}

impl Place {
    /// Whether this is what once was displayed as this text.
    fn was(&self, text: &str) -> bool {
        match self {
            Self::Etcd(etcd) => text.strip_prefix("etcd ").is_some_and(|text| etcd.was(text)),
            place => place.to_string() == text,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name, _) => write!(f, "dns {name}"),
            Self::Etcd(etcd) => write!(f, "etcd {etcd}"),
            Self::File(path) => write!(f, "file {}", path.display()),
        }
    }
}

/// The file that keeps a source's last set, for a start while the source is away.
struct LastKnown {
    path: PathBuf,
    /// Whose sets it keeps: those of another source are no use.
    place: Place,
}

/// Pause before a file that could not be written is written again.
const WRITE_PAUSE: Duration = Duration::from_secs(10);

/// How long reading a file may take. After that the source is asked in any case.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// Puts the kept set in force, unless there is already a set. Returns the loss to report if it did:
/// the source itself hasn't answered yet.
async fn begin(
    file: Arc<LastKnown>,
    service: String,
    handle: Handle<Address>,
) -> Option<Update<Address>> {
    if handle.snapshot().set.is_some() {
        return None;
    }
    let reader = Arc::clone(&file);
    let read = timeout(READ_TIME_MAX, run_blocking(move || reader.read())).await;
    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).and_then(|read| read);
    let path = file.path.display();
    let set = match read {
        Ok(set) => set,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            warn!(service, "the last known backends in {path} are no use: {error}");
            return None;
        }
    };
    // An empty set would serve no client, and clients may wait for the source's own set.
    if set.is_empty() {
        return None;
    }
    if let Err(error) = handle.replace(set) {
        warn!(service, "the last known backends in {path} are no use: {error}");
        return None;
    }
    let lost = format!("no answer yet; these are the backends last known, from {path}");
    Some(Update::Lost(lost.into()))
}

/// Keeps each set that is taken, but for those of a time when the source is lost. If the set was
/// given up then, nothing is kept: a start would serve it for as long again.
async fn keep(
    file: Arc<LastKnown>,
    service: String,
    handle: Handle<Address>,
    replaced: Arc<Notify>,
) {
    loop {
        replaced.notified().await;
        let snapshot = handle.snapshot();
        let Some(set) = snapshot.set else { continue };
        let is_lost = snapshot.source_lost.is_some();
        if is_lost && !set.is_empty() {
            continue;
        }
        let (writer, path) = (Arc::clone(&file), file.path.display());
        let keep = move || if is_lost { remove_file(&writer.path) } else { writer.write(&set) };
        if let Err(error) = run_blocking(keep).await.and_then(|kept| kept) {
            match is_lost {
                true => warn!(service, "can't remove the backends given up, in {path}: {error}"),
                false => warn!(service, "can't write the last known backends to {path}: {error}"),
            }
            sleep(WRITE_PAUSE).await;
            replaced.notify_one();
        }
    }
}

impl LastKnown {
    fn read(&self) -> io::Result<BackendSet<Address>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let text: Value = serde_json::from_slice(&read_file(&self.path, FILE_BYTES_MAX)?)?;
        if !text["source"].as_str().is_some_and(|source| self.place.was(source)) {
            return Err(bad("they are of another source"));
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

#[cfg(test)]
mod tests {
    use std::fs;

    use tinylb_tokio::DnsOptions;

    use super::*;
    use crate::log::tests::logged;

    fn set(backends: &[(&str, &str)]) -> BackendSet<Address> {
        let backends = backends.iter().map(|(key, target)| (*key, target.parse().unwrap()));
        BackendSet::new(backends).unwrap()
    }

    #[test]
    fn lookups_that_failed_before_a_restart_have_their_end_in_the_log() {
        let (restarts, events) = (Arc::default(), Arc::new(EventLog::new("s")));
        let mut begin = restarts_counted(Arc::clone(&restarts), Arc::clone(&events));
        let log = logged(|| {
            begin();
            events.lookups_fail("SERVFAIL");
            begin();
            events.lookups_succeed();
        });
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines.len(), 2, "{log}");
        assert!(lines[0].contains("SERVFAIL") && lines[1].contains("starts over"), "{log}");
        assert_eq!(restarts.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_was_kept_is_there_again_and_anything_else_is_no_use() {
        let directory = std::env::temp_dir().join(format!("tinylb-known-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = |name: &str| {
            let place = Place::Dns(name.parse().unwrap(), DnsOptions::default());
            LastKnown { path: directory.join("known"), place }
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
        assert_eq!(other.to_string(), "they are of another source");
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
}
