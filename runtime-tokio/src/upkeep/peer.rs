use std::time::Duration;

use crate::limit::Limit;

/// What upkeep knows about a connection's peer. Times are numbers of turns, one a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The connection hasn't been looked at yet. Becomes `Heard` once it has lived for a second.
    New { began: u32 },
    /// Nothing waits for an answer, or answers arrive. Becomes `Silent` when something is seen to
    /// be unanswered.
    Heard,
    /// Something is unanswered, and was in every look since then. Becomes `Heard` when the peer
    /// answers, `Condemned` when it has been silent for nearly its limit.
    Silent { since: u32 },
    /// The system will end the connection at its next retransmission. Becomes `Heard` or `Silent`
    /// if the peer answers all the same, `Dead` if the system hasn't ended it in time.
    Condemned { since: u32 },
    /// The connection must be ended now.
    Dead,
}

/// What a look at a connection sees.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// Something was sent more than once, and no answer has come since.
    pub(super) is_unanswered: bool,
    /// Time since anything came from the peer.
    pub(super) silence: Duration,
}

impl Peer {
    pub(super) fn is_new(self) -> bool {
        matches!(self, Self::New { .. })
    }

    /// The state after another look.
    pub(super) fn look(self, seen: Seen, now: u32, limit: Limit) -> Self {
        if !seen.is_unanswered {
            return Self::Heard;
        }
        let turns_since = |since: u32| now.wrapping_sub(since);
        // A turn takes a second or a little more.
        let was_heard_since = |since| seen.silence < Duration::from_secs(turns_since(since).into());
        let is_silent = seen.silence >= limit.silence_min();
        match self {
            Self::Silent { since } | Self::Condemned { since } if was_heard_since(since) => {
                Self::Silent { since: now }
            }
            Self::Silent { since } if is_silent && turns_since(since) >= limit.evidence_min() => {
                Self::Condemned { since: now }
            }
            Self::Condemned { since }
                if turns_since(since) > limit.repeat_max().as_secs() as u32 =>
            {
                Self::Dead
            }
            Self::Silent { .. } | Self::Condemned { .. } => self,
            Self::New { .. } | Self::Heard | Self::Dead => Self::Silent { since: now },
        }
    }

    /// The state after a time without looks, in which answers may have been held up: what was seen
    /// before no longer counts.
    pub(super) fn renew(self, now: u32) -> Self {
        match self {
            Self::Silent { .. } => Self::Silent { since: now },
            Self::Condemned { .. } => Self::Condemned { since: now },
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Looks each second at a peer that answers or not, and says when it is condemned and ended.
    /// `seen` has what a look sees in each second.
    fn condemned_and_dead(
        limit: Duration,
        seconds: u32,
        seen: impl Fn(u32) -> Seen,
    ) -> (Option<u32>, Option<u32>) {
        let limit = Limit::new(limit);
        let mut peer = Peer::Heard;
        let mut condemned = None;
        for now in 0..seconds {
            peer = peer.look(seen(now), now, limit);
            match peer {
                Peer::Condemned { .. } => condemned = condemned.or(Some(now)),
                Peer::Dead => return (condemned, Some(now)),
                _ => condemned = None,
            }
        }
        (condemned, None)
    }

    fn seen(is_unanswered: bool, silence: u32) -> Seen {
        Seen { is_unanswered, silence: Duration::from_secs(silence.into()) }
    }

    #[test]
    fn a_peer_that_leaves_data_unanswered_is_ended_within_the_limit_and_not_much_earlier() {
        for seconds in [5, 6, 8, 10, 60, 3600] {
            let limit = Duration::from_secs(seconds.into());
            let (condemned, dead) =
                condemned_and_dead(limit, 2 * seconds, |now| seen(now > 0, now));
            let (condemned, dead) = (condemned.unwrap(), dead.unwrap());
            // The system takes part of the time that is left.
            assert!(condemned >= seconds / 2, "{condemned} of {seconds}");
            assert!(condemned < dead && dead <= seconds + 1, "{condemned}, {dead} of {seconds}");
        }
    }

    #[test]
    fn a_peer_that_answers_once_in_a_while_lives_however_much_is_unanswered() {
        // As one whose window is shut: between two answers, there may be an unanswered probe.
        let answers_every = |every: u32| move |now: u32| seen(now % every > 1, now % every);
        for every in [1, 5, 20, 50] {
            assert_eq!(condemned_and_dead(LIMIT, 10_000, answers_every(every)), (None, None));
        }
        // And the nearest that doesn't.
        assert!(condemned_and_dead(LIMIT, 10_000, answers_every(70)).1.is_some());
    }

    #[test]
    fn a_long_silence_is_no_evidence_while_nothing_waits_for_an_answer() {
        assert_eq!(condemned_and_dead(LIMIT, 10_000, |now| seen(false, now)), (None, None));
        // Data that is sent after a long silence has its time to be answered.
        let (condemned, _) = condemned_and_dead(LIMIT, 2_000, |now| seen(now > 1000, now));
        assert!(condemned.unwrap() >= 1000 + 15, "{condemned:?}");
    }

    #[test]
    fn a_peer_that_answers_at_the_last_moment_is_pardoned() {
        let limit = Limit::new(LIMIT);
        let condemned = Peer::Condemned { since: 100 };
        assert_eq!(condemned.look(seen(false, 0), 102, limit), Peer::Heard);
        // It has answered, and something else is unanswered again.
        let silent = condemned.look(seen(true, 1), 103, limit);
        assert_eq!(silent, Peer::Silent { since: 103 });
    }

    #[test]
    fn what_was_seen_before_a_pause_of_the_process_counts_no_more() {
        let limit = Limit::new(LIMIT);
        let peer = Peer::Silent { since: 100 };
        let long = seen(true, 600);
        assert!(matches!(peer.look(long, 120, limit), Peer::Condemned { .. }));
        assert_eq!(peer.renew(119).look(long, 120, limit), Peer::Silent { since: 119 });
    }

    #[test]
    fn one_look_is_never_enough() {
        for state in [Peer::Heard, Peer::New { began: 0 }] {
            let peer = state.look(seen(true, 100_000), 7, Limit::new(LIMIT));
            assert_eq!(peer, Peer::Silent { since: 7 });
        }
    }
}
