/// What a good run must have seen often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rare {
    LateAnswer,
    BackDuringItsOldCheck,
    BackAfterItsOldCheck,
    SlowCheck,
    AllChecksUnderWay,
    FailedUnanswered,
    SilentLikeAll,
    FailedWithAGap,
    UndecidedFailed,
    RoseSlowly,
    FellBackWhileRising,
    RenamedWithVerdict,
    NarrowedWhileLost,
    NonePasses,
    ClosedInTime,
    ClosedByAll,
    OpenedAgain,
    GainWaited,
    FirstByPass,
    FirstByAll,
    FirstByTime,
    LostWhileAwaited,
    LostAndSaidAtOnce,
    Rejected,
    LeftOut,
    NothingLeft,
    EntriesOwed,
    EntriesPaid,
    RemovedWhileUnheard,
    UnaskedAtFirst,
    UnaskedBetweenMisses,
    UnaskedBeforeTheFall,
}

const ALL: [Rare; 32] = {
    use Rare::*;
    [
        LateAnswer,
        BackDuringItsOldCheck,
        BackAfterItsOldCheck,
        SlowCheck,
        AllChecksUnderWay,
        FailedUnanswered,
        SilentLikeAll,
        FailedWithAGap,
        UndecidedFailed,
        RoseSlowly,
        FellBackWhileRising,
        RenamedWithVerdict,
        NarrowedWhileLost,
        NonePasses,
        ClosedInTime,
        ClosedByAll,
        OpenedAgain,
        GainWaited,
        FirstByPass,
        FirstByAll,
        FirstByTime,
        LostWhileAwaited,
        LostAndSaidAtOnce,
        Rejected,
        LeftOut,
        NothingLeft,
        EntriesOwed,
        EntriesPaid,
        RemovedWhileUnheard,
        UnaskedAtFirst,
        UnaskedBetweenMisses,
        UnaskedBeforeTheFall,
    ]
};

/// How often each has happened.
#[derive(Clone, Default)]
pub struct Seen([u64; ALL.len()]);

impl Seen {
    pub(super) fn count(&mut self, happens: bool, rare: Rare) {
        self.0[rare as usize] += u64::from(happens);
    }

    pub fn add(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// What has happened less often than this.
    pub fn fewer_than(&self, count: u64) -> Vec<(Rare, u64)> {
        ALL.into_iter().map(|it| (it, self.0[it as usize])).filter(|it| it.1 < count).collect()
    }
}
