use std::{
    fs, io,
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// A program under test and all that it starts: ended, by their ids, when this is dropped.
pub struct Process {
    child: Child,
}

/// What its threads and processes have used and have now.
#[derive(Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes of memory of its own (anonymous and resident).
    pub memory: u64,
    pub files: usize,
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
        let mut usage = Usage { cpu: Duration::ZERO, memory: 0, files: 0 };
        for id in self.ids() {
            usage.cpu += cpu(id);
            usage.memory += memory(id);
            usage.files += fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        }
        usage
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

/// Nanoseconds on a core, by thread: the first number (Documentation/scheduler/sched-stats.rst).
fn cpu(id: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let stats = tasks.flat_map(|task| fs::read_to_string(task.path().join("schedstat")));
    let nanoseconds =
        stats.flat_map(|stat| stat.split(' ').next().and_then(|n| n.parse::<u64>().ok()));
    Duration::from_nanos(nanoseconds.sum())
}

fn memory(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibibytes.unwrap_or(0) << 10
}
