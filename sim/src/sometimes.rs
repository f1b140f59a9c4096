use std::fmt;

macro_rules! sometimes {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)*) => {
        /// Something that a good run of many scenarios has seen at least once. One that stays at
        /// zero says that the scenarios don't reach what they are for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Sometimes {
            $($(#[$doc])* $variant,)*
        }

        impl Sometimes {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name.
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

sometimes! {
    /// A replacement revoked a dial.
    RevokedDial "a replacement revoked a dial",
    /// A replacement cut a session.
    CutSession "a replacement cut a session",
    /// A replacement left a dial alone.
    KeptDial "a replacement left a dial alone",
    /// A shared target lost a key and kept its sessions.
    SharedTargetKept "a shared target lost a key and kept its sessions",
    /// A revoked session went to another backend.
    RetryAfterRevoked "a revoked session went to another backend",
    /// A dial came through after it had been revoked, and was refused.
    LateConnect "a dial came through after it had been revoked",
    /// A session met an empty set.
    EmptySetHit "a session met an empty set",
    /// A session that waited was admitted by the first set.
    WaitingAdmitted "a session that waited was admitted",
    /// Too many sessions waited.
    WaitingFull "too many sessions waited for the first set",
    /// A session waited for too long.
    WaitingTimedOut "a session waited for too long",
    /// A retry found its turn's target tried.
    TurnPassed "a retry left the turn to others",
    /// Every target had failed for a client, and was tried again.
    TriedAgain "targets that had all failed were tried again",
    /// A client got no backend because every dial failed.
    DialFailed "every dial of a client failed",
    /// A dial took too long.
    DialTimedOut "a dial took too long",
    /// A dial failed through a fault of the balancer's own.
    OwnFault "a dial failed through a fault of the balancer's own",
    /// A target was ejected.
    Ejected "a target was ejected",
    /// A probe brought a target back.
    ReturnedByProbe "a probe brought a target back",
    /// A dial that had nowhere else to go brought its target back.
    ReturnedByDial "a dial of last resort brought its target back",
    /// A client went elsewhere since its dial went unanswered.
    Moved "a client went elsewhere since its dial went unanswered",
    /// A client had gone elsewhere as often as it may.
    MovesUsedUp "a client had gone elsewhere as often as it may",
    /// Every target was ejected.
    AllEjected "every target was ejected",
    /// A replacement removed a target while it was probed.
    ProbeRevoked "a replacement removed a target while it was probed",
    /// A target was ejected again soon after it had come back.
    Flapped "a target was ejected again soon after it had come back",
    /// A session was cut because its target was silent.
    SilenceCut "a session was cut because its target was silent",
    /// A client whose dial was revoked by the empty set waited for another set.
    WaitedAgain "a client that had dialled waited for a set",
    /// A target came back while its sessions drained.
    DrainInterrupted "a target came back while its sessions drained",
    /// A drain's deadline cut a session.
    DrainExpired "the deadline of a drain cut a session",
    /// A session had less time to drain than when it began to.
    DrainShortened "a drain was shortened while a session drained",
    /// A session had more time to drain than when it began to.
    DrainProlonged "a drain was prolonged while a session drained",
    /// The limit of connections was reached.
    LimitReached "the limit of connections was reached",
    /// The limit of connections fell below the number of sessions.
    LimitUndercut "the limit of connections fell below the number of sessions",
    /// Settings changed.
    SettingsChanged "settings changed during a run",
    /// A shutdown's grace was over with sessions left.
    GraceOver "sessions were left at the end of the grace",
    /// A session was finished.
    Finished "a session came to its end",
    /// All that a side sent before it failed reached the other.
    Delivered "what a side sent before it failed reached the other",
    /// Bytes were under way in a session that was cut.
    CutInFlight "a session was cut with bytes under way",
    /// A writer waited for a reader.
    WindowFull "a writer waited for a reader",
    /// One side ended its stream before the other.
    HalfClosed "one side ended its stream first",
    /// A stream was seen as cut by a client.
    ClientSawCut "a client saw its stream cut",
    /// A packet was dropped by a cut link.
    PacketDropped "a cut link dropped a packet",
    /// A packet was lost under way when a link was cut.
    PacketLost "a packet was lost under way",
    /// A packet was held.
    PacketHeld "a link held a packet",
    /// A crash ended connections.
    CrashEnded "a crash ended a connection",
    /// A dial was refused by a host.
    DialRefused "a dial was refused",
    /// A dial panicked because the scenario wanted it to.
    DialPanicked "a dial panicked as ordered",
    /// An accept failed because the scenario wanted it to.
    AcceptFailed "an accept failed as ordered",
    /// A stream lost a segment and was excused.
    Excused "a stream lost a segment and was excused",
    /// A half-closed session was silent for too long.
    HalfCloseTimedOut "a half-closed session was silent for too long",
    /// A session was silent for too long.
    IdleTimedOut "a session was silent for too long",
    /// A set was held because it removes too much.
    SetHeld "a set that removes too much was held",
    /// A set that was held was taken in the end.
    HoldOver "a set was taken after it had been held",
    /// A source was lost for so long that its last set was given up.
    SourceStale "a source was lost for too long",
    /// A backend was kept though it was absent, and left when its time was over.
    AbsentGone "a backend that was kept though absent left in the end",
    /// The same, and the source had been lost meanwhile.
    AbsentWhileLost "a backend that was absent when its source was lost left in the end",
    /// A backend that was absent was mentioned again in time.
    AbsentBack "a backend that was absent came back",
    /// An entry that is no backend was left out.
    EntryLeftOut "an entry that is no backend was left out",
    /// A backend no longer passed, or passed, while the source of its set was lost.
    VerdictWhileLost "a verdict turned while the source was lost",
    /// No backend passed any more.
    NonePasses "the last backend that passed its check failed",
    /// Backends were used though none passed.
    AllUsed "all backends were used since none passed its check",
    /// A backend failed since it gave no answer.
    SilentFails "a backend failed since it gave no answer",
    /// A backend that failed lost its sessions.
    FailedCut "a backend that failed its check lost its sessions",
    /// A backend was removed while it was checked.
    LeftWhileChecked "a backend was removed while it was checked",
    /// A check from before a backend's removal ended after its return.
    LateAnswer "a check ended whose backend had left and come back",
    /// As many checks were under way as may be.
    ChecksFull "as many checks were under way as may be",
    /// A rule answered to what happened.
    RuleFired "a rule answered to what happened",
    /// Both directions of a relay ended.
    RelayFinished "both directions of a relay ended",
    /// A side of a relay failed, and what it had sent was delivered.
    RelayDelivered "a side failed, and what it had sent was delivered",
    /// A relay was killed.
    RelayKilled "a relay was killed",
    /// A relay waited with nothing more to do.
    RelayIdle "a relay waited with nothing more to do",
    /// Bytes went through a pipe.
    Spliced "bytes went through a pipe",
    /// A pipe was kept while a reader was waited for.
    PipeHeld "a pipe was kept while a reader was waited for",
    /// A pipe was emptied into memory.
    PipeUnloaded "a pipe was emptied into memory",
    /// There was no pipe to be had.
    PipeRefused "there was no pipe to be had",
    /// A splice failed for lack of memory, or because the system can't.
    SpliceFailed "a splice failed",
    /// A call was interrupted.
    CallInterrupted "a call was interrupted",
    /// A write found its socket full.
    SocketFull "a write found its socket full",
    /// A read stopped at urgent data.
    StoppedAtUrgent "a read stopped at urgent data",
    /// Bytes were read from a side that had reset its connection.
    ReadAfterReset "bytes were read from a side that had failed",
    /// The last bytes were written with the end in sight.
    EndForeseen "the last bytes went with the end behind them",
}

/// How often each thing happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts([u64; Sometimes::ALL.len()]);

impl Default for Counts {
    fn default() -> Self {
        Self([0; Sometimes::ALL.len()])
    }
}

impl Counts {
    /// It happened this many times more.
    pub fn add(&mut self, what: Sometimes, times: u64) {
        self.0[what as usize] += times;
    }

    /// How often it happened.
    pub fn of(&self, what: Sometimes) -> u64 {
        self.0[what as usize]
    }

    /// Adds another run's counts.
    pub fn merge(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, more)| *sum += more);
    }

    /// What never happened, of these.
    pub fn never<'a>(&'a self, of: &'a [Sometimes]) -> impl Iterator<Item = Sometimes> + 'a {
        of.iter().copied().filter(|what| self.of(*what) == 0)
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Sometimes::ALL
            .iter()
            .try_for_each(|what| writeln!(f, "{:>10}  {}", self.of(*what), what.name()))
    }
}
