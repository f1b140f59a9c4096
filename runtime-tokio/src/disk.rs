use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, Metadata, OpenOptions},
    hash::{BuildHasher, RandomState},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Component, Path, PathBuf},
};

/// Reads a file of at most this many bytes. Safe for a path from a configuration.
///
/// It must be a regular file: a pipe might never be opened, and a device never end. Links are
/// followed, except those that another user has put in a directory where anybody can write (much
/// like Linux's `fs.protected_symlinks`).
///
/// It blocks as long as the file system does; see [`run_blocking`](crate::run_blocking).
///
/// # Errors
/// The system's; or [`InvalidInput`](io::ErrorKind::InvalidInput): it isn't a regular file,
/// [`FileTooLarge`](io::ErrorKind::FileTooLarge), [`PermissionDenied`](io::ErrorKind::PermissionDenied):
/// such a link.
pub fn read_file(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let path = resolve(path)?;
    // For some devices, opening alone has side effects.
    regular(&fs::symlink_metadata(&path)?)?;
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Another file may have taken its place meanwhile.
    let metadata = file.metadata()?;
    regular(&metadata)?;
    let mut bytes = Vec::new();
    // A file that is known to be too large isn't read. One may also grow meanwhile, or not know its
    // size.
    if metadata.len() <= bytes_max {
        file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    }
    if metadata.len().max(bytes.len() as u64) > bytes_max {
        let cause = format!("it is larger than {}", size(bytes_max));
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, cause));
    }
    Ok(bytes)
}

/// What differs when a file is written or replaced: device, inode, size and times. It tells one
/// content of a file from another without reading it.
///
/// Read a file between two looks at its signature. If they differ, it was being written meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileSignature {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileSignature {
    /// The file's signature now. Links are followed, so a link that leads elsewhere changes it, at
    /// any step of the way.
    ///
    /// It blocks as long as the file system does; see [`run_blocking`](crate::run_blocking).
    ///
    /// # Errors
    /// The system's.
    pub fn of(path: &Path) -> io::Result<Self> {
        let file = fs::metadata(path)?;
        Ok(Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// Replaces a file, or creates it, in one step: any reader, also after a crash, finds the old file
/// or the new one. Only its owner may read the new one.
///
/// Follows the links that [`read_file`] follows, and replaces what they point to.
///
/// # Errors
/// As [`read_file`]'s. The file is then unchanged, unless only writing the directory to disk
/// failed.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let path = resolve_to_change(path)?;
    let directory = parent(&path);
    let next = directory.join(format!(".tinylb-{:016x}", RandomState::new().hash_one(())));
    // An existing file is never opened, and no link followed.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| fs::rename(&next, &path)) {
        let _ = fs::remove_file(&next);
        return Err(error);
    }
    File::open(directory)?.sync_all()
}

/// Removes the file that [`replace_file`] would replace. It is no error if there is none.
///
/// # Errors
/// As [`replace_file`]'s.
pub fn remove_file(path: &Path) -> io::Result<()> {
    let path = resolve_to_change(path)?;
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.and_then(|()| File::open(parent(&path))?.sync_all()),
    }
}

/// The most links that one path may lead through.
const LINKS_MAX: usize = 40;

/// The path with all links resolved.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    let parts = |path: &Path| -> Vec<OsString> {
        path.components().rev().map(|part| part.as_os_str().into()).collect()
    };
    let (mut left, mut done, mut links) = (parts(path), PathBuf::new(), 0);
    while let Some(part) = left.pop() {
        // A root among the parts restarts the path.
        let next = done.join(&part);
        let is_name = matches!(Path::new(&part).components().next(), Some(Component::Normal(_)));
        if !is_name || !fs::symlink_metadata(&next)?.is_symlink() {
            done = next;
            continue;
        }
        links += 1;
        if links > LINKS_MAX {
            return Err(io::Error::other(format!("more than {LINKS_MAX} links in a row")));
        }
        trusted(&next, &fs::symlink_metadata(or_here(&done))?)?;
        left.extend(parts(&fs::read_link(&next)?));
    }
    Ok(done)
}

/// Whether a link may be followed.
fn trusted(link: &Path, directory: &Metadata) -> io::Result<()> {
    let owner = fs::symlink_metadata(link)?.uid();
    let own = rustix::process::geteuid().as_raw();
    if is_trusted(owner, own, directory.uid(), directory.mode()) {
        return Ok(());
    }
    let link = link.display();
    let cause = format!(
        "{link} is another user's link in a directory where anybody can write: give the path that \
         it points to"
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, cause))
}

/// The decision of [`trusted`], by the users who own the link, this process and the directory, and
/// by the directory's mode. (A Kubernetes config map consists of root's links in a root-owned
/// directory where anybody can write.)
fn is_trusted(link: u32, own: u32, directory: u32, mode: u32) -> bool {
    const ANYBODY_WRITES: u32 = 0o002;
    const ROOT: u32 = 0;
    mode & ANYBODY_WRITES == 0 || [own, directory, ROOT].contains(&link)
}

/// The path, with links resolved, of a file that exists or is about to be created.
fn resolve_to_change(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let no_name = || io::Error::new(io::ErrorKind::InvalidInput, "it doesn't name a file");
            let name = path.file_name().ok_or_else(no_name)?;
            Ok(resolve(parent(path))?.join(name))
        }
        Err(error) => Err(error),
        Ok(_) => {
            let path = resolve(path)?;
            regular(&fs::symlink_metadata(&path)?)?;
            Ok(path)
        }
    }
}

fn regular(file: &Metadata) -> io::Result<()> {
    match file.is_file() {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it isn't a regular file")),
    }
}

