//! Sets and maps, described by data: what their keys consist of and what these lead to.

use std::fmt;
use std::net::IpAddr;

use super::expr::{Ip, Verdict};
use super::message::array;

/// What a part of a key or value is; tells `nft list` how to print it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
// The kernel's words: all are tried, not each is in a table of ours.
#[allow(dead_code)]
pub(crate) enum Part {
    /// IPv4 address.
    Ipv4,
    /// IPv6 address.
    Ipv6,
    /// Transport protocol, one byte and padding.
    Protocol,
    /// Port, two bytes and padding.
    Port,
    /// A number in the machine's byte order, as marks are.
    Number,
    /// Name of an interface, padded with zeros.
    Interface,
    /// Hardware address of Ethernet, six bytes and padding.
    Hardware,
}

impl Part {
    /// How many bytes it takes in registers: a multiple of four.
    pub(crate) fn length(self) -> usize {
        match self {
            Self::Ipv4 | Self::Protocol | Self::Port | Self::Number => 4,
            Self::Hardware => 8,
            Self::Ipv6 | Self::Interface => 16,
        }
    }
}

/// What a set maps its keys to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Values {
    /// Nothing: it is a set.
    None,
    /// Verdicts.
    Verdicts,
    /// Values of these parts.
    Parts(&'static [Part]),
}

/// What its elements are, and where they come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Single keys.
    Plain,
    /// Ranges: of one part, or in each part of several. They must not overlap.
    Intervals,
    /// Single keys that packets put in and that go after a while; at most so many.
    Remembered { limit: u32 },
}

/// A set or map. Two with the same name in one table have to be the same in all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Set {
    /// Its name in the kernel.
    pub(crate) name: Name,
    /// What its keys consist of; with [`Kind::Intervals`] and several parts up to sixteen.
    pub(crate) key: &'static [Part],
    /// What its keys lead to.
    pub(crate) values: Values,
    /// What its elements are.
    pub(crate) kind: Kind,
}

/// A set's name: most are fixed, those that are made as needed are not.
pub(crate) type Name = std::borrow::Cow<'static, str>;

impl Set {
    /// How many bytes its keys have.
    pub(crate) fn key_length(&self) -> usize {
        length(self.key)
    }
}

/// How many bytes parts have together.
pub(super) fn length(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.length()).sum()
}

/// Names an element within its set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// The bytes it has in registers; of a range, those of its first.
    pub(crate) from: Bytes,
    /// Of a range, those of its last.
    pub(crate) to: Option<Box<Bytes>>,
}

impl Key {
    /// All keys between two, these included.
    pub(crate) fn range(from: Bytes, to: Bytes) -> Self {
        Self { from, to: Some(Box::new(to)) }
    }
}

impl From<Bytes> for Key {
    fn from(from: Bytes) -> Self {
        Self { from, to: None }
    }
}

/// What an element's key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing: an element of a set.
    None,
    /// What becomes of the packet.
    Verdict(Verdict),
    /// Bytes as in registers.
    Bytes(Bytes),
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    /// Its name.
    pub(crate) key: Key,
    /// What that leads to.
    pub(crate) value: Value,
    /// For people who list the rules; at most [`LONGEST_COMMENT`] bytes.
    pub(crate) comment: Box<str>,
}

impl Element {
    /// Without a comment.
    pub(crate) fn new(key: impl Into<Key>, value: Value) -> Self {
        Self { key: key.into(), value, comment: Box::default() }
    }

    /// With as much of this comment as there is room for.
    pub(crate) fn with_comment(self, text: &str) -> Self {
        Self { comment: shorten(text).into(), ..self }
    }
}

/// In bytes, as `nft` has it.
const LONGEST_COMMENT: usize = 127;

