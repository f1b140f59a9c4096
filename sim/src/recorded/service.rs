//! One service of a recording.

use std::{collections::BTreeMap, time::Duration};

use tinylb_core::{Fault, Recorded, RecordedFailure, RecordedSet, Recording, Removal, Settings};

use super::{Broken, ServiceJudgement, TooLarge};
use crate::{
    Law,
    oracle::{Ledger, Reported},
    scenario::{Backends, Key, Place},
    trace::Failure,
};

/// A service, and the ledger beside it.
pub(super) struct Service<'a> {
    name: &'a str,
    recording: &'a Recording,
    /// For each key of the recording, its place among all in their order.
    keys: &'a [u16],
    slack: Duration,
    /// Once its settings are known.
    ledger: Option<Ledger>,
    settings: Settings,
    /// Replacements that may not be applied yet, with their times.
    unapplied: Vec<(u64, u64)>,
    stopped: Option<(Duration, String)>,
}

/// Violations that are of use; what comes after the first ones only follows from them.
const BROKEN_MAX: usize = 10;

/// For each name, its place among all of them in their order.
pub(super) fn numbers(names: &[String]) -> Result<Vec<u16>, TooLarge> {
    let mut sorted: Vec<_> = names.iter().collect();
    sorted.sort();
    let places: BTreeMap<_, _> = sorted.into_iter().zip(0..).collect();
    let number = |name| u16::try_from(places[name]).map_err(|_| TooLarge { count: names.len() });
    names.iter().map(number).collect()
}

impl<'a> Service<'a> {
    pub(super) fn new(
        name: &'a str,
        slack: Duration,
        recording: &'a Recording,
        keys: &'a [u16],
    ) -> Result<Self, TooLarge> {
        let count = recording.targets.len();
        if count > usize::from(u16::MAX) + 1 {
            return Err(TooLarge { count });
        }
        let (ledger, settings) = (None, Settings::default());
        let (unapplied, stopped) = (Vec::new(), None);
        Ok(Self { name, recording, keys, slack, ledger, settings, unapplied, stopped })
    }

    pub(super) fn hear(&mut self, at: Duration, what: &Recorded) {
        if self.stopped.is_some() {
            return;
        }
        let Some(ledger) = &mut self.ledger else {
            match what {
                Recorded::Settings(settings) => self.begin(settings),
                _ => self.stop(at, "its settings aren't recorded"),
            }
            return;
        };
        ledger.set_time(at.as_micros() as u64);
        if let Some(serial) = session_of(what).filter(|serial| ledger.has_ended(*serial)) {
            ledger.fail(Law::OneEnd, format!("session {serial} goes on after its end"));
            return;
        }
        let place = |target: &u32| Place(*target as u16);
        match what {
            Recorded::Accepted { serial } => ledger.accepted_one(*serial),
            Recorded::Admitted { serial, key, target } => {
                ledger.admitted(*serial, Key(self.keys[*key as usize]), place(target));
            }
            Recorded::DialStarted { serial, target } => ledger.dial_started(*serial, place(target)),
            Recorded::DialFailed { serial, failure, .. } => {
                ledger.dial_failed(*serial, failure_of(*failure));
            }
            Recorded::Connected { serial, target } => ledger.connected(*serial, place(target)),
            Recorded::Ended { serial, reason, .. } => ledger.ended(*serial, *reason),
            Recorded::Ejected { target, fault } => ledger.ejected(place(target), *fault),
            Recorded::Probed { target, failure } => {
                let fault = failure.map(|failure| match failure_of(failure) {
                    Failure::Failed(fault) => fault,
                    _ => Fault::TimedOut,
                });
                ledger.probed(place(target), fault);
            }
            Recorded::Returned { target, ejected_for } => {
                ledger.returned(place(target), ejected_for.as_micros() as u64);
            }
            Recorded::SetReplaced(set) => self.replaced(set, at),
            Recorded::Settings(settings) => self.configured(settings, at),
            // Its sessions may finish.
            Recorded::ShutdownBegan => ledger.closing(u64::MAX / 2),
            Recorded::Closed => ledger.closing(at.as_micros() as u64),
            Recorded::Over => ledger.shut_down(),
            Recorded::Dropped { count } => {
                self.stop(at, &format!("the recording lacks {count} events there"));
            }
            _ => {}
        }
        if self.ledger.as_ref().is_some_and(|it| it.violations().len() >= BROKEN_MAX) {
            self.stop(at, "later violations would only follow from these");
        }
    }

    fn begin(&mut self, settings: &Settings) {
        let mut ledger = Ledger::for_settings(settings);
        let slack = self.slack.as_micros() as u64;
        ledger.allow_concurrent(self.recording.targets.len());
        ledger.set_slack(slack);
        ledger.set_grain(slack);
        self.ledger = Some(ledger);
        self.settings = settings.clone();
    }

