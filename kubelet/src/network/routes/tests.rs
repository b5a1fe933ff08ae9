use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteHeader, RouteMessage};

use super::concerns;
use super::plan::{Interfaces, Plan, desired};
use super::route::{Route, RouteAction, Way, reconcile};
use super::tunnel::{Entries, Entry, Mac, Outer, mtu};
use super::view::{Peer, View};
use crate::network::links::InterfaceAddress;

const BRIDGE: u32 = 9;

fn own(interface: u32, text: &str) -> InterfaceAddress {
    let network: IpNet = text.parse().unwrap();
    InterfaceAddress { interface, address: network.addr(), range: network.trunc() }
}

/// Lists, their items separated by blanks.
fn list<T: std::str::FromStr>(text: &str) -> Vec<T>
where
    T::Err: std::fmt::Debug,
{
    text.split_whitespace().map(|item| item.parse().unwrap()).collect()
}

/// Other nodes as name, addresses and pod ranges.
fn view(peers: &[(&str, &str, &str)]) -> View {
    let peers = peers.iter().map(|(name, addresses, ranges)| {
        ((*name).to_owned(), Peer { addresses: list(addresses), ranges: list(ranges) })
    });
    View {
        confirmed: true,
        own_addresses: list("192.168.7.1"),
        own_ranges: list("10.244.0.0/24"),
        peers: peers.collect(),
        pod_ranges: list("10.244.0.0/16"),
        service_ranges: list("10.96.0.0/16"),
    }
}

/// The same of a cluster of both families.
fn dual(peers: &[(&str, &str, &str)]) -> View {
    View {
        own_addresses: list("192.168.7.1 fd00:7::1"),
        own_ranges: list("10.244.0.0/24 fd00:10::/64"),
        pod_ranges: list("10.244.0.0/16 fd00:10::/56"),
        service_ranges: list("10.96.0.0/16 fd00:96::/112"),
        ..view(peers)
    }
}

fn text(route: &Route) -> String {
    let to = route.destination;
    match route.way {
        Way::Node { gateway, interface } => format!("{to} via {gateway} dev {interface}"),
        Way::Link { interface } => format!("{to} dev {interface}"),
        Way::Tunnel { outer, gateway, mtu } => {
            format!("{to} via {gateway} through {outer:?}, {mtu} bytes")
        }
        Way::Nowhere => format!("unreachable {to}"),
    }
}

/// Interfaces with these addresses; those with a node's own carry 1500 bytes.
fn interfaces(addresses: &[InterfaceAddress]) -> Interfaces {
    let mtus = addresses.iter().map(|own| (own.interface, 1500)).collect();
    Interfaces { bridge: BRIDGE, addresses: addresses.to_vec(), mtus }
}

fn plan(view: &View, addresses: &[InterfaceAddress]) -> Plan {
    desired(view, &interfaces(addresses))
}

fn routes(view: &View, addresses: &[InterfaceAddress]) -> Vec<String> {
    plan(view, addresses).routes.iter().map(text).collect()
}

/// What a tunnel knows, as text.
fn entries(plan: &Plan, outer: Outer) -> Vec<String> {
    let Entries { neighbours, forwarding } = &plan.tunnels[&outer].entries;
    let neighbours = neighbours.iter().map(|(gateway, mac)| format!("{gateway} is {mac:?}"));
    let forwarding = forwarding.iter().map(|(mac, node)| format!("{mac:?} at {node}"));
    neighbours.chain(forwarding).collect()
}

#[test]
fn leads_to_pods_over_the_node_they_are_on() {
    let view =
        view(&[("b", "192.168.7.2", "10.244.1.0/24"), ("c", "192.168.7.3", "10.244.2.0/24")]);
    let interfaces = [own(1, "127.0.0.1/8"), own(2, "192.168.7.1/24")];
    assert_eq!(
        routes(&view, &interfaces),
        [
            "10.96.0.0/16 dev 9",
            "unreachable 10.244.0.0/16",
            "10.244.1.0/24 via 192.168.7.2 dev 2",
            "10.244.2.0/24 via 192.168.7.3 dev 2"
        ]
    );
}

#[test]
fn each_family_goes_over_an_address_of_its_own() {
    let view = dual(&[("b", "192.168.7.2 fd00:7::2", "10.244.1.0/24 fd00:10:0:1::/64")]);
    let interfaces = [own(2, "192.168.7.1/24"), own(2, "fe80::1/64"), own(2, "fd00:7::1/64")];
    assert_eq!(
        routes(&view, &interfaces),
        [
            "10.96.0.0/16 dev 9",
            "unreachable 10.244.0.0/16",
            "10.244.1.0/24 via 192.168.7.2 dev 2",
            "unreachable fd00:10::/56",
            "fd00:10:0:1::/64 via fd00:7::2 dev 2",
            "fd00:96::/112 dev 9",
        ]
    );
}

