//! What the balancer has heard from its source, and which sets may follow from that.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    Law,
    scenario::{Backends, Place},
};

/// How long the balancer may leave a set untaken: of a burst, only the newest counts.
pub(super) const PAUSE: u64 = 10_000;

/// What the balancer has heard, in microseconds of its own clock.
///
/// A backend that stays too long is judged with patience, since a timer may be late. One that
/// leaves too early is judged with none: no timer fires early.
pub(super) struct Heard {
    /// How long a backend that is absent is kept. 0: not at all.
    keep: u64,
    patience: u64,
    /// The set heard last.
    set: Option<Backends>,
    lost: Option<Lost>,
    /// That set only narrows one that was heard before.
    narrows: bool,
    /// The last set of a lost source was given up.
    is_given_up: bool,
    /// The places in force that the set heard last lacks.
    absent: BTreeMap<Place, Absence>,
}

struct Lost {
    /// When the balancer heard of it.
    heard_at: u64,
    /// When the balancer reported it.
    reported_at: Option<u64>,
}

/// Between which two moments an absence began. The time in which the source was lost since then is
/// added to both.
#[derive(Clone, Copy)]
struct Absence {
    earliest: u64,
    latest: u64,
    was_lost: bool,
}

/// What is right about a set that took effect.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    /// Places that were kept, and have left.
    pub(super) gone: usize,
    /// How many of them were absent when the source was lost.
    pub(super) gone_after_loss: usize,
}

impl Heard {
    pub(super) fn new(keep: u64, patience: u64) -> Self {
        Self {
            keep,
            patience,
            set: None,
            lost: None,
            narrows: false,
            is_given_up: false,
            absent: BTreeMap::new(),
        }
    }

    /// The balancer hears a set. Returns how many absent places are mentioned again.
    pub(super) fn hear(&mut self, now: u64, set: &Backends, in_force: &Backends) -> usize {
        if let Some(lost) = self.lost.take()
            && self.keep > 0
        {
            let at_least = now - lost.reported_at.unwrap_or(lost.heard_at);
            for absence in self.absent.values_mut() {
                absence.earliest += at_least;
                absence.latest += now - lost.heard_at;
                absence.was_lost = true;
            }
        }
        (self.narrows, self.is_given_up) = (false, false);
        self.is_to_be(now, set, in_force)
    }

    /// The balancer hears which backends of the last set are to be used. That ends no loss.
    pub(super) fn narrow(&mut self, now: u64, set: &Backends, in_force: &Backends) {
        if !self.is_given_up {
            self.narrows = true;
            self.is_to_be(now, set, in_force);
        }
    }

    /// This set is to take effect. Returns how many absent places it has again.
    fn is_to_be(&mut self, now: u64, set: &Backends, in_force: &Backends) -> usize {
        let mentioned = places(set);
        let absent_before = self.absent.len();
        self.absent.retain(|place, _| !mentioned.contains(place));
        let back = absent_before - self.absent.len();
        let slack = if self.keep > 0 { PAUSE + self.patience } else { 0 };
        let began = Absence { earliest: now, latest: now + slack, was_lost: false };
        for place in places(in_force).difference(&mentioned) {
            self.absent.entry(*place).or_insert(began);
        }
        self.set = Some(set.clone());
        back
    }

    /// The balancer hears that the source is lost.
    pub(super) fn hear_loss(&mut self, now: u64) {
        self.lost.get_or_insert(Lost { heard_at: now, reported_at: None });
    }

    /// The balancer reports that the source is lost. Returns whether it is.
    pub(super) fn report_loss(&mut self, now: u64) -> bool {
        let Some(lost) = &mut self.lost else { return false };
        lost.reported_at = Some(now);
        true
    }

    /// Whether the set heard last only narrows one that was heard before.
    pub(super) fn narrows(&self) -> bool {
        self.narrows
    }

    /// The last set of a lost source has been given up.
    pub(super) fn give_up(&mut self) {
        self.is_given_up = true;
        self.absent.clear();
    }

