/// Descriptors kept for all that is no connection: standard streams, the runtime, files that are
/// read, names that are resolved, the admin address and its clients.
const RESERVE: u64 = 28;

/// Descriptors of a worker: its epoll instance, a clone of it, and the two by which other threads and
/// signals wake it.
const WORKER: u64 = 4;

/// At each address, a worker has a socket, a clone of one that it accepts from, and perhaps a client
/// that it accepted when another took the last room.
const ADDRESS: u64 = 3;

/// A connection has two ends.
const CONNECTION: u64 = 2;

/// The most pipes, of two descriptors each.
const PIPES_MAX: u64 = 32;

/// A probe may take as many descriptors as a connection: it races the addresses of a name.
const PROBE: usize = 2;
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

/// At most a sixteenth of the connections is guaranteed to services that don't use it.
const GUARANTEED_PART: usize = 16;

/// A process's limit of open descriptors, and how its services share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    limit: u64,
}

/// What a service needs descriptors for, beside its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The addresses that it listens at.
    pub addresses: usize,
    /// The probes that it may have under way at one time.
    pub probes: usize,
    /// Its checks, if its backends are checked.
    pub checks: Option<CheckKind>,
}

/// What checks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckKind {
    /// A connection for each check.
    Connect,
    /// Connections that are kept from one check to the next, too.
    Keep,
}

/// What a service may have beside its connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Probes under way at one time.
    pub probes: usize,
    /// Checks under way at one time. 0: its backends aren't checked.
    pub checks: usize,
    /// Connections that its checks keep from one check to the next.
    pub check_connections: usize,
}

impl Room {
    /// How many descriptors that takes.
    pub fn descriptors(&self) -> usize {
        PROBE * self.probes + CHECK * self.checks + self.check_connections
    }
}

/// How the descriptors are split.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// How many connections all services may have together, two descriptors each. At least one is
    /// tried.
    pub connections: usize,
    /// How many of them each service is guaranteed.
    pub guaranteed: usize,
    /// What each service may have beside them, in the order of the needs.
    pub rooms: Vec<Room>,
}

impl Descriptors {
    /// A limit of this many open descriptors.
    pub fn new(limit: u64) -> Self {
        Self { limit }
    }

    /// The limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The default number of workers: one for each core, unless they would take more than half of
    /// the descriptors outside the reserve. The reserve is for the admin address, among other things.
    pub fn workers(&self, cores: usize, addresses: usize) -> usize {
        let each = WORKER + ADDRESS * addresses as u64;
        let most = self.limit.saturating_sub(RESERVE) / 2 / each;
        usize::try_from(most).unwrap_or(usize::MAX).clamp(1, cores)
    }

    /// How many pipes there are descriptors for.
    pub fn pipes_max(&self) -> usize {
        (self.limit / 64).min(PIPES_MAX) as usize
    }

    /// Splits the descriptors over services with these needs. Those that leave keep the room that
    /// they have until they have left.
    pub fn split(&self, workers: usize, needs: &[Need], leaving: &[Room]) -> Split {
        let probes = self.probes(&needs.iter().map(|need| need.probes).collect::<Vec<_>>());
        let checks = self.checks(&needs.iter().map(|need| need.checks).collect::<Vec<_>>());
        let rooms = probes.into_iter().zip(checks);
        let rooms: Vec<_> = rooms
            .map(|(probes, (checks, check_connections))| Room { probes, checks, check_connections })
            .collect();
        let beside = rooms.iter().chain(leaving).map(Room::descriptors).sum();
        let addresses = needs.iter().map(|need| need.addresses).sum();
        let connections = self.connections(workers, addresses, beside);
        Split { connections, guaranteed: guaranteed(connections, needs.len()), rooms }
    }

    fn connections(&self, workers: usize, addresses: usize, beside: usize) -> usize {
        let workers = workers as u64 * (WORKER + ADDRESS * addresses as u64);
        let taken = RESERVE + workers + 2 * self.pipes_max() as u64 + beside as u64;
        let left = self.limit.saturating_sub(taken) / CONNECTION;
        usize::try_from(left).unwrap_or(usize::MAX).max(1)
    }

    /// How many probes each service may have under way, of those that it is set to: less than that
    /// where descriptors are few, and one at least.
    fn probes(&self, wanted: &[usize]) -> Vec<usize> {
        let sum: usize = wanted.iter().sum();
        let most = usize::try_from(self.limit / PROBES_PART).unwrap_or(usize::MAX) / PROBE;
        let share = |wanted: &usize| match most < sum {
            true => (*wanted as u128 * most as u128 / sum as u128) as usize,
            false => *wanted,
        };
        wanted.iter().map(|wanted| share(wanted).max(1)).collect()
    }

