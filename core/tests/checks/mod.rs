//! `Verdicts`, its source, its checks and an intake, and what must be true of them after each step.

mod model;
mod seen;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tinylb_core::{
    Answer, BackendKey, BackendSet, BadEntries, BadEntry, CheckId, CheckSettings, Update, Verdicts,
    WhenNone,
};

use self::model::{Emitted, Model};
pub use self::seen::Seen;

/// Backends: target by key.
pub type Backends = BTreeMap<u8, u8>;

pub const INTERVAL: u64 = 100;
pub const TIMEOUT: u64 = 60;
/// How long backends that pass from now on may wait to be reported.
pub const PAUSE: u64 = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    Pass,
    Fail,
    None,
    Ours,
}

#[derive(Clone, Debug)]
pub enum Step {
    /// The source says this set, which lacks an entry or doesn't.
    Say(Backends, bool),
    /// The source says its last set again, under other keys.
    Rename,
    /// The source itself narrows its last set to those whose place has a bit.
    Narrow(u8),
    Lose,
    /// One of the checks under way ends, late or not.
    Answer(usize, Found),
    /// All of them end, at once.
    AnswerAll([Found; 4]),
    /// An answer is given a second time.
    AnswerAgain(Found),
    Pass(u64),
}

#[derive(Clone, Debug)]
pub struct Setup {
    pub rise: u32,
    pub fall: u32,
    pub fall_unanswered: u32,
    pub opens: bool,
    pub leaves_out: bool,
    pub checks_max: usize,
}

pub struct World {
    verdicts: Verdicts<u8>,
    model: Model,
    now: u64,
    last_answered: Option<CheckId>,
    renamed: u8,
    pub seen: Seen,
}

fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

fn set(backends: &Backends) -> BackendSet<u8> {
    let entries = backends.iter().map(|(key, target)| (key.to_string(), *target));
    BackendSet::new(entries).expect("each key is there once")
}

fn backends(set: &BackendSet<u8>) -> Backends {
    let key = |key: &BackendKey| key.as_str().parse().expect("keys are numbers");
    set.iter().map(|(it, target)| (key(it), *target)).collect()
}

fn entry() -> Arc<[BadEntry]> {
    [BadEntry { key: "x".into(), reason: "no address".into() }].into()
}

/// Fails with a message if something isn't true.
macro_rules! law {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}
use law;

impl World {
    pub fn new(setup: &Setup) -> Self {
        let mut settings = CheckSettings::default();
        (settings.interval, settings.timeout) = (ms(INTERVAL), ms(TIMEOUT));
        (settings.rise, settings.fall) = (setup.rise, setup.fall);
        settings.fall_unanswered = setup.fall_unanswered;
        settings.when_none = if setup.opens { WhenNone::All } else { WhenNone::Empty };
        settings.checks_max = setup.checks_max;
        let bad = if setup.leaves_out { BadEntries::LeaveOut } else { BadEntries::Reject };
        Self {
            verdicts: Verdicts::new(settings, bad),
            model: Model::new(setup.clone()),
            now: 0,
            last_answered: None,
            renamed: 0,
            seen: Seen::default(),
        }
    }

    /// Does a step, and asks what follows from it, unless more happens at once.
    pub fn apply(&mut self, step: &Step, asks: bool) -> Result<(), String> {
        match step {
            Step::Say(said, lacks) => self.say(said.clone(), *lacks),
            Step::Rename => {
                let Some(inner) = self.model.inner.clone() else { return Ok(()) };
                self.renamed = self.renamed % 20 + 1;
                let said = inner.values().zip(self.renamed * 10..).map(|(it, key)| (key, *it));
                self.say(said.collect(), false);
                self.model.count_verdicts(&mut self.seen);
            }
            Step::Narrow(bits) => {
                let Some(inner) = &self.model.inner else { return Ok(()) };
                let kept = inner.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
                let kept: Backends = kept.map(|(_, (key, target))| (*key, *target)).collect();
                self.verdicts.update(ms(self.now), Update::Narrowed(set(&kept)));
                self.model.adopt(self.now, kept, &mut self.seen);
            }
            Step::Lose => {
                self.verdicts.update(ms(self.now), Update::Lost("away".into()));
                self.model.lose();
            }
            Step::Answer(at, found) => {
                let ids: Vec<CheckId> = self.model.under_way.keys().copied().collect();
                if !ids.is_empty() {
                    self.answer(ids[at % ids.len()], *found);
                }
            }
            Step::AnswerAll(found) => {
                let ids: Vec<CheckId> = self.model.under_way.keys().copied().collect();
                ids.into_iter().zip(found).for_each(|(id, found)| self.answer(id, *found));
            }
            Step::AnswerAgain(found) => {
                if let Some(id) = self.last_answered {
                    self.verdicts.answered(ms(self.now), id, answer_of(*found));
                }
            }
            Step::Pass(time) => return self.pass(self.now + time),
        }
        if asks { self.ask().map(|_| ()) } else { self.check_verdicts() }
    }

