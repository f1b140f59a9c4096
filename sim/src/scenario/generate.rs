//! Scenarios from choices.

use super::{
    AcceptError, Act, Backends, Class, Config, Key, Leaving, Link, Manner, Operation, Place, Plan,
    Profile, Rule, Scenario, Step, Trigger, outages,
};
use crate::{Entropy, Seeded};

impl Scenario {
    /// The scenario that a seed stands for.
    pub fn from_seed(profile: &Profile, seed: u64) -> Self {
        Self::generate(profile, &mut Seeded::new(seed))
    }

    /// A scenario from a source of choices. Every source gives a valid one.
    pub fn generate(profile: &Profile, entropy: &mut impl Entropy) -> Self {
        let seed = entropy.next();
        let mut config = (profile.config)();
        vary(&mut config, entropy);
        // Swarm testing (Groce et al., ISSTA 2012): what a scenario lacks lets the rest show.
        let classes: Vec<_> =
            profile.weights.iter().copied().filter(|_| !entropy.chance(35)).collect();
        let mut draft = Draft::new(config, entropy);
        draft.first_set();
        let count = draft.entropy.between(profile.steps.0, profile.steps.1);
        let mut times: Vec<u32> = (0..count)
            .map(|_| draft.entropy.below(u64::from(draft.config.duration)) as u32)
            .collect();
        times.sort_unstable();
        for at in times {
            if let Some(class) = weighted(&classes, draft.entropy) {
                draft.add(at, class);
            }
        }
        draft.steps.sort_by_key(|step| step.at);
        // This and what follows is drawn last, so that the other steps of a seed are the same with it as without.
        if draft.config.source == 1 && draft.entropy.chance(40) {
            draft.config.keep_absent = draft.entropy.between(1_000, 2_000);
            for _ in 0..draft.entropy.between(1, 3) {
                draft.absence();
            }
            draft.steps.sort_by_key(|step| step.at);
        }
        outages::vary(&mut draft.config, draft.entropy);
        draft.add_outages();
        if draft.entropy.chance(6) {
            draft.shutdown_while_draining();
        }
        let Draft { config, rules, steps, .. } = draft;
        // From a source of their own, so that whatever else is drawn is the same with them as without.
        let mut entropy = Seeded::for_purpose(seed, 3);
        let mut draft = Draft { config, entropy: &mut entropy, set: Vec::new(), rules, steps };
        draft.add_checks();
        let Draft { config, rules, steps, .. } = draft;
        let mut entropy = Seeded::for_purpose(seed, 4);
        let mut draft = Draft { config, entropy: &mut entropy, set: Vec::new(), rules, steps };
        draft.add_settings();
        draft.steps.sort_by_key(|step| step.at);
        Self { seed, config: draft.config, rules: draft.rules, steps: draft.steps }
    }
}

impl Plan {
    /// What one connection does, in these surroundings.
    pub fn draw(config: &Config, entropy: &mut impl Entropy) -> Self {
        let weights: Vec<_> = Manner::ALL.into_iter().zip(config.manners).collect();
        Self {
            up: entropy.between(0, config.bytes),
            down: entropy.between(0, config.bytes),
            pace: entropy.between(0, config.pace),
            manner: weighted(&weights, entropy).unwrap_or_default(),
        }
    }
}

pub(super) fn weighted<T: Copy>(of: &[(T, u32)], entropy: &mut impl Entropy) -> Option<T> {
    let sum: u64 = of.iter().map(|(_, weight)| u64::from(*weight)).sum();
    let mut drawn = entropy.below(sum);
    for (value, weight) in of {
        match drawn.checked_sub(u64::from(*weight)) {
            None => return Some(*value),
            Some(left) => drawn = left,
        }
    }
    None
}

