//! What scenarios are drawn from, and how often each kind of operation.

use super::Config;

/// A kind of operations that a scenario may have or lack as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// A backend comes.
    Add,
    /// A backend leaves.
    Remove,
    /// A key gets another target.
    Retarget,
    /// Another key gets a target that is in the set.
    Share,
    /// A target gets another key.
    Rename,
    /// All backends leave.
    Empty,
    /// A set comes and goes at once.
    Flap,
    /// The same set again.
    Again,
    /// Every backend is there, under its own key.
    Restore,
    /// The source is lost.
    Source,
    /// Clients beyond those that loop.
    Burst,
    /// Clients leave early.
    Leave,
    /// Links are cut.
    Partition,
    /// Links are cut in one direction.
    OneWay,
    /// Links are held.
    Hold,
    /// Links get slow.
    Latency,
    /// Processes die.
    Crash,
    /// Hosts lose power.
    PowerLoss,
    /// Accepts fail.
    AcceptError,
    /// Dials panic.
    DialPanic,
    /// Removed targets drain.
    Drain,
    /// The rotation begins anew.
    ResetCycle,
    /// The server shuts down early.
    Shutdown,
    /// The nemesis answers to what happens.
    Rules,
}

/// How scenarios are drawn: how often each class is chosen, and in what surroundings.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Its name, for people.
    pub name: &'static str,
    /// How often each class is chosen, relative to each other; a class that isn't here is off.
    pub weights: &'static [(Class, u32)],
    /// Steps of a scenario, at least and at most, repairs not counted.
    pub steps: (u32, u32),
    /// What there is, before it is varied.
    pub config: fn() -> Config,
}

const WEIGHTS: &[(Class, u32)] = &[
    (Class::Add, 10),
    (Class::Remove, 14),
    (Class::Retarget, 8),
    (Class::Share, 8),
    (Class::Rename, 6),
    (Class::Empty, 3),
    (Class::Flap, 6),
    (Class::Again, 4),
    (Class::Restore, 8),
    (Class::Source, 8),
    (Class::Burst, 8),
    (Class::Leave, 4),
    (Class::Partition, 4),
    (Class::OneWay, 3),
    (Class::Hold, 5),
    (Class::Latency, 3),
    (Class::Crash, 6),
    (Class::PowerLoss, 2),
    (Class::AcceptError, 4),
    (Class::DialPanic, 2),
    (Class::Drain, 9),
    (Class::ResetCycle, 1),
    (Class::Shutdown, 1),
    (Class::Rules, 20),
];

impl Profile {
    /// Ten simulated seconds with 5 backends and 20 clients: what the zoo and the tests use.
    pub const FAST: Self =
        Self { name: "fast", weights: WEIGHTS, steps: (8, 28), config: Config::default };

    /// Connections that hold little, and bytes enough to fill them.
    pub const SMALL_WINDOW: Self = Self {
        name: "small-window",
        weights: WEIGHTS,
        steps: (4, 14),
        config: || Config {
            window: 600,
            buffer: 300,
            chunk_max: 200,
            clients: 8,
            bytes: 6_000,
            pace: 5,
            manners: [4, 3, 3, 1, 1, 2, 1],
            ..Config::default()
        },
    };

    /// A minute of many clients and many changes.
    pub const LONG: Self = Self {
        name: "long",
        weights: WEIGHTS,
        steps: (60, 200),
        config: || Config { duration: 57_000, backends: 8, clients: 30, ..Config::default() },
    };

    /// Every profile.
    pub const ALL: [Self; 3] = [Self::FAST, Self::SMALL_WINDOW, Self::LONG];
}
