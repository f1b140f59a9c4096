use std::time::Duration;

use crate::Ends;

/// Where a service is in its life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Life {
    /// It is in the configuration and accepts. It leaves when a configuration lacks it, or when the
    /// program stops.
    Serving,
    /// It no longer accepts. Its sessions may finish, and its set is still followed and replaced,
    /// so that a removal reaches them. It serves again if a configuration names it again. It is
    /// closed once nothing is left of it, or its time is over.
    Leaving(Departure),
    /// The rest of it is being cut. It can't come back, and another service may take its name. It
    /// is forgotten when that is done.
    Closing(Departure),
}

/// The departure of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Departure {
    pub(crate) why: Why,
    since: Duration,
    /// How its sessions had ended until then.
    pub(crate) before: Ends,
    /// It has no more time.
    is_urgent: bool,
}

/// Why a service leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The configuration lacks it.
    Removed,
    /// The program stops.
    Stopping,
}

/// What is left of a leaving service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rest {
    /// The sessions that have not ended.
    pub sessions: usize,
    /// The listeners that have not stopped. One that is about to may just have accepted a client.
    pub listeners: usize,
}

impl Departure {
    pub(crate) fn new(why: Why, since: Duration, before: Ends) -> Self {
        Self { why, since, before, is_urgent: false }
    }

    /// It has no more time.
    pub(crate) fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// How long a service of which this is left may still take to leave, if it may take `timeout`
    /// altogether. `None`: close it.
    pub(crate) fn time_left(
        &self,
        now: Duration,
        rest: Rest,
        timeout: Duration,
    ) -> Option<Duration> {
        let is_over = rest == Rest::default();
        let left = timeout.saturating_sub(now.saturating_sub(self.since));
        (!is_over && !self.is_urgent && !left.is_zero()).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_left_when_nothing_is_left_of_it_or_its_time_is_over() {
        let secs = Duration::from_secs;
        let mut departure = Departure::new(Why::Removed, secs(100), Ends::default());
        let left = |departure: &Departure, at: u64, sessions, listeners| {
            departure.time_left(secs(100 + at), Rest { sessions, listeners }, secs(30))
        };
        assert_eq!(left(&departure, 0, 1, 0), Some(secs(30)));
        assert_eq!(left(&departure, 10, 0, 1), Some(secs(20)));
        assert_eq!(left(&departure, 10, 0, 0), None);
        assert_eq!(left(&departure, 30, 1, 0), None);
        departure.hurry();
        assert_eq!(left(&departure, 10, 1, 0), None);
    }
}