    fn replaced(&mut self, set: &RecordedSet, at: Duration) {
        let Some(ledger) = &mut self.ledger else { return };
        let entry =
            |(key, target): &(u32, u32)| (Key(self.keys[*key as usize]), Place(*target as u16));
        let backends: Backends = set.backends.iter().map(entry).collect();
        let at = at.as_micros() as u64;
        let drain_until = match self.settings.removal {
            Removal::Abort => None,
            Removal::Drain(time) => Some(at + time.as_micros() as u64),
        };
        let reported = Reported {
            generation: set.generation,
            cut: set.sessions_cut,
            revoked: set.dials_revoked,
            draining: set.sessions_draining,
        };
        ledger.replaced(&backends, reported, drain_until);
        self.unapplied.push((set.generation, at));
    }

    fn configured(&mut self, settings: &Settings, at: Duration) {
        let Some(ledger) = &mut self.ledger else { return };
        if self.settings.removal != settings.removal {
            let time = match settings.removal {
                Removal::Abort => Duration::ZERO,
                Removal::Drain(time) => time,
            };
            ledger.drains_change(time.as_micros() as u64);
        }
        if self.settings.ejection != settings.ejection {
            ledger.set_ejection(settings.ejection);
        }
        ledger.configure(settings);
        if self.settings.empty != settings.empty {
            // The ledger doesn't know which sessions that refuses.
            self.stop(at, "`empty` changes there");
        }
        self.settings = settings.clone();
    }

    /// Looks at the whole state: the program ran at this time.
    pub(super) fn look(&mut self, at: Duration) {
        let Some(ledger) = self.ledger.as_mut().filter(|_| self.stopped.is_none()) else { return };
        let (at, slack) = (at.as_micros() as u64, self.slack.as_micros() as u64);
        ledger.set_time(at);
        ledger.check_times();
        ledger.settle_health(false);
        self.unapplied.retain(|(generation, _)| !ledger.is_applied(*generation));
        if let Some((generation, _)) =
            self.unapplied.first().filter(|(_, since)| at > since + slack)
        {
            ledger.fail(Law::AppliedInTime, format!("replacement {generation} isn't applied"));
            self.unapplied.clear();
        }
    }

    fn stop(&mut self, at: Duration, why: &str) {
        self.stopped.get_or_insert((at, why.into()));
    }

    pub(super) fn finish(self) -> ServiceJudgement {
        let (mut sessions, mut open, mut broken) = (0, 0, Vec::new());
        if let Some(ledger) = &self.ledger {
            (sessions, open) = (ledger.accepted(), ledger.live());
            for violation in ledger.violations() {
                broken.push(Broken {
                    at: Duration::from_micros(violation.at),
                    law: violation.law,
                    text: self.named(&violation.text),
                });
            }
        }
        ServiceJudgement { name: self.name.into(), sessions, open, broken, stopped: self.stopped }
    }

    /// A text of the ledger, followed by the names of the keys and targets that it numbers.
    fn named(&self, text: &str) -> String {
        let mut names = BTreeMap::new();
        for word in text.split(|letter: char| !letter.is_ascii_alphanumeric()) {
            let number = |kind| word.strip_prefix(kind).and_then(|it: &str| it.parse::<u16>().ok());
            if let Some(place) = number('b') {
                names.insert(word, self.recording.targets.get(usize::from(place)));
            } else if let Some(number) = number('k') {
                let key = self.keys.iter().position(|key| *key == number);
                names.insert(word, key.and_then(|key| self.recording.keys.get(key)));
            }
        }
        let names: Vec<_> = names
            .into_iter()
            .filter_map(|(word, name)| Some(format!("{word} is {}", name?)))
            .collect();
        if names.is_empty() { text.into() } else { format!("{text} ({})", names.join(", ")) }
    }
}

/// The session that something happens to.
fn session_of(what: &Recorded) -> Option<u64> {
    match what {
        Recorded::Accepted { serial }
        | Recorded::Admitted { serial, .. }
        | Recorded::DialStarted { serial, .. }
        | Recorded::DialFailed { serial, .. }
        | Recorded::Connected { serial, .. }
        | Recorded::HalfClosed { serial, .. }
        | Recorded::Ended { serial, .. } => Some(*serial),
        _ => None,
    }
}

fn failure_of(failure: RecordedFailure) -> Failure {
    match failure {
        RecordedFailure::Failed(fault) => Failure::Failed(fault),
        RecordedFailure::TimedOut => Failure::TimedOut,
        RecordedFailure::GivenUp => Failure::GivenUp,
        RecordedFailure::Revoked => Failure::Revoked,
    }
}
