use std::{
    collections::BTreeMap,
    io,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::process::Process;

/// Counts the system calls of a process while something goes on, by name (strace).
pub struct Calls {
    strace: std::process::Child,
    summary: std::path::PathBuf,
}

pub fn can_count() -> bool {
    let version = Command::new("strace").arg("-V").stdout(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

impl Calls {
    pub fn begin(process: &Process, files: &Path) -> io::Result<Self> {
        let summary = files.join("calls");
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-c", "-U", "calls,name", "-o"]).arg(&summary);
        for id in process.ids() {
            command.args(["-p", &id.to_string()]);
        }
        let strace = command.stderr(Stdio::null()).spawn()?;
        // Until it is attached to all threads.
        std::thread::sleep(Duration::from_secs(1));
        Ok(Self { strace, summary })
    }

    pub fn end(mut self) -> io::Result<BTreeMap<String, u64>> {
        kill_process(Pid::from_child(&self.strace), Signal::INT)?;
        self.strace.wait()?;
        let summary = std::fs::read_to_string(self.summary)?;
        let counts = summary.lines().filter_map(|line| {
            let (count, name) = line.trim().split_once(' ')?;
            Some((name.trim().to_string(), count.parse().ok()?))
        });
        Ok(counts.filter(|(name, _)| name != "total").collect())
    }
}
