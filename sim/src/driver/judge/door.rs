//! What the balancer does at its adapter's door, and what the network carries.

use std::net::SocketAddr;

use tinylb_core::Side;

use super::{Judge, LinkFault};
use crate::{
    PacketFate, PacketKind, Sometimes,
    scenario::{Place, Trigger},
    trace::{Host, Note},
};

impl Judge {
    /// The serial that the next accepted connection gets.
    pub(in crate::driver) fn next_accepted(&self) -> u64 {
        self.case.ledger.accepted()
    }

    /// A dial begins. Returns the session that it is for.
    pub(in crate::driver) fn dials(&mut self, place: Place) -> u64 {
        self.checks.dials(&mut self.case, place);
        self.sessions.dials(&mut self.case, place)
    }

    /// A dial comes through, with a connection that is known by this name.
    pub(in crate::driver) fn dialled(&mut self, serial: u64, place: Place, name: &str) {
        self.sessions.dialled(&mut self.case, serial, place);
        self.links.dialled(serial, place, name);
    }

    /// A probe begins. Returns its number.
    pub(in crate::driver) fn probes(&mut self, now: u64, place: Place) -> u32 {
        self.case.set_now(now);
        self.case.note(Note::ProbeStarted(place));
        self.checks.dials(&mut self.case, place);
        let number = self.probes;
        self.probes += 1;
        self.case.ledger.probe_started(number, place);
        self.trigger(Trigger::ProbeStarted, place);
        number
    }

    /// A probe has let go of its connection.
    pub(in crate::driver) fn probe_over(&mut self, now: u64, number: u32) {
        self.case.set_now(now);
        self.case.ledger.probe_let_go(number);
    }

    pub(in crate::driver) fn opened(&mut self, serial: u64) {
        self.sessions.opened(serial);
    }

    pub(in crate::driver) fn let_go(&mut self, serial: u64) {
        self.sessions.let_go(serial);
    }

    /// Bytes from a side were read.
    pub(in crate::driver) fn read(&mut self, serial: u64, side: Side, bytes: u64) {
        self.sessions.read(&mut self.case, serial, side, bytes);
    }

    /// Bytes to a side were written.
    pub(in crate::driver) fn written(&mut self, serial: u64, side: Side, bytes: u64) {
        self.sessions.written(&mut self.case, serial, side, bytes);
    }

    /// An end of stream is passed on to a side.
    pub(in crate::driver) fn passes_end_on(&mut self, serial: u64, to: Side) {
        self.sessions.passes_end_on(serial, to);
    }

    /// An abort discards bytes that were written to a side.
    pub(in crate::driver) fn discards(&mut self, serial: u64, side: Side, bytes: u64) {
        self.sessions.lost(serial, side, bytes);
    }

    pub(in crate::driver) fn writer_waits(&mut self) {
        self.case.count(Sometimes::WindowFull);
    }

    pub(in crate::driver) fn packet(
        &mut self,
        from: (Host, u16),
        to: (Host, u16),
        kind: PacketKind,
        fate: PacketFate,
    ) {
        self.links.packet(&mut self.case, from, to, kind, fate);
    }

    /// A stream between these two has lost a segment.
    pub(in crate::driver) fn lost(&mut self, a: SocketAddr, b: SocketAddr) {
        self.case.count(Sometimes::PacketLost);
        self.links.lost(a, b);
    }

    /// A link has this fault from now on, or no more.
    pub(in crate::driver) fn disturb(&mut self, host: Host, fault: LinkFault, is_disturbed: bool) {
        self.links.disturb(host, fault, is_disturbed);
    }

    /// A backend's process dies, and its connections with it: the system ends its streams.
    pub(in crate::driver) fn crashed(&mut self, place: Place) {
        self.case.note(Note::Crashed(place));
        for serial in self.sessions.crashed(&self.case, place) {
            let times = usize::from(self.links.has_backend(serial));
            self.case.count_times(Sometimes::CrashEnded, times);
        }
    }
}
