//! Which backends a source mentions no more, and for how long: what is kept follows from that.

use std::collections::BTreeSet;

use super::judge::Judge;
use crate::{
    Law, Sometimes,
    scenario::{Backends, Key, Place},
};

/// Every absence so far. Times are in microseconds.
#[derive(Default)]
pub(super) struct Absences(Vec<Absence>);

struct Absence {
    place: Place,
    /// When a set first lacked it; later by what the source was lost for since then.
    since: u64,
    /// When it was mentioned again.
    until: Option<u64>,
}

impl Absences {
    /// The source says a set, with these places in the one before.
    fn mention(&mut self, at: u64, before: &BTreeSet<Place>, said: &BTreeSet<Place>) {
        for absence in self.0.iter_mut().filter(|absence| said.contains(&absence.place)) {
            absence.until.get_or_insert(at);
        }
        for place in before.difference(said) {
            self.0.push(Absence { place: *place, since: at, until: None });
        }
    }

    fn pause(&mut self, lost_for: u64) {
        let open = self.0.iter_mut().filter(|absence| absence.until.is_none());
        open.for_each(|absence| absence.since += lost_for);
    }

    /// For how long a place has been absent at a moment. An absence that ended in the last `slack`
    /// counts: the balancer may not have heard of its end.
    fn time(&self, at: u64, place: Place, slack: u64) -> Option<u64> {
        let is_open = |absence: &&Absence| absence.until.is_none_or(|until| until + slack >= at);
        let of_place = self.0.iter().filter(|absence| absence.place == place);
        of_place.filter(is_open).map(|absence| at.saturating_sub(absence.since)).max()
    }
}

impl Judge {
    /// How long what is absent is kept, if it is.
    pub(super) fn keep(&self) -> Option<u64> {
        let config = &self.scenario.config;
        let keep = config.source_settings().keep_absent.filter(|_| config.source == 1)?;
        Some(keep.as_micros() as u64)
    }

    /// What is said instead of a set while absent backends are kept: there, a place has one key.
    pub(super) fn as_said(&self, set: Backends) -> Backends {
        match self.keep() {
            None => set,
            Some(_) => places(&set).into_iter().map(|place| (Key(place.0), place)).collect(),
        }
    }

    /// The source is told to say a set after the newest one.
    pub(super) fn mention(&mut self, said: &Backends) {
        if self.keep().is_some() {
            self.absences.mention(self.at, &places(&self.newest), &places(said));
        }
    }

    /// The source is told to speak again after it was lost for this long.
    pub(super) fn pause_absences(&mut self, lost_for: u64) {
        self.absences.pause(lost_for);
    }

    /// Whether a set is one that was said, with what is in force and absent from it.
    pub(super) fn completes(&self, said: &Backends, set: &Backends) -> bool {
        if self.keep().is_none() {
            return said == set;
        }
        let in_force = self.ledger.set().cloned().unwrap_or_default();
        said.iter().all(|entry| set.contains(entry))
            && set.iter().all(|entry| said.contains(entry) || in_force.contains(entry))
    }

    /// What leaves with this set has been absent for as long as it is kept.
    pub(super) fn check_absent(&mut self, set: &Backends) {
        let Some(keep) = self.keep() else { return };
        let before = self.ledger.set().map(places).unwrap_or_default();
        for place in before.difference(&places(set)) {
            let time = self.absent_for(*place);
            if time.is_some_and(|time| time + self.patience >= keep) {
                self.count(Sometimes::AbsentGone);
                continue;
            }
            let text = format!("{place} leaves {}; it is kept for {} ms", told(time), keep / 1000);
            self.fail(Law::Source, text);
        }
    }

    /// Whether the set in force is the newest one with what is kept, if it has had time to be.
    pub(super) fn is_newest_in_force(&self) -> bool {
        let Some(set) = self.ledger.set() else { return true };
        let Some(keep) = self.keep() else { return *set == self.newest };
        let is_kept = |place| {
            // It is absent from when the balancer hears of it, and a pause may follow at its end.
            let time = self.absences.time(self.absence_clock(), place, 0);
            time.is_some_and(|time| time <= keep + 2 * self.patience)
        };
        self.newest.iter().all(|entry| set.contains(entry))
            && set.iter().all(|entry| self.newest.contains(entry) || is_kept(entry.1))
    }

    /// For how long a place has been absent, at most, while the source wasn't lost.
    pub(super) fn absent_for(&self, place: Place) -> Option<u64> {
        self.absences.time(self.absence_clock(), place, self.patience)
    }

    /// It stands still while the source is lost.
    fn absence_clock(&self) -> u64 {
        self.lost_at().unwrap_or(self.at)
    }
}

fn places(set: &Backends) -> BTreeSet<Place> {
    set.iter().map(|(_, place)| *place).collect()
}

fn told(absent: Option<u64>) -> String {
    absent.map_or("though it is mentioned".into(), |time| {
        format!("after {} ms of absence", time / 1000)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Place = Place(0);
    const B: Place = Place(1);

    #[test]
    fn an_absence_lasts_until_the_next_mention_and_not_while_the_source_is_lost() {
        let mut absences = Absences::default();
        let mut before = BTreeSet::from([A, B]);
        let mut say = |absences: &mut Absences, at, said: &[Place]| {
            let said = said.iter().copied().collect();
            absences.mention(at, &before, &said);
            before = said;
        };
        say(&mut absences, 100, &[A]);
        say(&mut absences, 200, &[A]);
        assert_eq!((absences.time(300, A, 0), absences.time(300, B, 0)), (None, Some(200)));
        absences.pause(50);
        assert_eq!(absences.time(400, B, 0), Some(250));
        say(&mut absences, 500, &[A, B]);
        absences.pause(50);
        assert_eq!((absences.time(510, B, 0), absences.time(510, B, 10)), (None, Some(360)));
        say(&mut absences, 600, &[A]);
        assert_eq!(absences.time(700, B, 0), Some(100), "it begins anew");
    }
}
