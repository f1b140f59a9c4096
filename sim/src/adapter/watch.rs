//! Watches what turmoil does to segments, by the events that it traces.

use std::{
    collections::BTreeMap,
    fmt::{self, Debug, Write},
    net::{Ipv4Addr, SocketAddr},
    sync::{Mutex, PoisonError},
};

use tracing_core::{
    Dispatch, Event, Field, Interest, LevelFilter, Metadata, Subscriber, dispatcher,
    field::Visit,
    span::{Attributes, Id, Record},
};

use super::{Network, Packet, PacketFate, PacketKind};

/// The target of turmoil's events.
const TRACING_TARGET: &str = "turmoil";

/// [`END_MARK`](super::wire::END_MARK) as turmoil shows it.
const END_TEXT: &str = "TCP [0xE4, 0xD1, 0x9A, 0xC7, 0x8E, 0xB5, 0xF3, 0xA6]";

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
        let mut seen = Seen::default();
        event.record(&mut seen);
        let Seen { from: Some(from), to: Some(to), kind: Some(kind), fate: Some(fate) } = seen
        else {
            return;
        };
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
#[derive(Default)]
struct Seen {
    from: Option<SocketAddr>,
    to: Option<SocketAddr>,
    kind: Option<PacketKind>,
    fate: Option<PacketFate>,
}

impl Visit for Seen {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let mut text = Text::default();
        // Fails where the text stops listening.
        let _ = write!(text, "{value:?}");
        let text = text.as_str();
        match field.name() {
            "src" => self.from = parse(text),
            "dst" => self.to = parse(text),
            "protocol" => self.kind = kind_of(text),
            "message" => {
                self.fate = match text {
                    "Send" => Some(PacketFate::Sent),
                    "Hold" => Some(PacketFate::Held),
                    "Drop" => Some(PacketFate::Dropped),
                    "Delivered" => Some(PacketFate::Delivered),
                    _ => None,
                }
            }
            _ => {}
        }
    }
}

/// What turmoil shows of a segment, or the beginning of that. `None`: it isn't TCP's.
fn kind_of(text: &str) -> Option<PacketKind> {
    match text {
        "TCP SYN" => Some(PacketKind::Syn),
        "TCP SYN-ACK" => Some(PacketKind::SynAck),
        "TCP FIN" => Some(PacketKind::Fin),
        "TCP RST" => Some(PacketKind::Rst),
        END_TEXT => Some(PacketKind::End),
        _ => text.starts_with("TCP [").then_some(PacketKind::Data),
    }
}

/// The standard library's parser, with a short cut for addresses of version 4.
fn parse(text: &str) -> Option<SocketAddr> {
    let mut numbers = [0_u16; 5];
    let mut place = 0;
    for byte in text.bytes() {
        match byte {
            b'0'..=b'9' => {
                numbers[place] = numbers[place].wrapping_mul(10).wrapping_add((byte - b'0').into());
            }
            b'.' | b':' if place < 4 => place += 1,
            _ => return text.parse().ok(),
        }
    }
    if place < 4 {
        return None;
    }
    let [a, b, c, d, port] = numbers;
    Some((Ipv4Addr::new(a as u8, b as u8, c as u8, d as u8), port).into())
}

/// The beginning of a text, on the stack. It stops listening once it knows that a segment is data,
/// which may be long.
struct Text {
    bytes: [u8; 64],
    length: usize,
}

impl Default for Text {
    fn default() -> Self {
        Self { bytes: [0; 64], length: 0 }
    }
}

impl Text {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        let to = self.length + more.len();
        let room = self.bytes.get_mut(self.length..to).ok_or(fmt::Error)?;
        room.copy_from_slice(more.as_bytes());
        self.length = to;
        let is_data = self.bytes.starts_with(b"TCP [") && !END_TEXT.starts_with(self.as_str());
        if is_data { Err(fmt::Error) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::wire::END_MARK, *};

    /// As turmoil shows data.
    struct Shown<'a>(&'a [u8], &'a std::cell::Cell<usize>);

    impl Debug for Shown<'_> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "TCP [")?;
            for (place, byte) in self.0.iter().enumerate() {
                self.1.set(place + 1);
                let comma = if place + 1 < self.0.len() { ", " } else { "" };
                write!(f, "{byte:#2X}{comma}")?;
            }
            write!(f, "]")
        }
    }

    fn kind(bytes: &[u8]) -> (Option<PacketKind>, usize) {
        let formatted = std::cell::Cell::new(0);
        let mut text = Text::default();
        let _ = write!(text, "{:?}", Shown(bytes, &formatted));
        (kind_of(text.as_str()), formatted.get())
    }

    #[test]
    fn an_end_is_distinguished_from_data_and_data_is_not_formatted() {
        assert_eq!(kind(&END_MARK), (Some(PacketKind::End), 8));
        assert_eq!(kind(&[7; 10_000]), (Some(PacketKind::Data), 1));
        assert_eq!(kind(&[END_MARK[0]]), (Some(PacketKind::Data), 1));
        assert_eq!(kind(&[&END_MARK[..], &[0; 1000]].concat()).0, Some(PacketKind::Data));
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for address in ["1.2.3.4:5", "192.168.255.0:65535", "0.0.0.0:0", "[fe80::1:2]:80"] {
            assert_eq!(parse(address), address.parse().ok(), "{address}");
        }
        for no_address in ["", "TCP", "1.2.3.4", "a:1"] {
            assert_eq!(parse(no_address), None, "{no_address:?}");
        }
    }
}
