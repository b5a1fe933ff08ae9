//! Which routes and tunnels there should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::route::{Route, Way};
use super::tunnel::{Entries, Outer, Tunnel, mtu};
use super::view::{Peer, View};
use crate::network::bridge::ETHERNET_MTU;
use crate::network::links::InterfaceAddress;
use crate::network::ranges::PodRange;

/// What of this node's interfaces routes follow from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interfaces {
    /// The number of the pods' bridge.
    pub(crate) bridge: u32,
    /// All addresses.
    pub(crate) addresses: Vec<InterfaceAddress>,
    /// The largest packets, in bytes, of those with an address that the node is known by.
    pub(crate) mtus: BTreeMap<u32, u32>,
}

/// What there should be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// The routes.
    pub(crate) routes: BTreeSet<Route>,
    /// The tunnels that some of them lead through.
    pub(crate) tunnels: BTreeMap<Outer, Tunnel>,
    /// The nodes to which there is no way.
    pub(crate) beyond: BTreeSet<String>,
}

/// How another node is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// It is on a segment of ours.
    Direct { gateway: IpAddr, interface: u32 },
    /// It is behind a router, which knows nothing of pods, but gets packets from one of these
    /// addresses to the other.
    Tunnel { local: IpAddr, remote: IpAddr, mtu: u32 },
    /// It has no address of a family that this node has one of.
    Beyond,
}

impl Interfaces {
    /// The interface that leads to an address without a router.
    fn towards(&self, address: &IpAddr) -> Option<u32> {
        let own = self.addresses.iter().filter(|own| own.interface != self.bridge);
        let on_segment = own.filter(|own| own.range.contains(address));
        on_segment.max_by_key(|own| own.range.prefix_len()).map(|own| own.interface)
    }

    /// The interface that has an address.
    pub(crate) fn with(&self, address: &IpAddr) -> Option<u32> {
        let own = self.addresses.iter().find(|own| own.address == *address);
        own.map(|own| own.interface)
    }

    /// How pods of `range` on a node are reached. Both nodes have to come to the same result, so it
    /// depends on nothing that only one of them knows.
    fn reach(&self, view: &View, peer: &Peer, range: &IpNet) -> Reach {
        let of_family = peer.addresses.iter().filter(|address| same_family(address, &range.addr()));
        for gateway in of_family {
            if let Some(interface) = self.towards(gateway) {
                return Reach::Direct { gateway: *gateway, interface };
            }
        }
        let is_v6 = |addresses: &[IpAddr]| addresses.first().is_some_and(IpAddr::is_ipv6);
        let mut outers = Outer::ALL;
        if is_v6(&view.own_addresses) && is_v6(&peer.addresses) {
            outers.reverse();
        }
        let of = |addresses: &[IpAddr], outer: Outer| {
            addresses.iter().find(|address| Outer::of(address) == outer).copied()
        };
        for outer in outers {
            if let Some(local) = of(&view.own_addresses, outer)
                && let Some(remote) = of(&peer.addresses, outer)
                && let Some(interface) = self.with(&local)
            {
                let uplink = self.mtus.get(&interface).copied().unwrap_or(ETHERNET_MTU);
                return Reach::Tunnel { local, remote, mtu: mtu(uplink, outer) };
            }
        }
        Reach::Beyond
    }
}

fn same_family(a: &IpAddr, b: &IpAddr) -> bool {
    a.is_ipv4() == b.is_ipv4()
}

/// What there should be.
pub(crate) fn desired(view: &View, interfaces: &Interfaces) -> Plan {
    // Processes of the node need a route to Services before the rules of the proxy can send them
    // elsewhere. This one also gives them the address under which all pods can answer. What no rule
    // takes ends on the bridge, where nobody has that address.
    let to_services = view.service_ranges.iter().map(|range| Route {
        destination: *range,
        way: Way::Link { interface: interfaces.bridge },
    });
    // What is meant for a pod that no known node has must not find its way to the default router.
    let to_nobody =
        view.pod_ranges.iter().map(|range| Route { destination: *range, way: Way::Nowhere });
    let mut plan = Plan { routes: to_services.chain(to_nobody).collect(), ..Plan::default() };
    for (node, peer) in &view.peers {
        for range in &peer.ranges {
            let way = match interfaces.reach(view, peer, range) {
                Reach::Direct { gateway, interface } => Way::Node { gateway, interface },
                Reach::Tunnel { local, remote, mtu } => {
                    let outer = Outer::of(&local);
                    let tunnel = plan.tunnels.entry(outer).or_insert_with(|| Tunnel {
                        local,
                        mtu,
                        addresses: view.own_ranges.iter().map(|own| own.gateway()).collect(),
                        entries: Entries::default(),
                    });
                    let gateway = range.gateway();
                    tunnel.entries.enter(gateway, remote);
                    Way::Tunnel { outer, gateway, mtu }
                }
                Reach::Beyond => {
                    plan.beyond.insert(node.clone());
                    continue;
                }
            };
            plan.routes.insert(Route { destination: *range, way });
        }
    }
    plan
}
