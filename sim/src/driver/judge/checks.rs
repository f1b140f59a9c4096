//! What checks have found of a source's backends, and which of them may be used.

use std::collections::BTreeMap;

use tinylb_core::{CheckId, CheckSettings, Update, VerdictState, WhenNone};

use super::{
    case::Case,
    heard::{PAUSE, places},
    source::set_given,
    verdict::Verdict,
};
use crate::{
    Law, Sometimes,
    scenario::{Backends, Key, Place, Reply},
    trace::Note,
};

/// Knows the source's sets before they were narrowed, and what each check has found. It decides
/// anew which backends are to be used.
pub(super) struct Checks {
    /// `None`: nothing is checked.
    settings: Option<CheckSettings>,
    /// The source's newest set.
    given: Option<Backends>,
    /// When the first came.
    first_at: u64,
    is_lost: bool,
    /// One for each place of that set.
    verdicts: BTreeMap<Place, Verdict>,
    /// When the others left.
    left: BTreeMap<Place, u64>,
    /// The checks under way: of which place, and whether the answer counts.
    under_way: BTreeMap<CheckId, (Place, bool)>,
    /// How often any backend has passed.
    passes: u64,
    /// The first set is no longer awaited.
    has_begun: bool,
    open: Open,
    /// What is to be used, and when each of its entries came, or left.
    wanted: Backends,
    changed: BTreeMap<(Key, Place), u64>,
    /// When faults stopped.
    healed_at: u64,
}

/// Whether backends are used that don't pass, since none did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Open {
    No,
    Yes,
    Until(u64),
}

impl Checks {
    pub(super) fn new(case: &Case) -> Self {
        Self {
            settings: case.config().check_settings(),
            given: None,
            first_at: 0,
            is_lost: false,
            verdicts: BTreeMap::new(),
            left: BTreeMap::new(),
            under_way: BTreeMap::new(),
            passes: 0,
            has_begun: false,
            open: Open::No,
            wanted: Vec::new(),
            changed: BTreeMap::new(),
            healed_at: 0,
        }
    }

    pub(super) fn are_made(&self) -> bool {
        self.settings.is_some()
    }

    /// Faults have stopped: checks that begin from now on pass.
    pub(super) fn healed(&mut self, case: &Case) {
        self.healed_at = case.at();
    }

    /// Whether a backend is to pass a check that has begun since.
    pub(super) fn are_awaited(&self) -> bool {
        let is_well = |verdict: &Verdict| {
            verdict.passes() && verdict.began.is_some_and(|began| began > self.healed_at)
        };
        self.are_made() && !self.verdicts.values().all(is_well)
    }

    // What is seen.

    /// An update of the source, before it is narrowed.
    pub(super) fn source_gives(&mut self, case: &mut Case, update: &Update<Place>) {
        let Some(set) = set_given(case.config(), update) else {
            self.is_lost = true;
            return;
        };
        let (now, stay) = (case.now(), places(&set));
        for (place, counts) in self.under_way.values_mut() {
            if *counts && !stay.contains(place) {
                case.count(Sometimes::LeftWhileChecked);
                *counts = false;
            }
        }
        self.verdicts.retain(|place, _| {
            let stays = stay.contains(place);
            if !stays {
                self.left.insert(*place, now);
            }
            stays
        });
        for place in stay {
            self.verdicts.entry(place).or_insert_with(|| Verdict::new(now));
        }
        if self.given.is_none() {
            self.first_at = now;
        }
        (self.given, self.is_lost) = (Some(set), false);
        self.settle(case, now);
    }

    /// What follows is asked for.
    pub(super) fn asked(&mut self, case: &mut Case) {
        let now = case.now();
        self.settle(case, now);
        self.has_begun |= self.given.is_some() && !self.is_awaited(now);
    }

    /// A check begins.
    pub(super) fn started(&mut self, case: &mut Case, id: CheckId, place: Place) {
        case.note(Note::CheckStarted(place));
        let is_checked = self.is_checked(place);
        self.under_way.insert(id, (place, true));
        let most = case.config().checks as usize;
        if self.under_way.len() == most {
            case.count(Sometimes::ChecksFull);
        }
        if is_checked || self.under_way.len() > most {
            let count = self.under_way.len();
            let text =
                format!("a check of {place} begins; {count} are under way of at most {most}");
            case.fail(Law::Verdict, text);
        }
        match self.verdicts.get_mut(&place) {
            Some(verdict) => verdict.began = Some(case.now()),
            None => case.fail(Law::Verdict, format!("{place} is checked, and isn't named")),
        }
    }

