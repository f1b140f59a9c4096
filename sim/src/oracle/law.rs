use std::fmt;

/// What must hold in every run. Each has a name, and a sentence that says what a user may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Law {
    /// See [`Law::sentence`], as for all of them.
    Barrier,
    /// Sessions only of targets in the set.
    InSet,
    /// The pool's numbers.
    Pool,
    /// Turns.
    Fairness,
    /// Picks.
    Pick,
    /// Kept targets.
    Kept,
    /// Bytes.
    Bytes,
    /// Half-close.
    HalfClose,
    /// Crossed connections.
    Crossed,
    /// Ends of sessions.
    OneEnd,
    /// Buffers.
    Buffers,
    /// Panics.
    Panic,
    /// The order of sets.
    Order,
    /// What is made of a source.
    Source,
    /// Shutdown.
    Shutdown,
    /// Reports of replacements.
    Report,
    /// Echo from every backend.
    Echo,
    /// The accept loop.
    Accept,
    /// Replacements applied in time.
    AppliedInTime,
    /// Time limits.
    TimeLimit,
    /// What is left when all is quiet.
    Quiet,
    /// Progress.
    Progress,
    /// The simulation itself.
    Simulation,
}

impl Law {
    /// Every law.
    pub const ALL: [Self; 23] = [
        Self::Barrier,
        Self::InSet,
        Self::Pool,
        Self::Fairness,
        Self::Pick,
        Self::Kept,
        Self::Bytes,
        Self::HalfClose,
        Self::Crossed,
        Self::OneEnd,
        Self::Buffers,
        Self::Panic,
        Self::Order,
        Self::Source,
        Self::Shutdown,
        Self::Report,
        Self::Echo,
        Self::Accept,
        Self::AppliedInTime,
        Self::TimeLimit,
        Self::Quiet,
        Self::Progress,
        Self::Simulation,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Barrier => "barrier",
            Self::InSet => "in-set",
            Self::Pool => "pool",
            Self::Fairness => "fairness",
            Self::Pick => "pick",
            Self::Kept => "kept",
            Self::Bytes => "bytes",
            Self::HalfClose => "half-close",
            Self::Crossed => "crossed",
            Self::OneEnd => "one-end",
            Self::Buffers => "buffers",
            Self::Panic => "panic",
            Self::Order => "order",
            Self::Source => "source",
            Self::Shutdown => "shutdown",
            Self::Report => "report",
            Self::Echo => "echo",
            Self::Accept => "accept",
            Self::AppliedInTime => "applied-in-time",
            Self::TimeLimit => "time-limit",
            Self::Quiet => "quiet",
            Self::Progress => "progress",
            Self::Simulation => "simulation",
        }
    }

    /// The law in words.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Barrier => {
                "once a replacement has been applied, no dial, no byte and no connection goes to a \
                 target that isn't in the newest set"
            }
            Self::InSet => {
                "each dialling or connected session has a target of the set; one that drains, \
                 until its deadline"
            }
            Self::Pool => "the pool holds the dialling and the connected sessions, and no others",
            Self::Fairness => {
                "backends take turns in key order, whatever comes and goes; a retry that finds \
                 its turn's target tried leaves the turn to others"
            }
            Self::Pick => "a pick is a backend of the set at that moment; an empty set picks none",
            Self::Kept => "a target that stays in the set loses no session to a replacement",
            Self::Bytes => {
                "the bytes received are a prefix of those sent, all of them after a clean end, and \
                 a stream that was cut never looks like one that ended"
            }
            Self::HalfClose => "the end of one direction is passed on, and the other goes on",
            Self::Crossed => "no byte crosses from one connection to another",
            Self::OneEnd => {
                "each session ends once, for one reason that is true; accepted = live + ended"
            }
            Self::Buffers => "the balancer holds a bounded amount of data for each direction",
            Self::Panic => "nothing panics but what was told to",
            Self::Order => "sets take effect in the order in which they were said",
            Self::Source => {
                "a set that removes too much is held, and no other; a backend that is absent is \
                 kept for its time; the last set of a source that is lost stays for as long as it \
                 may"
            }
            Self::Shutdown => "nothing is accepted after a shutdown, and it completes",
            Self::Report => "the report of a replacement says what it did",
            Self::Echo => {
                "once faults have stopped and the set is fixed, new connections reach every \
                 backend within one cycle"
            }
            Self::Accept => "the accept loop takes clients at all times, faults or not",
            Self::AppliedInTime => "a replacement is applied in time, though dials hang",
            Self::TimeLimit => "dials, waits and silences end by their time limits",
            Self::Quiet => "when all is quiet, no task, session or connection is left",
            Self::Progress => "bytes arrive in time, unless the network lost some of them",
            Self::Simulation => "the simulation does what it says",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A law that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Microseconds since the beginning.
    pub at: u64,
    /// Which law.
    pub law: Law,
    /// What was seen, and what was to be seen.
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, law, text } = self;
        write!(f, "at {}.{:03} ms: {law}: {text}", at / 1000, at % 1000)
    }
}
