//! The pod network: an address for every pod, routes to the pods of the other nodes.
//!
//! * [`BridgeNetwork`] attaches pods: `ipam` has the addresses, `links` the interfaces, and `netns`
//!   is how a pod's namespace is entered.
//! * `routes` leads to the other nodes' pods and to Services; `news` is how it hears of the kernel.
//! * [`HostPorts`] tells the proxy which ports of the node lead to pods: all rules of the packet
//!   filter are the proxy's.
//!
//! Everything is relative to the network namespace of the kubelet, so that several can run on one
//! machine, and nothing outside of it is touched but the pods' own.

mod bridge;
mod host_ports;
mod ipam;
mod links;
mod netns;
mod news;
mod pod_addresses;
mod ranges;
mod routes;

use std::net::IpAddr;
use std::path::Path;

pub(crate) use bridge::set_once;
pub use bridge::{BridgeNetwork, NetworkConfig, teardown};
pub use host_ports::{HostPorts, PodHostPorts};
pub(crate) use netns::within;
pub(crate) use pod_addresses::Addresses;
pub use pod_addresses::{PodAddresses, PodGuard};
pub(crate) use ranges::{PodRange, own_ranges, ranges};
use serde::{Deserialize, Serialize};

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// `TCP`, `UDP`.
    pub protocol: String,
    /// Address on the host; nothing means all.
    pub host_ip: Option<IpAddr>,
    /// Port on the host.
    pub host_port: u16,
    /// Port in the pod.
    pub container_port: u16,
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

/// Connects sandboxes. Both operations are idempotent per uid, and addresses survive a restart of
/// the kubelet.
#[async_trait::async_trait]
pub trait PodNetwork: Send + Sync + 'static {
    /// Gives the pod an address in the network namespace at `netns`; returns it, or the one it has.
    async fn attach(
        &self,
        pod_uid: &str,
        netns: &Path,
        ports: &[HostPort],
    ) -> Result<Vec<IpAddr>, NetworkError>;

    /// Takes the pod's interface, host ports and address back.
    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError>;

    /// Detaches whatever belongs to pods that are not in `alive`, left from a crash.
    async fn retain(&self, alive: &[String]) -> Result<(), NetworkError>;
}
