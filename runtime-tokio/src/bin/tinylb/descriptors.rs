use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for all that is no connection: standard streams, the runtime, files that are
/// read, names that are resolved, the admin address and its clients.
const RESERVE: u64 = 28;

/// Descriptors of a worker: its epoll instance, a clone of that, what wakes it, and what tells it of
/// signals.
const WORKER: u64 = 4;

/// At most so many pipes, of two descriptors each.
const PIPES_MAX: u64 = 32;

/// Raises the soft limit of open descriptors to the hard one. Where that fails, the soft limit
/// holds, and `connections_max` counts with it.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// How many connections there are descriptors for: two each, one per end.
pub(crate) fn connections_max(workers: usize, addresses: usize) -> usize {
    let (workers, addresses) = (workers as u64, addresses as u64);
    // At each address, a worker has a socket, and a clone of one that it accepts from.
    let taken = RESERVE + workers * (WORKER + 2 * addresses) + 2 * pipes_max() as u64;
    usize::try_from(limit().saturating_sub(taken) / 2).unwrap_or(usize::MAX).max(1)
}

/// How many pipes there are descriptors for.
pub(crate) fn pipes_max() -> usize {
    (limit() / 64).min(PIPES_MAX) as usize
}

fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