    /// A check has ended.
    pub(super) fn answered(&mut self, case: &mut Case, id: CheckId, place: Place, reply: Reply) {
        case.note(Note::Checked(place, reply));
        let counts = self.ends(case, id, place);
        let (Some(settings), Some(verdict)) = (&self.settings, self.verdicts.get_mut(&place))
        else {
            return;
        };
        if !counts {
            return case.count(Sometimes::LateAnswer);
        }
        self.passes += u64::from(reply == Reply::Pass);
        let was_passing = verdict.passes();
        if verdict.hear(reply, self.passes, settings) {
            if self.is_lost {
                case.count(Sometimes::VerdictWhileLost);
            }
            if reply == Reply::Nothing {
                case.count(Sometimes::SilentFails);
            }
            if was_passing && self.verdicts.values().all(|other| !other.passes()) {
                case.count(Sometimes::NonePasses);
            }
        }
        let now = case.now();
        self.settle(case, now);
    }

    /// A check is given up, since its backend has left.
    pub(super) fn given_up(&mut self, case: &mut Case, id: CheckId, place: Place) {
        case.note(Note::CheckGivenUp(place));
        if self.ends(case, id, place) {
            let text = format!("the check of {place}, which hasn't left, is of no use any more");
            case.fail(Law::Verdict, text);
        }
    }

    /// Returns whether what it has found counts.
    fn ends(&mut self, case: &Case, id: CheckId, place: Place) -> bool {
        if let Some(verdict) = self.verdicts.get_mut(&place) {
            verdict.ended = case.now();
        }
        self.under_way.remove(&id).is_some_and(|(_, counts)| counts)
    }

    fn is_checked(&self, place: Place) -> bool {
        self.under_way.values().any(|(other, _)| *other == place)
    }

    // What is to be used.

    /// Whether the first set is to come, and it is too soon for it.
    fn is_awaited(&self, now: u64) -> bool {
        let timeout = self.settings.as_ref().map_or(0, |settings| settings.timeout.as_micros());
        !self.has_begun
            && self.verdicts.values().all(|verdict| !verdict.passes())
            && !self.verdicts.values().all(Verdict::is_heard)
            && now < self.first_at + timeout as u64
    }

    /// Decides anew which backends are to be used.
    fn settle(&mut self, case: &mut Case, now: u64) {
        let (Some(settings), Some(given)) = (&self.settings, &self.given) else { return };
        // If one passes and leaves at once, the first set is awaited again.
        if self.is_awaited(now) {
            return self.want(Vec::new(), now);
        }
        let passing = self.verdicts.values().filter(|verdict| verdict.passes()).count();
        let closes_at = now + (settings.interval + settings.timeout).as_micros() as u64;
        self.open = match self.open {
            _ if settings.when_none == WhenNone::Empty => Open::No,
            before if passing == 0 => {
                if before == Open::No && !given.is_empty() {
                    case.count(Sometimes::AllUsed);
                }
                Open::Yes
            }
            Open::Yes => Open::Until(closes_at),
            Open::Until(until) if until <= now || passing == self.verdicts.len() => Open::No,
            open => open,
        };
        let is_open = self.open != Open::No;
        let is_wanted = |entry: &&(Key, Place)| {
            is_open || self.verdicts.get(&entry.1).is_some_and(Verdict::passes)
        };
        let wanted = given.iter().filter(is_wanted).copied().collect();
        self.want(wanted, now);
    }

    fn want(&mut self, wanted: Backends, now: u64) {
        let gone = self.wanted.iter().filter(|entry| !wanted.contains(entry));
        let new = wanted.iter().filter(|entry| !self.wanted.contains(entry));
        self.changed.extend(gone.chain(new).map(|entry| (*entry, now)));
        self.wanted = wanted;
    }

    // What must be.

    /// A set takes effect after the one in force, and cuts or revokes this many sessions.
    pub(super) fn replaces(&self, case: &mut Case, set: &Backends, sessions: usize) {
        let Some(settings) = &self.settings else { return };
        if !self.has_begun {
            case.fail(Law::Verdict, "the first set takes effect before it was checked".into());
        }
        for (key, place) in set {
            if !self.given.as_ref().is_some_and(|given| given.contains(&(*key, *place))) {
                let text = format!("{key}={place} is used, and isn't in the source's newest set");
                case.fail(Law::Checked, text);
            }
            let has_passed = self.verdicts.get(place).is_some_and(Verdict::has_passed);
            if settings.when_none == WhenNone::Empty && !has_passed {
                let text = format!("{place} is used, and hasn't passed since it appeared");
                case.fail(Law::Checked, text);
            }
        }
        let stay = places(set);
        let has_failed = |place: &Place| {
            let verdict = self.verdicts.get(place);
            verdict.is_some_and(|verdict| verdict.state == VerdictState::Failing)
        };
        let in_force = places(&case.in_force());
        if sessions > 0 && in_force.difference(&stay).any(has_failed) {
            case.count(Sometimes::FailedCut);
        }
    }

