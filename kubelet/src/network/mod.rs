//! The pod network: an address for every pod, routes to the pods of the other nodes.
//!
//! * [`BridgeNetwork`] attaches pods: `ipam` has the addresses, `links` the interfaces, and `netns`
//!   is how a pod's namespace is entered.
//! * [`CniNetwork`] has them attached by plugins instead.
//! * `routes` leads to the other nodes' pods, through tunnels if need be, and to Services; `news` is how
//!   it hears of the kernel.
//! * [`HostPorts`] tells the proxy which ports of the node lead to pods: all rules of the packet
//!   filter are the proxy's.
//!
//! Everything is relative to the network namespace of the kubelet, so that several can run on one
//! machine, and nothing outside of it is touched but the pods' own.

mod bridge;
mod cni;
mod host_ports;
mod ipam;
mod links;
mod netns;
mod news;
mod pod_addresses;
mod ranges;
mod routes;
mod settings;
mod sysctl;

use std::net::IpAddr;
use std::path::Path;

pub(crate) use bridge::veth_name as interface_of;
pub use bridge::{BridgeNetwork, NetworkConfig};
pub use cni::{CniConfig, CniNetwork, keep_addresses_of_names, unready, watch_configuration};
pub use host_ports::{HostPorts, PodHostPorts};
pub(crate) use links::{OwnAddress, mac as hardware_address, own_addresses};
pub(crate) use netns::within;
pub(crate) use pod_addresses::Addresses;
pub use pod_addresses::{PodAddresses, PodGuard};
pub(crate) use ranges::{PodRange, own_ranges, ranges};
use serde::{Deserialize, Serialize};
pub(crate) use sysctl::set_once;

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Address on the host; an unspecified one means all of its family, nothing all of both.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
}

impl HostPort {
    /// Whether a node cannot have both, as what comes to an address of it would be meant for either.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        let meet = match (self.host_ip, other.host_ip) {
            (Some(one), Some(other)) if one.is_ipv4() == other.is_ipv4() => {
                one == other || one.is_unspecified() || other.is_unspecified()
            }
            (Some(_), Some(_)) => false,
            (None, _) | (_, None) => true,
        };
        meet && self.host_port == other.host_port && self.protocol == other.protocol
    }
}

/// A failed network operation.
#[derive(Debug, thiserror::Error)]
#[error("failed to {operation}: {reason}")]
pub struct NetworkError {
    /// What was attempted, as "attach pod default/web".
    pub operation: String,
    /// Why it failed.
    pub reason: String,
}

/// A pod to be connected.
#[derive(Clone, Copy, Debug)]
pub struct Attachment<'a> {
    /// Its uid.
    pub pod_uid: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its network namespace.
    pub netns: &'a Path,
    /// The ports of the node that are to lead to it.
    pub ports: &'a [HostPort],
}

/// Connects sandboxes. Both operations are idempotent per uid, and addresses survive a restart of
/// the kubelet.
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the pod an address of each of the node's families in its network namespace; returns
    /// them, or those it has, the primary family's first.
    async fn attach(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, NetworkError>;

    /// Takes the pod's interface, host ports and addresses back.
    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError>;

    /// Detaches whatever belongs to pods that are not in `alive`, left from a crash.
    async fn retain(&self, alive: &[String]) -> Result<(), NetworkError>;
}

/// Removes all that networks of this configuration have made: what plugins attached, routes, interfaces,
/// the bridge. The folder with the bridge's addresses is the caller's.
///
/// # Errors
/// When the kernel or a plugin refuses.
pub async fn teardown(config: &NetworkConfig, attached: &Path) -> Result<(), NetworkError> {
    cni::teardown(attached).await?;
    bridge::teardown(config).await
}
