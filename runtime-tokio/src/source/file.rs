use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, stream};
use tinylb_core::{BackendSet, BadEntry, Update};
use tokio::time::sleep;
use toml::de::DeTable;

use crate::{Address, FileSignature, read_file, run_blocking};

/// A source of backends in a file: TOML with a line `KEY = "ADDRESS"` for each, as in a table of
/// `backends`. The line `backends = {}`, and no other, says that there are none.
///
/// A file that is missing, can't be read as TOML, or has no entry is a loss, since a writer that
/// failed may have left it so. For the same reason, a file that lacks a key which it had before
/// must end with a newline. (A file that was cut off between two lines looks like a whole one.) An
/// entry that is no address is a [`BadEntry`].
///
/// The file is read again when it has changed and has then been unchanged for 0.1 s. If your writer
/// may pause for longer, or may fail halfway, write another file and rename it. Then no partial
/// file is ever read. A file of more than 128 MiB isn't read, which is a loss.
#[derive(Clone)]
pub struct FileSource {
    path: Arc<Path>,
}

/// The largest file that is read, in bytes: room for a million backends, with 134 bytes for each.
const FILE_BYTES_MAX: u64 = 128 << 20;

/// Time between two looks at the file.
const INTERVAL: Duration = Duration::from_millis(100);

impl FileSource {
    /// The source of what this file says.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into().into() }
    }

    /// The sets and losses, an update for each change of the file, without end.
    ///
    /// It runs on the tokio runtime that polls it, whose time must be enabled. Nothing happens
    /// unless it is polled. A file system that hangs holds up this source and a thread of
    /// [`run_blocking`](crate::run_blocking). If no thread can be started, that is a loss.
    pub fn updates(self) -> impl Stream<Item = Update<Address>> + Send + 'static {
        stream::unfold(watch(self.path), async |mut watch| Some((watch.next().await, watch)))
    }
}

fn watch(path: Arc<Path>) -> Watch {
    Watch { path, seen: None, read: None, keys: BTreeSet::new(), has_failed: false }
}

struct Watch {
    path: Arc<Path>,
    /// What the file was at the last look.
    seen: Option<Signature>,
    /// What it was when it was last read.
    read: Option<Signature>,
    /// The keys that it had then, including those of bad entries.
    keys: BTreeSet<Arc<str>>,
    /// The last read failed, though the file was there: that may pass.
    has_failed: bool,
}

/// The file's signature, or why it can't be looked at.
type Signature = Result<FileSignature, String>;

impl Watch {
    async fn next(&mut self) -> Update<Address> {
        loop {
            let now = self.look(signature).await.unwrap_or_else(Err);
            let has_settled = self.read.is_none() || self.seen.as_ref() == Some(&now);
            self.seen = Some(now.clone());
            if has_settled && (self.has_failed || self.read.as_ref() != Some(&now)) {
                let read = self.look(read).await;
                // What was written meanwhile may be half of it.
                if self.look(signature).await.unwrap_or_else(Err) == now {
                    let was_there = now.is_ok();
                    let is_news = self.read.replace(now) != self.seen;
                    let failed = match read {
                        Ok(Ok(text)) => {
                            self.has_failed = false;
                            return self.understand(&text);
                        }
                        Ok(Err(reason)) | Err(reason) => reason,
                    };
                    // It is read again at the next look, but the loss isn't reported again.
                    let was_failing = std::mem::replace(&mut self.has_failed, was_there);
                    if is_news || !was_failing {
                        return Update::Lost(failed.into());
                    }
                }
            }
            sleep(INTERVAL).await;
        }
    }

    /// The update that the file's text means.
    fn understand(&mut self, text: &str) -> Update<Address> {
        let lost = |cause: String| format!("{}: {cause}", self.path.display());
        let (set, bad) = match parse(text) {
            Ok(parsed) => parsed,
            Err(cause) => return Update::Lost(lost(cause).into()),
        };
        let keys: BTreeSet<Arc<str>> = set
            .iter()
            .map(|(key, _)| key.as_str().into())
            .chain(bad.iter().map(|entry| Arc::clone(&entry.key)))
            .collect();
        if let Some(gone) = self.keys.difference(&keys).next()
            && !text.ends_with('\n')
        {
            let cause = format!(
                "it lacks {gone}, which it had before, and may have been cut off: end its last line \
                 with a newline if it is complete"
            );
            return Update::Lost(lost(cause).into());
        }
        self.keys = keys;
        Update::Partial(set, bad)
    }

    async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<T, String> {
        let path = Arc::clone(&self.path);
        run_blocking(move || look(&path)).await.map_err(|error| error.to_string())
    }
}

fn signature(path: &Path) -> Signature {
    FileSignature::of(path).map_err(|error| error.to_string())
}

