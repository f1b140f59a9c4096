use std::{fs, time::Duration};

/// What threads and processes have used and have now.
#[derive(Clone, Copy)]
pub struct Usage {
    pub cpu: Duration,
    /// Bytes of memory of its own (anonymous and resident).
    pub memory: u64,
    pub files: usize,
}

impl Usage {
    /// Of these processes together; one that is gone counts nothing.
    pub fn of(ids: &[u32]) -> Self {
        let mut usage = Self { cpu: Duration::ZERO, memory: 0, files: 0 };
        for &id in ids {
            usage.cpu += cpu(id);
            usage.memory += memory(id);
            usage.files += fs::read_dir(format!("/proc/{id}/fd")).map_or(0, Iterator::count);
        }
        usage
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