#[test]
fn prefers_the_narrowest_segment_and_never_the_bridge() {
    let view = view(&[("b", "192.168.7.2", "10.244.1.0/24")]);
    let interfaces =
        [own(2, "192.168.0.1/16"), own(3, "192.168.7.1/24"), own(BRIDGE, "192.168.7.9/28")];
    assert_eq!(routes(&view, &interfaces)[2], "10.244.1.0/24 via 192.168.7.2 dev 3");
}

#[test]
fn leads_through_a_tunnel_to_nodes_behind_a_router() {
    let view = view(&[("b", "192.168.7.2", "10.244.1.0/24"), ("c", "172.16.0.1", "10.244.2.0/24")]);
    let addresses = [own(2, "192.168.7.1/24")];
    assert_eq!(
        routes(&view, &addresses)[2..],
        [
            "10.244.1.0/24 via 192.168.7.2 dev 2",
            "10.244.2.0/24 via 10.244.2.1 through V4, 1450 bytes"
        ]
    );
    let plan = plan(&view, &addresses);
    assert_eq!(
        entries(&plan, Outer::V4),
        ["10.244.2.1 is 0a:6b:ac:10:00:01", "0a:6b:ac:10:00:01 at 172.16.0.1"]
    );
    let tunnel = &plan.tunnels[&Outer::V4];
    assert_eq!((tunnel.local, tunnel.mtu), ("192.168.7.1".parse().unwrap(), 1450));
    assert_eq!(tunnel.addresses, BTreeSet::from(["10.244.0.1".parse().unwrap()]));
    assert_eq!((plan.tunnels.len(), plan.beyond.len()), (1, 0));
}

#[test]
fn a_tunnel_carries_both_families_and_is_of_the_one_that_both_nodes_have() {
    let ranges = "10.244.1.0/24 fd00:10:0:1::/64";
    let addresses = [own(2, "192.168.7.1/24"), own(2, "fd00:7::1/64")];
    for (theirs, outer, mtu) in [
        ("172.16.0.1 fd00:8::1", Outer::V4, 1450),
        ("fd00:8::1 172.16.0.1", Outer::V4, 1450),
        ("fd00:8::1", Outer::V6, 1430),
        ("172.16.0.1", Outer::V4, 1450),
    ] {
        let view = dual(&[("b", theirs, ranges)]);
        let through = [
            format!("10.244.1.0/24 via 10.244.1.1 through {outer:?}, {mtu} bytes"),
            format!("fd00:10:0:1::/64 via fd00:10:0:1::1 through {outer:?}, {mtu} bytes"),
        ];
        let routes = routes(&view, &addresses);
        assert!(through.iter().all(|route| routes.contains(route)), "{theirs}: {routes:?}");
        assert_eq!(plan(&view, &addresses).tunnels.len(), 1, "{theirs}");
    }
    // IPv6 first is what both have to prefer.
    let mut view = dual(&[("b", "fd00:8::1 172.16.0.1", ranges)]);
    view.own_addresses.reverse();
    assert!(plan(&view, &addresses).tunnels.contains_key(&Outer::V6));
}

#[test]
fn a_family_without_an_address_on_the_segment_goes_through_a_tunnel() {
    let view = dual(&[("b", "192.168.7.2", "10.244.1.0/24 fd00:10:0:1::/64")]);
    let routes = routes(&view, &[own(2, "192.168.7.1/24")]);
    for route in [
        "10.244.1.0/24 via 192.168.7.2 dev 2",
        "fd00:10:0:1::/64 via fd00:10:0:1::1 through V4, 1450 bytes",
    ] {
        assert!(routes.iter().any(|known| known == route), "{routes:?}");
    }
}

