use std::time::Duration;
#[cfg(any(target_os = "linux", target_os = "android"))]
use std::{io, os::fd::AsFd};

#[cfg(any(target_os = "linux", target_os = "android"))]
use rustix::net::sockopt;
use socket2::TcpKeepalive;

/// How long a peer may be silent while something waits for its answer, in whole seconds, and the
/// times that follow from that. They add up to the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit(u32);

/// The least number of unanswered keepalive probes that end an idle connection.
const PROBES_MIN: u32 = 6;

/// How many different numbers of probes there are.
const PROBES_KINDS: u32 = 4;

/// The longest silence before the first probe that Linux accepts, in seconds.
const IDLE_MAX: u32 = 32_767;

impl Limit {
    /// A shorter limit would leave no time for two looks and a few probes, at one a second.
    pub(crate) const MIN: Duration = Duration::from_secs(5);
    pub(crate) const MAX: Duration = Duration::from_secs(24 * 60 * 60);

    /// A limit. A time out of range becomes the nearest one in range; parts of a second round up.
    pub(crate) fn new(silence_max: Duration) -> Self {
        let limit = silence_max.clamp(Self::MIN, Self::MAX);
        Self(limit.as_secs() as u32 + u32::from(limit.subsec_nanos() > 0))
    }

    /// The times by which the system probes an idle connection, and ends it when its probes stay
    /// unanswered. `number` is any number that differs from connection to connection.
    ///
    /// Many connections may be heard last at the same moment, as when clients come back after an
    /// outage, and be probed all at once. Of ten thousand probes, a queue of a thousand drops most,
    /// and connections would end although their peers are well. So their times differ, and each has
    /// enough probes for the crowd to disperse.
    pub(crate) fn keepalive(self, number: u32) -> TcpKeepalive {
        let (idle, interval, probes) = self.probing(number);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        TcpKeepalive::new()
            .with_time(seconds(idle))
            .with_interval(seconds(interval))
            .with_retries(probes)
    }

