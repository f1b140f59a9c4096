//! Which targets accept connections, decided anew from the evidence.

mod probes;
mod silence;

use std::collections::BTreeMap;

use tinylb_core::{Fault, Settings};

use self::{probes::Probes, silence::Silence};
use super::{Judged, Law, SLACK, wrong};
#[cfg(test)]
use crate::scenario::Config;
use crate::scenario::{Backends, Place};

/// Targets in the simplest way there is: a map, and each question is answered by looking at all of
/// them. It hears what the balancer does about health, and judges it.
///
/// Times are microseconds since the beginning.
pub(crate) struct Health {
    pub(super) rules: Rules,
    /// How exactly the times of what it hears are known.
    grain: u64,
    targets: BTreeMap<Place, Target>,
    probes: Probes,
    /// When any target last answered, be it with a refusal.
    answered_at: u64,
    /// Since when targets are ejected at all.
    on_since: u64,
    /// The policy knows no health.
    is_unknown: bool,
}

/// What the balancer is to do about health.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) is_on: bool,
    pub(super) patience: Option<u64>,
    pub(super) dial_timeout: u64,
    pub(super) interval_min: u64,
    pub(super) interval_max: u64,
    pub(super) probes_max: usize,
    pub(super) cut_silent: Option<u64>,
    /// Since when that is so.
    cut_silent_since: u64,
    /// More probes may begin until then: as many.
    probes_more: (u64, usize),
    /// The longest `dial_timeout` and the least `probes_max` that there have been.
    dial_timeout_most: u64,
    probes_least: usize,
}

/// How often one session may go on to another target because a dial goes unanswered.
pub(super) const MOVES_MAX: u32 = 8;

/// A target of the set.
#[derive(Clone, Debug, Default)]
struct Target {
    /// Dials and probes that have succeeded.
    successes: u64,
    /// How long the newest of them took that came at the first try.
    took: u64,
    ejected: Option<Ejected>,
    /// What has just been seen of it, which ejects it.
    evidence: Option<Evidence>,
    answered_at: u64,
    /// What has just happened to it while it was ejected, and brings it back.
    way_back: Option<(u64, Way)>,
}

/// What brings a target back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A session's dial, which was its last resort.
    Dial,
    Probe,
    /// Nothing is to be ejected any more.
    Settings,
}

#[derive(Clone, Copy, Debug)]
struct Ejected {
    since: u64,
    silence: Option<Silence>,
}

#[derive(Clone, Copy, Debug)]
struct Evidence {
    fault: Fault,
    at: u64,
    /// Whether it ejects for sure, or may do so by the times that are known.
    is_certain: bool,
}

/// What an attempt has to do with its target's health.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stake {
    pub(super) place: Place,
    /// The target's successes when the attempt entered the pool.
    pub(super) successes: u64,
    /// When its dial began, and how long it may go unanswered.
    pub(super) began: u64,
    pub(super) patience: Option<u64>,
}

impl Rules {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            is_on: settings.ejection,
            patience: settings.dial_patience.map(|time| time.as_micros() as u64),
            dial_timeout: settings.dial_timeout.as_micros() as u64,
            interval_min: settings.probe_interval_min.as_micros() as u64,
            interval_max: settings.probe_interval_max.as_micros() as u64,
            probes_max: settings.probes_max,
            cut_silent: settings.cut_silent.map(|time| time.as_micros() as u64),
            cut_silent_since: 0,
            probes_more: (0, 0),
            dial_timeout_most: settings.dial_timeout.as_micros() as u64,
            probes_least: settings.probes_max,
        }
    }

    /// The settings are these from now on, apart from whether targets are ejected.
    fn change(&mut self, at: u64, grain: u64, settings: &Settings) {
        let before = std::mem::replace(self, Self::new(settings));
        self.is_on = before.is_on;
        let is_same_cut = self.cut_silent == before.cut_silent;
        self.cut_silent_since = if is_same_cut { before.cut_silent_since } else { at };
        // What has been decided to begin may do so a little later.
        let more = before.probes_max_at(at).max(self.probes_max);
        self.probes_more = (at + SLACK + grain, more);
        self.dial_timeout_most = self.dial_timeout_most.max(before.dial_timeout_most);
        self.probes_least = self.probes_least.min(before.probes_least);
    }

    /// How many probes may have begun by now.
    fn probes_max_at(&self, at: u64) -> usize {
        let (until, more) = self.probes_more;
        if at <= until { more } else { self.probes_max }
    }
}

impl Health {
    #[cfg(test)]
    pub(super) fn new(config: &Config) -> Self {
        Self::for_settings(&config.settings())
    }

