//! Since when and until when something was the case: faults of a host or its link, membership of the
//! set, and ejection.

use crate::{
    Scenario,
    scenario::{Act, Backends, Key, Link, Operation, Place, Reply},
    trace::{Note, Record},
};

/// What is wrong with a host or the link to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Cut,
    Held,
    Slow,
    Down,
}

impl Fault {
    pub(super) const ALL: [Self; 4] = [Self::Cut, Self::Held, Self::Slow, Self::Down];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Held => "held",
            Self::Slow => "slow",
            Self::Down => "down",
        }
    }
}

/// A fault, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FaultBand {
    pub(super) link: Link,
    pub(super) fault: Fault,
    pub(super) from: u64,
    pub(super) to: u64,
    /// What was done, in words.
    pub(super) text: String,
}

/// A backend's place in the set, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Membership {
    pub(super) place: Place,
    pub(super) keys: Vec<Key>,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// The faults that the records speak of, by the scenario's steps and rules.
pub(super) fn faults(scenario: &Scenario, records: &[Record], end: u64) -> Vec<FaultBand> {
    let mut bands = Bands { done: Vec::new(), open: Vec::new() };
    for record in records {
        match record.note {
            Note::Step(number) => {
                if let Some(step) = scenario.steps.get(number as usize) {
                    bands.operate(record.at, &step.operation);
                }
            }
            Note::Act(number, place) => {
                if let Some(rule) = scenario.rules.get(number as usize) {
                    bands.act(record.at, rule.act, place, &format!("rule {number}: {rule}"));
                }
            }
            Note::Healed => bands.end(record.at, |_| true),
            _ => {}
        }
    }
    bands.end(end, |_| true);
    bands.done
}

struct Bands {
    done: Vec<FaultBand>,
    open: Vec<FaultBand>,
}

impl Bands {
    fn operate(&mut self, at: u64, operation: &Operation) {
        let text = operation.to_string();
        match operation {
            Operation::Partition(link) | Operation::CutTo(link) | Operation::CutFrom(link) => {
                self.begin(at, *link, Fault::Cut, &text);
            }
            Operation::Hold(link) => self.begin(at, *link, Fault::Held, &text),
            Operation::Latency(link, _) => self.begin(at, *link, Fault::Slow, &text),
            Operation::Release(link) => self.release(at, *link),
            Operation::Crash(place) | Operation::PowerLoss(place) => {
                self.begin(at, Link::Backend(*place), Fault::Down, &text);
            }
            Operation::Bounce(place) => self.bounce(at, *place),
            _ => {}
        }
    }

    fn act(&mut self, at: u64, act: Act, place: Place, text: &str) {
        let link = Link::Backend(place);
        match act {
            Act::Crash => self.begin(at, link, Fault::Down, text),
            Act::Bounce => self.bounce(at, place),
            Act::Partition => self.begin(at, link, Fault::Cut, text),
            Act::Hold => self.begin(at, link, Fault::Held, text),
            Act::Release => self.release(at, link),
            _ => {}
        }
    }

    fn begin(&mut self, at: u64, link: Link, fault: Fault, text: &str) {
        self.end(at, |band| band.link == link && band.fault == fault);
        self.open.push(FaultBand { link, fault, from: at, to: at, text: text.into() });
    }

    fn release(&mut self, at: u64, link: Link) {
        self.end(at, |band| band.link == link && matches!(band.fault, Fault::Cut | Fault::Held));
    }

    fn bounce(&mut self, at: u64, place: Place) {
        self.end(at, |band| band.link == Link::Backend(place) && band.fault != Fault::Slow);
    }

    fn end(&mut self, at: u64, which: impl Fn(&FaultBand) -> bool) {
        for mut band in self.open.extract_if(.., |band| which(band)) {
            band.to = at;
            self.done.push(band);
        }
    }
}

/// Which backend was in the set when, under which keys.
pub(super) fn memberships(records: &[Record], end: u64) -> Vec<Membership> {
    let mut done: Vec<Membership> = Vec::new();
    let mut open: Vec<Membership> = Vec::new();
    for record in records {
        let Note::Replaced(_, set, ..) = &record.note else { continue };
        open.retain_mut(|membership| {
            let stays = membership.keys == keys_of(set, membership.place);
            if !stays {
                membership.to = record.at;
                done.push(membership.clone());
            }
            stays
        });
        for (_, place) in set {
            if open.iter().all(|membership| membership.place != *place) {
                let keys = keys_of(set, *place);
                open.push(Membership { place: *place, keys, from: record.at, to: end });
            }
        }
    }
    done.extend(open);
    done
}

/// A target that was ejected, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ejection {
    pub(super) place: Place,
    pub(super) from: u64,
    pub(super) to: u64,
    /// What ejected it, in words.
    pub(super) text: String,
}

