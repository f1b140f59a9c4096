use std::{collections::BTreeMap, time::Duration};

use tinylb_core::{CheckId, VerdictState};

use super::{Backends, Found, INTERVAL, PAUSE, Seen, Setup, TIMEOUT, law, ms, seen::Rare};

/// What is reported in place of the source.
#[derive(Debug)]
pub enum Emitted {
    /// A set, which lacks entries or doesn't.
    Set(Backends, bool),
    Lost,
    Narrowed(Backends),
}

/// All that has happened to one target since it appeared.
struct Known {
    appeared: u64,
    state: VerdictState,
    since: u64,
    answers: Vec<Found>,
    /// It couldn't be asked since the last of them.
    is_unasked: bool,
    /// The places of its answers among all.
    places: Vec<usize>,
    started: Vec<u64>,
}

/// The naive model: it keeps every answer, and looks at all of them whenever it is asked.
pub struct Model {
    setup: Setup,
    pub inner: Option<Backends>,
    inner_at: u64,
    known: BTreeMap<u8, Known>,
    /// The checks under way: the target, when they began, and whether the answer counts.
    pub under_way: BTreeMap<CheckId, (u8, u64, bool)>,
    pub changes: Vec<(u8, VerdictState, bool)>,
    /// Every answer that counted.
    heard: Vec<Found>,
    /// Until when all are used though not all pass.
    open_until: Option<u64>,
    /// The source's last word was a loss, and entries that its last set lacks.
    is_lost: bool,
    lacks: bool,
    /// What is to be reported of it: a set, a loss.
    owes_set: bool,
    owes_loss: bool,
    /// The source was lost while its set was awaited.
    set_was_lost: bool,
    reported: Option<(u64, Backends)>,
    /// What an intake knows from the reports.
    told_lost: bool,
    told_lacks: bool,
}

impl Model {
    pub fn new(setup: Setup) -> Self {
        Self {
            setup,
            inner: None,
            inner_at: 0,
            known: BTreeMap::new(),
            under_way: BTreeMap::new(),
            changes: Vec::new(),
            heard: Vec::new(),
            open_until: None,
            is_lost: false,
            lacks: false,
            owes_set: false,
            owes_loss: false,
            set_was_lost: false,
            reported: None,
            told_lost: false,
            told_lacks: false,
        }
    }

    pub fn say(&mut self, now: u64, said: Backends, lacks: bool, seen: &mut Seen) {
        let is_loss = lacks && self.rejects(said.is_empty());
        seen.count(is_loss && !self.setup.leaves_out, Rare::Rejected);
        seen.count(is_loss && self.setup.leaves_out, Rare::NothingLeft);
        if is_loss {
            return self.lose();
        }
        seen.count(lacks, Rare::LeftOut);
        self.adopt(now, said, seen);
        (self.is_lost, self.lacks) = (false, lacks);
        (self.owes_set, self.owes_loss, self.set_was_lost) = (true, false, false);
    }

    /// Whether an intake makes a loss of a set that lacks entries.
    pub fn rejects(&self, is_empty: bool) -> bool {
        !self.setup.leaves_out || is_empty
    }

    pub fn lose(&mut self) {
        (self.is_lost, self.owes_loss) = (true, true);
    }

    pub fn adopt(&mut self, now: u64, inner: Backends, seen: &mut Seen) {
        let has = |target: &u8| inner.values().any(|it| it == target);
        for (target, known) in self.known.iter().filter(|(target, _)| !has(target)) {
            seen.count(known.answers.is_empty(), Rare::RemovedWhileUnheard);
            for (other, _, is_wanted) in self.under_way.values_mut() {
                *is_wanted &= other != target;
            }
        }
        self.known.retain(|target, _| has(target));
        for target in inner.values() {
            let is_new = !self.known.contains_key(target);
            let is_checked = self.under_way.values().any(|it| it.0 == *target);
            seen.count(is_new && is_checked, Rare::BackDuringItsOldCheck);
            self.known.entry(*target).or_insert(Known {
                appeared: now,
                state: VerdictState::Undecided,
                since: now,
                answers: Vec::new(),
                is_unasked: false,
                places: Vec::new(),
                started: Vec::new(),
            });
        }
        if self.inner.is_none() {
            self.inner_at = now;
        }
        self.inner = Some(inner);
        self.settle(now, seen);
    }

