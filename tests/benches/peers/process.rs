use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::usage::Usage;

/// A program under test and all that it starts: ended, by their ids, when this is dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts it; what it says goes to a file.
    pub fn start(mut command: Command, log: &Path) -> io::Result<Self> {
        let log = fs::File::create(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Self { child: command.spawn()? })
    }

    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    pub fn usage(&self) -> Usage {
        Usage::of(&self.ids())
    }

    /// The process and its descendants.
    pub fn ids(&self) -> Vec<u32> {
        let mut ids = vec![self.child.id()];
        let mut next = 0;
        while let Some(id) = ids.get(next) {
            let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
            ids.extend(children.unwrap_or_default().split(' ').flat_map(str::parse::<u32>));
            next += 1;
        }
        ids
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let ids = self.ids();
        signal(self.child.id(), Signal::TERM);
        let began = Instant::now();
        while !self.has_ended() && began.elapsed() < Duration::from_secs(2) {
            thread::sleep(Duration::from_millis(10));
        }
        if !self.has_ended() {
            ids.into_iter().for_each(|id| signal(id, Signal::KILL));
        }
        let _ = self.child.wait();
    }
}

fn signal(id: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(id).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}
