use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use tinylb_core::{BackendSet, BadEntry, Update};
use tokio::{task::spawn_blocking, time::sleep};
use toml::de::DeTable;

use crate::Address;

/// A source of backends in a file: TOML with a line `KEY = "ADDRESS"` for each, as in a table of
/// `backends`. An empty file is an empty set, on purpose.
///
/// It is read again when it has changed and has then stood unchanged for 0.1 s; who writes it more
/// slowly should write another file and rename it. A file that is missing or can't be read as TOML is
/// a loss, and an entry that is no address is a [`BadEntry`].
pub struct FileSource {
    path: Arc<Path>,
}

/// Time between two looks at the file.
const INTERVAL: Duration = Duration::from_millis(100);

impl FileSource {
    /// The source of what this file says.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into() }
    }

    /// The sets and losses, an update for each change of the file, without end.
    ///
    /// It runs on the tokio runtime that polls it, whose time must be enabled. Nothing happens unless
    /// it is polled. A file system that hangs holds up this source and one of the runtime's threads
    /// for what blocks.
    pub fn updates(self) -> impl Stream<Item = Update<Address>> + Send + 'static {
        let watch = Watch { path: self.path, seen: None, told: None, has_failed: false };
        stream::unfold(watch, async |mut watch| Some((watch.next().await, watch)))
    }
}

struct Watch {
    path: Arc<Path>,
    /// What the file was at the last look.
    seen: Option<Signature>,
    /// What it was when it was last read.
    told: Option<Signature>,
    /// The last read failed, though the file was there: that may pass.
    has_failed: bool,
}

/// Device, inode, size and times of a file: what differs when it was written or replaced. Or why that
/// can't be told.
type Signature = Result<[i64; 7], String>;

impl Watch {
    async fn next(&mut self) -> Update<Address> {
        loop {
            let now = self.look(signature).await.unwrap_or_else(Err);
            let has_settled = self.told.is_none() || self.seen.as_ref() == Some(&now);
            self.seen = Some(now.clone());
            if has_settled && (self.has_failed || self.told.as_ref() != Some(&now)) {
                let read = self.look(read).await;
                // What was written meanwhile may be half of it.
                if self.look(signature).await.unwrap_or_else(Err) == now {
                    let was_there = now.is_ok();
                    let is_news = self.told.replace(now) != self.seen;
                    let failed = match read {
                        Ok(Ok(update)) => {
                            self.has_failed = false;
                            return update;
                        }
                        Ok(Err(reason)) | Err(reason) => reason,
                    };
                    // Again at the next look, but not told again.
                    let was_failing = std::mem::replace(&mut self.has_failed, was_there);
                    if is_news || !was_failing {
                        return Update::Lost(failed.into());
                    }
                }
            }
            sleep(INTERVAL).await;
        }
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, String> {
        let path = Arc::clone(&self.path);
        spawn_blocking(move || look(&path)).await.map_err(|error| error.to_string())
    }
}

fn signature(path: &Path) -> Signature {
    let file = fs::metadata(path).map_err(|error| error.to_string())?;
    let (device, inode, size) = (file.dev() as i64, file.ino() as i64, file.size() as i64);
    let (modified, changed) = (file.mtime(), file.ctime());
    Ok([device, inode, size, modified, file.mtime_nsec(), changed, file.ctime_nsec()])
}

/// What a file says.
///
/// # Errors
/// Why it can't be read.
fn read(path: &Path) -> Result<Update<Address>, String> {
    let named = |cause: String| format!("{}: {cause}", path.display());
    // Opening anything else, such as a pipe, may wait for ever.
    let is_file = fs::metadata(path).map(|file| file.is_file());
    let text = match is_file {
        Ok(true) => fs::read_to_string(path).map_err(|error| named(error.to_string()))?,
        Ok(false) => return Err(named("it is no regular file".into())),
        Err(error) => return Err(named(error.to_string())),
    };
    Ok(parse(&text).unwrap_or_else(|cause| Update::Lost(named(cause).into())))
}

/// What a file's text says.
///
/// # Errors
/// It is no TOML.
fn parse(text: &str) -> Result<Update<Address>, String> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text[..at.min(text.len())].matches('\n').count() + 1;
        format!("line {line}: {}", error.message())
    })?;
    let (mut backends, mut bad) = (Vec::new(), Vec::new());
    for (key, value) in table.get_ref().iter() {
        let key = key.get_ref().as_ref();
        let remedy = "it is no string: write KEY = \"ADDRESS\", without a table";
        let address = value.get_ref().as_str().ok_or(remedy.to_string());
        let address =
            address.and_then(|text| text.parse::<Address>().map_err(|error| error.to_string()));
        match address {
            Ok(address) if !key.is_empty() => backends.push((key, address)),
            Ok(_) => bad.push(("\"\"", "the key is empty".to_string())),
            Err(reason) => bad.push((key, reason)),
        }
    }
    let bad = bad.into_iter();
    let bad = bad.map(|(key, reason)| BadEntry { key: key.into(), reason: reason.into() });
    let set = BackendSet::new(backends).map_err(|error| error.to_string())?;
    Ok(Update::Partial(set, bad.collect()))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use tokio::time::timeout;

    use super::*;

    /// An update in words.
    fn words(update: Update<Address>) -> String {
        match update {
            Update::Set(set) => format!("{set:?}"),
            Update::Partial(set, bad) if bad.is_empty() => format!("{set:?}"),
            Update::Partial(set, bad) => format!("{set:?} without {}", bad[0]),
            Update::Lost(reason) => format!("lost: {reason}"),
        }
    }

    #[test]
    fn a_file_is_read_entry_by_entry() {
        let parsed = |text: &str| parse(text).map(words).unwrap_or_else(|error| error);
        assert_eq!(parsed("# none\n"), "{}");
        assert_eq!(parsed("b = \"[::1]:2\"\na=\"db:1\""), r#"{"a": "db:1", "b": "[::1]:2"}"#);
        assert!(parsed("a = \"db:1\"\nb = \"db\"").starts_with(r#"{"a": "db:1"} without b: "#));
        assert!(parsed("a = 5").starts_with("{} without a: it is no string"));
        assert!(parsed("[backends]\na = \"db:1\"").contains("without a table"));
        assert_eq!(parsed("\"\" = \"db:1\""), "{} without \"\": the key is empty");
        assert!(parsed("a = \"db:1\"\nb").starts_with("line 2: "));
        assert!(parsed("a = \"db:1\"\na = \"db:2\"").starts_with("line 2: "));
    }

    #[tokio::test]
    async fn each_change_of_the_file_is_told_once() {
        let directory = std::env::temp_dir().join(format!("tinylb-file-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (path, new) = (directory.join("backends"), directory.join("new"));
        let mut updates = Box::pin(FileSource::new(&path).updates());
        let mut next = async || {
            let update = timeout(Duration::from_secs(60), updates.next()).await;
            words(update.expect("an update comes").expect("the source goes on"))
        };
        assert!(next().await.contains("No such file"));
        fs::write(&path, "a = \"db:1\"").unwrap();
        assert_eq!(next().await, r#"{"a": "db:1"}"#);
        fs::write(&new, "a = \"db:2\"").unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(next().await, r#"{"a": "db:2"}"#);
        fs::write(&path, "a = ").unwrap();
        assert!(next().await.contains("line 1"));
        fs::write(&path, "a = \"db:3\"").unwrap();
        assert_eq!(next().await, r#"{"a": "db:3"}"#);
        fs::remove_file(&path).unwrap();
        assert!(next().await.contains("No such file"));
        fs::remove_dir_all(directory).unwrap();
    }
}
