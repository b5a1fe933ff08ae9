//! The elements of our sets and maps that a [`Ruleset`] asks for.

use std::net::Ipv4Addr;

use super::expr::{Set, number};
use super::message::array;
use super::ruleset::{Frontend, Protocol, Ruleset, ServicePort, Target};

/// Names an element: its set, and the bytes its key has in registers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    pub(crate) set: Set,
    pub(crate) bytes: Bytes,
}

/// As many bytes as any key or value of ours has.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Bytes {
    bytes: [u8; 16],
    length: u8,
}

impl Bytes {
    /// Puts a part of four bytes behind.
    fn with(mut self, part: [u8; 4]) -> Self {
        let start = usize::from(self.length);
        self.bytes[start..start + 4].copy_from_slice(&part);
        self.length += 4;
        self
    }

    fn address(self, address: Ipv4Addr) -> Self {
        self.with(address.octets())
    }

    fn port(self, port: u16) -> Self {
        let [high, low] = port.to_be_bytes();
        self.with([high, low, 0, 0])
    }

    fn frontend(self, at: Frontend) -> Self {
        self.address(at.address).with([at.protocol.number(), 0, 0, 0]).port(at.port)
    }

    fn target(self, target: Target) -> Self {
        self.address(target.address).port(target.port)
    }

    /// Bytes as the kernel tells them, unless they are more than any key or value of ours.
    pub(crate) fn from_slice(slice: &[u8]) -> Option<Self> {
        let mut bytes = [0; 16];
        bytes.get_mut(..slice.len())?.copy_from_slice(slice);
        Some(Self { bytes, length: slice.len() as u8 })
    }

    /// The bytes.
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// Reads the parts from the first on.
    pub(crate) fn parts(&self) -> Parts<'_> {
        Parts(self.as_slice())
    }
}

/// Reads what [`Bytes`] were made of, part by part.
pub(crate) struct Parts<'a>(&'a [u8]);

impl Parts<'_> {
    fn next(&mut self) -> Option<[u8; 4]> {
        let part = array(self.0, 0)?;
        self.0 = &self.0[4..];
        Some(part)
    }

    pub(crate) fn address(&mut self) -> Option<Ipv4Addr> {
        self.next().map(Ipv4Addr::from)
    }

    pub(crate) fn number(&mut self) -> Option<u32> {
        self.next().map(u32::from_ne_bytes)
    }

    fn port(&mut self) -> Option<u16> {
        self.next().map(|[high, low, ..]| u16::from_be_bytes([high, low]))
    }

    pub(crate) fn frontend(&mut self) -> Option<Frontend> {
        let address = self.address()?;
        let protocol = self.next().and_then(|[number, ..]| Protocol::of_number(number))?;
        Some(Frontend { address, protocol, port: self.port()? })
    }

    pub(crate) fn target(&mut self) -> Option<Target> {
        Some(Target { address: self.address()?, port: self.port()? })
    }
}

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_slice().fmt(f)
    }
}

/// What an element's key leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    /// Nothing: an element of a set.
    None,
    /// A chain, for good.
    Goto(String),
    /// Bytes as in registers.
    Bytes(Bytes),
}

/// An element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Key,
    pub(crate) value: Value,
    /// For people who list the rules.
    pub(crate) comment: String,
}

impl Element {
    fn new(set: Set, bytes: Bytes, value: Value) -> Self {
        Self { key: Key { set, bytes }, value, comment: String::new() }
    }
}

const EMPTY: Bytes = Bytes { bytes: [0; 16], length: 0 };

/// The elements of one frontend. Those of different ones never have a key in common.
pub(crate) fn of_service(at: Frontend, service: &ServicePort, elements: &mut Vec<Element>) {
    let key = EMPTY.frontend(at);
    let mut head = match service.shape(at) {
        Some(shape) => Element::new(Set::Services, key, Value::Goto(shape.to_string())),
        None => Element::new(Set::Refused, key, Value::None),
    };
    shorten(&service.name).clone_into(&mut head.comment);
    elements.push(head);
    if service.masquerade {
        elements.push(Element::new(Set::Masqueraded, key, Value::None));
    }
    let mut endpoint = |index: u32, target: &Target| {
        let value = Value::Bytes(EMPTY.target(*target));
        elements.push(Element::new(Set::Endpoints, key.with(number(index)), value));
    };
    if service.affinity.is_none() {
        for (place, target) in (0..).zip(&service.targets) {
            endpoint(place, target);
        }
        return;
    }
    for (own, target) in service.numbers.iter().zip(&service.targets) {
        endpoint(*own, target);
    }
    elements.extend((0..).zip(&service.numbers).map(|(place, own)| {
        let value = Value::Bytes(EMPTY.with(number(*own)));
        Element::new(Set::Numbers, key.with(number(place)), value)
    }));
}

/// As much of a name as the kernel keeps in a comment.
fn shorten(name: &str) -> &str {
    /// In bytes, as `nft` has it.
    const LONGEST: usize = 127;

    let mut end = name.len().min(LONGEST);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// The elements that belong to no Service.
pub(crate) fn of_node(ruleset: &Ruleset, elements: &mut Vec<Element>) {
    elements.extend(ruleset.host_ports.iter().map(|(at, target)| {
        let value = Value::Bytes(EMPTY.target(*target));
        Element::new(Set::HostPorts, EMPTY.frontend(*at), value)
    }));
    elements.extend(
        ruleset
            .hairpins
            .iter()
            .map(|pod| Element::new(Set::Hairpins, EMPTY.address(*pod).address(*pod), Value::None)),
    );
}
