//! What of the cluster's state routes follow from.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::network::bridge::internal_addresses;
use crate::network::ranges::{own_ranges, ranges};
use crate::state::ClusterState;

/// What of the cluster's state routes follow from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Whether a master has said so since the kubelet started: what was on disk may lack a node.
    pub(crate) confirmed: bool,
    /// Under which this node is reached, as the others are told.
    pub(crate) own_addresses: Vec<IpAddr>,
    /// The ranges of this node's pods, at most one of each family.
    pub(crate) own_ranges: Vec<IpNet>,
    /// The other nodes, by name.
    pub(crate) peers: BTreeMap<String, Peer>,
    /// Where all pods of the cluster have their addresses.
    pub(crate) pod_ranges: Vec<IpNet>,
    /// Where Services have their addresses.
    pub(crate) service_ranges: Vec<IpNet>,
}

/// Another node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Under which it is reached, the one of its main family first.
    pub(crate) addresses: Vec<IpAddr>,
    /// Where its pods have their addresses.
    pub(crate) ranges: Vec<IpNet>,
}

impl View {
    pub(crate) fn of(state: &ClusterState) -> Self {
        let own_ranges = state.node.as_deref().map(own_ranges).unwrap_or_default();
        let peers = state.peers.values().map(|peer| {
            let mut ranges = ranges(&peer.pod_cidrs);
            // A node that had the range before: what is told of it may be older.
            ranges.retain(|range| !own_ranges.contains(range));
            (peer.node.clone(), Peer { addresses: peer.addresses.clone(), ranges })
        });
        Self {
            confirmed: state.confirmed,
            own_addresses: state.node.as_deref().map(internal_addresses).unwrap_or_default(),
            peers: peers.collect(),
            own_ranges,
            pod_ranges: ranges(&state.pod_cidrs),
            service_ranges: ranges(&state.service_cidrs),
        }
    }
}
