use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors kept for all that is no connection: standard streams, the runtime, files that are
/// read, names that are resolved, the admin address and its clients.
const RESERVE: u64 = 28;

/// Descriptors of a worker: its epoll instance, a clone of it, and the two by which other threads and
/// signals wake it.
const WORKER: u64 = 4;

/// The most pipes, of two descriptors each.
const PIPES_MAX: u64 = 32;

/// A probe may take as many descriptors as a connection: it races the addresses of a name.
const PROBE: u64 = 2;
/// At most a sixteenth of the descriptors is kept for probes.
const PROBES_PART: u64 = 16;

/// A check under way takes as many.
const CHECK: usize = 2;
/// Checks of a service under way at one time, at most.
const CHECKS_MAX: usize = 256;
/// Connections that a service's checks over HTTP keep from one check to the next, at most.
const CHECK_CONNECTIONS_MAX: usize = 10_000;
/// At most a sixteenth of the descriptors is kept for checks.
const CHECKS_PART: u64 = 16;

/// What the checks of a service may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CheckRoom {
    /// Checks under way at one time.
    pub(crate) checks: usize,
    /// Connections kept from one check to the next.
    pub(crate) connections: usize,
}

impl CheckRoom {
    /// How many descriptors that takes.
    pub(crate) fn descriptors(&self) -> usize {
        CHECK * self.checks + self.connections
    }
}

/// Raises the soft limit of open descriptors to the hard one. Where that fails, the soft limit
/// stays, and `connections_max` uses that.
pub(crate) fn raise_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// At most a sixteenth of the connections is guaranteed to services that don't use it.
const GUARANTEED_PART: usize = 16;

/// With room for fewer connections than this, the program warns.
pub(crate) const FEW: usize = 100;

/// How many connections there are descriptors for, beside this many probes, and these descriptors of
/// checks: two each, one per end. At least one is tried.
pub(crate) fn connections_max(
    workers: usize,
    addresses: usize,
    probes: usize,
    checks: usize,
) -> usize {
    let (workers, addresses) = (workers as u64, addresses as u64);
    // At each address, a worker has a socket, a clone of one that it accepts from, and perhaps a
    // client that it accepted when another took the last room.
    let taken = RESERVE
        + workers * (WORKER + 3 * addresses)
        + 2 * pipes_max() as u64
        + PROBE * probes as u64
        + checks as u64;
    usize::try_from(limit().saturating_sub(taken) / 2).unwrap_or(usize::MAX).max(1)
}

/// The default number of workers: one for each core, unless they would take more
/// than half of the descriptors outside the reserve. The reserve is for the admin address, among
/// other things.
pub(crate) fn workers(cores: usize, addresses: usize) -> usize {
    workers_of(limit(), cores, addresses)
}

fn workers_of(limit: u64, cores: usize, addresses: usize) -> usize {
    let each = WORKER + 3 * addresses as u64;
    let most = limit.saturating_sub(RESERVE) / 2 / each;
    usize::try_from(most).unwrap_or(usize::MAX).clamp(1, cores)
}

/// The number of connections that each of these services is guaranteed.
pub(crate) fn connections_min(connections: usize, services: usize) -> usize {
    let services = services.max(1);
    (connections / (GUARANTEED_PART * services)).max(1).min(connections / services)
}

/// How many probes each service may have under way, of those that it is set to: less than that where
/// descriptors are few, and one at least.
pub(crate) fn probes(wanted: &[usize]) -> Vec<usize> {
    probes_of(limit(), wanted)
}

fn probes_of(limit: u64, wanted: &[usize]) -> Vec<usize> {
    let sum: usize = wanted.iter().sum();
    let most = usize::try_from(limit / PROBES_PART / PROBE).unwrap_or(usize::MAX);
    let share = |wanted: &usize| match most < sum {
        true => (*wanted as u128 * most as u128 / sum as u128) as usize,
        false => *wanted,
    };
    wanted.iter().map(|wanted| share(wanted).max(1)).collect()
}

/// What the checks of each service may have, of which some keep connections: less where descriptors are
/// few, and one check at least.
pub(crate) fn checks(keep: &[bool]) -> Vec<CheckRoom> {
    checks_of(limit(), keep)
}

fn checks_of(limit: u64, keep: &[bool]) -> Vec<CheckRoom> {
    let wanted = |keep: bool| CHECK * CHECKS_MAX + if keep { CHECK_CONNECTIONS_MAX } else { 0 };
    let sum: usize = keep.iter().map(|keep| wanted(*keep)).sum();
    let most = usize::try_from(limit / CHECKS_PART).unwrap_or(usize::MAX).min(sum);
    let room = |keep: &bool| {
        let share = (wanted(*keep) as u128 * most as u128 / sum as u128) as usize;
        // Half for the one and half for the other, until there is enough for all checks.
        let for_checks = if *keep { share / 2 } else { share };
        let checks = (for_checks / CHECK).clamp(1, CHECKS_MAX);
        let connections = if *keep { share.saturating_sub(CHECK * checks) } else { 0 };
        CheckRoom { checks, connections }
    };
    keep.iter().map(room).collect()
}

/// How many pipes there are descriptors for.
pub(crate) fn pipes_max() -> usize {
    (limit() / 64).min(PIPES_MAX) as usize
}

/// The limit of open descriptors.
pub(crate) fn limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_leave_descriptors_for_the_admin_address_and_for_connections() {
        assert_eq!(workers_of(32, 2, 3), 1);
        assert_eq!(workers_of(0, 2, 3), 1);
        assert_eq!(workers_of(64, 4, 1), 2);
        assert_eq!(workers_of(1024, 8, 10), 8);
        assert_eq!(workers_of(u64::MAX, 64, 10), 64);
    }

    #[test]
    fn services_share_the_probes_that_there_are_descriptors_for() {
        assert_eq!(probes_of(1024, &[32]), [32]);
        assert_eq!(probes_of(1024, &[32, 96]), [8, 24]);
        assert_eq!(probes_of(64, &[32, 32]), [1, 1]);
        assert_eq!(probes_of(u64::MAX, &[32, 1024]), [32, 1024]);
        assert_eq!(probes_of(0, &[]), [0; 0]);
    }

    #[test]
    fn checks_have_a_sixteenth_of_the_descriptors_at_most_and_each_service_can_check() {
        let room = |checks, connections| CheckRoom { checks, connections };
        assert_eq!(checks_of(u64::MAX, &[true, false]), [room(256, 10_000), room(256, 0)]);
        assert_eq!(checks_of(1024, &[false]), [room(32, 0)]);
        assert_eq!(checks_of(1024, &[true]), [room(16, 32)]);
        assert_eq!(checks_of(20_000, &[true]), [room(256, 738)]);
        assert_eq!(checks_of(16, &[true, false]), [room(1, 0), room(1, 0)]);
        assert_eq!(checks_of(0, &[]), []);
        for limit in [1024, 65_536, 1 << 20] {
            let rooms = checks_of(limit, &[true, false, true]);
            let taken: usize = rooms.iter().map(CheckRoom::descriptors).sum();
            assert!(taken as u64 <= limit / 16, "{limit}: {rooms:?}");
        }
    }

    #[test]
    fn most_connections_are_for_whoever_needs_them_and_each_service_has_some() {
        assert_eq!(connections_min(450, 10), 2);
        assert_eq!(connections_min(500_000, 10), 3125);
        assert_eq!(connections_min(20_000, 2_000), 1);
        assert_eq!(connections_min(3, 2), 1);
        assert_eq!(connections_min(3, 4), 0, "they take turns");
        assert_eq!(connections_min(1, 0), 1);
    }
}
