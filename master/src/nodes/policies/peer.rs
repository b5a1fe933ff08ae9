//! A pod as network policies see it from afar: its addresses, and the numbers of its ports.

use proto::node::{NamedPort, PolicyPeer};
use proto::policy::{PeerSet, protocol_number};
use serde::Deserialize;
use tracing::error;

use crate::cache::CachedObject;

/// The part of a pod that counts.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Pod {
    spec: Spec,
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Spec {
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Container {
    restart_policy: Option<String>,
    ports: Vec<Port>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Port {
    name: Option<String>,
    container_port: u16,
    protocol: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    #[serde(rename = "podIPs")]
    pod_ips: Vec<Address>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Address {
    ip: String,
}

/// What a node is told of a pod that is in a set; nothing if it is not, or has no address that is its
/// own. The pod's namespace is one of the set's.
pub(super) fn peer(pod: &CachedObject, set: &PeerSet) -> Option<PolicyPeer> {
    if !set.pods.matches(&pod.labels) {
        return None;
    }
    let decoded = match pod.decode::<Pod>() {
        Ok(decoded) => decoded,
        Err(error) => {
            error!(pod = %pod.key, %error, "cannot decode a pod");
            return None;
        }
    };
    let Pod { spec, status } = decoded;
    // Whoever has ended has given its address back.
    let ended = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    let mut addresses: Vec<String> = status.pod_ips.into_iter().map(|address| address.ip).collect();
    if addresses.is_empty() {
        addresses.extend(status.pod_ip);
    }
    let sidecars = spec
        .init_containers
        .into_iter()
        .filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports: Vec<NamedPort> = spec
        .containers
        .into_iter()
        .chain(sidecars)
        .flat_map(|container| container.ports)
        .filter_map(|port| {
            let name = port.name.filter(|name| set.ports.contains(name))?;
            let protocol = protocol_number(port.protocol.as_deref().unwrap_or("TCP"))?;
            Some(NamedPort { name, protocol: protocol.into(), number: port.container_port.into() })
        })
        .collect();
    let left_out = set.with_ports_only && ports.is_empty();
    let there = !ended && !spec.host_network && !addresses.is_empty() && !left_out;
    there.then(|| PolicyPeer { pod: pod.key.to_string(), addresses, ports })
}