fn parent(path: &Path) -> &Path {
    or_here(path.parent().unwrap_or(Path::new("")))
}

fn or_here(path: &Path) -> &Path {
    if path.as_os_str() == OsStr::new("") { Path::new(".") } else { path }
}

fn size(bytes: u64) -> String {
    match (bytes >> 30, bytes >> 20, bytes >> 10) {
        (gib @ 1.., ..) => format!("{gib} GiB"),
        (_, mib @ 1.., _) => format!("{mib} MiB"),
        (.., kib) => format!("{kib} KiB"),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A directory of its own for a test, removed in the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str, mode: u32) -> Self {
            let path = std::env::temp_dir().join(format!("tinylb-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Self(path)
        }

        fn of(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }

        fn names(&self) -> Vec<OsString> {
            let mut names: Vec<_> =
                fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            names
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn fifo(path: &Path) {
        let status = std::process::Command::new("mkfifo").arg(path).status().unwrap();
        assert!(status.success());
    }

    #[test]
    fn what_is_no_regular_file_is_neither_read_nor_replaced_nor_removed() {
        let scratch = Scratch::new("regular", 0o755);
        let [pipe, device, directory] = ["pipe", "device", "directory"].map(|n| scratch.of(n));
        fifo(&pipe);
        symlink("/dev/zero", &device).unwrap();
        fs::create_dir(&directory).unwrap();
        for path in [&pipe, &device, &directory] {
            let kinds = [
                read_file(path, 1 << 30).unwrap_err().kind(),
                replace_file(path, b"x").unwrap_err().kind(),
                remove_file(path).unwrap_err().kind(),
            ];
            assert_eq!(kinds, [io::ErrorKind::InvalidInput; 3], "{}", path.display());
        }
        assert_eq!(scratch.names(), ["device", "directory", "pipe"]);
    }

    #[test]
    fn a_file_is_read_up_to_a_size() {
        let scratch = Scratch::new("size", 0o755);
        let path = scratch.of("file");
        fs::write(&path, vec![b'x'; 2048]).unwrap();
        assert_eq!(read_file(&path, 2048).unwrap().len(), 2048);
        let error = read_file(&path, 2047).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(error.to_string(), "it is larger than 1 KiB");
        // More than there is memory for: it would be read for hours.
        let vast = scratch.of("vast");
        fs::File::create(&vast).unwrap().set_len(1 << 43).unwrap();
        let error = read_file(&vast, 1 << 42).unwrap_err();
        assert_eq!(error.to_string(), "it is larger than 4096 GiB");
        assert_eq!(read_file(&scratch.of("none"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_link_is_followed_unless_somebody_else_might_have_put_it_there() {
        let scratch = Scratch::new("links", 0o755);
        fs::create_dir(scratch.of("real")).unwrap();
        fs::write(scratch.of("real/file"), "1").unwrap();
        symlink("real", scratch.of("directory")).unwrap();
        symlink(scratch.of("directory/file"), scratch.of("link")).unwrap();
        symlink("circle", scratch.of("circle")).unwrap();
        let read = |name: &str| read_file(&scratch.of(name), 10);
        for name in ["link", "directory/file", "real/../directory/./file", "real/../link"] {
            assert_eq!(read(name).unwrap(), b"1", "{name}");
        }
        assert!(read("circle").unwrap_err().to_string().contains("40 links"));
        replace_file(&scratch.of("link"), b"2").unwrap();
        assert_eq!(fs::read(scratch.of("real/file")).unwrap(), b"2");
        assert!(fs::symlink_metadata(scratch.of("link")).unwrap().is_symlink());
        remove_file(&scratch.of("link")).unwrap();
        assert!(!scratch.of("real/file").exists());

        let open = Scratch::new("open", 0o1777);
        fs::write(open.of("file"), "1").unwrap();
        symlink("file", open.of("link")).unwrap();
        assert_eq!(read_file(&open.of("link"), 10).unwrap(), b"1", "it is one's own");
        if rustix::process::geteuid().is_root() {
            std::os::unix::fs::lchown(open.of("link"), Some(12_345), None).unwrap();
            let error = read_file(&open.of("link"), 10).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
            assert!(error.to_string().contains("give the path that it points to"), "{error}");
            assert!(replace_file(&open.of("link"), b"2").is_err());
            assert_eq!(read_file(&open.of("file"), 10).unwrap(), b"1");
        }
    }

    #[test]
    fn whose_link_it_is_matters_where_anybody_can_write() {
        let (own, directory, other) = (1, 2, 3);
        for mode in [0o777, 0o1777] {
            for trusted in [0, own, directory] {
                assert!(is_trusted(trusted, own, directory, mode));
            }
            assert!(!is_trusted(other, own, directory, mode));
        }
        assert!(is_trusted(other, own, directory, 0o775));
    }

    #[test]
    fn a_file_is_replaced_in_one_step_and_nothing_is_left_beside_it() {
        let scratch = Scratch::new("replace", 0o755);
        let path = scratch.of("file");
        // The old name of what is written before it is renamed: somebody's link.
        fs::write(scratch.of("precious"), "kept").unwrap();
        symlink("precious", scratch.of("file.new")).unwrap();
        for bytes in [&b"one"[..], b"two", b""] {
            replace_file(&path, bytes).unwrap();
            assert_eq!(fs::read(&path).unwrap(), bytes);
        }
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read(scratch.of("precious")).unwrap(), b"kept");
        for _ in 0..2 {
            remove_file(&path).unwrap();
        }
        assert_eq!(scratch.names(), ["file.new", "precious"]);
        assert!(replace_file(&scratch.of("none/file"), b"").is_err());
        assert!(replace_file(Path::new("/"), b"").is_err());
    }
}
