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
    /// The relay that ships, on a model of a system's sockets. See [`relay`](crate::relay). It has
    /// scenarios of its own.
    Relay,
}

impl Level {
    /// Every level, the fastest first.
    pub const ALL: &[Self] = &[Self::Decisions, Self::Relay, Self::Driver];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Decisions => "decisions",
            Self::Driver => "driver",
            Self::Relay => "relay",
        }
    }

    /// The level of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|level| level.name() == name)
    }

    /// Runs a scenario of the balancer; `keep_trace`: with the records of what happened.
    /// [`Self::run_any`] runs those of every level.
    ///
    /// # Panics
    /// On the level of the relay.
    pub fn run(self, scenario: &Scenario, keep_trace: bool) -> Outcome {
        match self {
            Self::Decisions => decisions::run(scenario, keep_trace),
            Self::Driver => driver::run(scenario, keep_trace),
            Self::Relay => panic!("the relay has scenarios of its own"),
        }
    }

    /// What a good run of many scenarios sees on this level at least once.
    pub fn reaches(self) -> Vec<Sometimes> {
        match self {
            Self::Decisions => DECISIONS_REACH.to_vec(),
            Self::Relay => RELAY_REACH.to_vec(),
            // A dial comes through unseen only if another thread revokes it.
            Self::Driver => {
                let all = Sometimes::ALL.iter().copied();
                let is_of_relay = |what: &Sometimes| RELAY_REACH.contains(what);
                all.filter(|what| *what != Sometimes::LateConnect && !is_of_relay(what)).collect()
            }
        }
    }
}

const DECISIONS_REACH: &[Sometimes] = &[
    Sometimes::LimitUndercut,
    Sometimes::SettingsChanged,
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

const RELAY_REACH: &[Sometimes] = &[
    Sometimes::RelayFinished,
    Sometimes::RelayDelivered,
    Sometimes::RelayKilled,
    Sometimes::RelayIdle,
    Sometimes::Spliced,
    Sometimes::PipeHeld,
    Sometimes::PipeUnloaded,
    Sometimes::PipeRefused,
    Sometimes::SpliceFailed,
    Sometimes::CallInterrupted,
    Sometimes::SocketFull,
    Sometimes::StoppedAtUrgent,
    Sometimes::ReadAfterReset,
    Sometimes::EndForeseen,
];
