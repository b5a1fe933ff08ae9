//! The ranges of addresses that rules depend on.

use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use proto::k8s::api::core::v1::Node;

use crate::network::{self, own_ranges};
use crate::nft::expr::Ip;
use crate::state::ClusterState;

/// Of one version of IP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Of this node's pods.
    pub(crate) own: Option<IpNet>,
    /// Of all pods.
    pub(crate) pods: Vec<IpNet>,
    /// Of all Services.
    pub(crate) services: Vec<IpNet>,
    /// Of this node's addresses, those at which node ports are served; nothing means all.
    pub(crate) node_ports: Vec<IpNet>,
}

impl Ranges {
    /// What the master told of them. Nothing if this node has nothing to do with this version.
    pub(crate) fn of(state: &ClusterState, ip: Ip, node_ports: &NodePortAddresses) -> Option<Self> {
        let node = state.node.as_deref()?;
        let ranges = Self {
            own: own_ranges(node).into_iter().find(|range| of(range) == ip),
            pods: ranges(&state.pod_cidrs, ip),
            services: ranges(&state.service_cidrs, ip),
            node_ports: node_ports.ranges(node, ip),
        };
        (ranges.own.is_some() || !ranges.services.is_empty()).then_some(ranges)
    }

    /// Whether node ports work at the loopback address.
    pub(crate) fn node_ports_at_loopback(&self) -> bool {
        let loopback = |range: &IpNet| range.contains(&IpAddr::from([127, 0, 0, 1]));
        self.node_ports.is_empty() || self.node_ports.iter().any(loopback)
    }
}

/// Those of this version in a list.
fn ranges<'a>(texts: impl IntoIterator<Item = &'a String>, ip: Ip) -> Vec<IpNet> {
    let ranges = network::ranges(texts).into_iter();
    IpNet::aggregate(&ranges.filter(|range| of(range) == ip).collect())
}

/// Of which version of IP a range is.
pub(crate) fn of(range: &IpNet) -> Ip {
    Ip::of(range.addr())
}

/// At which of a node's addresses node ports are served, as the operator says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodePortAddresses {
    parts: Vec<NodePortAddress>,
}

/// One of these.
#[derive(Clone, Debug, PartialEq, Eq)]
enum NodePortAddress {
    /// The addresses that the node is known by in its cluster.
    Primary,
    /// Those in a range.
    Range(IpNet),
}

/// Neither a range nor the word.
#[derive(Debug, thiserror::Error)]
#[error(
    "\"{0}\" is neither a range of addresses nor \"primary\"; write as 192.168.0.0/16,fd00::/8"
)]
pub struct InvalidNodePortAddress(String);

impl FromStr for NodePortAddresses {
    type Err = InvalidNodePortAddress;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        let parts = parts.map(|part| match part {
            "primary" => Ok(NodePortAddress::Primary),
            range => range
                .parse()
                .map(|range: IpNet| NodePortAddress::Range(range.trunc()))
                .map_err(|_| InvalidNodePortAddress(range.to_owned())),
        });
        Ok(Self { parts: parts.collect::<Result<_, _>>()? })
    }
}

impl NodePortAddresses {
    /// As ranges of one version; nothing means all addresses, as it does when all that is said is
    /// about the other version.
    fn ranges(&self, node: &Node, ip: Ip) -> Vec<IpNet> {
        let ranges = self.parts.iter().flat_map(|part| match part {
            NodePortAddress::Primary => node_addresses(node).map(IpNet::from).collect(),
            NodePortAddress::Range(range) => vec![*range],
        });
        let ranges: Vec<IpNet> = ranges.filter(|range| of(range) == ip).collect();
        if ranges.iter().any(|range| range.prefix_len() == 0) {
            Vec::new()
        } else {
            IpNet::aggregate(&ranges)
        }
    }
}

/// The addresses a node is known by in its cluster.
pub(crate) fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state() -> ClusterState {
        let node = json!({
            "metadata": {"name": "here"},
            "spec": {"podCIDR": "10.244.3.0/24", "podCIDRs": ["10.244.3.0/24", "fd00:1:3::/64"]},
            "status": {"addresses": [
                {"type": "Hostname", "address": "here"},
                {"type": "InternalIP", "address": "192.168.7.10"},
                {"type": "InternalIP", "address": "fd00:7::10"},
            ]},
        });
        ClusterState {
            node: Some(std::sync::Arc::new(serde_json::from_value(node).unwrap())),
            pod_cidrs: vec!["10.244.0.0/16".into(), "fd00:1::/48".into()],
            service_cidrs: vec!["10.96.0.0/16".into()],
            ..ClusterState::default()
        }
    }

    fn text(ranges: &[IpNet]) -> Vec<String> {
        ranges.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_version_has_its_own_ranges() {
        let state = state();
        let everywhere = NodePortAddresses::default();
        let v4 = Ranges::of(&state, Ip::V4, &everywhere).unwrap();
        let v6 = Ranges::of(&state, Ip::V6, &everywhere).unwrap();
        assert_eq!(v4.own.unwrap().to_string(), "10.244.3.0/24");
        assert_eq!(v6.own.unwrap().to_string(), "fd00:1:3::/64");
        assert_eq!(
            (text(&v4.pods), text(&v6.pods)),
            (vec!["10.244.0.0/16".into()], vec!["fd00:1::/48".into()])
        );
        assert_eq!((v4.services.len(), v6.services.len()), (1, 0));
        let mut alone = state;
        let node = std::sync::Arc::make_mut(alone.node.as_mut().unwrap());
        node.spec.as_mut().unwrap().pod_cidrs = None;
        assert!(Ranges::of(&alone, Ip::V6, &everywhere).is_none());
    }

    #[test]
    fn node_ports_are_served_where_the_operator_says() {
        let state = state();
        let at = |said: &str, ip| {
            let said: NodePortAddresses = said.parse().unwrap();
            let ranges = Ranges::of(&state, ip, &said).unwrap();
            (text(&ranges.node_ports), ranges.node_ports_at_loopback())
        };
        let all = (vec![], true);
        assert_eq!(at("", Ip::V4), all);
        assert_eq!(at("192.168.7.9/16", Ip::V4), (vec!["192.168.0.0/16".into()], false));
        assert_eq!(at("192.168.0.0/16", Ip::V6), all, "nothing is said of it");
        assert_eq!(at("127.0.0.0/8", Ip::V4), (vec!["127.0.0.0/8".into()], true));
        assert_eq!(at("192.168.0.0/16, 0.0.0.0/0", Ip::V4), all);
        assert_eq!(at("primary", Ip::V4), (vec!["192.168.7.10/32".into()], false));
        assert_eq!(at("primary", Ip::V6).0, ["fd00:7::10/128"]);
        let error = "192.168.0.0".parse::<NodePortAddresses>().unwrap_err().to_string();
        assert!(error.contains("192.168.0.0") && error.contains("primary"), "{error}");
    }
}