    pub fn start(
        &mut self,
        now: u64,
        id: CheckId,
        target: u8,
        seen: &mut Seen,
    ) -> Result<(), String> {
        let is_new = self.under_way.insert(id, (target, now, true)).is_none();
        law!(is_new, "an id is used twice");
        let checks = self.under_way.values().filter(|it| it.0 == target).count();
        law!(checks == 1, "{checks} checks of {target} at one time");
        let max = self.setup.checks_max;
        law!(self.under_way.len() <= max, "more than {max} checks at one time");
        seen.count(self.under_way.len() == max, Rare::AllChecksUnderWay);
        let first = self.known.values().filter(|it| it.started.is_empty());
        let first = first.map(|it| it.appeared).min();
        let Some(known) = self.known.get_mut(&target) else {
            return Err(format!("{target} is checked, and isn't in the set"));
        };
        match &known.started[..] {
            [] => {
                let appeared = known.appeared;
                // One that appeared earlier may wait for a check of the time before.
                let waits = |it: &&(u8, u64, bool)| !it.2;
                let has_old = self.under_way.values().any(|it| waits(&it));
                law!(has_old || first == Some(appeared), "{target} isn't the first to be checked");
            }
            [_] => {}
            [.., last] => {
                let least = (INTERVAL as f64 * 0.95) as u64;
                law!(now - last >= least, "{target} is checked again after {} ms", now - last);
                seen.count(now - last > INTERVAL * 2, Rare::SlowCheck);
            }
        }
        known.started.push(now);
        Ok(())
    }

    pub fn answer(&mut self, now: u64, id: CheckId, found: Found, seen: &mut Seen) {
        let Some((target, _, is_wanted)) = self.under_way.remove(&id) else { return };
        let Some(known) = self.known.get_mut(&target).filter(|_| is_wanted) else {
            seen.count(!is_wanted, Rare::LateAnswer);
            seen.count(self.known.contains_key(&target), Rare::BackAfterItsOldCheck);
            return;
        };
        known.is_unasked = found == Found::Ours;
        if known.is_unasked {
            let Setup { fall_unanswered, .. } = self.setup;
            let misses = known.answers.iter().rev().take_while(|it| **it != Found::Pass).count();
            let is_last = misses as u32 + 1 == fall_unanswered;
            let passes = known.state == VerdictState::Passing;
            seen.count(passes && is_last, Rare::UnaskedBeforeTheFall);
            seen.count(passes && misses > 0, Rare::UnaskedBetweenMisses);
            seen.count(known.answers.is_empty() && self.reported.is_none(), Rare::UnaskedAtFirst);
            return;
        }
        known.answers.push(found);
        known.places.push(self.heard.len());
        self.heard.push(found);
        let last = |counts: fn(&Found) -> bool| {
            known.answers.iter().rev().take_while(move |it| counts(it))
        };
        let passes = last(|it| *it == Found::Pass).count() as u32;
        let misses = last(|it| *it != Found::Pass).count() as u32;
        let refusals =
            last(|it| *it != Found::Pass).filter(|it| **it == Found::Fail).count() as u32;
        let Setup { rise, fall, fall_unanswered, .. } = self.setup;
        let was = known.state;
        let is_silent = misses >= fall_unanswered;
        let since = known.places[known.places.len() - misses as usize..].first();
        let has_other = since.is_some_and(|since| self.heard[*since..].contains(&Found::Pass));
        let is_certain = !self.setup.opens || has_other;
        let falls = refusals >= fall || is_silent && is_certain;
        let is_spared = was == VerdictState::Passing && is_silent && !falls;
        seen.count(is_spared, Rare::SilentLikeAll);
        known.state = match was {
            VerdictState::Undecided if passes >= 1 => VerdictState::Passing,
            VerdictState::Undecided | VerdictState::Passing if falls => VerdictState::Failing,
            VerdictState::Failing if passes >= rise => VerdictState::Passing,
            was => was,
        };
        let rising = was == VerdictState::Failing && found != Found::Pass;
        let before = known.answers.len().checked_sub(2).map(|at| known.answers[at]);
        seen.count(rising && before == Some(Found::Pass), Rare::FellBackWhileRising);
        if known.state == was {
            return;
        }
        known.since = now;
        let fails = known.state == VerdictState::Failing;
        seen.count(fails && was == VerdictState::Undecided, Rare::UndecidedFailed);
        seen.count(fails && refusals < fall, Rare::FailedUnanswered);
        let is_split = fails && misses < fall_unanswered && refusals >= 2 && misses > refusals;
        seen.count(is_split, Rare::FailedWithAGap);
        seen.count(was == VerdictState::Failing && passes >= 2, Rare::RoseSlowly);
        self.changes.push((target, was, !fails));
        self.settle(now, seen);
    }

