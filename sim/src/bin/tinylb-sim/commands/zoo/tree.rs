use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::Arc,
};

use super::bug::Bug;
use crate::output::Failure;

/// A copy of the sources to plant bugs in, with builds of its own. It stays where it is from one run
/// to the next, below the directory of builds, so that only what a bug changes is built.
pub(super) struct Tree {
    /// Where all trees are.
    trees: PathBuf,
    dir: PathBuf,
    target: PathBuf,
    pub(super) program: PathBuf,
    /// What every file holds while no bug is planted, by its path below `dir`.
    clean: Arc<BTreeMap<PathBuf, Vec<u8>>>,
}

/// What is copied: directories as a whole.
const COPIED: [&str; 4] = ["core/benches", "core/src", "sim/benches", "sim/src"];
const COPIED_FILES: [&str; 3] = ["Cargo.lock", "core/Cargo.toml", "sim/Cargo.toml"];

impl Tree {
    pub(super) fn new(root: &Path) -> Result<Self, Failure> {
        let wrong = |error: io::Error| {
            let message = format!("the sources in {} can't be copied: {error}", root.display());
            Failure::Usage(format!("{message}; say with --root where they are"))
        };
        let clean = Arc::new(read_clean(root).map_err(wrong)?);
        let builds =
            env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
        let trees = std::path::absolute(builds.join("zoo")).map_err(wrong)?;
        let tree = Self::at(trees, "", clean);
        tree.restore()?;
        Ok(tree)
    }

    fn at(trees: PathBuf, suffix: &str, clean: Arc<BTreeMap<PathBuf, Vec<u8>>>) -> Self {
        let (dir, target) =
            (trees.join(format!("tree{suffix}")), trees.join(format!("target{suffix}")));
        let program = target.join("debug/tinylb-sim");
        Self { trees, dir, target, program, clean }
    }

    /// The tree of this number beside the first one, which has been built. Its builds begin with
    /// copies of the first one's, so that no dependency is built twice.
    pub(super) fn beside(&self, number: usize) -> Result<Self, Failure> {
        let tree = Self::at(self.trees.clone(), &format!("-{number}"), Arc::clone(&self.clean));
        tree.restore()?;
        if !tree.target.exists() {
            // A copy that was cut off would pass for a whole one.
            let partial = self.trees.join(format!("target-{number}.partial"));
            copy(&self.target, &partial, &tree.target).map_err(Failure::Error)?;
        }
        Ok(tree)
    }

    /// Takes the planted bug out.
    pub(super) fn restore(&self) -> Result<(), Failure> {
        self.write_clean().map_err(|error| {
            Failure::Error(format!("{} can't be written: {error}", self.dir.display()))
        })
    }

    /// Writes no file that is right as it is, since that would have it built again.
    fn write_clean(&self) -> io::Result<()> {
        for directory in COPIED {
            for path in files_below(&self.dir, Path::new(directory)).unwrap_or_default() {
                if !self.clean.contains_key(&path) {
                    fs::remove_file(self.dir.join(path))?;
                }
            }
        }
        for (path, content) in &*self.clean {
            let path = self.dir.join(path);
            if fs::read(&path).is_ok_and(|now| now == *content) {
                continue;
            }
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(path, content)?;
        }
        Ok(())
    }

    /// Puts these bugs in, in place of those before.
    pub(super) fn plant<'a>(&self, bugs: impl IntoIterator<Item = &'a Bug>) -> Result<(), String> {
        self.write_clean().map_err(|error| error.to_string())?;
        bugs.into_iter().try_for_each(|bug| self.apply(bug))
    }

    fn apply(&self, bug: &Bug) -> Result<(), String> {
        let patch = File::open(&bug.path).map_err(|error| error.to_string())?;
        let mut command = Command::new("patch");
        command.args(["--quiet", "--strip=1", "--forward", "--no-backup-if-mismatch"]);
        command.current_dir(&self.dir).stdin(patch);
        let output = run(&mut command)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Err(format!("the patch {} does not apply: {said}", bug.name))
    }

    /// Builds this program as it is in the copy.
    pub(super) fn build(&self) -> Result<(), String> {
        let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--quiet", "--package", "tinylb-sim", "--bin", "tinylb-sim"]);
        command.current_dir(&self.dir).stdin(Stdio::null());
        command.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1");
        // A build takes longer than the runs that find its bug. Dependencies are built once.
        command.env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
        command.args(["--config", "profile.dev.package.'*'.opt-level=1"]);
        command.env("CARGO_PROFILE_DEV_DEBUG", "0").env_remove("RUSTFLAGS");
        let output = run(&mut command)?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("it does not build:\n{}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Copies a directory to `partial`, and names it `to` once it is whole. Times are kept: a build
/// compares them.
fn copy(from: &Path, partial: &Path, to: &Path) -> Result<(), String> {
    let wrong = |error: io::Error| format!("{} can't be written: {error}", partial.display());
    if partial.exists() {
        fs::remove_dir_all(partial).map_err(wrong)?;
    }
    let output = run(Command::new("cp").args(["-R", "-p"]).arg(from).arg(partial))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    fs::rename(partial, to).map_err(wrong)
}

fn run(command: &mut Command) -> Result<Output, String> {
    command.output().map_err(|error| {
        let program = command.get_program().to_string_lossy();
        format!("{program} can't be run: {error}; it has to be installed")
    })
}

fn read_clean(root: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut clean = BTreeMap::new();
    let workspace = fs::read_to_string(root.join("Cargo.toml"))?;
    let members = |line: &str| match line.starts_with("members = ") {
        true => "members = [\"core\", \"sim\"]\n".to_owned(),
        false => format!("{line}\n"),
    };
    let workspace: String = workspace.lines().map(members).collect();
    clean.insert("Cargo.toml".into(), workspace.into_bytes());
    for file in COPIED_FILES {
        clean.insert(file.into(), fs::read(root.join(file))?);
    }
    for directory in COPIED {
        for path in files_below(root, Path::new(directory))? {
            let content = fs::read(root.join(&path))?;
            clean.insert(path, content);
        }
    }
    Ok(clean)
}

/// The paths, below `root`, of all files in a directory below it.
fn files_below(root: &Path, directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(root.join(directory))? {
        let entry = entry?;
        let path = directory.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => files.extend(files_below(root, &path)?),
            false => files.push(path),
        }
    }
    Ok(files)
}
