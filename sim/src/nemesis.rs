//! The nemesis: which of a scenario's rules answer to what happens, and what they do. The same on
//! every level.

use crate::{
    Entropy, Scenario,
    scenario::{Act, Backends, Config, Key, Link, Operation, Place, Rule, Trigger, all},
};

/// The rules of a scenario, and how often each may still answer.
pub(crate) struct Nemesis {
    rules: Vec<Rule>,
    left: Vec<u32>,
}

/// A rule that answers to something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The rule's number.
    pub(crate) rule: u32,
    /// Microseconds until it acts.
    pub(crate) after: u64,
    /// Whether it disturbs a host or a link: see [`Deed::Disturb`].
    pub(crate) disturbs: bool,
}

/// What a rule does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// It replaces the set by each of these, one right after the other; by none, if there is
    /// nothing to change.
    Replace(Vec<Backends>),
    /// It shuts the server down, without grace.
    ShutDown,
    /// It does this to the target's host or link.
    Disturb(Operation),
}

impl Nemesis {
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let left = scenario.rules.iter().map(|rule| rule.times).collect();
        Self { rules: scenario.rules.clone(), left }
    }

    /// The next rule that answers to this event, after the rule that answered last. Ask until there
    /// is none; each rule draws when its turn comes.
    pub(crate) fn answer(
        &mut self,
        on: Trigger,
        last: Option<Answer>,
        entropy: &mut impl Entropy,
    ) -> Option<Answer> {
        let first = last.map_or(0, |last| last.rule as usize + 1);
        let mut numbers = first..self.rules.len();
        let number = numbers.find(|number| {
            let rule = self.rules[*number];
            rule.on == on && self.left[*number] > 0 && entropy.chance(rule.chance)
        })?;
        self.left[number] -= 1;
        let rule = self.rules[number];
        let disturbs = matches!(
            rule.act,
            Act::Crash | Act::Bounce | Act::Partition | Act::Hold | Act::Release
        );
        let after = u64::from(rule.after) * 1000;
        Some(Answer { rule: number as u32, after, disturbs })
    }

    /// From now on, no rule answers.
    pub(crate) fn stop(&mut self) {
        self.left.fill(0);
    }

    /// What a rule does to a target. `current` is the set that was ordered last.
    pub(crate) fn deed(
        &self,
        rule: u32,
        place: Place,
        current: &Backends,
        config: &Config,
    ) -> Deed {
        let link = Link::Backend(place);
        match self.rules[rule as usize].act {
            Act::Crash => Deed::Disturb(Operation::Crash(place)),
            Act::Bounce => Deed::Disturb(Operation::Bounce(place)),
            Act::Partition => Deed::Disturb(Operation::Partition(link)),
            Act::Hold => Deed::Disturb(Operation::Hold(link)),
            Act::Release => Deed::Disturb(Operation::Release(link)),
            Act::Shutdown => Deed::ShutDown,
            act => Deed::Replace(sets_of(act, place, current, config)),
        }
    }
}

/// The sets that follow each other at once when a rule acts on a target; none if the act changes no
/// set.
fn sets_of(act: Act, place: Place, current: &Backends, config: &Config) -> Vec<Backends> {
    let without = || current.iter().copied().filter(|(_, at)| *at != place).collect::<Backends>();
    let new_key = || (0..=255).map(Key).find(|key| current.iter().all(|(taken, _)| taken != key));
    let other = Place(((u32::from(place.0) + 1) % config.backends) as u16);
    let with = |place| {
        let mut set = current.clone();
        set.extend(new_key().map(|key| (key, place)));
        set
    };
    let mut sets = match act {
        Act::Remove => vec![without()],
        Act::RemoveAndBack => vec![without(), current.clone()],
        Act::Retarget => {
            let moved = |(key, at)| (key, if at == place { other } else { at });
            vec![current.iter().copied().map(moved).collect()]
        }
        Act::Share => vec![with(place)],
        Act::Rename => {
            let mut set = without();
            set.extend(new_key().map(|key| (key, place)));
            vec![set]
        }
        Act::Add => {
            let new = (0..config.backends as u16)
                .map(Place)
                .find(|place| current.iter().all(|(_, at)| at != place));
            vec![with(new.unwrap_or(other))]
        }
        Act::Empty => vec![Vec::new()],
        Act::Again => vec![current.clone()],
        Act::Restore => vec![all(config)],
        Act::Crash | Act::Bounce | Act::Partition | Act::Hold | Act::Release | Act::Shutdown => {
            Vec::new()
        }
    };
    sets.iter_mut().for_each(|set| set.sort());
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Seeded;

    fn rules(text: &str) -> Nemesis {
        let scenario: Scenario = text.parse().unwrap();
        Nemesis::new(&scenario)
    }

    fn answers(nemesis: &mut Nemesis, on: Trigger) -> Vec<u32> {
        let mut entropy = Seeded::new(1);
        let mut last = None;
        let next = || {
            last = nemesis.answer(on, last, &mut entropy);
            last.map(|answer| answer.rule)
        };
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_rule_answers_as_often_as_it_may_and_to_nothing_else() {
        let mut nemesis = rules(
            "on ended chance 100 crash after 5 times 2\n\
             on replaced chance 100 empty after 0 times 9\n\
             on ended chance 100 remove after 0 times 1\n\
             on ended chance 0 add after 0 times 9",
        );
        assert_eq!(answers(&mut nemesis, Trigger::Ended), [0, 2]);
        assert_eq!(answers(&mut nemesis, Trigger::Ended), [0]);
        assert!(answers(&mut nemesis, Trigger::Ended).is_empty());
        nemesis.stop();
        assert!(answers(&mut nemesis, Trigger::Replaced).is_empty());
    }

    #[test]
    fn what_a_rule_does_is_what_it_says() {
        let nemesis = rules(
            "on ended chance 100 crash after 5 times 1\n\
             on ended chance 100 remove-and-back after 0 times 1\n\
             on ended chance 100 shutdown after 0 times 1",
        );
        let set = vec![(Key(0), Place(0)), (Key(1), Place(1))];
        let deed = |rule| nemesis.deed(rule, Place(1), &set, &Config::default());
        assert_eq!(deed(0), Deed::Disturb(Operation::Crash(Place(1))));
        assert_eq!(deed(1), Deed::Replace(vec![vec![(Key(0), Place(0))], set.clone()]));
        assert_eq!(deed(2), Deed::ShutDown);
    }
}