/// Which target was ejected when: until it returned or left the set.
pub(super) fn ejections(records: &[Record], end: u64) -> Vec<Ejection> {
    let mut done: Vec<Ejection> = Vec::new();
    let mut open: Vec<Ejection> = Vec::new();
    for record in records {
        let at = record.at;
        let is_over = |ejection: &Ejection| match &record.note {
            Note::Returned(place, _) => ejection.place == *place,
            Note::Replaced(_, set, ..) => keys_of(set, ejection.place).is_empty(),
            _ => false,
        };
        done.extend(open.extract_if(.., |ejection| is_over(ejection)).map(|mut ejection| {
            ejection.to = at;
            ejection
        }));
        if let Note::Ejected(place, _) = record.note {
            open.push(Ejection { place, from: at, to: end, text: record.note.to_string() });
        }
    }
    done.extend(open);
    done
}

/// A check of a backend, from when to when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CheckBand {
    pub(super) place: Place,
    pub(super) from: u64,
    pub(super) to: u64,
    /// What it found; `None`: it was given up, or isn't over.
    pub(super) reply: Option<Reply>,
}

/// Which backend was checked when, in the order of the ends.
pub(super) fn checks(records: &[Record], end: u64) -> Vec<CheckBand> {
    let mut done: Vec<CheckBand> = Vec::new();
    let mut open: Vec<CheckBand> = Vec::new();
    for record in records {
        let (place, reply) = match record.note {
            Note::CheckStarted(place) => {
                open.push(CheckBand { place, from: record.at, to: end, reply: None });
                continue;
            }
            Note::Checked(place, reply) => (place, Some(reply)),
            Note::CheckGivenUp(place) => (place, None),
            _ => continue,
        };
        let ended = open.extract_if(.., |check| check.place == place);
        done.extend(ended.map(|check| CheckBand { to: record.at, reply, ..check }));
    }
    done.extend(open);
    done
}

fn keys_of(set: &Backends, place: Place) -> Vec<Key> {
    set.iter().filter(|(_, at)| *at == place).map(|(key, _)| *key).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(at: u64, note: Note) -> Record {
        Record { at, note }
    }

    #[test]
    fn a_check_lasts_until_it_has_found_something_or_is_given_up() {
        let (b0, b1) = (Place(0), Place(1));
        let records = [
            at(1, Note::CheckStarted(b0)),
            at(2, Note::CheckStarted(b1)),
            at(5, Note::Checked(b1, Reply::No)),
            at(6, Note::CheckGivenUp(b0)),
            at(7, Note::CheckStarted(b0)),
        ];
        let bands = checks(&records, 99);
        let bands: Vec<_> =
            bands.iter().map(|band| (band.place, band.from, band.to, band.reply)).collect();
        assert_eq!(bands, [(b1, 2, 5, Some(Reply::No)), (b0, 1, 6, None), (b0, 7, 99, None)]);
    }

    #[test]
    fn a_fault_lasts_until_it_is_mended_or_all_is() {
        let scenario: Scenario =
            "at 1 partition b1\nat 2 crash b2\nat 3 release b1\nat 4 hold clients".parse().unwrap();
        let mut records: Vec<_> =
            (0..4).map(|step| at(u64::from(step) * 10, Note::Step(step))).collect();
        records.push(at(50, Note::Healed));
        let bands: Vec<_> = faults(&scenario, &records, 99)
            .into_iter()
            .map(|band| (band.link, band.fault, band.from, band.to))
            .collect();
        let expected = [
            (Link::Backend(Place(1)), Fault::Cut, 0, 20),
            (Link::Backend(Place(2)), Fault::Down, 10, 50),
            (Link::Clients, Fault::Held, 30, 50),
        ];
        assert_eq!(bands, expected);
    }

    #[test]
    fn a_target_is_ejected_until_it_returns_or_leaves() {
        let replaced = |place| Note::Replaced(1, vec![(Key(0), Place(place))], 0, 0, 0);
        let ejected = |place| Note::Ejected(Place(place), tinylb_core::Fault::Refused);
        let records = [
            at(1, ejected(0)),
            at(2, ejected(1)),
            at(3, Note::Returned(Place(1), 1_000)),
            at(4, replaced(0)),
            at(5, replaced(1)),
            at(6, ejected(1)),
        ];
        let spans: Vec<_> =
            ejections(&records, 9).into_iter().map(|it| (it.place.0, it.from, it.to)).collect();
        assert_eq!(spans, [(1, 2, 3), (0, 1, 5), (1, 6, 9)]);
    }

    #[test]
    fn a_backend_is_in_the_set_from_one_replacement_to_another() {
        let set = |set: &[(u16, u16)]| -> Backends {
            set.iter().map(|(key, place)| (Key(*key), Place(*place))).collect()
        };
        let replaced = |time, backends| at(time, Note::Replaced(1, backends, 0, 0, 0));
        let records =
            [replaced(5, set(&[(0, 0), (1, 1)])), replaced(9, set(&[(0, 0), (2, 0), (1, 1)]))];
        let member = |place, keys: &[u16], from, to| Membership {
            place: Place(place),
            keys: keys.iter().copied().map(Key).collect(),
            from,
            to,
        };
        let expected = [member(0, &[0], 5, 9), member(1, &[1], 5, 20), member(0, &[0, 2], 9, 20)];
        assert_eq!(memberships(&records, 20), expected);
    }
}