    fn passes(&self, target: &u8) -> bool {
        self.known.get(target).is_some_and(|it| it.state == VerdictState::Passing)
    }

    fn passing(&self) -> usize {
        self.known.keys().filter(|target| self.passes(target)).count()
    }

    fn is_awaited(&self, now: u64) -> bool {
        self.reported.is_none()
            && self.passing() == 0
            && self.known.values().any(|it| it.answers.is_empty())
            && now < self.inner_at + TIMEOUT
    }

    /// Whether all are used though not all pass: decided by whatever happens.
    pub fn settle(&mut self, now: u64, seen: &mut Seen) {
        if !self.setup.opens || self.inner.is_none() || self.is_awaited(now) {
            return;
        }
        let passing = self.passing();
        match self.open_until {
            was if passing == 0 => {
                seen.count(was.is_none(), Rare::NonePasses);
                seen.count(was.is_some_and(|it| it < u64::MAX), Rare::OpenedAgain);
                self.open_until = Some(u64::MAX);
            }
            Some(u64::MAX) => self.open_until = Some(now + INTERVAL + TIMEOUT),
            Some(until) if until <= now || passing == self.known.len() => {
                seen.count(until > now, Rare::ClosedByAll);
                seen.count(passing < self.known.len(), Rare::ClosedInTime);
                self.open_until = None;
            }
            _ => {}
        }
    }

    fn expected(&self) -> Backends {
        let inner = self.inner.clone().unwrap_or_default();
        if self.open_until.is_some() {
            return inner;
        }
        inner.into_iter().filter(|(_, target)| self.passes(target)).collect()
    }

