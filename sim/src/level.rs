//! How much of what ships a run is made of.

use crate::{Outcome, Scenario, Sometimes, decisions, driver};

/// How much of what ships a run is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The balancer's decisions alone: no bytes, no packets, no tasks. See [`decisions`].
    Decisions,
    /// The server that ships, its clients and backends on a simulated network. See [`driver`].
    #[default]
    Driver,
}

impl Level {
    /// Every level, the fastest first.
    pub const ALL: &[Self] = &[Self::Decisions, Self::Driver];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Driver => "driver",
        }
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|level| level.name() == name)
    }

    /// Runs a scenario; `keep_trace`: with the records of what happened.
    pub fn run(self, scenario: &Scenario, keep_trace: bool) -> Outcome {
        match self {
            Self::Decisions => decisions::run(scenario, keep_trace),
            Self::Driver => driver::run(scenario, keep_trace),
        }
    }

    /// What a good run of many scenarios sees on this level at least once.
    pub fn reaches(self) -> Vec<Sometimes> {
        match self {
            Self::Decisions => DECISIONS_REACH.to_vec(),
            // A dial comes through unseen only if another thread revokes it.
            Self::Driver => {
                let all = Sometimes::ALL.iter().copied();
                all.filter(|what| *what != Sometimes::LateConnect).collect()
            }
        }
    }
}

const DECISIONS_REACH: &[Sometimes] = &[
    Sometimes::RevokedDial,
    Sometimes::CutSession,
    Sometimes::KeptDial,
    Sometimes::SharedTargetKept,
    Sometimes::RetryAfterRevoked,
    Sometimes::LateConnect,
    Sometimes::EmptySetHit,
    Sometimes::WaitingAdmitted,
    Sometimes::WaitingFull,
    Sometimes::WaitingTimedOut,
    Sometimes::TurnPassed,
    Sometimes::TriedAgain,
    Sometimes::DialFailed,
    Sometimes::DialTimedOut,
    Sometimes::OwnFault,
    Sometimes::Ejected,
    Sometimes::ReturnedByProbe,
    Sometimes::ReturnedByDial,
    Sometimes::Moved,
    Sometimes::MovesUsedUp,
    Sometimes::AllEjected,
    Sometimes::ProbeRevoked,
    Sometimes::Flapped,
    Sometimes::SilenceCut,
    Sometimes::WaitedAgain,
    Sometimes::DrainInterrupted,
    Sometimes::DrainExpired,
    Sometimes::DrainShortened,
    Sometimes::DrainProlonged,
    Sometimes::LimitReached,
    Sometimes::GraceOver,
    Sometimes::Finished,
    Sometimes::DialRefused,
    Sometimes::DialPanicked,
    Sometimes::RuleFired,
];
