//! What is to happen in one run, as plain data.

mod backends;
mod checks;
mod config;
mod generate;
mod outages;
mod plan;
mod profile;
mod settings;
mod text;
mod words;

use tinylb_core::Fault;

pub use self::{
    backends::{Backends, Key, Place},
    config::{CONFIG_FIELDS, Config, ConfigField},
    plan::{Manner, Plan, SILENCE},
    profile::{Class, Profile},
    settings::Setting,
    words::ScenarioError,
};
pub(crate) use self::{
    backends::{backend_key, backends_of, key_number, set_of},
    config::removal,
    generate::all,
    words::Words,
};

/// One run: what there is, and what happens when. Printed and parsed as text, a line for each step
/// (see [`std::fmt::Display`] and [`std::str::FromStr`]); equal scenarios run equally.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Scenario {
    /// Decides whatever the rest leaves open: latencies within their bounds, the lengths of reads,
    /// what looping clients do.
    pub seed: u64,
    /// What there is.
    pub config: Config,
    /// What answers to what happens.
    pub rules: Vec<Rule>,
    /// What happens when, ascending.
    pub steps: Vec<Step>,
}

/// One operation at its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Milliseconds since the beginning.
    pub at: u32,
    /// What is done.
    pub operation: Operation,
}

/// The link between the balancer and a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Link {
    /// A backend's.
    Backend(Place),
    /// That of the host where all clients are.
    Clients,
}

/// Something that is done to the balancer, its peers or the network between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// The set is replaced by this one; adding, removing, renaming, retargeting, sharing and
    /// emptying are all of this kind.
    Replace(Backends),
    /// The set is replaced by this one and at once by the one before.
    Flap(Backends),
    /// The set is replaced by the same set.
    Again,
    /// The source of sets is lost.
    LoseSource,
    /// The source says the same set with an entry that is no backend.
    Spoil,
    /// This many clients connect, each for one connection of this kind.
    Connect(u32, Plan),
    /// A quarter of the connected clients leave before their plan is over.
    Leave(Leaving),
    /// Nothing passes the link any more, in both directions; what is under way is lost.
    Partition(Link),
    /// Nothing passes from the balancer to the host.
    CutTo(Link),
    /// Nothing passes from the host to the balancer.
    CutFrom(Link),
    /// What is sent over the link stays under way.
    Hold(Link),
    /// The link is whole again, and what was held arrives.
    Release(Link),
    /// Messages on the link take this many milliseconds.
    Latency(Link, u32),
    /// A backend's process dies: its connections end, dials are refused.
    Crash(Place),
    /// A backend's host loses power: nobody hears of it.
    PowerLoss(Place),
    /// A backend's host is up again, with its link whole.
    Bounce(Place),
    /// This many accepts fail.
    FailAccept(u32, AcceptError),
    /// The next dial of a backend panics.
    PanicDial(Place),
    /// This many dials and probes of a backend fail.
    FailDial(Place, u32, DialError),
    /// Checks of a backend that begin from now on find this, after this many milliseconds: nothing,
    /// if that is too late.
    Check(Place, Reply, u32),
    /// Targets that don't accept connections are ejected from now on (true), or no more.
    Ejection(bool),
    /// One of the balancer's settings is this from now on, until faults stop. Then all are again what
    /// they were in the beginning, apart from whether targets are ejected and how long sessions drain.
    Set(Setting, u32),
    /// From now on, sessions of a removed target drain for this many milliseconds; 0: they are
    /// aborted.
    Drain(u32),
    /// The rotation begins anew.
    ResetCycle,
    /// The server shuts down, with this many milliseconds of grace.
    Shutdown(u32),
}

/// How clients leave before their plan is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaving {
    /// They end their stream, and go on reading.
    Close,
    /// They reset the connection.
    Abort,
}

/// How an accept fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptError {
    /// That one connection was gone already.
    Aborted,
    /// The process has no descriptors left.
    NoDescriptors,
}

/// How a dial fails beside being refused or never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DialError {
    /// The balancer has no descriptors left: it isn't the backend's fault.
    NoDescriptors,
    /// The backend refuses the connection.
    Refused,
    /// The backend resets the connection before it is established.
    Reset,
    /// The network says that the backend can't be reached.
    Unreachable,
}

impl DialError {
    /// Whose fault it is.
    pub fn fault(self) -> Fault {
        match self {
            Self::NoDescriptors => Fault::Ours,
            Self::Refused => Fault::Refused,
            Self::Reset => Fault::Reset,
            Self::Unreachable => Fault::Unreachable,
        }
    }
}

/// What a check of a backend finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reply {
    /// It may be used.
    Pass,
    /// It says that it may not.
    No,
    /// It doesn't answer.
    Nothing,
}

/// Something that answers to what happens: a reactive nemesis. It hits races that operations at
/// fixed times miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// What it answers to.
    pub on: Trigger,
    /// In how many of a hundred cases.
    pub chance: u32,
    /// What it does, to the target of what happened.
    pub act: Act,
    /// Milliseconds between the two; 0: before anything else happens.
    pub after: u32,
    /// How often at most.
    pub times: u32,
}

/// What a [`Rule`] answers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A dial begins.
    DialStarted,
    /// A dial has failed.
    DialFailed,
    /// A session is connected.
    Connected,
    /// One side's end of stream has been passed on.
    HalfClosed,
    /// A session has ended.
    Ended,
    /// The set has been replaced.
    Replaced,
    /// Sessions have begun to drain.
    DrainBegan,
    /// A target was ejected.
    Ejected,
    /// A target is in rotation again.
    Returned,
    /// A probe begins.
    ProbeStarted,
    /// A check begins.
    CheckStarted,
}

/// What a [`Rule`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The set is replaced by one without the target.
    Remove,
    /// The set is replaced by one without the target, and at once by the one before.
    RemoveAndBack,
    /// The target's keys get another target.
    Retarget,
    /// Another key gets the target too.
    Share,
    /// The keys of the target leave, and others come for it.
    Rename,
    /// A backend that isn't in the set is added.
    Add,
    /// The set is replaced by the empty one.
    Empty,
    /// The set is replaced by the same set.
    Again,
    /// All backends are in the set again, each under its own key.
    Restore,
    /// The target's process dies.
    Crash,
    /// The target's host is up again.
    Bounce,
    /// The target's link is cut.
    Partition,
    /// What is sent over the target's link stays under way.
    Hold,
    /// The target's link is whole again.
    Release,
    /// The server shuts down, without grace.
    Shutdown,
}