    /// Something is reported.
    pub fn hear(&mut self, now: u64, word: Emitted, seen: &mut Seen) -> Result<(), String> {
        let expected = self.expected();
        let is_awaited = self.inner.is_none() || self.is_awaited(now);
        let set = match word {
            Emitted::Lost => {
                law!(self.owes_loss, "a loss is reported that isn't there");
                law!(is_awaited || !self.owes_set, "a set is reported after the loss that follows");
                seen.count(is_awaited && self.owes_set, Rare::LostWhileAwaited);
                self.set_was_lost |= is_awaited && self.owes_set;
                (self.owes_loss, self.told_lost) = (false, true);
                self.owes_set = false;
                return Ok(());
            }
            Emitted::Set(set, lacks) => {
                let is_paid = lacks && !self.owes_set;
                law!(
                    self.owes_set || is_paid && !self.is_lost,
                    "{set:?} ends a loss, or is no word"
                );
                law!(!lacks || self.lacks && !set.is_empty(), "{set:?} lacks nothing");
                law!(!is_paid || !self.told_lacks, "entries are named twice");
                seen.count(self.lacks && !lacks, Rare::EntriesOwed);
                seen.count(is_paid, Rare::EntriesPaid);
                seen.count(self.owes_loss, Rare::LostAndSaidAtOnce);
                (self.owes_set, self.told_lost, self.told_lacks) = (false, false, lacks);
                set
            }
            Emitted::Narrowed(set) => {
                law!(!self.owes_set, "{set:?} is reported as narrowed, and was said");
                let is_new = self.reported.as_ref().is_none_or(|(_, before)| *before != set);
                law!(is_new, "{set:?} is reported twice");
                seen.count(self.is_lost, Rare::NarrowedWhileLost);
                set
            }
        };
        law!(!is_awaited, "{set:?} is reported too soon");
        law!(set == expected, "{set:?} is reported, not {expected:?}");
        if self.reported.is_none() {
            let is_pass = self.passing() > 0;
            let is_all = self.known.values().all(|it| !it.answers.is_empty());
            seen.count(is_pass, Rare::FirstByPass);
            seen.count(!is_pass && is_all && !self.known.is_empty(), Rare::FirstByAll);
            seen.count(!is_pass && !is_all, Rare::FirstByTime);
        }
        self.reported = Some((now, set));
        Ok(())
    }

    /// Nothing is owed to the follower, and what it last heard is right.
    pub fn check_reports(&self, now: u64, seen: &mut Seen) -> Result<(), String> {
        law!(!self.owes_loss, "a loss isn't reported");
        if self.inner.is_none() || self.is_awaited(now) {
            return Ok(());
        }
        law!(!self.owes_set, "a set isn't reported");
        let Some((at, reported)) = &self.reported else {
            return Err("the first set isn't reported".into());
        };
        law!(self.told_lost == self.is_lost, "lost: reported as {}", self.told_lost);
        if !self.is_lost && !reported.is_empty() {
            law!(self.told_lacks == self.lacks, "left out: reported as {}", self.told_lacks);
        }
        let inner = self.inner.clone().unwrap_or_default();
        for (key, target) in reported {
            law!(inner.get(key) == Some(target), "{key} is used, and isn't in the set");
            let may_be_used = self.setup.opens || self.passes(target);
            law!(may_be_used, "{key} is used, and doesn't pass");
        }
        let expected = self.expected();
        if *reported != expected {
            let is_gain = reported.iter().all(|(key, it)| expected.get(key) == Some(it));
            let waits = is_gain && now < at + PAUSE;
            law!(waits, "{reported:?} was reported {} ms ago, and is {expected:?}", now - at);
            seen.count(true, Rare::GainWaited);
        }
        Ok(())
    }

    /// Nobody waits for a check for longer than it must.
    pub fn check_checks(&self, now: u64) -> Result<(), String> {
        if self.under_way.len() == self.setup.checks_max {
            return Ok(());
        }
        for (target, known) in &self.known {
            let is_checked = self.under_way.values().any(|it| it.0 == *target);
            let most = (INTERVAL as f64 * 1.05).ceil() as u64;
            let is_late = known.started.last().is_none_or(|last| now > last + most);
            law!(is_checked || !is_late, "{target} isn't checked");
        }
        Ok(())
    }

    pub fn is_wanted(&self, id: CheckId) -> bool {
        self.under_way.get(&id).is_some_and(|it| it.2)
    }

    pub fn count_verdicts(&self, seen: &mut Seen) {
        let is_decided = |it: &Known| it.state != VerdictState::Undecided;
        seen.count(self.known.values().any(is_decided), Rare::RenamedWithVerdict);
    }

    /// Target, state, since when, and whether there is a reason.
    pub fn verdicts(&self) -> Vec<(u8, VerdictState, Duration, bool)> {
        let verdict = |(target, known): (&u8, &Known)| {
            let has_missed = known.answers.last().is_some_and(|it| *it != Found::Pass);
            let has_reason = has_missed || known.is_unasked;
            (*target, known.state, ms(known.since), has_reason)
        };
        self.known.iter().map(verdict).collect()
    }
}
