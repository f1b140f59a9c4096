//! What turmoil shows of a segment, read while it is being written: most of what a simulation
//! formats is formatted for this, so no text is kept.

use std::{
    fmt::{self, Debug, Write},
    net::{Ipv4Addr, SocketAddr},
};

use super::{PacketFate, PacketKind};

/// [`END_MARK`](super::wire::END_MARK) as turmoil shows it.
const END_TEXT: &[u8] = b"TCP [0xE4, 0xD1, 0x9A, 0xC7, 0x8E, 0xB5, 0xF3, 0xA6]";

/// How turmoil begins to show data.
const DATA_TEXT: &[u8] = b"TCP [";

pub(super) fn address(value: &dyn Debug) -> Option<SocketAddr> {
    let mut address = AddressV4::default();
    match write!(address, "{value:?}") {
        Ok(()) => address.get(),
        Err(fmt::Error) => format!("{value:?}").parse().ok(),
    }
}

/// What turmoil shows of a segment. `None`: it isn't TCP's.
pub(super) fn kind(value: &dyn Debug) -> Option<PacketKind> {
    let mut beginning = Beginning::default();
    // Fails where the beginning is over.
    let _ = write!(beginning, "{value:?}");
    match beginning.as_bytes() {
        b"TCP SYN" => Some(PacketKind::Syn),
        b"TCP SYN-ACK" => Some(PacketKind::SynAck),
        b"TCP FIN" => Some(PacketKind::Fin),
        b"TCP RST" => Some(PacketKind::Rst),
        bytes if bytes == END_TEXT => Some(PacketKind::End),
        bytes => bytes.starts_with(DATA_TEXT).then_some(PacketKind::Data),
    }
}

pub(super) fn fate(value: &dyn Debug) -> Option<PacketFate> {
    let mut beginning = Beginning::default();
    let _ = write!(beginning, "{value:?}");
    match beginning.as_bytes() {
        b"Send" => Some(PacketFate::Sent),
        b"Hold" => Some(PacketFate::Held),
        b"Drop" => Some(PacketFate::Dropped),
        b"Delivered" => Some(PacketFate::Delivered),
        _ => None,
    }
}

/// An address of version 4, as far as it is written. Fails at whatever isn't one.
#[derive(Default)]
struct AddressV4 {
    /// The four of the host, and the port.
    numbers: [u16; 5],
    /// Which of them is being written.
    place: usize,
}

impl AddressV4 {
    fn get(&self) -> Option<SocketAddr> {
        let [a, b, c, d, port] = self.numbers;
        let host = Ipv4Addr::new(a as u8, b as u8, c as u8, d as u8);
        (self.place == 4).then(|| (host, port).into())
    }
}

impl Write for AddressV4 {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for byte in more.bytes() {
            match (byte, self.place) {
                (b'0'..=b'9', place) => {
                    let number = &mut self.numbers[place];
                    *number = number.wrapping_mul(10).wrapping_add(u16::from(byte - b'0'));
                }
                (b'.', 0..3) | (b':', 3) => self.place += 1,
                _ => return Err(fmt::Error),
            }
        }
        Ok(())
    }
}

/// The beginning of a text: all of it, unless it is that of data, which may be long. That is over
/// at the first byte that an end of stream would not have there.
struct Beginning {
    bytes: [u8; END_TEXT.len() + 1],
    length: usize,
    /// How many bytes are those of an end.
    of_end: usize,
}

impl Default for Beginning {
    fn default() -> Self {
        Self { bytes: [0; END_TEXT.len() + 1], length: 0, of_end: 0 }
    }
}

impl Beginning {
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Write for Beginning {
    fn write_str(&mut self, more: &str) -> fmt::Result {
        for byte in more.bytes() {
            *self.bytes.get_mut(self.length).ok_or(fmt::Error)? = byte;
            if self.of_end == self.length && END_TEXT.get(self.length) == Some(&byte) {
                self.of_end += 1;
            } else if self.of_end >= DATA_TEXT.len() {
                self.length += 1;
                return Err(fmt::Error);
            }
            self.length += 1;
        }
        Ok(())
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

    fn shown(bytes: &[u8]) -> (Option<PacketKind>, usize) {
        let formatted = std::cell::Cell::new(0);
        (kind(&Shown(bytes, &formatted)), formatted.get())
    }

    #[test]
    fn an_end_is_distinguished_from_data_and_data_is_not_formatted() {
        assert_eq!(shown(&END_MARK), (Some(PacketKind::End), 8));
        assert_eq!(shown(&[7; 10_000]), (Some(PacketKind::Data), 1));
        assert_eq!(shown(&[END_MARK[0]]), (Some(PacketKind::Data), 1));
        assert_eq!(shown(&[&END_MARK[..], &[0; 1000]].concat()), (Some(PacketKind::Data), 8));
    }

    /// As turmoil shows anything else, in pieces of one byte.
    struct Words(&'static str);

    impl Debug for Words {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (0..self.0.len()).try_for_each(|place| f.write_str(&self.0[place..=place]))
        }
    }

    #[test]
    fn each_kind_and_fate_is_known_by_the_whole_word() {
        for (text, expected) in [
            ("TCP SYN", Some(PacketKind::Syn)),
            ("TCP SYN-ACK", Some(PacketKind::SynAck)),
            ("TCP FIN", Some(PacketKind::Fin)),
            ("TCP RST", Some(PacketKind::Rst)),
            ("TCP SY", None),
            ("UDP [0xE4]", None),
            ("", None),
        ] {
            assert_eq!(kind(&Words(text)), expected, "{text:?}");
        }
        for (text, expected) in [
            ("Send", Some(PacketFate::Sent)),
            ("Hold", Some(PacketFate::Held)),
            ("Drop", Some(PacketFate::Dropped)),
            ("Delivered", Some(PacketFate::Delivered)),
            ("Dropped (Full buffer)", None),
            ("Recv", None),
        ] {
            assert_eq!(fate(&Words(text)), expected, "{text:?}");
        }
    }

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["1.2.3.4:5", "192.168.255.0:65535", "0.0.0.0:0", "[fe80::1:2]:80"] {
            let expected: SocketAddr = text.parse().expect("an address");
            assert_eq!(address(&expected), Some(expected), "{text}");
            assert_eq!(address(&Words(text)), Some(expected), "{text}, byte by byte");
        }
        for text in ["", "TCP", "1.2.3.4", "1:2.3.4.5", "1.2.3.4.5:6", "a:1"] {
            assert_eq!(address(&Words(text)), None, "{text:?}");
        }
    }
}
