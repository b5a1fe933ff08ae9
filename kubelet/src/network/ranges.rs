//! Ranges of addresses, and what a node does with its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use proto::k8s::api::core::v1::Node;

/// A range that pods of a node have addresses from.
pub(crate) trait PodRange: Copy {
    /// An address in it.
    type Address;

    /// The address the node itself has in its pod range: the first after the network's.
    fn gateway(self) -> Self::Address;
}

impl PodRange for Ipv4Net {
    type Address = Ipv4Addr;

    fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network()) + u32::from(self.prefix_len() < 31))
    }
}

impl PodRange for Ipv6Net {
    type Address = Ipv6Addr;

    fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.network()) + u128::from(self.prefix_len() < 127))
    }
}

impl PodRange for IpNet {
    type Address = IpAddr;

    fn gateway(self) -> IpAddr {
        match self {
            Self::V4(range) => range.gateway().into(),
            Self::V6(range) => range.gateway().into(),
        }
    }
}

/// Where in the range pods have their addresses, counted from the network's: all but the network's
/// own, the gateway's and the last. Nothing for ranges too small to hold a pod beside these.
pub(crate) fn pod_offsets(range: IpNet) -> Range<u128> {
    let bits = range.max_prefix_len() - range.prefix_len();
    let last = 1u128.checked_shl(bits.into()).map_or(u128::MAX, |size| size - 1);
    if bits < 3 { 0..0 } else { 2..last }
}

/// The address so far behind the network's.
pub(crate) fn address_at(range: IpNet, offset: u128) -> IpAddr {
    match range {
        IpNet::V4(range) => {
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            Ipv4Addr::from(u32::from(range.network()).saturating_add(offset)).into()
        }
        IpNet::V6(range) => {
            Ipv6Addr::from(u128::from(range.network()).saturating_add(offset)).into()
        }
    }
}

/// How far behind the network's an address of the range is; nothing for others.
pub(crate) fn offset_of(range: IpNet, address: IpAddr) -> Option<u128> {
    match (range, address) {
        (IpNet::V4(range), IpAddr::V4(address)) if range.contains(&address) => {
            Some(u128::from(u32::from(address) - u32::from(range.network())))
        }
        (IpNet::V6(range), IpAddr::V6(address)) if range.contains(&address) => {
            Some(u128::from(address) - u128::from(range.network()))
        }
        _ => None,
    }
}

/// The ranges a node's pods get their addresses from, the primary family's first, at most one for
/// each family.
pub(crate) fn own_ranges(node: &Node) -> Vec<IpNet> {
    let Some(spec) = node.spec.as_ref() else { return Vec::new() };
    let several = spec.pod_cidrs.iter().flatten();
    let mut ranges: Vec<IpNet> = Vec::new();
    for range in spec.pod_cidr.iter().chain(several).filter_map(|text| parse(text)) {
        if ranges.iter().all(|known| is_ipv4(known) != is_ipv4(&range)) {
            ranges.push(range);
        }
    }
    ranges
}

/// The ranges of a list, in order. What is none is told by whoever made the list.
pub(crate) fn ranges<'a>(texts: impl IntoIterator<Item = &'a String>) -> Vec<IpNet> {
    let mut ranges: Vec<IpNet> = texts.into_iter().filter_map(|text| parse(text)).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges
}

fn is_ipv4(range: &IpNet) -> bool {
    matches!(range, IpNet::V4(_))
}

fn parse(text: &str) -> Option<IpNet> {
    text.parse().ok().map(|range: IpNet| range.trunc())
}

#[cfg(test)]
mod tests {
    use proto::k8s::api::core::v1::NodeSpec;

    use super::*;

    fn range(text: &str) -> IpNet {
        parse(text).unwrap()
    }

    #[test]
    fn knows_its_addresses() {
        for (text, gateway, first, last) in [
            ("10.244.3.0/24", "10.244.3.1", "10.244.3.2", "10.244.3.254"),
            ("10.1.2.3/16", "10.1.0.1", "10.1.0.2", "10.1.255.254"),
            ("0.0.0.0/0", "0.0.0.1", "0.0.0.2", "255.255.255.254"),
            ("fd00:1::/64", "fd00:1::1", "fd00:1::2", "fd00:1::ffff:ffff:ffff:fffe"),
            ("fd00:1::/125", "fd00:1::1", "fd00:1::2", "fd00:1::6"),
        ] {
            let range = range(text);
            assert_eq!(range.gateway().to_string(), gateway);
            let offsets = pod_offsets(range);
            assert_eq!(address_at(range, offsets.start).to_string(), first);
            assert_eq!(address_at(range, offsets.end - 1).to_string(), last);
            let first = first.parse().unwrap();
            assert_eq!(offset_of(range, first), Some(2), "{text}");
        }
    }

    #[test]
    fn an_address_of_another_range_or_family_has_no_offset() {
        for address in ["10.244.4.0", "fd00::1"] {
            assert_eq!(offset_of(range("10.244.3.0/24"), address.parse().unwrap()), None);
        }
    }

    #[test]
    fn has_no_room_for_pods_when_too_small() {
        for text in ["10.0.0.0/30", "10.0.0.0/32", "fd00::/126", "fd00::/128"] {
            assert!(pod_offsets(range(text)).is_empty(), "{text}");
        }
    }

    #[test]
    fn passes_over_what_is_no_range() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/129", "10.0.0.0/-1"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_node_has_one_range_of_each_family_the_primary_first() {
        let node = |several: &[&str]| Node {
            spec: Some(NodeSpec {
                pod_cidr: several.first().map(|text| (*text).to_owned()),
                pod_cidrs: Some(several.iter().map(|text| (*text).to_owned()).collect()),
                ..NodeSpec::default()
            }),
            ..Node::default()
        };
        let own = |several: &[&str]| {
            own_ranges(&node(several)).iter().map(IpNet::to_string).collect::<Vec<_>>()
        };
        assert_eq!(own(&["10.244.1.0/24"]), ["10.244.1.0/24"]);
        let both = ["fd00:1::/64", "10.244.1.0/24", "10.244.2.0/24"];
        assert_eq!(own(&both), ["fd00:1::/64", "10.244.1.0/24"]);
        assert_eq!(own_ranges(&Node::default()), []);
    }
}
