use std::fmt;

use super::kernel::{ERROR, READ_CLOSED, READABLE, URGENT, WRITABLE, WRITE_CLOSED};
use crate::trace::By;

/// Something that happens in a run: to whose connection, and how many bytes are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Happening {
    /// The relay is polled.
    Polled,
    /// The relay read from a socket.
    Read(By, u32),
    /// The relay wrote to a socket.
    Written(By, u32),
    /// The relay filled a pipe from a socket.
    Filled(By, u32),
    /// The relay drained a pipe into a socket.
    Drained(By, u32),
    /// The relay read from a pipe.
    Unloaded(u32),
    /// The relay ended the write side of a socket.
    ShutDown(By),
    /// A socket was closed.
    Closed(By),
    /// The reactor reported how a socket stands.
    Reported(By, u8),
    /// Bytes of a peer's arrived.
    Arrived(By, u32),
    /// A peer's end of stream arrived.
    EndArrived(By),
    /// A peer's reset arrived.
    ResetArrived(By),
    /// Bytes arrived at a peer.
    Delivered(By, u32),
    /// An end of stream arrived at a peer.
    EndDelivered(By),
    /// A reset arrived at a peer.
    ResetDelivered(By),
    /// The relay reported that a side has failed.
    Failed(By),
    /// The relay reported that both directions have ended.
    Finished,
    /// The session was killed.
    Killed,
    /// Nothing more happens by itself.
    Idle,
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Polled => f.write_str("the relay is polled"),
            Self::Read(from, bytes) => write!(f, "    reads {bytes} bytes from the {from}"),
            Self::Written(to, bytes) => write!(f, "    writes {bytes} bytes to the {to}"),
            Self::Filled(from, bytes) => {
                write!(f, "    splices {bytes} bytes from the {from} into a pipe")
            }
            Self::Drained(to, bytes) => {
                write!(f, "    splices {bytes} bytes from a pipe to the {to}")
            }
            Self::Unloaded(bytes) => write!(f, "    reads {bytes} bytes from a pipe"),
            Self::ShutDown(to) => write!(f, "    ends the stream to the {to}"),
            Self::Closed(side) => write!(f, "the socket of the {side} is closed"),
            Self::Reported(side, bits) => write!(f, "the {side} is reported as{}", Bits(*bits)),
            Self::Arrived(from, bytes) => write!(f, "{bytes} bytes of the {from} arrive"),
            Self::EndArrived(from) => write!(f, "the end of the {from} arrives"),
            Self::ResetArrived(from) => write!(f, "the reset of the {from} arrives"),
            Self::Delivered(to, bytes) => write!(f, "{bytes} bytes arrive at the {to}"),
            Self::EndDelivered(to) => write!(f, "an end of stream arrives at the {to}"),
            Self::ResetDelivered(to) => write!(f, "a reset arrives at the {to}"),
            Self::Failed(side) => write!(f, "the relay is over: the {side} failed"),
            Self::Finished => f.write_str("the relay is over: both directions have ended"),
            Self::Killed => f.write_str("the session is killed"),
            Self::Idle => f.write_str("nothing more happens by itself"),
        }
    }
}

struct Bits(u8);

impl fmt::Display for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (READABLE, "readable"),
            (READ_CLOSED, "read-closed"),
            (WRITABLE, "writable"),
            (WRITE_CLOSED, "write-closed"),
            (URGENT, "urgent"),
            (ERROR, "error"),
        ];
        let is_set = |(bit, _): &&(u8, &str)| self.0 & bit > 0;
        names.iter().filter(is_set).try_for_each(|(_, name)| write!(f, " {name}"))
    }
}