/// As much of a text as the kernel keeps in a comment.
fn shorten(text: &str) -> &str {
    let mut end = text.len().min(LONGEST_COMMENT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// As many bytes as a key or value may have: those of a name of an interface, an IPv6 address and
/// three short parts.
const CAPACITY: usize = 44;

/// A key or value as it lies in registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bytes {
    bytes: [u8; CAPACITY],
    length: u8,
}

impl Default for Bytes {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Bytes {
    /// None at all, to put parts behind.
    pub(crate) const EMPTY: Self = Self { bytes: [0; CAPACITY], length: 0 };

    /// Puts bytes behind, filled up to a multiple of four. All together at most 44.
    pub(crate) fn with(mut self, part: &[u8]) -> Self {
        let start = usize::from(self.length);
        self.bytes[start..start + part.len()].copy_from_slice(part);
        self.length += part.len().next_multiple_of(4) as u8;
        self
    }

    /// Puts an address behind: four or sixteen bytes.
    pub(crate) fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => self.with(&address.octets()),
            IpAddr::V6(address) => self.with(&address.octets()),
        }
    }

    /// Puts a transport protocol behind.
    pub(crate) fn protocol(self, number: u8) -> Self {
        self.with(&[number])
    }

    /// Puts a port behind.
    pub(crate) fn port(self, port: u16) -> Self {
        self.with(&port.to_be_bytes())
    }

    /// Puts a number behind.
    pub(crate) fn number(self, number: u32) -> Self {
        self.with(&number.to_ne_bytes())
    }

    /// Bytes as the kernel tells them, unless they are more than any key or value of ours.
    pub(crate) fn from_slice(slice: &[u8]) -> Option<Self> {
        (slice.len() <= CAPACITY).then(|| {
            let mut all = Self::EMPTY;
            all.bytes[..slice.len()].copy_from_slice(slice);
            all.length = slice.len() as u8;
            all
        })
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads the parts from the first on.
    pub(crate) fn parts(&self) -> Parts<'_> {
        Parts(self.as_slice())
    }

    /// The key behind this one, as a number in network byte order; nothing behind the last.
    pub(super) fn next(mut self) -> Option<Self> {
        for byte in self.bytes[..usize::from(self.length)].iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                return Some(self);
            }
        }
        None
    }

    /// The key before this one.
    pub(super) fn previous(mut self) -> Option<Self> {
        for byte in self.bytes[..usize::from(self.length)].iter_mut().rev() {
            *byte = byte.wrapping_sub(1);
            if *byte != u8::MAX {
                return Some(self);
            }
        }
        None
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// Reads what [`Bytes`] were made of, part by part.
pub(crate) struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let part = array(self.0, 0)?;
        self.0 = &self.0[N..];
        Some(part)
    }

    /// An address of four bytes.
    pub(crate) fn ipv4(&mut self) -> Option<IpAddr> {
        self.next::<4>().map(IpAddr::from)
    }

    /// An address of sixteen bytes.
    pub(crate) fn ipv6(&mut self) -> Option<IpAddr> {
        self.next::<16>().map(IpAddr::from)
    }

    /// An address of this version.
    pub(crate) fn address(&mut self, ip: Ip) -> Option<IpAddr> {
        match ip {
            Ip::V4 => self.ipv4(),
            Ip::V6 => self.ipv6(),
        }
    }

    /// A number.
    pub(crate) fn number(&mut self) -> Option<u32> {
        self.next().map(u32::from_ne_bytes)
    }

    /// The number of a transport protocol.
    pub(crate) fn protocol(&mut self) -> Option<u8> {
        self.next().map(|[number, _, _, _]| number)
    }

    /// A port.
    pub(crate) fn port(&mut self) -> Option<u16> {
        self.next().map(|[high, low, _, _]| u16::from_be_bytes([high, low]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_they_were_put() {
        let v4: IpAddr = "10.1.2.3".parse().unwrap();
        let v6: IpAddr = "fd00::7".parse().unwrap();
        let bytes = Bytes::EMPTY.address(v4).protocol(6).port(0x1234).number(9).address(v6);
        assert_eq!(bytes.as_slice()[..12], [10, 1, 2, 3, 6, 0, 0, 0, 0x12, 0x34, 0, 0]);
        let mut parts = bytes.parts();
        assert_eq!(
            (parts.ipv4(), parts.protocol(), parts.port()),
            (Some(v4), Some(6), Some(0x1234))
        );
        assert_eq!((parts.number(), parts.ipv6(), parts.port()), (Some(9), Some(v6), None));
        assert_eq!(Bytes::from_slice(bytes.as_slice()), Some(bytes));
        assert_eq!(Bytes::from_slice(&[0; CAPACITY + 1]), None);
    }

    #[test]
    fn neighbours_of_a_key() {
        let key = |bytes: &[u8]| Bytes::from_slice(bytes).unwrap();
        assert_eq!(key(&[10, 0, 0, 255]).next(), Some(key(&[10, 0, 1, 0])));
        assert_eq!(key(&[10, 0, 1, 0]).previous(), Some(key(&[10, 0, 0, 255])));
        assert_eq!(key(&[255; 4]).next(), None);
        assert_eq!(key(&[0; 4]).previous(), None);
    }

    #[test]
    fn long_comments_are_cut_between_characters() {
        let long = "ä".repeat(100);
        let element = Element::new(Bytes::EMPTY, Value::None).with_comment(&long);
        assert_eq!(element.comment.len(), 126);
    }
}