    /// Silence before the first probe, between a quarter and half of the limit; time between
    /// probes; and how many may stay unanswered.
    fn probing(self, number: u32) -> (u32, u32, u32) {
        // Linux's timers may be late by an eighth, on average by a sixteenth.
        let limit = self.0 - self.0 / 12;
        let first = limit / 4;
        let idle = (first + number % (first + 1)).min(IDLE_MAX);
        let left = limit - idle;
        let interval = (left / (PROBES_MIN + number / (first + 1) % PROBES_KINDS)).max(1);
        (idle, interval, left / interval)
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Limit {
    /// A limit as it was stored. 0: none.
    pub(crate) fn from_seconds(seconds: u32) -> Option<Self> {
        (seconds > 0).then_some(Self(seconds))
    }

    pub(crate) fn seconds(self) -> u32 {
        self.0
    }

    /// The longest time between two retransmissions, or between two probes of a shut window.
    pub(crate) fn repeat_max(self) -> Duration {
        Duration::from_secs((self.0 / 12).clamp(1, 120).into())
    }

    /// Turns between two looks at a healthy connection.
    pub(crate) fn look_every(self) -> u32 {
        (self.0 / 4).clamp(1, 60)
    }

    /// Turns for which the looks must have seen something unanswered before a peer may be dead.
    pub(crate) fn evidence_min(self) -> u32 {
        self.0 / 4
    }

    /// The shortest silence after which a peer may be dead. It leaves time for the next look and
    /// for the system to end the connection.
    pub(crate) fn silence_min(self) -> Duration {
        Duration::from_secs((self.0 - 1).into()) - self.repeat_max()
    }

    /// Gives a listening socket a limit that accepted sockets inherit. It is encoded in the
    /// keepalive times (tcp(7)), which do nothing until keepalive is switched on. So the limit is
    /// kept with the other options, whichever clone of the socket accepts.
    pub(crate) fn set_inherited(limit: Option<Self>, listener: impl AsFd) -> io::Result<()> {
        // Without a limit, these are Linux's defaults.
        let (idle, interval, probes) = limit.map_or((7200, 75, 9), Self::as_times);
        let seconds = |seconds: u32| Duration::from_secs(seconds.into());
        sockopt::set_tcp_keepidle(&listener, seconds(idle))?;
        sockopt::set_tcp_keepintvl(&listener, seconds(interval))?;
        sockopt::set_tcp_keepcnt(&listener, probes)?;
        Ok(())
    }

    /// The limit that [`Self::set_inherited`] gave to the listener that accepted this socket.
    pub(crate) fn inherited(socket: impl AsFd) -> Option<Self> {
        let seconds = |time: Duration| u32::try_from(time.as_secs()).ok();
        let idle = seconds(sockopt::tcp_keepidle(&socket).ok()?)?;
        let interval = seconds(sockopt::tcp_keepintvl(&socket).ok()?)?;
        let probes = sockopt::tcp_keepcnt(&socket).ok()?;
        let sum = idle.checked_add(interval.checked_mul(probes)?)?;
        let limit = Self::new(Duration::from_secs(sum.into()));
        // Other times are the system's own, or were set elsewhere.
        (limit.as_times() == (idle, interval, probes)).then_some(limit)
    }

    /// A limit encoded as keepalive times, whose sum it is.
    fn as_times(self) -> (u32, u32, u32) {
        const PROBES: u32 = 3;
        let interval = (self.0 - (self.0 / 2).min(IDLE_MAX)).div_ceil(PROBES);
        (self.0 - PROBES * interval, interval, PROBES)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_peer_that_is_dead_is_found_by_its_probes_within_the_limit_and_not_much_earlier() {
        for limit in [5, 6, 8, 10, 59, 60, 61, 120, 3600, 65_000, 86_400] {
            for number in 0..200 {
                let (idle, interval, probes) = Limit(limit).probing(number);
                let found = idle + probes * interval;
                assert!(found <= limit && found >= limit * 3 / 4, "{found} of {limit}");
                assert!((1..=IDLE_MAX).contains(&idle), "{limit}: {idle}");
                assert!((1..=IDLE_MAX).contains(&interval), "{limit}: {interval}");
                assert!(probes >= PROBES_MIN.min(limit / 2), "{limit}: {probes}");
            }
        }
    }

    #[test]
    fn connections_that_were_heard_last_at_the_same_moment_are_not_all_probed_together() {
        // Connections whose first probes are sent in the same second, and whose second ones are.
        let mut first = std::collections::BTreeMap::<_, u32>::new();
        let mut second = std::collections::BTreeMap::<_, u32>::new();
        for number in 0..10_000 {
            let (idle, interval, _) = Limit(60).probing(number);
            *first.entry(idle).or_default() += 1;
            *second.entry((idle, interval)).or_default() += 1;
        }
        assert!(first.values().all(|count| *count < 1000), "{first:?}");
        assert!(second.values().all(|count| *count < 500), "{second:?}");
    }

    #[test]
    fn what_is_out_of_range_becomes_the_nearest_that_is_not() {
        let seconds = |limit| Limit::new(limit).seconds();
        assert_eq!(seconds(Duration::ZERO), 5);
        assert_eq!(seconds(Duration::from_millis(5001)), 6);
        assert_eq!(seconds(Duration::MAX), 86_400);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_accepted_has_the_limit_that_its_listener_had_when_it_came() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let accept = || {
            let client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (listener.accept().unwrap().0, client)
        };
        let (one, _client) = accept();
        assert_eq!(Limit::inherited(&one), None, "the system's own times are none");
        let limits = [5, 8, 60, 61, 3600, 86_400].map(|s| Some(Limit::new(Duration::from_secs(s))));
        for limit in limits.into_iter().chain([None]) {
            Limit::set_inherited(limit, &listener).unwrap();
            let (one, _client) = accept();
            assert_eq!(Limit::inherited(&one), limit);
            assert!(!socket2::SockRef::from(&one).keepalive().unwrap());
        }
        for times in [(1, 1, 1), (32_767, 32_767, 127), (30, 10, 4)] {
            let (idle, interval, probes) = times;
            sockopt::set_tcp_keepidle(&listener, Duration::from_secs(idle)).unwrap();
            sockopt::set_tcp_keepintvl(&listener, Duration::from_secs(interval)).unwrap();
            sockopt::set_tcp_keepcnt(&listener, probes).unwrap();
            assert_eq!(Limit::inherited(accept().0), None, "{times:?}");
        }
    }
}
