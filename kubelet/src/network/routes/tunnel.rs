//! Tunnels to nodes behind routers: what a VXLAN device should be.
//!
//! ```text
//!   pod 10.244.0.7 ── kutter0 ──(10.244.1.0/24 via 10.244.1.1)── kutter-vxlan
//!        neighbour 10.244.1.1 -> MAC of node b      (who has the next address)
//!        forwarding MAC of node b -> 172.16.0.1     (where the frame goes)
//!   ── UDP 192.168.7.1 -> 172.16.0.1 ── router ── … ── kutter-vxlan ── kutter0 ── pod 10.244.1.9
//! ```
//!
//! All that is known of another node follows from its addresses and ranges, as the master tells
//! them: nothing is asked for on the wire, nothing learnt from it, and nothing sent to all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use sha2::{Digest, Sha256};

/// The protocol of the packets that a tunnel is made of. A device of the kernel's has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outer {
    V4,
    V6,
}

impl Outer {
    pub(crate) const ALL: [Self; 2] = [Self::V4, Self::V6];

    pub(crate) fn of(address: &IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// What the interface is called.
    pub(crate) fn device(self) -> &'static str {
        match self {
            Self::V4 => "kutter-vxlan",
            Self::V6 => "kutter-vxlan6",
        }
    }

    /// What the tunnel adds to a packet, in bytes: the headers of IP, UDP, VXLAN and Ethernet.
    fn overhead(self) -> u32 {
        match self {
            Self::V4 => 20 + 8 + 8 + 14,
            Self::V6 => 40 + 8 + 8 + 14,
        }
    }
}

/// The kernel takes IPv6 away from interfaces that carry less.
const IPV6_MIN_MTU: u32 = 1280;

/// The largest packet that fits into a tunnel over an uplink that carries `uplink` bytes. Never less
/// than IPv6 needs: over so narrow an uplink the tunnel's own packets are cut up.
pub(crate) fn mtu(uplink: u32, outer: Outer) -> u32 {
    uplink.saturating_sub(outer.overhead()).max(IPV6_MIN_MTU)
}

/// A hardware address on the tunnels. Everybody can tell everybody's, because it follows from the
/// address that the node is reached under.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Mac {
    /// Of the node with this address: locally administered, and of one node only.
    pub(crate) fn of(address: &IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => {
                let [a, b, c, d] = address.octets();
                Self([0x0a, 0x6b, a, b, c, d])
            }
            // Longer than a hardware address. Of 10 000 nodes, two have the same in one of
            // 20 000 clusters.
            IpAddr::V6(address) => {
                let hash = Sha256::digest(address.octets());
                Self([0x0a, hash[0], hash[1], hash[2], hash[3], hash[4]])
            }
        }
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A tunnel as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tunnel {
    /// Where its packets come from: this node's address.
    pub(crate) local: IpAddr,
    /// The largest packet that fits in, in bytes.
    pub(crate) mtu: u32,
    /// This node's addresses in it, its gateways': what it sends itself comes from there, and so
    /// answers come back the same way.
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// The nodes at its other ends.
    pub(crate) entries: Entries,
}

impl Tunnel {
    pub(crate) fn mac(&self) -> Mac {
        Mac::of(&self.local)
    }
}

/// What a tunnel knows of the nodes at its other ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// Which hardware address a gateway has.
    pub(crate) neighbours: BTreeMap<IpAddr, Mac>,
    /// Which node a hardware address is at.
    pub(crate) forwarding: BTreeMap<Mac, IpAddr>,
}

/// One entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Neighbour(IpAddr, Mac),
    Forwarding(Mac, IpAddr),
}

impl Entries {
    /// Enters that these gateways are reached at a node.
    pub(crate) fn enter(&mut self, gateway: IpAddr, node: IpAddr) {
        let mac = Mac::of(&node);
        self.neighbours.insert(gateway, mac);
        self.forwarding.insert(mac, node);
    }

    /// What has to be put in so that what is there becomes this, in place of what is there for the
    /// same gateway or hardware address.
    pub(crate) fn missing(&self, there: &Self) -> Vec<Entry> {
        let forwarding = self
            .forwarding
            .iter()
            .filter(|(mac, node)| there.forwarding.get(mac) != Some(node))
            .map(|(mac, node)| Entry::Forwarding(*mac, *node));
        let neighbours = self
            .neighbours
            .iter()
            .filter(|(gateway, mac)| there.neighbours.get(gateway) != Some(mac))
            .map(|(gateway, mac)| Entry::Neighbour(*gateway, *mac));
        forwarding.chain(neighbours).collect()
    }

    /// What is there and has no place in this.
    pub(crate) fn stale(&self, there: &Self) -> Vec<Entry> {
        let neighbours = there
            .neighbours
            .iter()
            .filter(|(gateway, _)| !self.neighbours.contains_key(gateway))
            .map(|(gateway, mac)| Entry::Neighbour(*gateway, *mac));
        let forwarding = there
            .forwarding
            .iter()
            .filter(|(mac, _)| !self.forwarding.contains_key(mac))
            .map(|(mac, node)| Entry::Forwarding(*mac, *node));
        neighbours.chain(forwarding).collect()
    }
}
