//! What can be made smaller in a scenario, one change at a time.

use std::ops::Range;

use crate::scenario::{
    Config, ConfigField, Link, Manner, Operation, Place, Plan, Rule, Scenario, Step,
};

/// Whether the parts of a scenario fit each other.
pub(super) fn is_sound(scenario: &Scenario) -> bool {
    scenario.config.latency_min <= scenario.config.latency_max
}

/// How many rules and steps there are.
pub(super) fn items(scenario: &Scenario) -> usize {
    scenario.rules.len() + scenario.steps.len()
}

/// The scenario without these, counted over the rules and then the steps.
pub(super) fn without_items(scenario: &Scenario, items: Range<usize>) -> Scenario {
    let rules = scenario.rules.len();
    let mut smaller = scenario.clone();
    let mut place = 0..;
    smaller.rules.retain(|_| place.next().is_some_and(|place| !items.contains(&place)));
    let mut place = rules..;
    smaller.steps.retain(|_| place.next().is_some_and(|place| !items.contains(&place)));
    smaller
}

/// The scenario with this many backends, and without what the others did.
pub(super) fn with_backends(scenario: &Scenario, backends: u32) -> Scenario {
    let is_there = |place: Place| u32::from(place.0) < backends;
    let mut smaller = scenario.clone();
    smaller.config.backends = backends;
    smaller.steps.retain_mut(|step| match &mut step.operation {
        Operation::Replace(set) | Operation::Flap(set) => {
            set.retain(|(_, place)| is_there(*place));
            true
        }
        Operation::Partition(link)
        | Operation::CutTo(link)
        | Operation::CutFrom(link)
        | Operation::Hold(link)
        | Operation::Release(link)
        | Operation::Latency(link, _) => match link {
            Link::Backend(place) => is_there(*place),
            Link::Clients => true,
        },
        Operation::Crash(place)
        | Operation::PowerLoss(place)
        | Operation::Bounce(place)
        | Operation::PanicDial(place)
        | Operation::FailDial(place, ..)
        | Operation::Check(place, ..) => is_there(*place),
        Operation::Again
        | Operation::LoseSource
        | Operation::Spoil
        | Operation::Connect(..)
        | Operation::Leave(_)
        | Operation::FailAccept(..)
        | Operation::Drain(_)
        | Operation::Ejection(_)
        | Operation::Set(..)
        | Operation::ResetCycle
        | Operation::Shutdown(_) => true,
    });
    smaller
}

/// The value of a configuration's number that is plainest to a reader.
pub(super) fn plain_value(field: &ConfigField, scenario: &Scenario) -> u32 {
    match field.name {
        "clients" => field.least,
        "duration" => scenario.steps.last().map_or(0, |step| step.at).max(field.least),
        _ => *(field.of)(&mut Config::default()),
    }
}

/// Every number of the rules and steps but the times, with the value that it is best at.
pub(super) fn numbers(scenario: &mut Scenario) -> Vec<(&mut u32, u32)> {
    let mut numbers = Vec::new();
    for Rule { chance, after, times, .. } in &mut scenario.rules {
        numbers.extend([(chance, 100), (after, 0), (times, 1)]);
    }
    for Step { operation, .. } in &mut scenario.steps {
        match operation {
            Operation::Connect(count, Plan { up, down, pace, .. }) => {
                numbers.extend([(count, 1), (up, 0), (down, 0), (pace, 0)]);
            }
            Operation::FailAccept(count, _) | Operation::FailDial(_, count, _) => {
                numbers.push((count, 1));
            }
            Operation::Latency(_, time)
            | Operation::Check(.., time)
            | Operation::Drain(time)
            | Operation::Shutdown(time) => {
                numbers.push((time, 0));
            }
            Operation::Set(setting, value) => {
                let usual = *(setting.field().of)(&mut Config::default());
                numbers.push((value, usual));
            }
            _ => {}
        }
    }
    numbers
}

/// The milliseconds between a step and the one before.
pub(super) fn pause_before(scenario: &Scenario, number: usize) -> u32 {
    let at = |number: usize| scenario.steps.get(number).map_or(0, |step| step.at);
    at(number) - number.checked_sub(1).map_or(0, at)
}

/// The scenario with another pause before a step; all that follows comes earlier too.
pub(super) fn with_pause(scenario: &Scenario, number: usize, pause: u32) -> Scenario {
    let sooner = pause_before(scenario, number).saturating_sub(pause);
    let mut smaller = scenario.clone();
    for step in smaller.steps.iter_mut().skip(number) {
        step.at -= sooner;
    }
    smaller
}

/// The scenario without one backend of the set that a step gives; `None` if there is none.
pub(super) fn without_member(
    scenario: &Scenario,
    number: usize,
    member: usize,
) -> Option<Scenario> {
    let mut smaller = scenario.clone();
    match &mut smaller.steps.get_mut(number)?.operation {
        Operation::Replace(set) | Operation::Flap(set) if member < set.len() => {
            set.remove(member);
        }
        _ => return None,
    }
    Some(smaller)
}

/// The scenario with a plainer operation in a step's place.
pub(super) fn with_simpler_step(scenario: &Scenario, number: usize) -> Option<Scenario> {
    let mut simpler = scenario.clone();
    let operation = &mut simpler.steps.get_mut(number)?.operation;
    *operation = match operation {
        Operation::Flap(set) => Operation::Replace(set.clone()),
        Operation::PowerLoss(place) => Operation::Crash(*place),
        Operation::CutTo(link) | Operation::CutFrom(link) => Operation::Partition(*link),
        Operation::Connect(count, plan) => {
            Operation::Connect(*count, Plan { manner: Manner::Ask, ..*plan })
        }
        _ => return None,
    };
    Some(simpler)
}
