//! Endpoint slices, as far as a node has a use for them: who is sent where, and what names endpoints have.
//!
//! A large cluster has some hundred thousand endpoints, and every node knows them all. As Kubernetes'
//! objects they take most of a kilobyte each; here it is thirty-two bytes and their node's name, which the
//! endpoints of a slice share.

use std::collections::HashMap;
use std::net::IpAddr;

use proto::ObjectKey;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use self::wire::Wire;
use crate::nft::expr::Ip;

mod wire;

/// An endpoint slice. Made from Kubernetes' JSON, and written as such, without what nobody here reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The Service whose endpoints these are, which is in the same namespace.
    service: Option<Box<str>>,
    /// Of which version of IP its addresses are; nothing: they are names.
    ip: Option<Ip>,
    ports: Box<[PackedPort]>,
    endpoints: Box<[Packed]>,
    /// What few endpoints have, or many alike.
    traits: Box<[Traits]>,
    texts: Texts,
}

/// A port of all endpoints of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlicePort<'a> {
    /// Empty: it has none.
    pub(crate) name: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) number: u16,
}

/// Whether an endpoint is to get requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It takes requests. What is not said counts as Kubernetes documents it: ready.
    Ready,
    /// Being terminated, and still serving.
    Leaving,
    /// It takes none.
    Out,
}

/// An endpoint of a slice.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Endpoint<'a> {
    slice: &'a EndpointSlice,
    packed: &'a Packed,
}

impl EndpointSlice {
    /// The Service whose endpoints these are, by the slice's own key.
    pub(crate) fn owner(&self, key: &ObjectKey) -> Option<ObjectKey> {
        Some(ObjectKey::new(&*key.namespace, &**self.service.as_ref()?))
    }

    /// Of which version of IP its addresses are; nothing: they are names.
    pub(crate) fn ip(&self) -> Option<Ip> {
        self.ip
    }

    /// The ports of all its endpoints.
    pub(crate) fn ports(&self) -> impl Iterator<Item = SlicePort<'_>> {
        self.ports.iter().map(|port| SlicePort {
            name: self.texts.get(port.name).unwrap_or_default(),
            protocol: self.texts.get(port.protocol).unwrap_or_default(),
            number: port.number,
        })
    }

    /// The endpoints with an address.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = Endpoint<'_>> {
        self.endpoints.iter().map(|packed| Endpoint { slice: self, packed })
    }
}

impl<'a> Endpoint<'a> {
    /// Its first address, which is the one that counts: Kubernetes keeps further ones without meaning.
    pub(crate) fn address(self) -> IpAddr {
        self.packed.address
    }

    /// All of its addresses.
    pub(crate) fn addresses(self) -> impl Iterator<Item = IpAddr> + use<'a> {
        let further = self.traits().map(|traits| &*traits.further).unwrap_or_default();
        std::iter::once(self.packed.address).chain(further.iter().copied())
    }

    /// Whether it is to get requests.
    pub(crate) fn standing(self) -> Standing {
        self.packed.standing
    }

    /// The node it is on.
    pub(crate) fn node(self) -> Option<&'a str> {
        self.slice.texts.get(self.packed.node)
    }

    /// Its name below the Service's.
    pub(crate) fn hostname(self) -> Option<&'a str> {
        self.slice.texts.get(self.packed.hostname)
    }

    /// The nodes that it is meant for.
    pub(crate) fn for_nodes(self) -> impl Iterator<Item = &'a str> {
        self.texts(self.traits().map(|traits| &*traits.for_nodes).unwrap_or_default())
    }

    /// The zones that it is meant for.
    pub(crate) fn for_zones(self) -> impl Iterator<Item = &'a str> {
        self.texts(self.traits().map(|traits| &*traits.for_zones).unwrap_or_default())
    }

    fn traits(self) -> Option<&'a Traits> {
        self.slice.traits.get(usize::try_from(self.packed.traits).ok()?)
    }

    fn texts(self, which: &'a [Text]) -> impl Iterator<Item = &'a str> {
        let texts = &self.slice.texts;
        which.iter().filter_map(|text| texts.get(*text))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PackedPort {
    name: Text,
    protocol: Text,
    number: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Packed {
    address: IpAddr,
    standing: Standing,
    node: Text,
    hostname: Text,
    /// Its place in the list of them; beyond its end: none.
    traits: u32,
}

/// No endpoint has such traits.
const NO_TRAITS: u32 = u32::MAX;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Traits {
    further: Box<[IpAddr]>,
    for_nodes: Box<[Text]>,
    for_zones: Box<[Text]>,
}

/// Names a text of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Text(u32);

impl Text {
    /// None.
    const NONE: Self = Self(u32::MAX);
}

/// The texts of a slice, each once, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Texts {
    all: Box<str>,
    /// Where each ends.
    ends: Box<[u32]>,
}

impl Texts {
    fn get(&self, Text(number): Text) -> Option<&str> {
        let number = usize::try_from(number).ok()?;
        let end = usize::try_from(*self.ends.get(number)?).ok()?;
        let start = number.checked_sub(1).and_then(|before| self.ends.get(before));
        self.all.get(start.map_or(Some(0), |start| usize::try_from(*start).ok())?..end)
    }
}

/// Gathers the texts of a slice.
#[derive(Default)]
struct Gathering {
    all: String,
    ends: Vec<u32>,
    known: HashMap<String, Text>,
}

impl Gathering {
    /// Nothing and the empty text are the same.
    fn text(&mut self, text: Option<String>) -> Text {
        let Some(text) = text.filter(|text| !text.is_empty()) else { return Text::NONE };
        if let Some(known) = self.known.get(&text) {
            return *known;
        }
        // An object has at most some megabytes.
        let number = Text(self.ends.len() as u32);
        self.all.push_str(&text);
        self.ends.push(self.all.len() as u32);
        self.known.insert(text, number);
        number
    }

    fn texts(&mut self, texts: Vec<String>) -> Box<[Text]> {
        texts.into_iter().map(|text| self.text(Some(text))).collect()
    }

    fn done(self) -> Texts {
        Texts { all: self.all.into(), ends: self.ends.into() }
    }
}

impl<'de> Deserialize<'de> for EndpointSlice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Wire::deserialize(deserializer).map(Self::from)
    }
}

impl Serialize for EndpointSlice {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Wire::from(self).serialize(serializer)
    }
}

#[cfg(test)]
mod tests;
