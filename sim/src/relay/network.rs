//! What happens by itself: bytes travel, peers read, the reactor reports.

use tinylb_core::Side;

use super::{Happening, kernel::Kernel};
use crate::Entropy;

/// Something that happens by itself.
#[derive(Clone, Copy, Debug)]
enum Action {
    Report(Side),
    Arrive(Side),
    EndArrives(Side),
    ResetArrives(Side),
    Deliver(Side),
    EndIsDelivered(Side),
    ResetIsDelivered(Side),
    Confirm(Side),
    PeerReads(Side),
}

impl Kernel {
    /// One thing that can happen does, if there is one.
    pub(super) fn act_by_itself(&mut self) -> bool {
        let mut actions = [Action::Report(Side::Client); 20];
        let mut count = 0;
        for side in [Side::Client, Side::Backend] {
            self.list(side, &mut |action| {
                actions[count] = action;
                count += 1;
            });
        }
        if count == 0 {
            return false;
        }
        let action = actions[self.random.below(count as u64) as usize];
        self.act(action);
        true
    }

    fn list(&mut self, side: Side, add: &mut impl FnMut(Action)) {
        if self.reports(side).is_due && self.see(side).ours.is_open {
            add(Action::Report(side));
        }
        let connection = self.see(side);
        if !connection.is_held {
            let can_happen = [
                (connection.arrivable() > 0, Action::Arrive(side)),
                (connection.end_can_arrive(), Action::EndArrives(side)),
                (connection.reset_can_arrive(), Action::ResetArrives(side)),
                (connection.deliverable() > 0, Action::Deliver(side)),
                (connection.end_can_be_delivered(), Action::EndIsDelivered(side)),
                (connection.reset_can_be_delivered(), Action::ResetIsDelivered(side)),
                (connection.can_be_confirmed(), Action::Confirm(side)),
            ];
            can_happen.into_iter().filter(|(can, _)| *can).for_each(|(_, action)| add(action));
        }
        let connection = self.see(side);
        let is_reading = !connection.peer.is_stopped && !connection.peer.is_closed;
        if is_reading && connection.outbound.read < connection.outbound.arrived {
            add(Action::PeerReads(side));
        }
    }

    fn some(&mut self, most: u64) -> u64 {
        // All of it, half of the time.
        if self.random.chance(50) { most } else { 1 + self.random.below(most) }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Report(side) => self.report(side),
            Action::Arrive(side) => {
                let bytes = self.some(self.see(side).arrivable());
                let is_event = self.of(side).arrive(bytes);
                self.event(side, is_event);
                self.note(Happening::Arrived(side.into(), bytes as u32));
            }
            Action::EndArrives(side) => {
                self.of(side).arrive_end();
                self.event(side, true);
                self.note(Happening::EndArrived(side.into()));
            }
            Action::ResetArrives(side) => {
                let is_event = self.of(side).arrive_reset();
                self.event(side, is_event);
                self.note(Happening::ResetArrived(side.into()));
            }
            Action::Deliver(side) => {
                let bytes = self.some(self.see(side).deliverable());
                self.of(side).deliver(bytes);
                self.note(Happening::Delivered(side.into(), bytes as u32));
            }
            Action::EndIsDelivered(side) => {
                self.of(side).deliver_end();
                self.note(Happening::EndDelivered(side.into()));
            }
            Action::ResetIsDelivered(side) => {
                self.of(side).deliver_reset();
                self.note(Happening::ResetDelivered(side.into()));
            }
            Action::Confirm(side) => {
                let is_event = self.of(side).confirm();
                self.event(side, is_event);
            }
            Action::PeerReads(side) => {
                let outbound = &self.see(side).outbound;
                let bytes = self.some(outbound.arrived - outbound.read);
                self.of(side).peer_reads(bytes);
            }
        }
    }

    /// The system has something to report of an open socket.
    fn event(&mut self, side: Side, is_event: bool) {
        let is_open = self.see(side).ours.is_open;
        self.reports(side).is_due |= is_event && is_open;
    }
}
