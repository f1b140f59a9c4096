use std::fmt;

/// Whose fault it is that a dial or a probe failed. All but [`Self::Ours`] are the target's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// The target refused the connection. This is an answer, and so is [`Self::Reset`].
    Refused,
    /// The target reset the connection before it was established.
    Reset,
    /// The network says that the target can't be reached.
    Unreachable,
    /// No answer came in time.
    TimedOut,
    /// The fault isn't the target's, or perhaps not: no descriptors, no local ports, no route, a name
    /// that can't be looked up. It ejects nobody.
    Ours,
}

impl Fault {
    /// Every fault, in the order of declaration.
    pub const ALL: [Self; 5] =
        [Self::Refused, Self::Reset, Self::Unreachable, Self::TimedOut, Self::Ours];

    /// The fault in snake case, for logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Ours => "ours",
        }
    }

    /// Whether the target has answered, if only to say no.
    pub fn is_answer(self) -> bool {
        matches!(self, Self::Refused | Self::Reset)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