    pub(super) fn for_settings(settings: &Settings) -> Self {
        Self {
            rules: Rules::new(settings),
            grain: 0,
            targets: BTreeMap::new(),
            probes: Probes::default(),
            answered_at: 0,
            on_since: 0,
            is_unknown: false,
        }
    }

    /// Takes the times of what it hears to be known no better than this.
    pub(super) fn set_grain(&mut self, grain: u64) {
        self.grain = grain;
    }

    /// Asks for nothing that has to do with health: for a policy that knows none.
    pub(super) fn turn_off(&mut self) {
        self.is_unknown = true;
        (self.rules.is_on, self.rules.patience) = (false, None);
    }

    /// The settings are these from now on, apart from whether targets are ejected.
    pub(super) fn configure(&mut self, at: u64, settings: &Settings) {
        if self.is_unknown {
            return;
        }
        let probes_before = self.rules.probes_max;
        self.rules.change(at, self.grain, settings);
        self.probes.configure(at, probes_before, &self.rules);
    }

    /// Targets are ejected from now on, or no more.
    pub(super) fn set_ejection(&mut self, at: u64, is_on: bool) {
        if is_on && !self.rules.is_on {
            self.on_since = at;
        }
        self.rules.is_on = is_on;
        for target in self.targets.values_mut().filter(|_| !is_on) {
            target.evidence = None;
            target.way_back = target.ejected.map(|_| (at, Way::Settings));
        }
    }

    // What is known of a target.

    pub(super) fn is_ejected(&self, place: Place) -> bool {
        self.targets.get(&place).is_some_and(|target| target.ejected.is_some())
    }

    pub(super) fn are_all_ejected(&self) -> bool {
        !self.targets.is_empty() && self.targets.values().all(|target| target.ejected.is_some())
    }

    /// Whether turns go to a target: it is in rotation, or none is.
    pub(super) fn is_eligible(&self, place: Place) -> bool {
        !self.is_ejected(place) || self.are_all_ejected()
    }

    /// The targets that are ejected, ascending.
    pub(super) fn ejected(&self) -> impl Iterator<Item = Place> {
        self.targets.iter().filter(|(_, target)| target.ejected.is_some()).map(|(place, _)| *place)
    }

    pub(super) fn successes(&self, place: Place) -> u64 {
        self.targets.get(&place).map_or(0, |target| target.successes)
    }

    /// How long a dial that begins now may go unanswered.
    pub(super) fn patience(&self, place: Place) -> Option<u64> {
        let least = self.rules.patience?;
        let took = self.targets.get(&place).map_or(0, |target| target.took);
        Some(least.max(3 * took).min(self.rules.dial_timeout))
    }

    /// Whether an attempt has gone unanswered for longer than its patience, and nothing has
    /// succeeded at its target since it began.
    pub(super) fn is_evidence(&self, at: u64, stake: &Stake) -> bool {
        stake.is_overdue(at) && self.targets.contains_key(&stake.place) && self.is_unrefuted(stake)
    }

    /// Whether that evidence had to eject its target by now.
    pub(super) fn is_overlooked(&self, at: u64, stake: &Stake) -> bool {
        let asked_at = stake.patience.map_or(0, |time| stake.began + time);
        let is_due = self.rules.is_on && asked_at > self.on_since + self.grain;
        is_due && self.is_evidence(at, stake) && !self.is_ejected(stake.place)
    }

    fn is_unrefuted(&self, stake: &Stake) -> bool {
        self.successes(stake.place) == stake.successes
    }

    // What happens to targets.

    /// The set is this from now on. Returns how many probes lose their target.
    pub(super) fn replaced(&mut self, set: &Backends, generation: u64) -> usize {
        self.targets.retain(|place, _| set.iter().any(|(_, stays)| stays == place));
        for (_, place) in set {
            self.targets.entry(*place).or_default();
        }
        self.probes.replaced(|place| self.targets.contains_key(&place), generation)
    }

    /// A dial has failed. It is evidence if the fault is the target's and nothing has succeeded there
    /// since it began.
    pub(super) fn dial_failed(&mut self, at: u64, stake: &Stake, fault: Fault) {
        let lasted = at.saturating_sub(stake.began);
        // By the settings as they were when it began, or as they are now.
        let needed = stake.patience.unwrap_or(self.rules.dial_timeout);
        let needs = self.patience(stake.place).unwrap_or(self.rules.dial_timeout);
        let is_timeout = fault == Fault::TimedOut;
        let is_enough = !is_timeout || lasted + self.grain >= needs.min(needed);
        let is_certain = !is_timeout || lasted >= needs.max(needed) + self.grain;
        let is_unrefuted = self.is_unrefuted(stake);
        self.note_answer(at, stake.place, fault);
        if fault != Fault::Ours && is_enough && is_unrefuted {
            self.blame(at, stake.place, fault, is_certain);
        }
    }

