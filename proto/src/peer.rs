//! What a node has to know of the other nodes to reach their pods.

use serde::{Deserialize, Serialize};

/// Another node, as far as routing goes. Sent under the resource name `peers`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Peer {
    /// The node's name.
    pub node: String,
    /// Its `InternalIP` addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// The ranges its pods get their addresses from, in CIDR notation.
    pub pod_cidrs: Vec<String>,
}
