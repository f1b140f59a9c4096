use std::{
    fs,
    io::{Write, stderr},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::process::geteuid;

/// What a cluster consists of, as Debian installs it.
pub(crate) struct Programs {
    /// Where PostgreSQL's own programs are.
    postgres: PathBuf,
    /// Who runs them. `None`: whoever runs the tests.
    user: Option<(u32, u32)>,
}

/// In the order of their versions.
const POSTGRES: &str = "/usr/lib/postgresql";

impl Programs {
    /// `None`: one of them isn't installed, which was then printed.
    pub(crate) fn find() -> Option<Self> {
        for (program, package) in
            [("etcd", "etcd-server"), ("patroni", "patroni"), ("setpriv", "util-linux")]
        {
            let version = Command::new(program)
                .arg("--version")
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if version.is_err() {
                return skip(&format!(
                    "{program} isn't installed (Debian: apt-get install {package})"
                ));
            }
        }
        let versions = fs::read_dir(POSTGRES).into_iter().flatten().filter_map(Result::ok);
        let newest = versions
            .map(|version| version.path().join("bin"))
            .filter(|bin| bin.join("postgres").exists())
            .max();
        let Some(postgres) = newest else {
            return skip("PostgreSQL isn't installed (Debian: apt-get install postgresql-15)");
        };
        let mut user = None;
        if geteuid().is_root() {
            // PostgreSQL doesn't run as root.
            user = user_named("postgres");
            if user.is_none() {
                return skip("root runs the tests, and there is no user `postgres`");
            }
        }
        Some(Self { postgres, user })
    }

    /// PostgreSQL's own programs.
    pub(crate) fn postgres(&self) -> &Path {
        &self.postgres
    }

    /// A command that is run as the database's user. If the thread that starts it ends first, so does
    /// the program.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", program]).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C.UTF-8");
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command
    }

    /// Creates a directory that the database's user owns.
    pub(crate) fn create_dir(&self, path: &Path) {
        fs::create_dir_all(path).unwrap();
        self.give(path);
    }

    /// Makes the database's user the owner of a file.
    pub(crate) fn give(&self, path: &Path) {
        if let Some((user, group)) = self.user {
            chown(path, Some(user), Some(group)).unwrap();
        }
    }
}

/// The ids of a user and of its group.
fn user_named(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let user = users.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let mut fields = user.split(':').skip(1);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn skip<T>(why: &str) -> Option<T> {
    say(&format!("SKIPPED: {why}"));
    None
}

/// Tells whoever runs the tests, though the test passes. (Of what is printed the other way, the test
/// runner shows only what belongs to a failure.)
pub(crate) fn say(text: &str) {
    let _ = writeln!(stderr(), "{text}");
}
