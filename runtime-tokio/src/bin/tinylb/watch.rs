use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::sync::mpsc;

/// How often a file is looked at. A change is told once it has stood for this long, so that a file
/// isn't read while an editor still writes it.
const INTERVAL: Duration = Duration::from_millis(200);

/// What tells one content of a file from another without reading it. Links are followed, so that
/// a link that is pointed elsewhere counts, at any step of the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Signature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The file's signature now.
///
/// # Errors
/// The system's: it is missing or can't be looked at.
pub(crate) fn signature(path: &Path) -> io::Result<Signature> {
    let file = fs::metadata(path)?;
    Ok(Signature {
        device: file.dev(),
        inode: file.ino(),
        size: file.size(),
        modified: (file.mtime(), file.mtime_nsec()),
        changed: (file.ctime(), file.ctime_nsec()),
    })
}

/// Tells of each change of a file, on a thread of its own, until nobody listens. `read` is what
/// the file was when it was last read.
///
/// # Errors
/// The system has no thread for it.
pub(crate) fn changes(path: PathBuf, read: Option<Signature>) -> io::Result<mpsc::Receiver<()>> {
    let (changed, changes) = mpsc::channel(1);
    thread::Builder::new().name("watch".into()).spawn(move || {
        let (mut told, mut seen) = (read, read);
        while !changed.is_closed() {
            thread::sleep(INTERVAL);
            let now = signature(&path).ok();
            if now != seen {
                seen = now;
            } else if now != told && changed.blocking_send(()).is_ok() {
                told = now;
            }
        }
    })?;
    Ok(changes)
}