    /// A dial or a probe begins. Until the newest set is taken, it may go where the one before leads.
    pub(super) fn dials(&self, case: &mut Case, place: Place) {
        if self.settings.as_ref().is_none_or(|it| it.when_none == WhenNone::All) {
            return;
        }
        let unfit_since = match self.verdicts.get(&place) {
            Some(verdict) if verdict.has_passed() => return,
            Some(verdict) => verdict.appeared,
            None => self.left.get(&place).copied().unwrap_or_default(),
        };
        if case.at() > unfit_since + PAUSE + case.patience() {
            let text = format!("{place} is dialled, and hasn't passed since it appeared");
            case.fail(Law::Checked, text);
        }
    }

    /// The balancer reports that the source is lost.
    pub(super) fn source_lost(&self, case: &mut Case) {
        if !self.is_lost && self.are_made() {
            case.fail(Law::Verdict, "what the checks leave of a set counts as a loss".into());
        }
    }

    /// The balancer reports that the source is back.
    pub(super) fn source_back(&self, case: &mut Case) {
        if self.is_lost && self.are_made() {
            case.fail(Law::Verdict, "checks end the loss of a source that is still lost".into());
        }
    }

    /// Each backend is checked in time.
    pub(super) fn check_times(&mut self, case: &mut Case) {
        let Some(settings) = self.settings.clone() else { return };
        self.settle(case, case.at().saturating_sub(case.patience()));
        if case.config().checks < case.config().backends {
            return;
        }
        let interval = settings.interval.mul_f64(1.05).as_micros() as u64;
        let late = self.verdicts.iter().find(|(place, verdict)| {
            let due = verdict.began.map_or(verdict.appeared, |began| began + interval);
            let due = due.max(verdict.ended) + case.patience();
            case.at() > due && !self.is_checked(**place)
        });
        if let Some((place, _)) = late {
            case.fail(Law::Verdict, format!("{place} isn't checked"));
        }
    }

