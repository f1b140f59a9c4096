//! What the balancer does to its connections, and what the network does to its packets.

use std::net::SocketAddr;

use tinylb_core::{EndReason, Side};

use super::{Judge, attempt::Attempt};
use crate::{
    Law, PacketFate, PacketKind, Sometimes,
    scenario::Place,
    trace::{Host, Note},
};

/// What a link has gone through.
#[derive(Clone, Copy, Default)]
pub(in crate::driver) struct LinkState {
    /// Its faults, by number.
    faults: [bool; 3],
    pub(in crate::driver) disturbances: u32,
}

/// What a link may have to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum LinkFault {
    Cut,
    Slow,
    /// The host is down.
    Down,
}

/// What the balancer has done for a session.
#[derive(Clone, Copy, Default)]
pub(in crate::driver) struct Flow {
    pub(in crate::driver) read_up: u64,
    pub(in crate::driver) written_up: u64,
    pub(in crate::driver) read_down: u64,
    pub(in crate::driver) written_down: u64,
    /// Written bytes that an abort has discarded, as far as the adapter knows.
    pub(in crate::driver) lost_up: u64,
    pub(in crate::driver) lost_down: u64,
    /// Connections that it holds.
    pub(in crate::driver) open: u32,
    pub(in crate::driver) attempt: Option<u32>,
    /// The balancer's end of the connection to the backend.
    pub(in crate::driver) backend: Option<SocketAddr>,
    /// Disturbances of its backend's link when it was dialled.
    pub(in crate::driver) calm_since: u32,
    /// When it was connected, or the last byte moved, or the first end was passed on.
    pub(in crate::driver) moved_at: u64,
    pub(in crate::driver) is_half_closed: bool,
    /// Its backend's process has died.
    pub(in crate::driver) is_crashed: bool,
    pub(in crate::driver) ended: Option<EndReason>,
}

impl Judge {
    pub(in crate::driver) fn next_accepted(&self) -> u64 {
        self.ledger.accepted()
    }

    /// A dial begins: the session that it is for.
    pub(in crate::driver) fn dials(&mut self, place: Place) -> u64 {
        if !self.ledger.is_at(self.dialling, place) {
            let text = format!("session {} dials {place}, and may not", self.dialling);
            self.fail(Law::Barrier, text);
        }
        self.dialling
    }

    /// Whether this dial is to panic.
    pub(in crate::driver) fn takes_panic(&mut self, place: Place) -> bool {
        self.panics.remove(&place)
    }

    pub(in crate::driver) fn dialled(&mut self, session: u64, place: Place, name: &str) {
        if !self.ledger.is_at(session, place) {
            let text = format!("session {session} gets a connection to {place}, and may not");
            self.fail(Law::Barrier, text);
        }
        let calm_since = self.link(Host::Backend(place)).disturbances;
        if let Some(flow) = self.flows.get_mut(session as usize) {
            flow.calm_since = calm_since;
            flow.backend = name.parse().ok();
        }
    }

    pub(in crate::driver) fn opened(&mut self, session: u64) {
        while self.flows.len() <= session as usize {
            self.flows.push(Flow::default());
        }
        self.flows[session as usize].open += 1;
    }

    pub(in crate::driver) fn let_go(&mut self, session: u64) {
        self.flows[session as usize].open -= 1;
    }

    pub(in crate::driver) fn read(&mut self, session: u64, side: Side, bytes: u64) {
        self.check_phase(session, bytes);
        let most = u64::from(self.scenario.config.buffer);
        let flow = &mut self.flows[session as usize];
        let held = match side {
            Side::Client => {
                flow.read_up += bytes;
                flow.read_up.saturating_sub(flow.written_up)
            }
            Side::Backend => {
                flow.read_down += bytes;
                flow.read_down.saturating_sub(flow.written_down)
            }
        };
        if held > most {
            self.fail(
                Law::Buffers,
                format!("session {session} holds {held} bytes from the {side}"),
            );
        }
    }

    /// Bytes move only while a session is connected.
    fn check_phase(&mut self, session: u64, bytes: u64) {
        if !self.ledger.may_move(session) {
            let text = format!("{bytes} bytes of session {session} move, and it isn't connected");
            self.fail(Law::InSet, text);
        }
    }

    pub(in crate::driver) fn written(&mut self, session: u64, side: Side, bytes: u64) {
        self.check_phase(session, bytes);
        let at = self.at;
        let flow = &mut self.flows[session as usize];
        flow.moved_at = at;
        match side {
            Side::Client => flow.written_down += bytes,
            Side::Backend => {
                flow.written_up += bytes;
                let place = self.ledger.place_of(session);
                if !self.ledger.is_in_use(place) {
                    let text = format!("{bytes} bytes of session {session} go to {place}");
                    self.fail(Law::Barrier, text);
                }
            }
        }
    }

    /// Notes that an abort discards bytes that were written to a side.
    pub(in crate::driver) fn lost(&mut self, session: u64, side: Side, bytes: u64) {
        let flow = &mut self.flows[session as usize];
        match side {
            Side::Client => flow.lost_down = bytes.min(flow.written_down),
            Side::Backend => flow.lost_up = bytes.min(flow.written_up),
        }
    }

    pub(in crate::driver) fn writer_waits(&mut self) {
        self.count(Sometimes::WindowFull);
    }

    // Packets and links.

    pub(in crate::driver) fn packet(
        &mut self,
        (from, from_port): (Host, u16),
        (to, to_port): (Host, u16),
        kind: PacketKind,
        fate: PacketFate,
    ) {
        self.note(Note::Packet(from, from_port, to, to_port, kind, fate));
        match fate {
            PacketFate::Held => self.count(Sometimes::PacketHeld),
            PacketFate::Dropped => self.count(Sometimes::PacketDropped),
            PacketFate::Sent if matches!(kind, PacketKind::Syn | PacketKind::Data) => {
                if let (Host::Balancer, Host::Backend(place)) = (from, to)
                    && !self.ledger.is_in_use(place)
                {
                    let text =
                        format!("a packet ({kind:?}) goes to {place}, which isn't in the set");
                    self.fail(Law::Barrier, text);
                }
            }
            _ => {}
        }
    }

    /// A link has this fault from now on, or no more.
    pub(in crate::driver) fn disturb(&mut self, host: Host, fault: LinkFault, is_disturbed: bool) {
        let link = self.links.entry(host).or_default();
        link.faults[fault as usize] = is_disturbed;
        link.disturbances += 1;
    }

    pub(in crate::driver) fn link(&self, host: Host) -> LinkState {
        self.links.get(&host).copied().unwrap_or_default()
    }

    /// Whether neither link of an attempt was disturbed while it lasted.
    pub(in crate::driver) fn is_calm(&self, attempt: &Attempt) -> bool {
        let is_calm =
            |link: LinkState, since| !link.faults.contains(&true) && link.disturbances == since;
        is_calm(self.link(Host::Clients), attempt.calm_since)
            && attempt.session.is_none_or(|serial| {
                let backend = self.link(Host::Backend(self.ledger.place_of(serial)));
                let flow = &self.flows[serial as usize];
                flow.backend.is_none() || is_calm(backend, flow.calm_since)
            })
    }

    /// Whether a stream of the attempt has lost a segment.
    pub(in crate::driver) fn is_lossy(&self, attempt: &Attempt) -> bool {
        let flow = attempt.session.and_then(|serial| self.flows.get(serial as usize));
        let ends = [attempt.address, flow.and_then(|flow| flow.backend)];
        ends.into_iter().flatten().any(|end| self.lossy.contains(&end))
    }
}
