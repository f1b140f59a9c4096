//! Recordings of the program, judged by the ledger that judges simulations.
//!
//! A recording has each event of a service in the order in which the service decided it, so laws
//! about that order are judged exactly. Times are those at which events were written down, a little
//! late, and timers of real systems may be late too: laws about time are judged with a slack, to
//! which the longest pause of the program is added. What a recording lacks is not judged.

mod service;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use tinylb_core::{Recorded, Recording};

use self::service::{Service, numbers};
use crate::Law;

/// The laws that are judged. Others need to know what clients, backends and the network did.
pub const JUDGED: [Law; 17] = [
    Law::InSet,
    Law::Pool,
    Law::Fairness,
    Law::Pick,
    Law::Kept,
    Law::Evidence,
    Law::Return,
    Law::Wait,
    Law::NoWorse,
    Law::OneEnd,
    Law::Panic,
    Law::Order,
    Law::Shutdown,
    Law::Report,
    Law::AppliedInTime,
    Law::TimeLimit,
    Law::Limit,
];

/// What a recording comes to.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// Each service, in the order in which they began.
    pub services: Vec<ServiceJudgement>,
    /// How late a timer may be: the slack that was asked for, and the longest pause.
    pub slack: Duration,
    /// The length of the recording.
    pub length: Duration,
    /// It ended at its bound.
    pub is_full: bool,
}

/// What the recording of one service comes to.
#[derive(Clone, Debug)]
pub struct ServiceJudgement {
    /// Its name.
    pub name: String,
    /// Sessions that were judged, at least in part.
    pub sessions: u64,
    /// Those among them whose end isn't recorded.
    pub open: usize,
    /// The laws that were broken, in the order in which that was seen.
    pub broken: Vec<Broken>,
    /// When the judgement had to stop before the recording's end, and why.
    pub stopped: Option<(Duration, String)>,
}

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// When, since the recording began.
    pub at: Duration,
    /// The law.
    pub law: Law,
    /// What was seen, and what was to be seen.
    pub text: String,
}

/// A recording that can't be judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// How many keys or targets it names.
    pub count: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it names {} keys or targets, and at most 65,536 can be judged", self.count)
    }
}

impl std::error::Error for TooLarge {}

impl Judgement {
    /// Whether a law was broken.
    pub fn is_broken(&self) -> bool {
        self.services.iter().any(|service| !service.broken.is_empty())
    }
}

/// How often the program writes that it runs.
const TICK: Duration = Duration::from_secs(1);

/// Judges a recording. `slack`: how late a timer of the program may be.
///
/// # Errors
/// It has more backends than the ledger can number.
pub fn judge(recording: &Recording, slack: Duration) -> Result<Judgement, TooLarge> {
    let slack = slack + longest_pause(recording);
    let keys = numbers(&recording.keys)?;
    let mut services: Vec<Service> = Vec::new();
    for name in &recording.services {
        services.push(Service::new(name, slack, recording, &keys)?);
    }
    let mut is_full = false;
    for record in &recording.records {
        match &record.what {
            Recorded::Tick => services.iter_mut().for_each(|service| service.look(record.at)),
            Recorded::Full => is_full = true,
            what => services[record.service as usize].hear(record.at, what),
        }
    }
    let length = recording.records.last().map_or(Duration::ZERO, |record| record.at);
    let services = services.into_iter().map(Service::finish).collect();
    Ok(Judgement { services, slack, length, is_full })
}

/// By how much the program was late, at worst, to write that it runs. It is late if its process stands
/// still, or if the machine has too much to do.
fn longest_pause(recording: &Recording) -> Duration {
    let ticks = recording.records.iter().filter(|record| record.what == Recorded::Tick);
    let (mut last, mut longest) = (Duration::ZERO, Duration::ZERO);
    for tick in ticks {
        longest = longest.max((tick.at - last).saturating_sub(TICK));
        last = tick.at;
    }
    longest
}
