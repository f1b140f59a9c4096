use std::{
    io::{BufRead, BufReader, Write, stderr},
    process::{Child, ChildStderr, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};

use super::Tinylb;

/// Makes one system call of a program fail, for as long as this lives (strace, `inject`).
pub(crate) struct Strace {
    child: Child,
    /// Kept open, so that strace can always write to it.
    _stderr: BufReader<ChildStderr>,
}

impl Strace {
    /// Once this returns, the call fails with this error wherever the program makes it. `None`,
    /// with a line on standard error, if strace isn't installed or isn't allowed to trace.
    pub(crate) fn fail(tinylb: &Tinylb, call: &str, error: &str) -> Option<Self> {
        let skip = |why: &str| {
            // Not by `eprintln`: of that, the test runner shows only what belongs to a failure.
            let _ = writeln!(stderr(), "SKIPPED: {why} (Debian: apt-get install strace)");
            None
        };
        let child = Command::new("strace")
            .args(["-f", "-p", &tinylb.id().to_string(), "-o", "/dev/null"])
            .args(["-e", &format!("trace={call}"), "-e", &format!("inject={call}:error={error}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = child else { return skip("strace isn't installed") };
        let mut lines = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        if line.contains(" attached") {
            return Some(Self { child, _stderr: lines });
        }
        let _ = child.wait();
        assert!(line.contains("not permitted"), "strace doesn't know what it is asked: {line}");
        skip("strace isn't allowed to trace")
    }
}

impl Drop for Strace {
    /// The program goes on without it.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let _ = self.child.wait();
    }
}
