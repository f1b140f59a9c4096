//! What the network does to connections, and which of them that excuses.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::case::Case;
use crate::{
    Law, PacketFate, PacketKind, Sometimes,
    scenario::Place,
    trace::{Host, Note},
};

/// Knows what each link has gone through, which streams have lost a segment, and where connections
/// end.
#[derive(Default)]
pub(super) struct Links {
    links: BTreeMap<Host, LinkState>,
    /// Ends of streams that lost a segment.
    lossy: BTreeSet<SocketAddr>,
    /// The clients' ends of their connections, by attempt.
    clients: Vec<End>,
    /// The balancer's ends of its connections to backends, by session.
    backends: Vec<End>,
}

#[derive(Clone, Copy, Default)]
struct LinkState {
    /// Its faults, by number.
    faults: [bool; 3],
    disturbances: u32,
}

#[derive(Clone, Copy, Default)]
struct End {
    address: Option<SocketAddr>,
    /// Disturbances of its link when the connection began.
    calm_since: u32,
}

/// What a link may have to bear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::driver) enum LinkFault {
    Cut,
    Slow,
    /// The host is down.
    Down,
}

impl LinkState {
    fn is_calm(self, since: u32) -> bool {
        !self.faults.contains(&true) && self.disturbances == since
    }
}

impl Links {
    /// A link has this fault from now on, or no more.
    pub(super) fn disturb(&mut self, host: Host, fault: LinkFault, is_disturbed: bool) {
        let link = self.links.entry(host).or_default();
        link.faults[fault as usize] = is_disturbed;
        link.disturbances += 1;
    }

    /// A stream between these two has lost a segment.
    pub(super) fn lost(&mut self, a: SocketAddr, b: SocketAddr) {
        self.lossy.extend([a, b]);
    }

    /// A packet goes only to places that the balancer may have to do with.
    pub(super) fn packet(
        &self,
        case: &mut Case,
        (from, from_port): (Host, u16),
        (to, to_port): (Host, u16),
        kind: PacketKind,
        fate: PacketFate,
    ) {
        case.note(Note::Packet(from, from_port, to, to_port, kind, fate));
        match fate {
            PacketFate::Held => case.count(Sometimes::PacketHeld),
            PacketFate::Dropped => case.count(Sometimes::PacketDropped),
            PacketFate::Sent if matches!(kind, PacketKind::Syn | PacketKind::Data) => {
                if let (Host::Balancer, Host::Backend(place)) = (from, to)
                    && !case.ledger.is_in_use(place)
                {
                    let text =
                        format!("a packet ({kind:?}) goes to {place}, which isn't in the set");
                    case.fail(Law::Barrier, text);
                }
            }
            _ => {}
        }
    }

    /// The next attempt of a client begins.
    pub(super) fn client_dials(&mut self) {
        let calm_since = self.link(Host::Clients).disturbances;
        self.clients.push(End { address: None, calm_since });
    }

    pub(super) fn client_connected(&mut self, attempt: u32, name: &str) {
        self.clients[attempt as usize].address = name.parse().ok();
    }

    /// A session has another backend from now on.
    pub(super) fn admitted(&mut self, serial: u64) {
        self.backend(serial).address = None;
    }

    /// A session has a connection to a backend.
    pub(super) fn dialled(&mut self, serial: u64, place: Place, name: &str) {
        let calm_since = self.link(Host::Backend(place)).disturbances;
        *self.backend(serial) = End { address: name.parse().ok(), calm_since };
    }

    /// Whether a session has, or had, a connection to its backend.
    pub(super) fn has_backend(&self, serial: u64) -> bool {
        self.backends.get(serial as usize).is_some_and(|end| end.address.is_some())
    }

    /// Whether neither link of an attempt was disturbed while it lasted; with the session that
    /// serves it, and that session's backend.
    pub(super) fn is_calm(&self, attempt: u32, session: Option<(u64, Place)>) -> bool {
        let clients = self.link(Host::Clients);
        clients.is_calm(self.clients[attempt as usize].calm_since)
            && session.is_none_or(|(serial, place)| {
                let end = self.backends.get(serial as usize).copied().unwrap_or_default();
                end.address.is_none() || self.link(Host::Backend(place)).is_calm(end.calm_since)
            })
    }

    /// Whether a stream of an attempt has lost a segment; with the session that serves it.
    pub(super) fn is_lossy(&self, attempt: u32, session: Option<u64>) -> bool {
        let backend = session.and_then(|serial| self.backends.get(serial as usize));
        let ends = [Some(&self.clients[attempt as usize]), backend];
        let mut addresses = ends.into_iter().flatten().filter_map(|end| end.address);
        addresses.any(|address| self.lossy.contains(&address))
    }

    /// What keeps a backend from an answer, if anything does: the link first, then the host.
    pub(super) fn silences(&self, place: Place) -> Option<LinkFault> {
        let faults = self.link(Host::Backend(place)).faults;
        [LinkFault::Cut, LinkFault::Down].into_iter().find(|fault| faults[*fault as usize])
    }

    fn link(&self, host: Host) -> LinkState {
        self.links.get(&host).copied().unwrap_or_default()
    }

    fn backend(&mut self, serial: u64) -> &mut End {
        let place = serial as usize;
        if self.backends.len() <= place {
            self.backends.resize(place + 1, End::default());
        }
        &mut self.backends[place]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const B1: Place = Place(1);
    const SERVED: Option<(u64, Place)> = Some((0, B1));

    /// An attempt whose session has a connection to a backend.
    fn connected() -> Links {
        let mut links = Links::default();
        links.client_dials();
        links.client_connected(0, "10.0.0.2:5");
        links.dialled(0, B1, "10.0.0.1:9");
        links
    }

    #[test]
    fn an_attempt_is_calm_until_a_link_of_its_own_is_disturbed() {
        let mut links = connected();
        links.disturb(Host::Backend(Place(2)), LinkFault::Cut, true);
        assert!(links.is_calm(0, SERVED));
        links.disturb(Host::Backend(B1), LinkFault::Cut, true);
        links.disturb(Host::Backend(B1), LinkFault::Cut, false);
        assert!(!links.is_calm(0, SERVED), "a fault that is over counts");
        links.admitted(0);
        assert!(links.is_calm(0, SERVED), "its next backend isn't dialled yet");
        links.dialled(0, B1, "10.0.0.1:10");
        assert!(links.is_calm(0, SERVED), "it began after the fault");
        links.disturb(Host::Clients, LinkFault::Slow, true);
        assert!(!links.is_calm(0, SERVED));
    }

    #[test]
    fn a_lost_segment_excuses_the_attempt_that_it_was_of_and_no_other() {
        let mut links = connected();
        let backend = "10.0.1.1:80".parse().unwrap();
        links.lost("10.0.0.1:8".parse().unwrap(), backend);
        assert!(!links.is_lossy(0, Some(0)));
        links.lost("10.0.0.1:9".parse().unwrap(), backend);
        assert!(links.is_lossy(0, Some(0)));
        assert!(!links.is_lossy(0, None), "another session had that connection");
        links.lost("10.0.0.2:5".parse().unwrap(), backend);
        assert!(links.is_lossy(0, None));
    }
}
