use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader, Write, stderr},
    path::Path,
    process::{Child, ChildStderr, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::NamedTempFile;

use super::{Tinylb, until};

/// Makes one system call of a program fail or hang, for as long as this lives (strace, `inject`).
pub(crate) struct Strace {
    child: Child,
    /// The calls so far.
    calls: NamedTempFile,
    /// Kept open, so that strace can always write to it.
    _stderr: BufReader<ChildStderr>,
}

impl Strace {
    /// Once this returns, the call fails with this error wherever the program makes it. `None`,
    /// with a line on standard error, if strace isn't installed or isn't allowed to trace.
    pub(crate) fn fail(tinylb: &Tinylb, call: &str, error: &str) -> Option<Self> {
        Self::inject(tinylb, call, &format!("error={error}"), &[])
    }

    /// Once this returns, the call hangs wherever the program makes it for this path. `None` as with
    /// [`Self::fail`].
    pub(crate) fn hang(tinylb: &Tinylb, call: &str, path: &Path) -> Option<Self> {
        Self::inject(tinylb, call, "delay_enter=3600s", &["-P".as_ref(), path.as_os_str()])
    }

    /// Waits until the program has made the call.
    pub(crate) fn wait_for(&self, call: &str) {
        let calls = || fs::read_to_string(self.calls.path()).unwrap();
        until(call, || calls().contains(&format!("{call}(")));
    }

    fn inject(tinylb: &Tinylb, call: &str, fault: &str, only: &[&OsStr]) -> Option<Self> {
        let skip = |why: &str| {
            // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
            let _ = writeln!(stderr(), "SKIPPED: {why} (Debian: apt-get install strace)");
            None
        };
        let calls = NamedTempFile::new().unwrap();
        let child = Command::new("strace")
            .args(["-f", "-p", &tinylb.id().to_string(), "-o"])
            .arg(calls.path())
            .args(only)
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:{fault}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { return skip("strace isn't installed") };
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if line.contains(" attached") {
            return Some(Self { child, calls, _stderr: lines });
        }
        let _ = child.wait();
        assert!(line.contains("not permitted"), "strace doesn't know what it is asked: {line}");
        skip("strace isn't allowed to trace")
    }
}

impl Drop for Strace {
    /// The program goes on without it. With any other signal, strace would wait for
    /// a call that hangs.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}