    fn say(&mut self, said: Backends, lacks: bool) {
        let update = match lacks {
            true => Update::Partial(set(&said), entry()),
            false => Update::Set(set(&said)),
        };
        self.verdicts.update(ms(self.now), update);
        self.model.say(self.now, said, lacks, &mut self.seen);
    }

    fn answer(&mut self, id: CheckId, found: Found) {
        self.verdicts.answered(ms(self.now), id, answer_of(found));
        self.model.answer(self.now, id, found, &mut self.seen);
        self.last_answered = Some(id);
    }

    /// Lets time pass: asks whenever something is due, and nothing may follow at another time.
    fn pass(&mut self, until: u64) -> Result<(), String> {
        self.ask()?;
        while let Some(due) = self.verdicts.due().filter(|due| *due <= ms(until)) {
            let due = due.as_nanos().div_ceil(1_000_000) as u64;
            law!(due > self.now, "something is due that has been done");
            self.now = due;
            self.ask()?;
        }
        self.now = until;
        let followed = self.ask()?;
        let due = self.verdicts.due();
        law!(followed == 0, "{followed} things follow though nothing was due; next: {due:?}");
        Ok(())
    }

    /// Asks what to do until there is nothing more. How much there was.
    fn ask(&mut self) -> Result<usize, String> {
        let mut followed = 0;
        let now = self.now;
        while let Some(check) = self.verdicts.start(ms(now)) {
            self.model.start(now, check.id, check.target, &mut self.seen)?;
            followed += 1;
        }
        self.model.settle(now, &mut self.seen);
        while let Some(update) = self.verdicts.next(ms(now)) {
            followed += 1;
            law!(followed < 100, "there is no end to it");
            let word = match &update {
                Update::Set(it) => Emitted::Set(backends(it), false),
                Update::Partial(it, entries) => {
                    law!(!entries.is_empty(), "a whole set is reported as partial");
                    // An intake makes a loss of it.
                    let is_loss = self.model.rejects(it.is_empty());
                    if is_loss { Emitted::Lost } else { Emitted::Set(backends(it), true) }
                }
                Update::Lost(_) => Emitted::Lost,
                Update::Narrowed(it) => Emitted::Narrowed(backends(it)),
            };
            self.model.hear(now, word, &mut self.seen)?;
        }
        self.model.check_checks(now)?;
        self.model.check_reports(now, &mut self.seen)?;
        let due = self.verdicts.due();
        law!(due.is_none_or(|due| due > ms(now)), "something is due that has been done");
        self.check_verdicts()?;
        Ok(followed)
    }

    /// No verdict outlives its backend, and each is what the answers say.
    fn check_verdicts(&mut self) -> Result<(), String> {
        let known: Vec<_> = self.verdicts.verdicts().collect();
        let known = known.iter().map(|it| (it.target, it.state, it.since, it.reason.is_some()));
        let known: Vec<_> = known.collect();
        let expected = self.model.verdicts();
        law!(known == expected, "verdicts are {known:?}, not {expected:?}");
        for id in self.model.under_way.keys() {
            let is_wanted = self.model.is_wanted(*id);
            law!(self.verdicts.is_wanted(*id) == is_wanted, "{id:?} is wanted: not {is_wanted}");
        }
        let changes = self.verdicts.take_changes().into_iter();
        let changes: Vec<_> = changes.map(|it| (it.target, it.was, it.is_passing)).collect();
        let expected = std::mem::take(&mut self.model.changes);
        law!(changes == expected, "changes are {changes:?}, not {expected:?}");
        Ok(())
    }
}

fn answer_of(found: Found) -> Answer {
    match found {
        Found::Pass => Answer::Pass,
        Found::Fail => Answer::Fail("503 from /primary".into()),
        Found::None => Answer::None("no answer within 60ms".into()),
        Found::Ours => Answer::Ours("too many open files".into()),
    }
}
