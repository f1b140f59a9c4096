use crate::{Counts, Trace, Violation};

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The laws that were broken, in the order in which that was seen; none, if all is well.
    pub violations: Vec<Violation>,
    /// Steps of the simulation that were run.
    pub steps: u64,
    /// Microseconds that passed in it.
    pub simulated: u64,
    /// What happened how often.
    pub counts: Counts,
    /// What happened, in order.
    pub trace: Trace,
}
