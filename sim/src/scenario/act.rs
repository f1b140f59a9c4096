//! What a rule's act makes of the set.

use super::{Act, Backends, Config, Key, Place, generate::all};

/// The sets that follow each other at once when a rule acts on a target; none if the act is about
/// something else, or there is nothing to do.
pub(crate) fn sets_of(
    act: Act,
    place: Place,
    current: &Backends,
    config: &Config,
) -> Vec<Backends> {
    let without = || current.iter().copied().filter(|(_, at)| *at != place).collect::<Backends>();
    let new_key = || (0..=255).map(Key).find(|key| current.iter().all(|(taken, _)| taken != key));
    let other = Place(((u32::from(place.0) + 1) % config.backends) as u8);
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
            let new = (0..config.backends as u8)
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