fn vary(config: &mut Config, entropy: &mut impl Entropy) {
    config.start = entropy.below(8) as u32;
    config.latency_max = entropy.between(config.latency_min, config.latency_max * 3);
    config.yields = if entropy.chance(50) { entropy.between(1, 30) } else { 0 };
    config.source = entropy.below(2) as u32;
    if config.source == 1 && entropy.chance(40) {
        config.floor = entropy.between(20, 80);
        config.hold = entropy.between(20, 900);
    }
    if config.source == 1 && entropy.chance(50) {
        config.stale = entropy.between(1_000, 2_000);
    }
    config.leave_out = entropy.below(2) as u32;
    if entropy.chance(25) {
        config.window = entropy.between(config.window.min(300), config.window.min(3_000));
        config.buffer = entropy.between(config.buffer.min(100), config.buffer.min(1_000));
        config.chunk_max = entropy.between(config.chunk_max.min(100), config.chunk_max.min(500));
    }
    if entropy.chance(20) {
        config.dial_attempts = entropy.between(1, 5);
    }
    if entropy.chance(15) {
        config.connections = entropy.between(4, 24);
    }
    if entropy.chance(25) {
        config.drain = entropy.between(20, 900);
    }
    if entropy.chance(20) {
        config.idle_timeout = entropy.between(300, 1_500);
    }
    if entropy.chance(20) {
        config.waiting = entropy.between(0, 10);
    }
}

/// A scenario in the making.
pub(super) struct Draft<'a, E> {
    pub(super) config: Config,
    pub(super) entropy: &'a mut E,
    /// The set as the steps so far leave it.
    set: Backends,
    pub(super) rules: Vec<Rule>,
    steps: Vec<Step>,
}

impl<'a, E: Entropy> Draft<'a, E> {
    fn new(config: Config, entropy: &'a mut E) -> Self {
        Self { config, entropy, set: Vec::new(), rules: Vec::new(), steps: Vec::new() }
    }

    /// Mostly there from the beginning, sometimes only when clients wait for it.
    fn first_set(&mut self) {
        let at = if self.entropy.chance(70) { 0 } else { self.entropy.between(1, 600) };
        let count = self.entropy.between(1, self.config.backends);
        self.set = (0..count as u16).map(|number| (Key(number), Place(number))).collect();
        self.step(at, Operation::Replace(self.set.clone()));
    }

    pub(super) fn step(&mut self, at: u32, operation: Operation) {
        self.steps.push(Step { at, operation });
    }

    pub(super) fn place(&mut self) -> Place {
        Place(self.entropy.below(u64::from(self.config.backends)) as u16)
    }

    fn link(&mut self) -> Link {
        if self.entropy.chance(20) { Link::Clients } else { Link::Backend(self.place()) }
    }

    /// A key that isn't in the set.
    fn new_key(&mut self) -> Key {
        let mut key = Key(self.entropy.below(24) as u16);
        while self.set.iter().any(|(taken, _)| *taken == key) {
            key.0 += 1;
        }
        key
    }

    /// An entry of the set, if there is one.
    fn entry(&mut self) -> Option<usize> {
        (!self.set.is_empty()).then(|| self.entropy.below(self.set.len() as u64) as usize)
    }

    fn replace(&mut self, at: u32, set: Backends) {
        self.set = set;
        self.set.sort();
        self.step(at, Operation::Replace(self.set.clone()));
    }

    fn add(&mut self, at: u32, class: Class) {
        match class {
            Class::Add | Class::Remove | Class::Retarget | Class::Share | Class::Rename => {
                if let Some(set) = self.changed(class) {
                    self.replace(at, set);
                }
            }
            Class::Empty => self.replace(at, Vec::new()),
            Class::Restore => self.replace(at, all(&self.config)),
            Class::Flap => {
                let of = [Class::Remove, Class::Add, Class::Retarget, Class::Empty];
                let class = self.entropy.pick(&of).copied().unwrap_or(Class::Remove);
                if let Some(set) = self.changed(class) {
                    self.step(at, Operation::Flap(set));
                }
            }
            Class::Again => self.step(at, Operation::Again),
            Class::Source => {
                let is_lost = self.entropy.chance(70);
                self.step(at, if is_lost { Operation::LoseSource } else { Operation::Spoil });
            }
            Class::Burst => {
                let plan = Plan::draw(&self.config, self.entropy);
                let count = self.entropy.between(1, 12);
                self.step(at, Operation::Connect(count, plan));
            }
            Class::Leave => {
                let how = if self.entropy.chance(50) { Leaving::Close } else { Leaving::Abort };
                self.step(at, Operation::Leave(how));
            }
            Class::AcceptError => {
                let error = match self.entropy.chance(50) {
                    true => AcceptError::Aborted,
                    false => AcceptError::NoDescriptors,
                };
                let count = self.entropy.between(1, 4);
                self.step(at, Operation::FailAccept(count, error));
            }
            Class::DialPanic => {
                let place = self.place();
                self.step(at, Operation::PanicDial(place));
            }
            Class::Drain => {
                let time = if self.entropy.chance(70) { self.entropy.between(10, 900) } else { 0 };
                self.step(at, Operation::Drain(time));
                // What a removal has drain then gets more time, and less after that.
                if time > 0
                    && self.entropy.chance(80)
                    && let Some(set) = self.changed(Class::Remove)
                {
                    let removed_at = at + self.entropy.between(1, 200);
                    self.replace(removed_at, set);
                    let longer_at = removed_at + self.entropy.between(1, 50);
                    let longer = self.entropy.between(900, 1_800);
                    self.step(longer_at, Operation::Drain(longer));
                    let shorter_at = longer_at + self.entropy.between(1, 100);
                    let shorter = self.entropy.between(1, 900);
                    self.step(shorter_at, Operation::Drain(shorter));
                }
            }
            Class::ResetCycle => self.step(at, Operation::ResetCycle),
            Class::Shutdown => {
                let grace = self.entropy.between(0, 1_000);
                self.step(at, Operation::Shutdown(grace));
            }
            Class::Rules => self.rule(),
            fault => self.fault(at, fault),
        }
    }

