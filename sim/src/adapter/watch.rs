//! Watches what turmoil does to segments, by the events that it traces.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
};

use tracing_core::{
    Dispatch, Event, Field, Interest, LevelFilter, Metadata, Subscriber, dispatcher,
    field::Visit,
    span::{Attributes, Id, Record},
};

use super::{
    Network, Packet, PacketFate, PacketKind,
    packets::Sending,
    shown::{address, fate, kind},
};

/// The target of turmoil's events.
const TRACING_TARGET: &str = "turmoil";

impl Network {
    /// Runs a part of the simulation, and reports what happens to each segment meanwhile. To be
    /// wrapped around many steps, as it isn't free. Streams that lose a segment become
    /// [lossy](Self::is_lossy) by it.
    ///
    /// The callback is called from within turmoil and must not call anything of it, nor this.
    pub fn watch<R>(
        &self,
        callback: impl FnMut(Packet) + Send + 'static,
        run: impl FnOnce() -> R,
    ) -> R {
        let state = State { callback: Box::new(callback), handshakes: BTreeMap::new() };
        let watch = Watch { network: self.clone(), state: Mutex::new(state) };
        dispatcher::with_default(&Dispatch::new(watch), run)
    }
}

/// Makes packets of turmoil's events.
struct Watch {
    network: Network,
    state: Mutex<State>,
}

struct State {
    callback: Box<dyn FnMut(Packet) + Send>,
    /// Dials that were delivered and are not accepted yet: from where, and to where. A listener
    /// only says that it is bound to all addresses.
    handshakes: BTreeMap<SocketAddr, SocketAddr>,
}

impl State {
    /// Puts the address that was dialled for the one that the listener is bound to.
    fn resolve(&mut self, packet: &mut Packet) {
        match (packet.kind, packet.fate) {
            (PacketKind::Syn, PacketFate::Delivered) => {
                self.handshakes.insert(packet.from, packet.to);
            }
            (PacketKind::SynAck, _) => {
                packet.from = self.handshakes.remove(&packet.to).unwrap_or(packet.from);
            }
            _ => {}
        }
    }
}

impl Subscriber for Watch {
    fn register_callsite(&self, metadata: &'static Metadata<'static>) -> Interest {
        let has = |name| metadata.fields().field(name).is_some();
        let is_packet = metadata.is_event()
            && metadata.target() == TRACING_TARGET
            && has("protocol")
            && has("src")
            && has("dst")
            // It reports when a connection reads what has been delivered.
            && metadata.module_path() != Some("turmoil::net::tcp::stream");
        if is_packet { Interest::always() } else { Interest::never() }
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && metadata.target() == TRACING_TARGET
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::TRACE)
    }

    fn event(&self, event: &Event<'_>) {
        let sending = self.network.sending();
        let mut seen =
            Seen { is_known: sending.is_some() && !cfg!(debug_assertions), ..Seen::default() };
        event.record(&mut seen);
        debug_assert!(sending.is_none() || sending == seen.sending(), "{sending:?} shows {seen:?}");
        let (Some(fate), Some(sending)) = (seen.fate, sending.or_else(|| seen.sending())) else {
            return;
        };
        let Sending { from, to, kind } = sending;
        let mut packet = Packet { from, to, kind, fate };
        if fate == PacketFate::Dropped && kind.is_of_a_stream() {
            self.network.add_lossy(from, to);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.resolve(&mut packet);
        (state.callback)(packet);
    }

    // There are no spans.

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of an event.
#[derive(Debug, Default)]
struct Seen {
    /// Only the fate is to be read.
    is_known: bool,
    from: Option<SocketAddr>,
    to: Option<SocketAddr>,
    kind: Option<PacketKind>,
    fate: Option<PacketFate>,
}

impl Seen {
    fn sending(&self) -> Option<Sending> {
        Some(Sending { from: self.from?, to: self.to?, kind: self.kind? })
    }
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        match field.name() {
            "message" => self.fate = fate(value),
            _ if self.is_known => {}
            "src" => self.from = address(value),
            "dst" => self.to = address(value),
            "protocol" => self.kind = kind(value),
            _ => {}
        }
    }
}