    /// A set takes effect after the one in force. Returns what is wrong, if it shouldn't.
    pub(super) fn replaced(
        &mut self,
        now: u64,
        in_force: &Backends,
        set: &Backends,
    ) -> Result<Kept, (Law, String)> {
        let Some(newest) = &self.set else {
            return Err((Law::Order, "the source has given no set yet".into()));
        };
        let is_lost = self.lost.as_ref().is_some_and(|lost| lost.reported_at.is_some());
        if is_lost && (self.is_given_up || !self.narrows) {
            return Err((Law::Source, "the source is lost".into()));
        }
        if let Some((key, place)) = newest.iter().find(|entry| !set.contains(entry)) {
            return Err((Law::Order, format!("the source's newest set has {key}={place}")));
        }
        let is_kept = |(key, place): &_| {
            let is_whole = || in_force.iter().all(|entry| entry.1 != *place || set.contains(entry));
            in_force.contains(&(*key, *place)) && self.absent.contains_key(place) && is_whole()
        };
        let mut others = set.iter().filter(|entry| !newest.contains(entry));
        if let Some((key, place)) = others.find(|entry| !is_kept(entry)) {
            let text = format!("the source's newest set lacks {key}={place}, which isn't kept");
            return Err((Law::Order, text));
        }
        let mut kept = Kept::default();
        let stay = places(set);
        for (place, absence) in &self.absent {
            let (most, least) =
                (now.saturating_sub(absence.earliest), now.saturating_sub(absence.latest));
            let keep = self.keep;
            if stay.contains(place) && least >= keep {
                let text = format!("{place} is kept after {least} us of absence, not {keep}");
                return Err((Law::Source, text));
            }
            if !stay.contains(place) && most < keep {
                let text = format!("{place} leaves after {most} us of absence, not {keep}");
                return Err((Law::Source, text));
            }
            if !stay.contains(place) && keep > 0 {
                kept.gone += 1;
                kept.gone_after_loss += usize::from(absence.was_lost);
            }
        }
        self.absent.retain(|place, _| stay.contains(place));
        Ok(kept)
    }

    /// How many places the set heard last would remove now, at least and at most.
    pub(super) fn removes(&self, now: u64) -> (usize, usize) {
        let absent = || self.absent.values();
        let at_least = absent().filter(|absence| absence.latest + self.keep <= now).count();
        let at_most = absent().filter(|absence| absence.earliest + self.keep <= now).count();
        (at_least, at_most)
    }

    /// What is wrong with the set in force, if the balancer has had its time since it heard the
    /// newest one.
    pub(super) fn is_late(&self, now: u64, newest: &Backends, set: &Backends) -> Option<String> {
        if self.set.as_ref() != Some(newest) {
            return Some("the newest set wasn't heard".into());
        }
        if let Some((key, place)) = newest.iter().find(|entry| !set.contains(entry)) {
            return Some(format!("{key}={place} is in the newest set, and isn't in force"));
        }
        // The time stands still while the source is lost.
        let now = self.lost.as_ref().map_or(now, |lost| lost.heard_at);
        let may_stay = |place: &Place| {
            let absence = self.absent.get(place);
            self.keep > 0
                && absence.is_some_and(|absence| {
                    now <= absence.latest + self.keep + PAUSE + self.patience
                })
        };
        let mut others = set.iter().filter(|entry| !newest.contains(entry));
        let (key, place) = others.find(|(_, place)| !may_stay(place))?;
        Some(format!("{key}={place} isn't in the newest set, and is in force"))
    }
}

