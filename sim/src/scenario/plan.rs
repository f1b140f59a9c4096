//! What a connection does.

/// What one connection does, known to both its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Plan {
    /// Bytes from the client to the backend, after its header.
    pub up: u32,
    /// Bytes from the backend to the client, after its greeting.
    pub down: u32,
    /// Milliseconds between two pieces that an end writes.
    pub pace: u32,
    /// How its two ends behave.
    pub manner: Manner,
}

impl Plan {
    /// Whether nothing moves for [`SILENCE`].
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self.manner, Manner::Idle | Manner::Stall)
    }
}

/// What is special about a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Manner {
    /// The client sends all it has and ends its stream; the backend answers and ends its own.
    #[default]
    Ask,
    /// Both send at the same time.
    Both,
    /// The backend sends and ends its stream first; the client does so after that.
    Tell,
    /// The client resets the connection in the middle.
    ClientAborts,
    /// The backend resets the connection in the middle.
    BackendAborts,
    /// The client reads nothing for [`SILENCE`].
    Stall,
    /// Both sides are silent for [`SILENCE`].
    Idle,
}

/// In milliseconds, how long a client is silent that is so by its [`Manner`].
pub const SILENCE: u32 = 400;

impl Manner {
    /// Every manner, in the order of declaration.
    pub const ALL: [Self; 7] = [
        Self::Ask,
        Self::Both,
        Self::Tell,
        Self::ClientAborts,
        Self::BackendAborts,
        Self::Stall,
        Self::Idle,
    ];
}
