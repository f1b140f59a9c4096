//! Every short sequence of steps over a small world of 3 keys and 2 targets, each done to the
//! balancer and to a naive model of it, the shortest sequences first.
//!
//! Steps that could do nothing where they stand (a dial that connects where none is under way)
//! are left out: the shorter sequence without them has been tried.

mod model;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tinylb_core::{EndReason, Fault};

use crate::model::{
    Check, Policy, Seen, Step, World,
    health::End,
    naive::{Assignment, Key, Place},
};

/// A letter of the alphabet that sequences are made of: a step, or several that go together.
type Letter = Vec<Step>;

struct Explorer {
    start: usize,
    waiting_max: usize,
    /// The letters that may stand at each place.
    places: Vec<Vec<Letter>>,
    /// The sequence so far.
    sequence: Vec<Letter>,
    sequences: u64,
    seen: Seen,
}

impl Explorer {
    fn new(start: usize, waiting_max: usize, places: Vec<Vec<Letter>>) -> Self {
        let (sequence, seen) = (Vec::new(), Seen::default());
        Self { start, waiting_max, places, sequence, sequences: 0, seen }
    }

    /// Tries all sequences of each length up to the number of places.
    fn explore(mut self) -> Self {
        let explored = catch_unwind(AssertUnwindSafe(|| {
            (1..=self.places.len()).try_for_each(|length| self.extend(length))
        }));
        let Self { start, waiting_max, sequences, .. } = self;
        let steps: Vec<Step> = self.sequence.concat();
        let found = format!(
            "found after {sequences} sequences: start {start}, waiting_max {waiting_max}, {steps:?}"
        );
        match explored {
            Ok(Ok(())) => self,
            Ok(Err(message)) => panic!("{found}: {message}"),
            Err(panicked) => {
                let message = panicked.downcast_ref::<String>().cloned();
                panic!("{found}: panicked: {}", message.unwrap_or_else(|| resume_unwind(panicked)))
            }
        }
    }

    fn extend(&mut self, length: usize) -> Check {
        let world = self.replay()?;
        let letters = self.places[self.sequence.len()].clone();
        let is_last = self.sequence.len() + 1 == length;
        for letter in letters.into_iter().filter(|letter| world.is_worth(&letter[0])) {
            self.sequence.push(letter);
            if is_last {
                self.try_sequence()?
            } else {
                self.extend(length)?
            }
            self.sequence.pop();
        }
        Ok(())
    }

    /// The world that the sequence so far leads to. All of it has been checked before.
    fn replay(&self) -> Result<World, String> {
        let mut world = World::new(self.start, self.waiting_max);
        self.sequence.iter().flatten().try_for_each(|step| world.apply(step))?;
        Ok(world)
    }

    fn try_sequence(&mut self) -> Check {
        self.sequences += 1;
        let mut world = World::new(self.start, self.waiting_max);
        let (last, before) = self.sequence.split_last().expect("a sequence has a letter");
        before.iter().flatten().try_for_each(|step| world.apply(step))?;
        for step in last {
            world.apply(step)?;
            world.check()?;
        }
        self.seen.add(&world.seen);
        world.wind_up()
    }
}

fn set(backends: &[(Key, Place)]) -> Assignment {
    backends.iter().copied().collect()
}

/// Each set of up to 3 keys, each with one of 2 targets: 27.
fn every_set() -> Vec<Assignment> {
    let keys = (0..27u8).map(|code| [code % 3, code / 3 % 3, code / 9]);
    keys.map(|places| (0..).zip(places).filter(|(_, place)| *place > 0).collect()).collect()
}

/// Between these sets a target is shared and then not, a key leaves, comes, changes its target and
/// hands it on to another, and a target leaves and comes back.
fn replacements() -> [Step; 4] {
    [
        Step::Replace(set(&[(0, 1), (1, 1)]), Policy::Abort),
        Step::Replace(set(&[(1, 1), (2, 2)]), Policy::Abort),
        Step::Replace(set(&[(0, 2), (2, 1)]), Policy::Drain),
        Step::Replace(set(&[]), Policy::Drain),
    ]
}