    /// The set with one change; `None` if there is nothing to change.
    fn changed(&mut self, class: Class) -> Option<Backends> {
        let mut set = self.set.clone();
        let (key, place) = (self.new_key(), self.place());
        match class {
            Class::Add => set.push((key, place)),
            Class::Empty => set.clear(),
            Class::Remove => {
                set.remove(self.entry()?);
            }
            Class::Retarget => set[self.entry()?].1 = place,
            Class::Share => set.push((key, set[self.entry()?].1)),
            _ => set[self.entry()?].0 = key,
        }
        set.sort();
        Some(set)
    }

    /// A fault and, after a while, its repair.
    fn fault(&mut self, at: u32, class: Class) {
        let repair_at = (at + self.entropy.between(20, 1_200)).min(self.config.duration);
        let link = self.link();
        let place = self.place();
        let (fault, repair) = match class {
            Class::Partition => (Operation::Partition(link), Operation::Release(link)),
            Class::OneWay if self.entropy.chance(50) => {
                (Operation::CutTo(link), Operation::Release(link))
            }
            Class::OneWay => (Operation::CutFrom(link), Operation::Release(link)),
            Class::Latency => {
                let time = self.entropy.between(0, 200);
                let usual = self.config.latency_max;
                (Operation::Latency(link, time), Operation::Latency(link, usual))
            }
            Class::Crash => (Operation::Crash(place), Operation::Bounce(place)),
            Class::PowerLoss => (Operation::PowerLoss(place), Operation::Bounce(place)),
            _ => (Operation::Hold(link), Operation::Release(link)),
        };
        self.step(at, fault);
        self.step(repair_at, repair);
    }

    /// The server shuts down, and soon aborts what is left, while a removed target drains.
    fn shutdown_while_draining(&mut self) {
        let at = self.entropy.between(0, self.config.duration);
        let Some(set) = self.set_at(at) else { return };
        let Some(&(_, place)) = self.entropy.pick(&set) else { return };
        let without = set.iter().copied().filter(|entry| entry.1 != place).collect();
        self.step(at, Operation::Drain(1_500));
        self.step(at, Operation::Replace(without));
        let grace = self.entropy.between(0, 50);
        self.step(at, Operation::Shutdown(grace));
    }

    /// Takes out the steps that say a set between these times.
    pub(super) fn keep_sets_from(&mut self, from: u32, until: u32) {
        self.steps.retain(|step| {
            let says = matches!(
                step.operation,
                Operation::Replace(_) | Operation::Flap(_) | Operation::Again | Operation::Spoil
            );
            !says || step.at <= from || step.at > until
        });
    }

    /// The set that the steps so far order last by this time.
    pub(super) fn set_at(&self, at: u32) -> Option<Backends> {
        let ordered = self.steps.iter().filter_map(|step| match &step.operation {
            Operation::Replace(set) if step.at <= at => Some((step.at, set)),
            _ => None,
        });
        ordered.max_by_key(|(at, _)| *at).map(|(_, set)| set.clone())
    }