#[test]
fn two_nodes_come_to_the_same_way() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed);
    let some = |dice: &mut fastrand::Rng, host: u8| {
        let segment = dice.u8(7..9);
        let mut addresses: Vec<String> =
            vec![format!("192.168.{segment}.{host}"), format!("fd00:{segment}::{host}")];
        if dice.bool() {
            addresses.reverse();
        }
        addresses.truncate(dice.usize(1..3));
        addresses.iter().map(|address| address.parse().unwrap()).collect::<Vec<IpAddr>>()
    };
    let way = |own_addresses: &[IpAddr], others: &[IpAddr], range: &str| {
        let peer = Peer { addresses: others.to_vec(), ranges: list(range) };
        let view = View {
            own_addresses: own_addresses.to_vec(),
            peers: [("b".to_owned(), peer)].into(),
            ..dual(&[])
        };
        let interfaces: Vec<InterfaceAddress> = own_addresses
            .iter()
            .map(|address| {
                own(2, &format!("{address}/{}", if address.is_ipv4() { 24 } else { 64 }))
            })
            .collect();
        let plan = plan(&view, &interfaces);
        let destination: IpNet = range.parse().unwrap();
        let route = plan.routes.iter().find(|route| route.destination == destination);
        match route.map(|route| route.way) {
            Some(Way::Node { .. }) => "direct",
            Some(Way::Tunnel { outer: Outer::V4, .. }) => "IPv4",
            Some(Way::Tunnel { outer: Outer::V6, .. }) => "IPv6",
            _ => "none",
        }
    };
    for _ in 0..500 {
        let (a, b) = (some(&mut dice, 1), some(&mut dice, 2));
        for range in ["10.244.1.0/24", "fd00:10:0:1::/64"] {
            assert_eq!(way(&a, &b, range), way(&b, &a, range), "KUTTER_SEED={seed}: {a:?} {b:?}");
        }
    }
}

#[test]
fn names_nodes_that_have_no_family_in_common_or_whose_own_address_is_nowhere() {
    let addresses = [own(2, "192.168.7.1/24")];
    let no_way = |view: &View| {
        let plan = plan(view, &addresses);
        assert_eq!((plan.routes.len(), plan.tunnels.len()), (2, 0));
        plan.beyond.into_iter().collect::<Vec<_>>()
    };
    assert_eq!(no_way(&view(&[("b", "fd00:8::1", "10.244.1.0/24")])), ["b"]);
    let mut translated = view(&[("b", "172.16.0.1", "10.244.1.0/24")]);
    translated.own_addresses = list("192.0.2.1");
    assert_eq!(no_way(&translated), ["b"]);
}

#[test]
fn a_tunnel_takes_what_its_headers_leave_of_the_uplink() {
    for (uplink, v4, v6) in [(1500, 1450, 1430), (9000, 8950, 8930), (1400, 1350, 1330)] {
        assert_eq!((mtu(uplink, Outer::V4), mtu(uplink, Outer::V6)), (v4, v6));
    }
    // IPv6 goes over nothing that carries less.
    for uplink in [0, 576, 1280, 1330] {
        assert_eq!((mtu(uplink, Outer::V4), mtu(uplink, Outer::V6)), (1280, 1280), "{uplink}");
    }
}

#[test]
fn hardware_addresses_are_one_nodes_and_no_groups() {
    let nodes = (0..=u16::MAX).flat_map(|number| {
        let [a, b] = number.to_be_bytes();
        let v6 = std::net::Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, number);
        [IpAddr::from([10, 0, a, b]), v6.into()]
    });
    let macs: Vec<Mac> = nodes.map(|node| Mac::of(&node)).collect();
    // The lowest bit is of groups, the next says that nobody's factory gave it.
    assert!(macs.iter().all(|mac| mac.0[0] & 3 == 2));
    assert_eq!(macs.iter().collect::<BTreeSet<_>>().len(), macs.len());
}

#[test]
fn entries_settle_after_one_pass() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut there = Entries::default();
    for _ in 0..500 {
        let mut wanted = Entries::default();
        for gateway in 1..6 {
            if dice.bool() {
                let node = IpAddr::from([172, 16, 0, dice.u8(1..4) + 10 * gateway]);
                wanted.enter(IpAddr::from([10, 244, gateway, 1]), node);
            }
        }
        for entry in wanted.missing(&there) {
            match entry {
                Entry::Neighbour(gateway, mac) => there.neighbours.insert(gateway, mac).map(drop),
                Entry::Forwarding(mac, node) => there.forwarding.insert(mac, node).map(drop),
            };
        }
        for entry in wanted.stale(&there) {
            let removed = match entry {
                Entry::Neighbour(gateway, mac) => there.neighbours.remove(&gateway) == Some(mac),
                Entry::Forwarding(mac, node) => there.forwarding.remove(&mac) == Some(node),
            };
            assert!(removed, "KUTTER_SEED={seed}: {entry:?}");
        }
        assert_eq!(there, wanted, "KUTTER_SEED={seed}");
    }
}

