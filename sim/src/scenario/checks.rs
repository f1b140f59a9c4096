//! Checks: how a source's backends are checked, what the checks find, and what comes between.

use super::{
    Act, Config, Operation, Place, Reply, Rule, Trigger,
    generate::{Draft, weighted},
};
use crate::Entropy;

/// A kind of trouble with checks, which a scenario may have or lack.
#[derive(Clone, Copy)]
enum Trouble {
    /// One answers otherwise from now on.
    One,
    /// One changes its mind from check to check.
    Flapping,
    /// One passes, and the others say no.
    Primary,
    /// Nobody passes for a while, and then everybody does.
    Nobody,
    /// One is slow to answer, and leaves and returns meanwhile.
    Return,
    /// Answers change while the source is lost.
    Loss,
}

const TROUBLES: &[(Trouble, u32)] = &[
    (Trouble::One, 8),
    (Trouble::Flapping, 3),
    (Trouble::Primary, 3),
    (Trouble::Nobody, 3),
    (Trouble::Return, 4),
    (Trouble::Loss, 4),
];

const REPLIES: &[(Reply, u32)] = &[(Reply::Pass, 5), (Reply::No, 5), (Reply::Nothing, 3)];

impl<E: Entropy> Draft<'_, E> {
    /// Lets the backends of most sources be checked.
    pub(super) fn add_checks(&mut self) {
        let may_check = self.config.source == 1 && self.config.keep_absent == 0;
        if !may_check || !self.entropy.chance(80) {
            return;
        }
        vary(&mut self.config, self.entropy);
        for place in self.places() {
            if self.entropy.chance(30) {
                self.check(0, place);
            }
        }
        let kinds: Vec<_> = TROUBLES.iter().copied().filter(|_| !self.entropy.chance(30)).collect();
        for _ in 0..self.entropy.between(2, 9) {
            let at = self.entropy.below(u64::from(self.config.duration)) as u32;
            let place = self.place();
            match weighted(&kinds, self.entropy) {
                Some(Trouble::One) => self.check(at, place),
                Some(Trouble::Flapping) => self.changes_its_mind(at, place),
                Some(Trouble::Primary) => {
                    for other in self.places() {
                        let reply = if other == place { Reply::Pass } else { Reply::No };
                        self.step(at, Operation::Check(other, reply, 0));
                    }
                }
                Some(Trouble::Nobody) => self.nobody_passes(at),
                Some(Trouble::Return) => self.leaves_and_returns(at),
                Some(Trouble::Loss) => self.answers_while_lost(at),
                None => {}
            }
        }
        if self.entropy.chance(50) {
            self.check_rule();
        }
    }

    fn places(&self) -> impl Iterator<Item = Place> + use<E> {
        (0..self.config.backends as u16).map(Place)
    }

    /// Mostly at once, sometimes about when the check is over, or long after.
    fn check(&mut self, at: u32, place: Place) {
        let timeout = self.config.check_timeout;
        let after = match self.entropy.below(10) {
            0..=4 => self.entropy.between(0, 5),
            5..=7 => self.entropy.between(timeout / 2, timeout),
            8 => timeout + self.entropy.between(0, 2),
            _ => 60_000,
        };
        let reply = weighted(REPLIES, self.entropy).unwrap_or(Reply::Pass);
        self.step(at, Operation::Check(place, reply, after));
    }

    fn changes_its_mind(&mut self, at: u32, place: Place) {
        let mut at = at;
        for _ in 0..self.entropy.between(3, 8) {
            self.check(at, place);
            at = self.check_later(at);
        }
        self.step(at, Operation::Check(place, Reply::Pass, 0));
    }

    fn nobody_passes(&mut self, at: u32) {
        let time = self.entropy.between(100, 1_500);
        let (reply, after) = match self.entropy.chance(50) {
            true => (Reply::No, 0),
            false => (Reply::Nothing, 60_000),
        };
        for place in self.places() {
            self.step(at, Operation::Check(place, reply, after));
        }
        if self.entropy.chance(50) {
            self.step((at + time).min(self.config.duration), Operation::Spoil);
        }
        for place in self.places() {
            let back_at = at + time + self.entropy.between(0, 200);
            let back_at = back_at.min(self.config.duration);
            self.step(back_at, Operation::Check(place, Reply::Pass, 0));
        }
    }

    /// Its check is under way while it leaves. Whatever that check finds, another comes first.
    fn leaves_and_returns(&mut self, at: u32) {
        let Some(with) = self.set_at(at) else { return };
        let Some(&(_, place)) = self.entropy.pick(&with) else { return };
        let Config { check_interval, check_timeout, duration, .. } = self.config;
        let reply = if self.entropy.chance(70) { Reply::Pass } else { Reply::No };
        let slow = self.entropy.between(check_timeout / 2, check_timeout);
        self.step(at, Operation::Check(place, reply, slow));
        let without = with.iter().copied().filter(|entry| entry.1 != place).collect();
        let leaves_at = (at + self.entropy.between(1, 2 * check_interval)).min(duration);
        self.step(leaves_at, Operation::Replace(without));
        let back_at = (leaves_at + self.entropy.between(1, check_timeout)).min(duration);
        self.step(back_at, Operation::Replace(with));
        let later = self.check_later(back_at);
        self.check(later, place);
    }

    fn answers_while_lost(&mut self, at: u32) {
        self.step(at, Operation::LoseSource);
        let Config { stale, duration, .. } = self.config;
        let is_long = stale > 0 && self.entropy.chance(60);
        let lost_at = at;
        let mut at = if is_long { (at + stale).min(duration) } else { at };
        for _ in 0..self.entropy.between(1, 4) {
            at = self.check_later(at);
            let place = self.place();
            self.check(at, place);
        }
        let back_at = self.check_later(at);
        if is_long {
            // Answers change when the last set has been given up: nothing may end the loss before.
            self.keep_sets_from(lost_at, back_at);
        }
        self.step(back_at, Operation::Again);
    }

    /// About when the next check is over.
    fn check_later(&mut self, at: u32) -> u32 {
        (at + self.entropy.between(1, 2 * self.config.check_interval)).min(self.config.duration)
    }

    fn check_rule(&mut self) {
        const ACTS: &[(Act, u32)] = &[
            (Act::Remove, 6),
            (Act::RemoveAndBack, 8),
            (Act::Retarget, 3),
            (Act::Rename, 3),
            (Act::Restore, 4),
            (Act::Crash, 2),
            (Act::Bounce, 3),
            (Act::Partition, 2),
            (Act::Release, 3),
        ];
        self.rules.push(Rule {
            on: Trigger::CheckStarted,
            chance: self.entropy.between(1, 20),
            act: weighted(ACTS, self.entropy).unwrap_or(Act::RemoveAndBack),
            after: if self.entropy.chance(50) { 0 } else { self.entropy.between(1, 60) },
            times: self.entropy.between(1, 8),
        });
    }
}

fn vary(config: &mut Config, entropy: &mut impl Entropy) {
    config.check = 1;
    config.check_interval = entropy.between(100, 400);
    config.check_timeout = entropy.between(20, 300);
    config.rise = entropy.between(1, 3);
    config.fall = entropy.between(1, 2);
    config.fall_unanswered = entropy.between(1, 5);
    config.check_all = u32::from(config.floor > 0 || entropy.chance(35));
    if entropy.chance(25) {
        config.checks = entropy.between(1, 3);
    }
    config.checks_linger = u32::from(entropy.chance(40));
}
