use std::{
    fmt,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{
    FutureExt, StreamExt,
    stream::{self, BoxStream},
};
use serde_json::{Map, Value, json};
use tinylb_core::{BackendSet, Following, Handle, Update};
use tinylb_tokio::{Address, DnsSource, FileSource};
use tokio::{
    sync::Notify,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};
use tracing::warn;

use crate::config::{Followed, Place};

/// A source that a service follows; until this is dropped.
pub(crate) struct Source {
    following: Following,
    keeping: Option<JoinHandle<()>>,
}

impl Source {
    /// Follows a source. `replaced` tells that a set has been taken.
    ///
    /// # Errors
    /// A setting is out of its range.
    pub(crate) fn follow(
        service: &str,
        followed: &Followed,
        handle: &Handle<Address>,
        replaced: &Arc<Notify>,
    ) -> Result<Self, String> {
        let in_service = |error: &dyn fmt::Display| format!("service {service}: {error}");
        let updates = updates(&followed.place).map_err(|error| in_service(&error))?;
        let place = followed.place.clone();
        let file = followed.last_known.clone().map(|path| LastKnown { path, place });
        let is_first = handle.snapshot().set.is_none();
        let known = file.as_ref().filter(|_| is_first).and_then(|file| file.load(service));
        let lost = match known {
            Some(set) => {
                drop(handle.replace(set).map_err(|error| in_service(&error))?);
                let path = file.as_ref().map_or(Path::new(""), |file| &file.path).display();
                let lost = format!("no answer yet; these are the backends last known, from {path}");
                Some(Update::Lost(lost.into()))
            }
            None => None,
        };
        let following = handle
            .follow_with(stream::iter(lost).chain(updates), followed.settings.clone())
            .map_err(|error| in_service(&error))?;
        // Of the source before, if there was one.
        let _ = replaced.notified().now_or_never();
        let keep = |file| keep(file, service.to_string(), handle.clone(), Arc::clone(replaced));
        Ok(Self { following, keeping: file.map(|file| tokio::spawn(keep(file))) })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.following.stop();
        if let Some(keeping) = &self.keeping {
            keeping.abort();
        }
    }
}

fn updates(place: &Place) -> Result<BoxStream<'static, Update<Address>>, String> {
    Ok(match place {
        Place::Dns(name, options) => {
            DnsSource::new(name.clone()).with_options(options.clone()).updates().boxed()
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(etcd) => {
            let source = tinylb_tokio::EtcdSource::new(etcd.options()?);
            source.map_err(|error| error.to_string())?.updates().boxed()
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(_) => return Err(crate::config::WITHOUT_ETCD.into()),
        Place::File(path) => FileSource::new(path).updates().boxed(),
    })
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

/// Keeps each set that is taken, but for those of a time when the source is lost. If the set was
/// given up then, nothing is kept: a start would serve it for as long again.
async fn keep(file: LastKnown, service: String, handle: Handle<Address>, replaced: Arc<Notify>) {
    let file = Arc::new(file);
    loop {
        replaced.notified().await;
        let snapshot = handle.snapshot();
        let Some(set) = snapshot.set else { continue };
        let is_lost = snapshot.source_lost.is_some();
        if is_lost && !set.is_empty() {
            continue;
        }
        let (writer, path) = (Arc::clone(&file), file.path.display());
        let keep = move || if is_lost { writer.remove() } else { writer.write(&set) };
        if let Ok(Err(error)) = spawn_blocking(keep).await {
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
    /// What the file says. Its damage is a warning.
    fn load(&self, service: &str) -> Option<BackendSet<Address>> {
        match self.read() {
            Ok(set) => Some(set),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let path = self.path.display();
                warn!(service, "the last known backends in {path} are no use: {error}");
                None
            }
        }
    }

    fn read(&self) -> io::Result<BackendSet<Address>> {
        let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_string());
        let text: Value = serde_json::from_slice(&fs::read(&self.path)?)?;
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

    /// Replaces the file in one step, so that a crash leaves the one before.
    fn write(&self, set: &BackendSet<Address>) -> io::Result<()> {
        let backends = set.iter().map(|(key, target)| (key.to_string(), target.to_string().into()));
        let backends: Map<String, Value> = backends.collect();
        let mut next = self.path.clone().into_os_string();
        next.push(".new");
        let next = PathBuf::from(next);
        let mut file = File::create(&next)?;
        writeln!(file, "{}", json!({ "source": self.place.to_string(), "backends": backends }))?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        self.sync_directory()
    }

    /// Removes the file, if there is one.
    fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed.and_then(|()| self.sync_directory()),
        }
    }

    fn sync_directory(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use tinylb_tokio::DnsOptions;

    use super::*;

    fn set(backends: &[(&str, &str)]) -> BackendSet<Address> {
        let backends = backends.iter().map(|(key, target)| (*key, target.parse().unwrap()));
        BackendSet::new(backends).unwrap()
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
            kept.remove().unwrap();
            assert_eq!(kept.read().unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        kept.write(&set(&[])).unwrap();
        let other = file("b:1").read().unwrap_err();
        assert_eq!(other.to_string(), "they are of another source");
        for damaged in ["", "{", "[]", r#"{"source":"dns a:1"}"#] {
            fs::write(directory.join("known"), damaged).unwrap();
            assert!(kept.read().is_err(), "{damaged}");
            assert!(kept.load("s").is_none(), "{damaged}");
        }
        for target in ["5", r#""x""#] {
            let damaged = format!(r#"{{"source":"dns a:1","backends":{{"a":{target}}}}}"#);
            fs::write(directory.join("known"), damaged).unwrap();
            assert!(kept.read().is_err(), "{target}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