    /// The balancer looks at a dial that has outlived its patience.
    pub(super) fn overdue(&mut self, at: u64, stake: &Stake) {
        if self.is_evidence(at, stake) {
            self.blame(at, stake.place, Fault::TimedOut, true);
        }
    }

    /// A target is at fault: it has to be ejected, or stays so.
    fn blame(&mut self, at: u64, place: Place, fault: Fault, is_certain: bool) {
        let Some(target) = self.targets.get_mut(&place) else { return };
        match &mut target.ejected {
            Some(ejected) if !fault.is_answer() => {
                ejected.silence.get_or_insert(Silence::since(at)).note_certain(at);
            }
            Some(_) => {}
            None if self.rules.is_on => {
                target.evidence = Some(Evidence { fault, at, is_certain });
            }
            None => {}
        }
    }

    fn note_answer(&mut self, at: u64, place: Place, fault: Fault) {
        if let Some(target) = self.targets.get_mut(&place).filter(|_| fault.is_answer()) {
            target.answered_at = at;
            target.ejected.iter_mut().for_each(|ejected| ejected.silence = None);
            self.note_contrast(at);
        }
    }

    /// A dial or a probe has succeeded, after this time.
    pub(super) fn succeeded(&mut self, at: u64, place: Place, took: u64, way: Way) {
        let Some(target) = self.targets.get_mut(&place) else { return };
        target.successes += 1;
        // After a second, a packet has been sent again: that says nothing of the distance.
        if took < 1_000_000 {
            // Nobody keeps what doesn't matter by the patience of that time.
            let matters = self.rules.patience.is_some_and(|patience| 3 * took > patience);
            target.took = if matters { took } else { 0 };
        }
        target.evidence = None;
        target.way_back = target.ejected.map(|_| (at, way));
        target.ejected.iter_mut().for_each(|ejected| ejected.silence = None);
        self.note_contrast(at);
    }

    /// The balancer ejects a target. `is_overdue`: a dial gives reason to, since it goes unanswered.
    /// Returns whether it was ejected not long before, and came back.
    pub(super) fn eject(
        &mut self,
        at: u64,
        place: Place,
        fault: Fault,
        is_overdue: bool,
    ) -> Judged<bool> {
        let is_on = self.rules.is_on;
        let Some(target) = self.targets.get_mut(&place) else {
            return wrong(Law::Evidence, format!("{place} is ejected, and isn't in the set"));
        };
        let evidence = target.evidence.take();
        let is_seen = evidence.is_some_and(|evidence| evidence.fault == fault)
            || fault == Fault::TimedOut && is_overdue;
        if !is_on || !is_seen || target.ejected.is_some() {
            let text = format!("{place} is ejected as {fault}, and the evidence is {evidence:?}");
            return wrong(Law::Evidence, text);
        }
        let silence = (!fault.is_answer()).then(|| Silence::since(at));
        target.ejected = Some(Ejected { since: at, silence });
        Ok(self.probes.ejected(at, place, &self.rules))
    }

    /// The balancer says that a target is back, after this time. Returns what brought it back.
    pub(super) fn restore(&mut self, at: u64, place: Place, ejected_for: u64) -> Judged<Way> {
        let were_all = self.are_all_ejected();
        let Some(target) = self.targets.get_mut(&place) else {
            return wrong(Law::Return, format!("{place} returns, and isn't in the set"));
        };
        let (ejected, way_back) = (target.ejected.take(), target.way_back.take());
        let Some((ejected, (_, way))) = ejected.zip(way_back) else {
            let text =
                format!("{place} returns, and was {ejected:?}; what brings it: {way_back:?}");
            return wrong(Law::Return, text);
        };
        if (at - ejected.since).abs_diff(ejected_for) > self.grain {
            let text = format!("{place} was ejected at {}, not {ejected_for} ago", ejected.since);
            return wrong(Law::Return, text);
        }
        self.probes.returned(at, place);
        if were_all && way != Way::Settings {
            let others: Vec<_> = self.ejected().collect();
            self.probes.hurry(at, others);
        }
        Ok(way)
    }

    /// What was seen before this time has had its consequences.
    pub(super) fn settle(&mut self, at: u64) -> Judged {
        let is_over = |since: u64| since + self.grain < at;
        for (place, target) in &mut self.targets {
            if let Some(evidence) = target.evidence.take_if(|evidence| is_over(evidence.at))
                && evidence.is_certain
            {
                let text = format!("{place} isn't ejected, and the evidence is {evidence:?}");
                return wrong(Law::Evidence, text);
            }
            if target.way_back.is_some_and(|(since, _)| is_over(since)) {
                let text = format!("{place} isn't back, and {:?} is its way", target.way_back);
                return wrong(Law::Return, text);
            }
        }
        Ok(())
    }

