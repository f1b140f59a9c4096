//! What is seen of the network.

use std::net::SocketAddr;

use turmoil::{Protocol, Segment, SentRef};

use super::wire::END_MARK;

/// Something that happened to a segment of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packet {
    /// The sender.
    pub from: SocketAddr,
    /// The receiver.
    pub to: SocketAddr,
    /// What it is.
    pub kind: PacketKind,
    /// What happened.
    pub fate: PacketFate,
}

/// A packet but for its fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sending {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) kind: PacketKind,
}

/// What a segment of TCP is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketKind {
    /// A dial.
    Syn,
    /// A dial was accepted. It takes no time and can't get lost.
    SynAck,
    /// Bytes.
    Data,
    /// One direction was closed: TCP's FIN.
    End,
    /// turmoil's FIN: its sender has let go of the connection. A reset, unless a
    /// [`Self::End`] came before it or the connection was dropped, and not aborted.
    Fin,
    /// A reset: for bytes left unread, or of turmoil's own accord, in answer to what was sent to
    /// who is gone.
    Rst,
}

/// What happened to a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PacketFate {
    /// It was handed to the network. On a link that is cut or held, [`Self::Dropped`] or
    /// [`Self::Held`] follows. Not seen between sockets of one host.
    Sent,
    /// It waits until the link is released.
    Held,
    /// It is lost.
    Dropped,
    /// The host it was sent to has it. Not seen of [`PacketKind::SynAck`].
    Delivered,
}

impl PacketKind {
    /// What a segment with these bytes is.
    pub(crate) fn of_bytes(bytes: &[u8]) -> Self {
        if bytes == END_MARK { Self::End } else { Self::Data }
    }

    /// Whether a connection misses it if it is lost.
    pub(crate) fn is_of_a_stream(self) -> bool {
        !matches!(self, Self::Syn | Self::SynAck)
    }
}

impl Packet {
    /// A segment that is about to be lost.
    pub(crate) fn lost(sent: &SentRef<'_>) -> Option<Self> {
        let (from, to) = sent.pair();
        let Protocol::Tcp(segment) = sent.protocol() else { return None };
        let kind = match segment {
            Segment::Syn(_) => PacketKind::Syn,
            Segment::Data(_, bytes) => PacketKind::of_bytes(bytes),
            Segment::Fin(_) => PacketKind::Fin,
            Segment::Rst => PacketKind::Rst,
        };
        Some(Self { from, to, kind, fate: PacketFate::Dropped })
    }
}