    /// How many checks each service may have under way, and how many connections its checks may keep:
    /// less where descriptors are few, and one check at least.
    fn checks(&self, kinds: &[Option<CheckKind>]) -> Vec<(usize, usize)> {
        let wanted = |kind: CheckKind| match kind {
            CheckKind::Connect => CHECK * CHECKS_MAX,
            CheckKind::Keep => CHECK * CHECKS_MAX + CHECK_CONNECTIONS_MAX,
        };
        let sum: usize = kinds.iter().flatten().map(|kind| wanted(*kind)).sum();
        let most = usize::try_from(self.limit / CHECKS_PART).unwrap_or(usize::MAX).min(sum);
        let room = |kind: CheckKind| {
            let share = (wanted(kind) as u128 * most as u128 / sum as u128) as usize;
            // Half for the one and half for the other, until there is enough for all checks.
            let for_checks = match kind {
                CheckKind::Connect => share,
                CheckKind::Keep => share / 2,
            };
            let checks = (for_checks / CHECK).clamp(1, CHECKS_MAX);
            match kind {
                CheckKind::Connect => (checks, 0),
                CheckKind::Keep => (checks, share.saturating_sub(CHECK * checks)),
            }
        };
        kinds.iter().map(|kind| kind.map_or((0, 0), room)).collect()
    }
}

/// The number of connections that each of these services is guaranteed.
fn guaranteed(connections: usize, services: usize) -> usize {
    let services = services.max(1);
    (connections / (GUARANTEED_PART * services)).max(1).min(connections / services)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(limit: u64) -> Descriptors {
        Descriptors::new(limit)
    }

    fn need(probes: usize, checks: Option<CheckKind>) -> Need {
        Need { addresses: 1, probes, checks }
    }

    #[test]
    fn workers_leave_descriptors_for_the_admin_address_and_for_connections() {
        assert_eq!(of(32).workers(2, 3), 1);
        assert_eq!(of(0).workers(2, 3), 1);
        assert_eq!(of(64).workers(4, 1), 2);
        assert_eq!(of(1024).workers(8, 10), 8);
        assert_eq!(of(u64::MAX).workers(64, 10), 64);
    }

    #[test]
    fn services_share_the_probes_that_there_are_descriptors_for() {
        assert_eq!(of(1024).probes(&[32]), [32]);
        assert_eq!(of(1024).probes(&[32, 96]), [8, 24]);
        assert_eq!(of(64).probes(&[32, 32]), [1, 1]);
        assert_eq!(of(u64::MAX).probes(&[32, 1024]), [32, 1024]);
        assert_eq!(of(0).probes(&[]), [0; 0]);
    }

    #[test]
    fn checks_have_a_sixteenth_of_the_descriptors_at_most_and_each_service_can_check() {
        let (connect, keep) = (Some(CheckKind::Connect), Some(CheckKind::Keep));
        assert_eq!(of(u64::MAX).checks(&[keep, connect]), [(256, 10_000), (256, 0)]);
        assert_eq!(of(1024).checks(&[connect, None]), [(32, 0), (0, 0)]);
        assert_eq!(of(1024).checks(&[keep]), [(16, 32)]);
        assert_eq!(of(20_000).checks(&[keep]), [(256, 738)]);
        assert_eq!(of(16).checks(&[keep, connect]), [(1, 0), (1, 0)]);
        assert_eq!(of(0).checks(&[]), []);
        for limit in [1024, 65_536, 1 << 20] {
            let rooms = of(limit).checks(&[keep, connect, keep]);
            let taken: usize = rooms.iter().map(|(checks, kept)| CHECK * checks + kept).sum();
            assert!(taken as u64 <= limit / 16, "{limit}: {rooms:?}");
        }
    }

    #[test]
    fn most_connections_are_for_whoever_needs_them_and_each_service_has_some() {
        assert_eq!(guaranteed(450, 10), 2);
        assert_eq!(guaranteed(500_000, 10), 3125);
        assert_eq!(guaranteed(20_000, 2_000), 1);
        assert_eq!(guaranteed(3, 2), 1);
        assert_eq!(guaranteed(3, 4), 0, "they take turns");
        assert_eq!(guaranteed(1, 0), 1);
    }

    #[test]
    fn what_all_may_have_together_fits_the_limit_even_beside_services_that_leave() {
        let (connect, keep) = (Some(CheckKind::Connect), Some(CheckKind::Keep));
        let needs = [need(32, keep), need(64, None), need(8, connect)];
        for limit in [1024, 4096, 65_536, 1 << 20] {
            let before = of(limit).split(2, &needs, &[]);
            let after = of(limit).split(2, &needs[..1], &before.rooms[1..]);
            let rooms = after.rooms.iter().chain(&before.rooms[1..]);
            let beside: usize = rooms.map(Room::descriptors).sum();
            let workers = 2 * (WORKER + ADDRESS);
            let all = RESERVE
                + workers
                + 2 * of(limit).pipes_max() as u64
                + beside as u64
                + CONNECTION * after.connections as u64;
            assert!(all <= limit && all + CONNECTION > limit, "{limit}: {all}");
            assert!(after.guaranteed >= 1);
        }
    }

    #[test]
    fn with_hardly_a_descriptor_one_connection_is_tried() {
        assert_eq!(of(0).split(1, &[need(32, None)], &[]).connections, 1);
    }
}
