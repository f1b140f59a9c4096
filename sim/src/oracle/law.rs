use std::fmt;

macro_rules! laws {
    ($($variant:ident $name:literal $sentence:literal,)*) => {
        /// What must hold in every run. Each has a name, and a sentence that says what a user may
        /// rely on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Law {
            $(#[doc = concat!("*", $name, "*: ", $sentence, ".")] $variant,)*
        }

        impl Law {
            /// Every law.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }

            /// The law in words.
            pub fn sentence(self) -> &'static str {
                match self {
                    $(Self::$variant => $sentence,)*
                }
            }
        }
    };
}

laws! {
    Barrier "barrier"
        "once a replacement has been applied, no dial, no byte and no connection goes to a \
         target that isn't in the newest set",
    InSet "in-set"
        "each dialling or connected session has a target of the set; one that drains, until its \
         deadline",
    Pool "pool"
        "the pool holds the dialling and the connected sessions, and no others",
    Fairness "fairness"
        "backends in rotation take turns in key order, whatever comes and goes and is ejected; a \
         retry that finds its turn's target tried leaves the turn to others",
    Pick "pick"
        "a pick is a backend of the set at that moment; an empty set picks none",
    Kept "kept"
        "a target that stays in the set loses no session, neither to a replacement nor to its \
         ejection, unless it is silent for as long as the settings say",
    Evidence "evidence"
        "a target is ejected when a dial fails through its fault or outlives its patience, and \
         nothing has succeeded there since that dial began; never otherwise",
    Return "return"
        "an ejected target is back when it has accepted a connection, not before; and in time \
         once it accepts them",
    Wait "wait"
        "no client waits for a target beyond its patience while there is another to go to",
    NoWorse "no-worse"
        "no client is refused because of ejection",
    Probes "probes"
        "probes go to ejected targets alone, one at a time to each, in due intervals",
    Bytes "bytes"
        "the bytes received are a prefix of those sent, all of them after a clean end, and a \
         stream that was cut never looks like one that ended",
    HalfClose "half-close"
        "the end of one direction is passed on, and the other goes on",
    Crossed "crossed"
        "no byte crosses from one connection to another",
    OneEnd "one-end"
        "each session ends once, for one reason that is true; accepted = live + ended",
    Buffers "buffers"
        "the balancer holds a bounded amount of data for each direction",
    Panic "panic"
        "nothing panics, unless the scenario asks for it",
    Order "order"
        "sets take effect in the order in which they were given",
    Source "source"
        "a set that removes too much is held, and no other; a backend that is absent is kept \
         for its time; the last set of a source that is lost stays for as long as it may",
    Checked "checked"
        "where backends are checked, one is used only while its source names it and if it has passed \
         a check since it appeared there; if none passes, all may be used where the settings say so",
    Verdict "verdict"
        "what the checks say of a backend takes effect in time, and ends no loss of the source; a \
         removal waits for no check",
    Shutdown "shutdown"
        "nothing is accepted after a shutdown, and it completes",
    Report "report"
        "the report of a replacement says what it did",
    Echo "echo"
        "once faults have stopped and the set is fixed, new connections reach every backend \
         within one cycle",
    Limit "limit"
        "no client is accepted while there are as many sessions as the settings allow, or more",
    Accept "accept"
        "the accept loop takes clients at all times, faults or not",
    AppliedInTime "applied-in-time"
        "a replacement is applied in time, though dials hang",
    TimeLimit "time-limit"
        "dials, waits and silences end by their time limits",
    Quiet "quiet"
        "when all is quiet, no task, session or connection is left",
    Progress "progress"
        "bytes arrive in time, unless the network lost some of them",
    Delivered "delivered"
        "what a side sent before it failed or ended reaches the other, as far as the balancer's \
         system received it",
    Counted "counted"
        "bytes are counted as passed on if they were, and not otherwise",
    Pipes "pipes"
        "a pipe is lent empty, and returns empty or is closed",
    Idle "idle"
        "while nothing moves, nothing runs",
    Simulation "simulation"
        "the simulation does what it says",
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