/// What only happens where dials go unanswered, or an empty set makes clients wait.
const EJECTION: [&str; 15] = [
    "a late dial says nothing of a target that has accepted another",
    "admitted by a set after an empty one",
    "all ejected",
    "cut for silence",
    "ejected",
    "ejected again",
    "kept ejected by a replacement",
    "moved",
    "moves used up",
    "overdue without another target",
    "probe cancelled",
    "probe revoked",
    "returned by a dial",
    "returned by a probe",
    "waiting again",
];

/// That the test has tried as much as it says, and seen all of its `subject` but `unseen`.
fn check(
    explored: &Explorer,
    sequences_min: u64,
    subject: impl Fn(&&'static str) -> bool,
    unseen: &[&str],
) {
    let missing: Vec<_> = explored.seen.missing().into_iter().filter(subject).collect();
    assert_eq!(missing, unseen, "what no sequence has seen");
    let sequences = explored.sequences;
    assert!(sequences >= sequences_min, "{sequences} sequences instead of {sequences_min} or more");
}

fn is_about_sets(what: &&'static str) -> bool {
    !EJECTION.contains(what)
}

/// The steps of a target that doesn't accept connections, and of one that does.
fn ejections() -> Vec<Step> {
    vec![
        Step::Admit,
        Step::Connected(0),
        Step::Overdue(0),
        Step::Overdue(1),
        Step::DialFailed(0, Fault::Refused),
        Step::Retry(0),
        Step::StartProbe,
        Step::EndProbe(0, End::Succeeded(1)),
        Step::EndProbe(0, End::Failed(Fault::TimedOut)),
        Step::EndProbe(0, End::Cancelled),
        Step::Pass(5000),
        Step::Replace(set(&[(0, 1), (1, 2)]), Policy::Abort),
        Step::Replace(set(&[(1, 2)]), Policy::Abort),
    ]
}

#[test]
fn no_six_steps_after_a_client_eject_a_target_for_nothing_or_for_ever() {
    let begin = vec![vec![Step::Replace(set(&[(0, 1), (1, 2)]), Policy::Abort), Step::Admit]];
    let letters: Vec<Letter> = ejections().into_iter().map(|step| vec![step]).collect();
    let places = std::iter::once(begin).chain(vec![letters; 6]).collect();
    let explored = Explorer::new(0, 1, places).explore();
    let elsewhere = [
        "admitted by a set after an empty one",
        "cut for silence",
        "moves used up",
        "waiting again",
    ];
    check(&explored, 260_000, |what| EJECTION.contains(what), &elsewhere);
}

#[test]
fn no_six_steps_cut_a_session_of_a_target_that_answers() {
    let begin = vec![
        Step::Replace(set(&[(0, 1), (1, 2)]), Policy::Abort),
        Step::Admit,
        Step::Connected(0),
        Step::Admit,
        Step::Admit,
    ];
    let mut alphabet = ejections();
    alphabet.extend([Step::CutSilent, Step::Connected(1), Step::Connected(2), Step::Overdue(2)]);
    alphabet.retain(|step| !matches!(step, Step::Admit | Step::Connected(0) | Step::Overdue(0)));
    let letters: Vec<Letter> = alphabet.into_iter().map(|step| vec![step]).collect();
    let places = std::iter::once(vec![begin]).chain(vec![letters; 6]).collect();
    let explored = Explorer::new(0, 1, places).explore();
    check(&explored, 245_000, |what| *what == "cut for silence", &[]);
}

#[test]
fn no_six_steps_lose_a_client_that_waits_for_a_set_with_backends() {
    let alphabet = [
        Step::Configure { may_wait: true, ejects: true },
        Step::Configure { may_wait: false, ejects: false },
        Step::Admit,
        Step::Connected(0),
        Step::Retry(0),
        Step::Retry(1),
        Step::Overdue(0),
        Step::Finish(0, EndReason::WaitingTimedOut),
        Step::Replace(set(&[]), Policy::Abort),
        Step::Replace(set(&[(0, 1)]), Policy::Abort),
        Step::AbortAll,
    ];
    let letters: Vec<Letter> = alphabet.into_iter().map(|step| vec![step]).collect();
    let explored = Explorer::new(0, 1, vec![letters; 6]).explore();
    let subject = ["admitted by a set after an empty one", "waiting again", "waiting room full"];
    check(&explored, 70_000, |what| subject.contains(what), &[]);
}

#[test]
fn no_seven_steps_kill_the_wrong_session_or_skip_a_backend() {
    let mut alphabet = vec![
        Step::Admit,
        Step::Connected(0),
        Step::Connected(1),
        Step::Retry(0),
        Step::Finish(0, EndReason::Finished),
        Step::DrainExpired(2),
        Step::Acknowledge(0),
        Step::AbortAll,
    ];
    alphabet.extend(replacements());
    let letters: Vec<Letter> = alphabet.into_iter().map(|step| vec![step]).collect();
    let explored = Explorer::new(1, 1, vec![letters; 7]).explore();
    check(&explored, 770_000, is_about_sets, &["finished twice", "same set again"]);
}

#[test]
fn no_six_steps_of_any_kind_break_a_promise() {
    let mut alphabet = vec![
        Step::Admit,
        Step::Connected(0),
        Step::Connected(1),
        Step::Retry(0),
        Step::Retry(1),
        Step::Finish(0, EndReason::Finished),
        Step::Finish(1, EndReason::ClientFailed),
        Step::FinishAgain(0),
        Step::ReplaceSame(Policy::Abort),
        Step::ReplaceStale(set(&[(1, 2)])),
        Step::DrainExpired(1),
        Step::DrainExpired(2),
        Step::Reset,
        Step::Acknowledge(0),
        Step::Acknowledge(1),
        Step::AbortAll,
    ];
    alphabet.extend(replacements());
    let letters: Vec<Letter> = alphabet.into_iter().map(|step| vec![step]).collect();
    let explored = Explorer::new(0, 2, vec![letters; 6]).explore();
    check(&explored, 1_340_000, is_about_sets, &[]);
}

#[test]
fn no_three_sets_in_a_row_close_a_kept_backend_or_keep_a_removed_one() {
    use Step::{Acknowledge, Admit, Connected, DrainExpired, Finish, Retry};

    let abort = every_set().into_iter().map(|set| vec![Step::Replace(set, Policy::Abort)]);
    let drain = every_set().into_iter().map(|set| vec![Step::Replace(set, Policy::Drain)]);
    let aborting: Vec<Letter> = abort.collect();
    let either: Vec<Letter> = aborting.iter().cloned().chain(drain).collect();
    let before = vec![
        vec![Admit],
        vec![Admit, Admit, Connected(0)],
        vec![Admit, Admit, Admit, Connected(0), Connected(1)],
        vec![Admit, Connected(0), Admit, Retry(1)],
    ];
    let between = vec![
        vec![Admit, Connected(0)],
        vec![Admit, Retry(0), Connected(1)],
        vec![Admit, Finish(0, EndReason::Finished), Admit],
    ];
    let after = vec![vec![DrainExpired(2), Retry(0), Admit, Admit, Admit, Acknowledge(0)]];
    let places = vec![aborting.clone(), before, either, between, aborting, after];
    let explored = Explorer::new(0, 0, places).explore();
    let elsewhere = [
        "admitted by the first set",
        "closed with sessions",
        "drain expired too late",
        "finished twice",
        "refused by an empty first set",
        "same set again",
        "waiting room full",
    ];
    check(&explored, 890_000, is_about_sets, &elsewhere);
}