/// The text of a file.
///
/// # Errors
/// Why it can't be read.
fn read(path: &Path) -> Result<String, String> {
    let named = |cause: String| format!("{}: {cause}", path.display());
    let bytes = read_file(path, FILE_BYTES_MAX).map_err(|error| named(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| named("it is not UTF-8: save it as UTF-8".into()))
}

const NONE_REMEDY: &str = "write `backends = {}` if there should be none";

/// The backends in a file's text, and its bad entries.
///
/// # Errors
/// It is not TOML, or has no entry.
fn parse(text: &str) -> Result<(BackendSet<Address>, Arc<[BadEntry]>), String> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text[..at.min(text.len())].matches('\n').count() + 1;
        format!("line {line}: {}", error.message())
    })?;
    let table = table.get_ref();
    if table.is_empty() {
        return Err(format!("it has no entry: {NONE_REMEDY}"));
    }
    let (mut backends, mut bad) = (Vec::new(), Vec::new());
    for (key, value) in table.iter() {
        // Only in this form, as in the configuration: a table's header might have lost its lines.
        let is_none = value.get_ref().as_table().is_some_and(DeTable::is_empty)
            && text.get(value.span()).is_some_and(|text| text.starts_with('{'));
        let key = key.get_ref().as_ref();
        if key == "backends" && is_none {
            if table.len() > 1 {
                bad.push((
                    key,
                    "it says that there are none, but there are others: remove it".into(),
                ));
            }
            continue;
        }
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
    Ok((set, bad.collect()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs};

    use futures::StreamExt;
    use tokio::time::timeout;

    use super::*;

    fn shown(set: &BackendSet<Address>) -> String {
        let backends: BTreeMap<_, _> =
            set.iter().map(|(key, address)| (key, address.to_string())).collect();
        format!("{backends:?}")
    }

    /// An update in words.
    fn words(update: Update<Address>) -> String {
        match update {
            Update::Set(set) => shown(&set),
            Update::Partial(set, bad) if bad.is_empty() => shown(&set),
            Update::Partial(set, bad) => format!("{} without {}", shown(&set), bad[0]),
            Update::Lost(reason) => format!("lost: {reason}"),
            Update::Narrowed(_) => unreachable!("nothing is checked here"),
        }
    }

    #[test]
    fn a_file_is_read_entry_by_entry() {
        let parsed = |text: &str| {
            parse(text).map_or_else(|error| error, |(set, bad)| words(Update::Partial(set, bad)))
        };
        assert_eq!(parsed("b = \"[::1]:2\"\na=\"db:1\""), r#"{"a": "db:1", "b": "[::1]:2"}"#);
        assert!(parsed("a = \"db:1\"\nb = \"db\"").starts_with(r#"{"a": "db:1"} without b: "#));
        assert!(parsed("a = 5").starts_with("{} without a: it is no string"));
        assert!(parsed("[backends]\na = \"db:1\"").contains("without a table"));
        assert_eq!(parsed("\"\" = \"db:1\""), "{} without \"\": the key is empty");
        assert!(parsed("a = \"db:1\"\nb").starts_with("line 2: "));
        assert!(parsed("a = \"db:1\"\na = \"db:2\"").starts_with("line 2: "));
    }

    #[test]
    fn a_file_that_says_nothing_is_no_empty_set() {
        let said = |text: &str| {
            let mut watch = watch(Path::new("backends.toml").into());
            words(watch.understand(text))
        };
        for on_purpose in ["backends = {}\n", "# none today\nbackends={ }"] {
            assert_eq!(said(on_purpose), "{}", "{on_purpose}");
        }
        for nothing in ["", "\n", " \r\n\t", "# a = \"db:1\"\n"] {
            let lost = said(nothing);
            assert!(lost.starts_with("lost: backends.toml: it has no entry"), "{nothing}: {lost}");
            assert!(lost.contains("write `backends = {}`"), "{nothing}: {lost}");
        }
        // Its lines may be missing.
        assert!(said("[backends]\n").starts_with("{} without backends: "));
        let both = said("a = \"db:1\"\nbackends = {}\n");
        assert!(both.starts_with(r#"{"a": "db:1"} without backends: it says that"#), "{both}");
        assert_eq!(said("backends = \"db:1\""), r#"{"backends": "db:1"}"#, "a key like others");
    }

    #[test]
    fn a_file_that_was_cut_off_is_no_smaller_set_where_that_shows() {
        let whole = "a = \"db:1\"\nb = \"db:2\"\nc = \"db:3\"\n";
        let mut watch = watch(Path::new("backends.toml").into());
        let all = words(watch.understand(whole));
        let mut smaller = Vec::new();
        for end in 0..whole.len() {
            let said = words(watch.understand(&whole[..end]));
            if !said.starts_with("lost: ") && said != all {
                smaller.push(end);
            }
            assert_eq!(words(watch.understand(whole)), all);
        }
        assert_eq!(smaller, [11, 22], "only between two lines nothing shows");
        let short = "a = \"db:1\"";
        assert!(words(watch.understand(short)).contains("it lacks b, which it had before"));
        assert_eq!(words(watch.understand(&format!("{short}\n"))), r#"{"a": "db:1"}"#);
        // What removes nothing may end as it likes.
        assert_eq!(words(watch.understand("a = \"db:9\"")), r#"{"a": "db:9"}"#);
    }

    #[test]
    fn a_file_that_is_too_large_to_be_meant_is_not_read() {
        let path = std::env::temp_dir().join(format!("tinylb-large-{}", std::process::id()));
        let file = fs::File::create(&path).unwrap();
        file.set_len(FILE_BYTES_MAX).unwrap();
        assert!(read(&path).is_ok());
        file.set_len(FILE_BYTES_MAX + 1).unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.ends_with(": it is larger than 128 MiB"), "{error}");
        fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn each_change_of_the_file_is_reported_once() {
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