    // Probes.

    /// A probe begins, and has this number from now on.
    pub(super) fn probe_started(&mut self, at: u64, number: u32, place: Place) -> Judged {
        if !self.targets.contains_key(&place) {
            return wrong(Law::Barrier, format!("a probe goes to {place}, which isn't in the set"));
        }
        if !self.is_ejected(place) {
            return wrong(Law::Probes, format!("a probe goes to {place}, which isn't ejected"));
        }
        self.probes.started(at, (number, place), &self.rules, self.grain)
    }

    /// A probe has let go of its connection. Returns the replacement that it owes that to.
    pub(super) fn probe_let_go(&mut self, at: u64, number: u32) -> Option<u64> {
        self.probes.let_go(at, number, &self.rules)
    }

    /// The newest probe of a target has come to an end by itself; `None`: it succeeded.
    pub(super) fn probed(&mut self, at: u64, place: Place, fault: Option<Fault>) {
        if self.is_ejected(place) {
            self.probes.has_result(place);
        }
        let Some(fault) = fault else {
            let took = self.probes.took(place);
            return self.succeeded(at, place, took, Way::Probe);
        };
        self.note_answer(at, place, fault);
        if fault != Fault::Ours && self.is_ejected(place) {
            self.blame(at, place, fault, true);
        }
    }

    /// Whether a probe goes to a place, or has yet to let go of it.
    pub(super) fn is_probed(&self, place: Place) -> bool {
        self.probes.is_at(place)
    }

    /// How many probes have not let go.
    pub(super) fn probes(&self) -> usize {
        self.probes.count()
    }

    /// No probe is late, and no target is out of rotation for longer than it may be: `healed_at`,
    /// since when each would accept a connection.
    pub(super) fn check_times(&self, at: u64, slack: u64, healed_at: Option<u64>) -> Judged {
        let ejected: Vec<_> = self.ejected().collect();
        self.probes.check_times(at, slack, &ejected, &self.rules)?;
        let Some(healed_at) = healed_at else { return Ok(()) };
        let most = self.return_max() + slack;
        for (place, target) in &self.targets {
            if target.ejected.is_some_and(|ejected| at > ejected.since.max(healed_at) + most) {
                return wrong(Law::Return, format!("{place} is still ejected, and accepts"));
            }
        }
        Ok(())
    }

    /// How long it may take until a target that accepts again is in rotation again.
    pub(super) fn return_max(&self) -> u64 {
        let rounds = self.targets.len().div_ceil(self.rules.probes_least) as u64;
        self.rules.interval_max + rounds * self.rules.dial_timeout_most
    }
}

impl Stake {
    pub(super) fn is_overdue(&self, at: u64) -> bool {
        self.patience.is_some_and(|time| at >= self.began + time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Key;

    pub(super) const B0: Place = Place(0);
    pub(super) const B1: Place = Place(1);

    /// Two targets; dials may go unanswered for 100 ms, and silence lasts a second at most.
    pub(super) fn health() -> Health {
        let mut health = Health::new(&Config { cut_silent: 1_000, ..Config::default() });
        health.replaced(&vec![(Key(0), B0), (Key(1), B1)], 1);
        health
    }

    pub(super) fn dial(health: &Health, began: u64) -> Stake {
        let (successes, patience) = (health.successes(B0), health.patience(B0));
        Stake { place: B0, successes, began, patience }
    }

    #[test]
    fn a_fault_is_evidence_unless_another_dial_has_succeeded_since() {
        let mut health = health();
        let (old, older) = (dial(&health, 1_000), dial(&health, 0));
        health.dial_failed(2_000, &older, Fault::Ours);
        assert_eq!(health.settle(9_000), Ok(()), "our own fault is no evidence");
        health.dial_failed(2_000, &older, Fault::TimedOut);
        assert_eq!(health.settle(9_000), Ok(()), "it had less time than its patience");
        health.succeeded(9_000, B0, 1_000, Way::Dial);
        health.dial_failed(10_000, &old, Fault::Refused);
        assert!(health.eject(10_000, B0, Fault::Refused, false).is_err());

        let new = dial(&health, 9_000);
        health.dial_failed(10_000, &new, Fault::Refused);
        assert!(health.settle(10_001).is_err(), "it isn't ejected");
        health.dial_failed(10_001, &new, Fault::Refused);
        assert_eq!(health.eject(10_001, B0, Fault::Refused, false), Ok(false));
        assert!(!health.is_eligible(B0) && health.is_eligible(B1));
        assert!(health.restore(11_000, B0, 999).is_err(), "nothing has brought it back");
    }
}
