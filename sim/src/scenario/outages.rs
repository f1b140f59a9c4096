//! What concerns the health of backends: how the balancer is set up for it, and backends that
//! refuse, hang, are slow or come and go.

use super::{
    Act, Config, DialError, Link, Operation, Place, Rule, Trigger,
    generate::{Draft, weighted},
};
use crate::Entropy;

/// A kind of trouble with backends, which a scenario may have or lack.
#[derive(Clone, Copy)]
enum Outage {
    /// One is down, or can't be reached.
    One,
    /// One goes down and comes up, again and again.
    Flapping,
    /// One takes about as long as a dial may go unanswered.
    Slow,
    /// Dials of one fail at once.
    Failing,
    /// All of them are gone, and come back one after the other.
    All,
    /// Nothing is to be ejected for a while.
    Unwatched,
    /// Rules answer to what happens to targets.
    Rules,
}

const OUTAGES: &[(Outage, u32)] = &[
    (Outage::One, 8),
    (Outage::Flapping, 5),
    (Outage::Slow, 5),
    (Outage::Failing, 6),
    (Outage::All, 4),
    (Outage::Unwatched, 1),
    (Outage::Rules, 8),
];

/// How the balancer is to deal with targets that don't accept connections.
pub(super) fn vary(config: &mut Config, entropy: &mut impl Entropy) {
    if entropy.chance(40) {
        config.patience = entropy.between(10, 250);
    } else if entropy.chance(10) {
        config.patience = 0;
    }
    if entropy.chance(4) {
        config.ejection = 0;
    }
    config.probe_min = entropy.between(10, 100);
    config.probe_max = entropy.between(config.probe_min, 600);
    if entropy.chance(25) {
        config.probes = entropy.between(1, 3);
    }
    if entropy.chance(30) {
        config.cut_silent = entropy.between(1_000, 1_300);
    }
    if entropy.chance(30) {
        config.empty_waits = 1;
    }
    if entropy.chance(30) {
        config.dial_attempts = entropy.between(4, 8);
    }
}

impl<E: Entropy> Draft<'_, E> {
    /// Adds outages.
    pub(super) fn add_outages(&mut self) {
        let kinds: Vec<_> = OUTAGES.iter().copied().filter(|_| !self.entropy.chance(35)).collect();
        for _ in 0..self.entropy.between(0, 5) {
            let at = self.entropy.below(u64::from(self.config.duration)) as u32;
            let place = self.place();
            match weighted(&kinds, self.entropy) {
                Some(Outage::One) => {
                    let time = self.outage_time();
                    self.outage(at, time, place);
                }
                Some(Outage::Flapping) => self.flapping(at, place),
                Some(Outage::Slow) => self.slow(at, place),
                Some(Outage::Failing) => self.failing(at, place),
                Some(Outage::All) => self.all_out(at),
                Some(Outage::Unwatched) => {
                    self.step(at, Operation::Ejection(false));
                    let back_at = self.later(at, 800);
                    self.step(back_at, Operation::Ejection(true));
                }
                Some(Outage::Rules) => self.health_rule(),
                None => {}
            }
        }
    }

    /// Longer than a silence may last, if there is such a limit.
    fn outage_time(&mut self) -> u32 {
        let least = if self.entropy.chance(50) { self.config.cut_silent } else { 0 };
        least + self.entropy.between(50, 1_500)
    }

    /// A later time, by at most this much, and not after all faults have stopped.
    fn later(&mut self, at: u32, most: u32) -> u32 {
        (at + self.entropy.between(1, most)).min(self.config.duration)
    }

    fn outage(&mut self, at: u32, time: u32, place: Place) {
        let link = Link::Backend(place);
        let (begin, end) = match self.entropy.below(5) {
            0 | 1 => (Operation::Crash(place), Operation::Bounce(place)),
            2 => (Operation::PowerLoss(place), Operation::Bounce(place)),
            3 => (Operation::Partition(link), Operation::Release(link)),
            _ => (Operation::Hold(link), Operation::Release(link)),
        };
        self.step(at, begin);
        self.step((at + time).min(self.config.duration), end);
    }

    fn flapping(&mut self, at: u32, place: Place) {
        let mut at = at;
        for _ in 0..self.entropy.between(2, 6) {
            let time = self.entropy.between(20, 400);
            self.outage(at, time, place);
            at = self.later(at + time, 400);
        }
    }

    /// A connect takes a round trip: the answer comes about when the patience is over.
    fn slow(&mut self, at: u32, place: Place) {
        let Config { patience, latency_max, .. } = self.config;
        let edge = patience.max(10) / 2;
        let time = self.entropy.between(edge.saturating_sub(12), edge + 12);
        let link = Link::Backend(place);
        self.step(at, Operation::Latency(link, time));
        let back_at = self.later(at, 1_500);
        self.step(back_at, Operation::Latency(link, latency_max));
    }

    fn failing(&mut self, at: u32, place: Place) {
        const ERRORS: &[(DialError, u32)] = &[
            (DialError::NoDescriptors, 4),
            (DialError::Refused, 4),
            (DialError::Reset, 2),
            (DialError::Unreachable, 2),
        ];
        let error = weighted(ERRORS, self.entropy).unwrap_or(DialError::NoDescriptors);
        let count = self.entropy.between(1, 12);
        self.step(at, Operation::FailDial(place, count, error));
    }

    fn all_out(&mut self, at: u32) {
        let places = (0..self.config.backends as u16).map(Place);
        let time = self.outage_time();
        for place in places {
            let begins_at = self.later(at, 30);
            let more = self.entropy.between(0, 300);
            self.outage(begins_at, time + more, place);
        }
    }

    fn health_rule(&mut self) {
        const TRIGGERS: &[(Trigger, u32)] =
            &[(Trigger::ProbeStarted, 6), (Trigger::Ejected, 3), (Trigger::Returned, 3)];
        const ACTS: &[(Act, u32)] = &[
            (Act::Remove, 8),
            (Act::RemoveAndBack, 5),
            (Act::Retarget, 3),
            (Act::Rename, 2),
            (Act::Share, 1),
            (Act::Restore, 5),
            (Act::Empty, 2),
            (Act::Crash, 3),
            (Act::Bounce, 4),
            (Act::Partition, 3),
            (Act::Hold, 2),
            (Act::Release, 4),
            (Act::Shutdown, 1),
        ];
        let rule = Rule {
            on: weighted(TRIGGERS, self.entropy).unwrap_or(Trigger::ProbeStarted),
            chance: self.entropy.between(5, 60),
            act: weighted(ACTS, self.entropy).unwrap_or(Act::Remove),
            after: if self.entropy.chance(60) { 0 } else { self.entropy.between(1, 60) },
            times: self.entropy.between(1, 8),
        };
        self.rules.push(rule);
    }
}
