use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for all that is no connection: standard streams, the runtime, files that are
/// read, names that are resolved, the admin address and its clients.
const RESERVE: u64 = 32;

/// Raises the soft limit of open descriptors to the hard one. Where that fails, the soft limit
/// holds, and `connections_max` counts with it.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many connections there are descriptors for: two each, one per end. Each listener has two.
pub(crate) fn connections_max(listeners: usize) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let free = limit.saturating_sub(RESERVE).saturating_sub(2 * listeners as u64);
    usize::try_from(free / 2).unwrap_or(usize::MAX).max(1)
}
