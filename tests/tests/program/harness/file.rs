use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

use super::{Backend, Tinylb, binary};

/// A configuration file in a directory of its own.
pub(crate) struct ConfigFile {
    dir: TempDir,
    path: PathBuf,
}

impl ConfigFile {
    pub(crate) fn new(text: &str) -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("tinylb.toml");
        fs::write(&path, text).unwrap();
        Self { dir, path }
    }

    /// Laid out as Kubernetes mounts a config map: the file leads through a link to a directory.
    pub(crate) fn mounted(text: &str) -> Self {
        let file = Self::new("");
        fs::remove_file(&file.path).unwrap();
        file.mount(text);
        symlink("..data/tinylb.toml", &file.path).unwrap();
        file
    }

    /// A new directory takes the place of the one that the link led to.
    pub(crate) fn mount(&self, text: &str) {
        let data = self.in_dir("..data");
        let before = fs::read_link(&data).ok();
        let name = before.as_ref().map_or("..", |name| name.to_str().unwrap());
        let next = self.in_dir(format!("{name}x"));
        fs::create_dir(&next).unwrap();
        fs::write(next.join("tinylb.toml"), text).unwrap();
        symlink(next.file_name().unwrap(), self.in_dir("..data_tmp")).unwrap();
        fs::rename(self.in_dir("..data_tmp"), &data).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(self.in_dir(before)).unwrap();
        }
    }

    /// Changes the file in place.
    pub(crate) fn edit(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// Puts another file in its place.
    pub(crate) fn replace(&self, text: &str) {
        let new = self.in_dir("new");
        fs::write(&new, text).unwrap();
        fs::rename(new, &self.path).unwrap();
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the same directory.
    pub(crate) fn in_dir(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `tinylb run --config` with this file.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(binary());
        command.arg("run").arg("--config").arg(&self.path);
        command
    }

    pub(crate) fn run(&self) -> Tinylb {
        self.run_with(&[])
    }

    pub(crate) fn run_with(&self, more: &[&str]) -> Tinylb {
        let mut command = self.command();
        command.args(more);
        Tinylb::start(command)
    }
}

/// A service as it stands in a file. The rotation begins with its first backend.
pub(crate) fn service<'a>(
    name: &str,
    listen: &str,
    backends: impl IntoIterator<Item = &'a Backend>,
    settings: &str,
) -> String {
    let listen: Vec<String> = listen.split(' ').map(|address| format!("{address:?}")).collect();
    let backends: Vec<String> =
        backends.into_iter().map(|b| format!("{} = {:?}", b.key, b.address)).collect();
    format!(
        "[services.{name}]\nlisten = [{}]\nbackends = {{ {} }}\nstart = 0\n{settings}\n",
        listen.join(", "),
        backends.join(", ")
    )
}