/// The places of a set.
pub(super) fn places(set: &Backends) -> BTreeSet<Place> {
    set.iter().map(|(_, place)| *place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Key;

    const KEEP: u64 = 1_000_000;
    const PATIENCE: u64 = 30_000;
    /// When a backend that was absent from 0 has to leave at the latest.
    const LATEST: u64 = KEEP + PAUSE + PATIENCE;

    fn set(numbers: &[u16]) -> Backends {
        numbers.iter().map(|number| (Key(*number), Place(*number))).collect()
    }

    /// It has heard one set with these, which is in force.
    fn heard(numbers: &[u16]) -> Heard {
        let mut heard = Heard::new(KEEP, PATIENCE);
        heard.hear(0, &set(numbers), &Vec::new());
        assert_eq!(heard.replaced(0, &Vec::new(), &set(numbers)), Ok(Kept::default()));
        heard
    }

    fn law(result: Result<Kept, (Law, String)>) -> Result<usize, Law> {
        result.map(|kept| kept.gone).map_err(|(law, _)| law)
    }

    #[test]
    fn a_backend_is_kept_for_its_time_no_more_and_no_less() {
        let (both, one) = (&set(&[0, 1]), &set(&[0]));
        let mut heard = heard(&[0, 1]);
        heard.hear(0, one, both);
        assert_eq!(law(heard.replaced(KEEP - 1, both, one)), Err(Law::Source));
        assert_eq!(heard.removes(KEEP - 1), (0, 0));
        assert_eq!(heard.removes(KEEP), (0, 1));
        assert_eq!(heard.removes(LATEST), (1, 1));
        assert_eq!(heard.is_late(LATEST + PAUSE + PATIENCE, one, both), None);
        assert!(heard.is_late(LATEST + PAUSE + PATIENCE + 1, one, both).is_some());
        assert_eq!(law(heard.replaced(LATEST - 1, both, both)), Ok(0));
        assert_eq!(law(heard.replaced(LATEST, both, both)), Err(Law::Source));
        assert_eq!(law(heard.replaced(KEEP, both, one)), Ok(1));
    }

    #[test]
    fn a_mention_ends_an_absence_and_the_next_begins_anew() {
        let (both, one) = (&set(&[0, 1]), &set(&[0]));
        let mut heard = heard(&[0, 1]);
        heard.hear(0, one, both);
        assert_eq!(heard.hear(500, one, both), 0, "it goes on");
        assert_eq!(heard.hear(600, both, both), 1);
        heard.hear(700, one, both);
        assert_eq!(law(heard.replaced(699 + KEEP, both, one)), Err(Law::Source));
        assert_eq!(law(heard.replaced(700 + KEEP, both, one)), Ok(1));
    }

    #[test]
    fn the_time_stands_still_while_the_source_is_lost() {
        let (both, one) = (&set(&[0, 1]), &set(&[0]));
        let mut heard = heard(&[0, 1]);
        heard.hear(0, one, both);
        assert!(!heard.report_loss(100));
        heard.hear_loss(100);
        heard.hear_loss(150);
        assert!(heard.report_loss(100));
        assert_eq!(heard.is_late(9 * KEEP, one, both), None);
        assert_eq!(law(heard.replaced(9 * KEEP, both, one)), Err(Law::Source));
        let back = 100 + 9 * KEEP;
        heard.hear(back, one, both);
        assert_eq!(law(heard.replaced(KEEP - 1 + 9 * KEEP, both, one)), Err(Law::Source));
        assert_eq!(law(heard.replaced(LATEST + 9 * KEEP, both, both)), Err(Law::Source));
        let gone = heard.replaced(KEEP + 9 * KEEP, both, one);
        assert_eq!(gone, Ok(Kept { gone: 1, gone_after_loss: 1 }));
    }

    #[test]
    fn a_set_may_be_narrowed_while_the_source_is_lost_until_it_is_given_up() {
        let (both, one) = (&set(&[0, 1]), &set(&[0]));
        let mut heard = Heard::new(0, PATIENCE);
        heard.hear(0, both, &Vec::new());
        assert_eq!(law(heard.replaced(0, &Vec::new(), both)), Ok(0));
        heard.hear_loss(100);
        assert!(heard.report_loss(100));
        assert_eq!(law(heard.replaced(150, both, both)), Err(Law::Source));
        heard.narrow(200, one, both);
        assert_eq!(heard.removes(200), (1, 1));
        assert_eq!(law(heard.replaced(200, both, one)), Ok(0));
        assert!(heard.report_loss(300), "it is lost all the same");
        heard.give_up();
        heard.narrow(400, both, &Vec::new());
        assert_eq!(law(heard.replaced(400, &Vec::new(), both)), Err(Law::Source));
        heard.hear(500, both, &Vec::new());
        assert_eq!(law(heard.replaced(500, &Vec::new(), both)), Ok(0));
    }

    #[test]
    fn only_what_was_in_force_is_kept_and_whole() {
        let shared = &vec![(Key(0), Place(0)), (Key(1), Place(1)), (Key(9), Place(1))];
        let one = &set(&[0]);
        let mut heard = Heard::new(KEEP, PATIENCE);
        assert_eq!(law(heard.replaced(0, &Vec::new(), one)), Err(Law::Order), "there was none");
        heard.hear(0, shared, &Vec::new());
        assert_eq!(law(heard.replaced(0, &Vec::new(), shared)), Ok(0));
        heard.hear(0, one, shared);
        assert_eq!(law(heard.replaced(0, shared, &set(&[0, 1]))), Err(Law::Order));
        assert_eq!(law(heard.replaced(0, shared, &set(&[0, 1, 2]))), Err(Law::Order));
        assert_eq!(law(heard.replaced(0, shared, &set(&[1]))), Err(Law::Order));
        heard.hear(0, &set(&[0, 1]), shared);
        let (without_a_key, kept) = (&set(&[0, 1]), heard.replaced(0, shared, shared));
        assert_eq!(law(kept), Err(Law::Order), "a target that is mentioned keeps no key");
        assert_eq!(law(heard.replaced(0, shared, without_a_key)), Ok(0));
    }

    #[test]
    fn nothing_is_kept_unless_it_is_to_be() {
        let (both, one) = (&set(&[0, 1]), &set(&[0]));
        let mut heard = Heard::new(0, PATIENCE);
        heard.hear(0, both, &Vec::new());
        heard.hear(0, one, both);
        assert_eq!(heard.removes(0).1, 1);
        assert!(heard.is_late(0, one, both).is_some());
        assert_eq!(law(heard.replaced(0, both, one)), Ok(0));
    }
}