    /// What is wrong with the set in force, if it should be another by now; `newest`: the set that
    /// the source was ordered to give, if the balancer must have heard it.
    pub(super) fn is_late(
        &self,
        case: &Case,
        newest: Option<&[(Key, Place)]>,
        set: &Backends,
    ) -> Option<String> {
        let is_heard = |newest| self.given.as_deref().unwrap_or_default() == newest;
        if newest.is_some_and(|newest| !is_heard(newest)) {
            return Some("the newest set wasn't heard".into());
        }
        // Those that pass from now on wait for a pause to be over, and then for another.
        let is_over = |entry: &(Key, Place), pauses: u64| {
            let since = self.changed.get(entry).copied().unwrap_or_default();
            case.at() > since + pauses * PAUSE + case.patience()
        };
        let is_unfit = |entry: &&(Key, Place)| !self.wanted.contains(entry) && is_over(entry, 1);
        if let Some((key, place)) = set.iter().find(is_unfit) {
            return Some(format!("{key}={place} is in force, and may not be used"));
        }
        let is_missing = |entry: &&(Key, Place)| !set.contains(entry) && is_over(entry, 2);
        let (key, place) = self.wanted.iter().find(is_missing)?;
        Some(format!("{key}={place} may be used, and isn't in force"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tinylb_core::{BackendSet, BadEntries, Verdicts};

    use super::*;
    use crate::scenario::set_of;

    const SCENARIO: &str = "source 1\ncheck 1\ncheck-interval 100\ncheck-timeout 100";

    fn set(numbers: &[u16]) -> Backends {
        numbers.iter().map(|number| (Key(*number), Place(*number))).collect()
    }

    struct Run {
        case: Case,
        checks: Checks,
        /// Gives each check a number of its own.
        numbers: Verdicts<u8>,
    }

    impl Run {
        fn new() -> Self {
            let case = Case::of(SCENARIO);
            let checks = Checks::new(&case);
            let mut settings = CheckSettings::default();
            settings.checks_max = 60_000;
            Self { case, checks, numbers: Verdicts::new(settings, BadEntries::Reject) }
        }

        fn give(&mut self, at: u64, numbers: &[u16]) {
            self.case.set_now(at);
            self.checks.source_gives(&mut self.case, &Update::Set(set_of(&set(numbers))));
            self.checks.asked(&mut self.case);
        }

        fn start(&mut self, at: u64, number: u8) -> CheckId {
            self.case.set_now(at);
            // A backend more is a check more.
            let count = self.numbers.verdicts().count() as u8;
            let backends = (0..=count).map(|target| (target.to_string(), target));
            let set = BackendSet::new(backends).unwrap();
            self.numbers.update(Duration::ZERO, Update::Set(set));
            let id = self.numbers.start(Duration::ZERO).unwrap().id;
            self.checks.started(&mut self.case, id, Place(number.into()));
            id
        }

        fn answer(&mut self, at: u64, id: CheckId, number: u8, reply: Reply) {
            self.case.set_now(at);
            self.checks.answered(&mut self.case, id, Place(number.into()), reply);
            self.checks.asked(&mut self.case);
        }

        /// A set takes effect. Returns the laws that are broken by then.
        fn replace(&mut self, numbers: &[u16]) -> Vec<Law> {
            self.checks.replaces(&mut self.case, &set(numbers), 0);
            self.case.laws()
        }

        fn is_late(&mut self, at: u64, numbers: &[u16]) -> bool {
            self.case.set_time(at);
            self.checks.is_late(&self.case, None, &set(numbers)).is_some()
        }
    }

    #[test]
    fn a_backend_is_used_once_it_has_passed_and_as_long_as_it_is_named() {
        let mut run = Run::new();
        run.give(0, &[0, 1]);
        let ids = [run.start(0, 0), run.start(0, 1)];
        run.answer(5, ids[0], 0, Reply::Pass);
        assert_eq!(run.replace(&[0]), []);
        assert_eq!(run.replace(&[0, 1]), [Law::Checked], "b1 hasn't passed");
        let mut run = Run::new();
        run.give(0, &[0]);
        let id = run.start(0, 0);
        run.answer(5, id, 0, Reply::Pass);
        run.give(10, &[1]);
        assert_eq!(run.replace(&[0]), [Law::Checked, Law::Checked], "b0 is no longer named");
    }

    #[test]
    fn a_backend_that_comes_back_has_to_pass_again_and_its_old_check_does_not_count() {
        let mut run = Run::new();
        run.give(0, &[0]);
        let id = run.start(0, 0);
        run.answer(5, id, 0, Reply::Pass);
        let old = run.start(100, 0);
        run.give(110, &[]);
        run.give(120, &[0]);
        run.answer(130, old, 0, Reply::Pass);
        assert_eq!(run.replace(&[]), []);
        run.case.set_time(120 + PAUSE + 30_000);
        run.checks.dials(&mut run.case, Place(0));
        assert_eq!(run.case.laws(), [], "the set before may not be replaced yet");
        run.case.set_time(121 + PAUSE + 30_000);
        run.checks.dials(&mut run.case, Place(0));
        assert_eq!(run.case.laws(), [Law::Checked]);
    }

    #[test]
    fn what_the_checks_say_is_in_force_in_time() {
        let mut run = Run::new();
        run.give(0, &[0, 1]);
        let ids = [run.start(0, 0), run.start(0, 1)];
        run.answer(0, ids[0], 0, Reply::Pass);
        run.answer(0, ids[1], 1, Reply::Pass);
        let at = 100_000;
        let id = run.start(at, 1);
        run.answer(at, id, 1, Reply::No);
        assert!(!run.is_late(at + PAUSE + 30_000, &[0, 1]));
        assert!(run.is_late(at + PAUSE + 30_001, &[0, 1]));
        assert!(!run.is_late(at + PAUSE + 30_001, &[0]));
        let id = run.start(at * 2, 1);
        run.answer(at * 2, id, 1, Reply::Pass);
        assert!(!run.is_late(at * 2 + 2 * PAUSE + 30_000, &[0]));
        assert!(run.is_late(at * 2 + 2 * PAUSE + 30_001, &[0]));
    }

    #[test]
    fn a_backend_is_checked_in_time_and_by_one_check_at_a_time() {
        let mut run = Run::new();
        run.give(0, &[0]);
        run.case.set_time(30_000);
        run.checks.check_times(&mut run.case);
        assert_eq!(run.case.laws(), []);
        run.case.set_time(30_001);
        run.checks.check_times(&mut run.case);
        assert_eq!(run.case.laws(), [Law::Verdict]);
        let mut run = Run::new();
        run.give(0, &[0]);
        run.start(0, 0);
        run.start(1, 0);
        assert_eq!(run.case.laws(), [Law::Verdict]);
    }
}
