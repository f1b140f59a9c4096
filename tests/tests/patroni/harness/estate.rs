use std::{
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::programs::Programs;

/// A cluster's directory. A process of its own removes it, and ends whatever works there, however the
/// test ends: by a panic, Ctrl-C, SIGTERM, or SIGKILL.
pub(crate) struct Estate {
    directory: TempDir,
    executor: Child,
}

/// Waits for the end of its input, which is that of the test. Then it ends what works in `DIRECTORY` or
/// names it in its command line, also if it was stopped. PostgreSQL would leave shared memory behind if it
/// was killed, so it has 10 seconds to end itself.
const SCRIPT: &str = r#"
read -r _
left() {
    {
        find /proc/[0-9]*/cwd -maxdepth 0 -lname "$DIRECTORY/*"
        # The pattern isn't in grep's own command line.
        echo "$DIRECTORY/" | grep -l -s -F -f - /proc/[0-9]*/cmdline
    } | cut -d / -f 3 | sort -u
}
tries=0
while processes=$(left) && [ -n "$processes" ]; do
    for process in $processes; do
        signal=KILL
        [ $tries -lt 100 ] && grep -q postgres /proc/$process/comm && signal=QUIT
        kill -$signal $process
        kill -CONT $process
    done
    tries=$((tries + 1))
    sleep 0.1
done
rm -rf "$DIRECTORY"
"#;

impl Estate {
    /// A new directory, which the database's user owns.
    pub(crate) fn new(programs: &Programs) -> Self {
        let directory = tempfile::Builder::new().prefix("tinylb-patroni-").tempdir_in("/dev/shm");
        let directory = directory.unwrap();
        programs.give(directory.path());
        let mut command = Command::new("sh");
        // In a group of its own, where a terminal's Ctrl-C doesn't reach it.
        command.args(["-c", SCRIPT]).env("DIRECTORY", directory.path()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        Self { directory, executor: command.spawn().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Ends all that works there, and removes it.
    pub(crate) fn end(&mut self) {
        // This closes its input first.
        let _ = self.executor.wait();
    }
}
