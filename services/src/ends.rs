use std::ops::{AddAssign, Sub};

use tinylb_core::{EndReason, Totals};

/// How sessions ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Sessions that finished by themselves.
    pub finished: u64,
    /// Sessions that were cut because the time was over.
    pub cut: u64,
    /// Sessions that were cut because their backend was removed, at once or after a drain.
    pub removed: u64,
    /// Other ends: one side failed, or a time limit expired.
    pub otherwise: u64,
}

impl Ends {
    /// All of them.
    pub fn sum(&self) -> u64 {
        self.finished + self.cut + self.removed + self.otherwise
    }
}

impl From<&Totals> for Ends {
    fn from(totals: &Totals) -> Self {
        let (finished, cut) = (totals.of(EndReason::Finished), totals.of(EndReason::Shutdown));
        let removed = totals.of(EndReason::BackendRemoved) + totals.of(EndReason::DrainExpired);
        let otherwise = totals.sum() - finished - cut - removed;
        Self { finished, cut, removed, otherwise }
    }
}

impl Sub for Ends {
    type Output = Self;

    /// Those that came between two moments: the later counts minus the earlier.
    fn sub(self, before: Self) -> Self {
        Self {
            finished: self.finished - before.finished,
            cut: self.cut - before.cut,
            removed: self.removed - before.removed,
            otherwise: self.otherwise - before.otherwise,
        }
    }
}

impl AddAssign for Ends {
    fn add_assign(&mut self, more: Self) {
        self.finished += more.finished;
        self.cut += more.cut;
        self.removed += more.removed;
        self.otherwise += more.otherwise;
    }
}
