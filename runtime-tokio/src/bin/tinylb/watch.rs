use std::{io, path::PathBuf, thread, time::Duration};

use tinylb_tokio::FileSignature;
use tokio::sync::mpsc;

/// How often the file is looked at. A change is reported once it has stood for this long, so that
/// the file isn't read while an editor still writes it.
const INTERVAL: Duration = Duration::from_millis(200);

/// Reports each change of a file, from a thread of its own, until the receiver is dropped. `read` is
/// what the file was when it was last read.
///
/// # Errors
/// The system has no thread for it.
pub(crate) fn changes(
    path: PathBuf,
    read: Option<FileSignature>,
) -> io::Result<mpsc::Receiver<()>> {
    let (changed, changes) = mpsc::channel(1);
    thread::Builder::new().name("watch".into()).spawn(move || {
        let (mut reported, mut seen) = (read, read);
        while !changed.is_closed() {
            thread::sleep(INTERVAL);
            let now = FileSignature::of(&path).ok();
            if now != seen {
                seen = now;
            } else if now != reported && changed.blocking_send(()).is_ok() {
                reported = now;
            }
        }
    })?;
    Ok(changes)
}