/// What the kernel has after the actions; it has one route of each kind to a destination.
fn after(mut kernel: BTreeSet<Route>, actions: Vec<RouteAction>) -> BTreeSet<Route> {
    let same = |a: &Route, b: &Route| {
        a.destination == b.destination && (a.way == Way::Nowhere) == (b.way == Way::Nowhere)
    };
    for action in actions {
        match action {
            RouteAction::Add(route) => {
                assert!(!kernel.iter().any(|old| same(old, &route)), "{route:?} twice");
                kernel.insert(route);
            }
            RouteAction::Replace(route) => {
                assert!(kernel.iter().any(|old| same(old, &route)), "no {route:?} to replace");
                kernel.retain(|old| !same(old, &route));
                kernel.insert(route);
            }
            RouteAction::Remove(route) => assert!(kernel.remove(&route)),
        }
    }
    kernel
}

/// `KUTTER_SEED` repeats a failure.
fn seed() -> u64 {
    let given = std::env::var("KUTTER_SEED").ok().and_then(|text| text.parse().ok());
    given.unwrap_or_else(|| fastrand::u64(..))
}

/// A cluster in which every node may be missing, have moved, and have pods of either family.
fn some_view(dice: &mut fastrand::Rng) -> View {
    let mut view = dual(&[]);
    for node in 1..6 {
        if dice.bool() {
            continue;
        }
        let (host, segment) = (dice.u8(2..5) + 10 * node, dice.u8(7..9));
        let mut addresses: Vec<IpAddr> =
            list(&format!("192.168.{segment}.{host} fd00:{segment}::{host}"));
        let mut ranges: Vec<IpNet> = list(&format!("10.244.{node}.0/24 fd00:10:0:{node}::/64"));
        if dice.u8(..4) == 0 {
            addresses.truncate(1);
        }
        if dice.u8(..4) == 0 {
            ranges.truncate(1);
        }
        view.peers.insert(format!("n{node}"), Peer { addresses, ranges });
    }
    view
}

#[test]
fn settles_after_one_pass_from_any_start_and_touches_what_differs_only() {
    let seed = seed();
    let mut dice = fastrand::Rng::with_seed(seed);
    let addresses = [own(2, "192.168.7.1/24"), own(2, "fd00:7::1/64")];
    let mut kernel = BTreeSet::new();
    for _ in 0..500 {
        let wanted = plan(&some_view(&mut dice), &addresses).routes;
        let actions = reconcile(&wanted, &kernel);
        let differing = wanted.symmetric_difference(&kernel).count();
        assert!(actions.len() <= differing, "KUTTER_SEED={seed}: {actions:?}");
        kernel = after(kernel, actions);
        assert_eq!(kernel, wanted, "KUTTER_SEED={seed}");
        assert_eq!(reconcile(&wanted, &kernel), [], "KUTTER_SEED={seed}");
    }
}

#[test]
fn what_comes_and_goes_with_every_pod_is_no_news() {
    let link = |name: &str| {
        let mut link = LinkMessage::default();
        link.attributes.push(LinkAttribute::IfName(name.to_owned()));
        RouteNetlinkMessage::NewLink(link)
    };
    let address = |address: &str| {
        let mut message = AddressMessage::default();
        message.attributes.push(AddressAttribute::Address(address.parse().unwrap()));
        RouteNetlinkMessage::DelAddress(message)
    };
    let route = |table: u8, to: &str| {
        let network: IpNet = to.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.table = table;
        message.header.destination_prefix_length = network.prefix_len();
        message.attributes.push(RouteAttribute::Destination(network.addr().into()));
        RouteNetlinkMessage::NewRoute(message)
    };
    let entry = |interface: u32| {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = interface;
        RouteNetlinkMessage::NewNeighbour(message)
    };
    // The kernel's table of a machine's own addresses is the last one.
    let (main, local) = (RouteHeader::RT_TABLE_MAIN, 255);
    let devices = [(Outer::V4, 7)].into();
    for (message, expected) in [
        (link("kt0123456789ab"), false),
        (link("kutter0"), true),
        (link("kutter-vxlan"), true),
        (link("eth0"), true),
        (address("fe80::1"), false),
        (address("192.168.7.1"), true),
        (address("fd00:7::1"), true),
        (route(main, "fe80::/64"), false),
        (route(main, "ff00::/8"), false),
        (route(local, "10.244.0.1/32"), false),
        (route(main, "10.244.1.0/24"), true),
        (route(main, "fd00:10:0:1::/64"), true),
        (entry(7), true),
        (entry(8), false),
    ] {
        assert_eq!(concerns(&message, &devices), expected, "{message:?}");
    }
}