    /// A backend is absent. Before its time is over, the source is lost for a while, or names it
    /// and at once lacks it again.
    fn absence(&mut self) {
        let Config { duration, keep_absent, .. } = self.config;
        let at = self.entropy.between(0, duration);
        let newest = self.steps.iter().rev().find_map(|step| match &step.operation {
            Operation::Replace(set) if step.at <= at => Some(set),
            _ => None,
        });
        let with = newest.cloned().unwrap_or_default();
        let Some(&(_, place)) = self.entropy.pick(&with) else { return };
        let without = with.iter().copied().filter(|entry| entry.1 != place).collect();
        self.step(at, Operation::Replace(without));
        let later = (at + self.entropy.between(1, keep_absent)).min(duration);
        if self.entropy.chance(50) {
            return self.step(later, Operation::Flap(with));
        }
        self.step(later, Operation::LoseSource);
        let back_at = (later + self.entropy.between(1, 1_200)).min(duration);
        self.step(back_at, Operation::Again);
    }

    fn rule(&mut self) {
        const TRIGGERS: &[(Trigger, u32)] = &[
            (Trigger::DialStarted, 6),
            (Trigger::DialFailed, 2),
            (Trigger::Connected, 4),
            (Trigger::HalfClosed, 2),
            (Trigger::Ended, 2),
            (Trigger::Replaced, 2),
            (Trigger::DrainBegan, 2),
        ];
        const ACTS: &[(Act, u32)] = &[
            (Act::Remove, 8),
            (Act::RemoveAndBack, 4),
            (Act::Retarget, 3),
            (Act::Share, 2),
            (Act::Rename, 2),
            (Act::Add, 3),
            (Act::Empty, 1),
            (Act::Again, 2),
            (Act::Restore, 5),
            (Act::Crash, 2),
            (Act::Bounce, 2),
            (Act::Partition, 1),
            (Act::Hold, 1),
            (Act::Release, 2),
            (Act::Shutdown, 1),
        ];
        let rule = Rule {
            on: weighted(TRIGGERS, self.entropy).unwrap_or(Trigger::DialStarted),
            chance: self.entropy.between(1, 40),
            act: weighted(ACTS, self.entropy).unwrap_or(Act::Remove),
            after: if self.entropy.chance(60) { 0 } else { self.entropy.between(1, 60) },
            times: self.entropy.between(1, 12),
        };
        self.rules.push(rule);
    }
}

/// Every backend under its own key.
pub(crate) fn all(config: &Config) -> Backends {
    (0..config.backends as u16).map(|number| (Key(number), Place(number))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Bytes;

    #[test]
    fn every_source_of_choices_gives_a_scenario_that_can_be_written_and_read() {
        for profile in Profile::ALL {
            for seed in 0..300 {
                let scenario = Scenario::from_seed(&profile, seed);
                assert_eq!(scenario.to_string().parse(), Ok(scenario), "seed {seed}");
            }
        }
        let bytes: Vec<u8> = (0..=255).collect();
        for length in 0..bytes.len() {
            let scenario = Scenario::generate(&Profile::FAST, &mut Bytes::new(&bytes[..length]));
            assert_eq!(scenario.to_string().parse(), Ok(scenario), "{length} bytes");
        }
    }

    #[test]
    fn every_operation_is_drawn_and_every_class_is_lacking_sometimes() {
        let texts: Vec<String> =
            (0..300).map(|seed| Scenario::from_seed(&Profile::FAST, seed).to_string()).collect();
        for word in [
            "replace\n",
            "flap",
            "again\n",
            "lose-source",
            "keep-absent",
            "check 1\n",
            "check-all 1",
            "checks-linger 1",
            "on check-started",
            "nothing after",
            "spoil",
            "connect",
            "leave close",
            "leave abort",
            "partition",
            "cut-to",
            "cut-from",
            "hold",
            "release",
            "latency",
            "crash",
            "power-loss",
            "bounce",
            "fail-accept",
            "panic-dial",
            "no-descriptors\n",
            "unreachable",
            " refused\n",
            "reset\n",
            "ejection off",
            "set connections",
            "set dial-attempts",
            "set dial-timeout",
            "set dial-time ",
            "set patience",
            "set waiting ",
            "set waiting-timeout",
            "set half-close-timeout",
            "set idle-timeout",
            "set delivery-timeout",
            "set probe-min",
            "set probes",
            "set cut-silent",
            "patience 0",
            "probes 1",
            "cut-silent",
            "empty-waits",
            "on probe-started",
            "drain",
            "reset-cycle",
            "shutdown",
            "on dial-started",
        ] {
            let with = texts.iter().filter(|text| text.contains(word)).count();
            assert!(0 < with && with < texts.len(), "{word} is in {with} of {}", texts.len());
        }
    }
}
