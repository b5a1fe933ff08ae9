//! The network of one node: a bridge, a veth pair per pod, a route per peer.

use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use proto::k8s::api::core::v1::Node;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::link::LinkMessage;
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::ipam::{Ipam, IpamError, Lease, boot_id, uptime};
use super::links::{self, Links, Problem, VETH_PREFIX, Veth};
use super::news::News;
use super::ranges::{PodRange, own_ranges};
use super::{
    Attachment, HostPort, HostPorts, NetworkError, PodAddresses, PodHostPorts, PodNetwork, netns,
    routes, sysctl,
};
use crate::nft::Connection;
use crate::state::StateHandle;

/// How a node's pod network is called and where it is remembered.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// Name of the bridge all pods of the node are attached to, as `kutter0`.
    pub bridge: String,
    /// Where the addresses in use are kept. What is here lives as long as the network namespaces
    /// of the pods, so a folder below the run dir is right.
    pub state_dir: PathBuf,
    /// The UDP port of the tunnels to nodes on other segments.
    pub vxlan_port: u16,
    /// Name of the tables that keep everybody but nodes out of the tunnels.
    pub table: String,
}

/// A bridge per node, a veth pair per pod, a route per peer.
pub struct BridgeNetwork {
    config: NetworkConfig,
    state: StateHandle,
    ipam: Arc<Mutex<Ipam>>,
    host_ports: HostPorts,
    addresses: PodAddresses,
}

/// What an interface carries where nothing says otherwise.
pub(crate) const ETHERNET_MTU: u32 = 1500;

impl BridgeNetwork {
    /// The network of this node. Reads which addresses are in use; touches no interface yet.
    pub fn new(config: NetworkConfig, state: StateHandle) -> Result<Self, NetworkError> {
        let failed = |reason: String| NetworkError {
            operation: "read the addresses in use".to_owned(),
            reason,
        };
        let boot = boot_id().map_err(|error| failed(error.to_string()))?;
        let ipam =
            Ipam::open(&config.state_dir, &boot).map_err(|error| failed(error.to_string()))?;
        let host_ports = HostPorts::default();
        let addresses = PodAddresses::of_own_interfaces();
        for (pod_uid, lease) in ipam.pods() {
            host_ports.set(pod_uid, ports_of(lease));
            addresses.set(pod_uid, &lease.addresses);
        }
        Ok(Self { config, state, ipam: Arc::new(Mutex::new(ipam)), host_ports, addresses })
    }

    /// The host ports of the pods attached here, for the proxy.
    pub fn host_ports(&self) -> HostPorts {
        self.host_ports.clone()
    }

    /// The addresses of the pods attached here, for whoever guards them.
    pub fn pod_addresses(&self) -> PodAddresses {
        self.addresses.clone()
    }

    /// Keeps the bridge and the routes to the other nodes' pods as the state says, until shutdown.
    /// Rules go through `connection`.
    pub async fn run(&self, connection: Connection, shutdown: CancellationToken) {
        routes::run(&self.config, &self.state, connection, shutdown).await;
    }

    /// This node's pod ranges, one of each family; waits until a master has given it one.
    async fn own_ranges(&self) -> Vec<IpNet> {
        let mut changes = self.state.changes();
        loop {
            let ranges = self.state.read(|state| state.node.as_deref().map(own_ranges));
            if let Some(ranges) = ranges.filter(|ranges| !ranges.is_empty()) {
                return ranges;
            }
            if changes.recv().await == Err(RecvError::Closed) {
                // The sender lives as long as the handle we hold.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Works on the leases, away from the threads that must not wait for a disk.
    async fn leases<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ipam) -> Result<T, IpamError> + Send + 'static,
    ) -> Result<T, IpamError> {
        let ipam = Arc::clone(&self.ipam);
        let work = move || work(&mut ipam.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await?
    }

    /// The pod's addresses, those it holds or new ones; waits while all that are free rest.
    async fn lease(
        &self,
        pod_uid: &str,
        ranges: &[IpNet],
        ports: &[HostPort],
    ) -> Result<Lease, IpamError> {
        loop {
            let (uid, ranges, ports) = (pod_uid.to_owned(), ranges.to_vec(), ports.to_vec());
            let taken = self.leases(move |ipam| ipam.take(&uid, &ranges, &ports, uptime()?)).await;
            match taken {
                Err(IpamError::Resting { range, left }) => {
                    info!(pod_uid, %range, ?left, "waits until an address has rested");
                    tokio::time::sleep(left).await;
                }
                other => return other,
            }
        }
    }

    /// Makes the pod's interface, or what is missing of it.
    async fn connect(
        &self,
        pod_uid: &str,
        netns: &Path,
        addresses: &[IpAddr],
        ranges: &[IpNet],
    ) -> Result<(), Problem> {
        let netns = File::open(netns).map_err(|error| {
            Problem::Reason(format!("no network namespace at {}: {error}", netns.display()))
        })?;
        let has_ipv6 = addresses.iter().any(IpAddr::is_ipv6);
        let (connection, handle) = netns::within(&netns, move || {
            sysctl::prepare_pod(has_ipv6)?;
            let (connection, handle, _) = rtnetlink::new_connection()?;
            Ok((connection, handle))
        })
        .await?;
        tokio::spawn(connection);
        let pod = Links { handle };
        let node = Links::open()?;
        let bridge = node.ensure_bridge(&self.config.bridge, ranges).await?;
        let name = veth_name(pod_uid);
        let mut news = None;
        if !is_connected(&node, &pod, &name, bridge).await? {
            // The other end may be in a namespace that this pod no longer has.
            node.remove(&name).await?;
            let mtu = self.uplink_mtu(&node).await?;
            let netns = netns.as_raw_fd();
            news = Some(News::of(&[MulticastGroup::Link])?);
            let veth = Veth { name: &name, bridge, netns, addresses, mtu };
            node.introduce(&veth).await?;
            node.add_veth(&veth).await?;
        }
        let gateways: Vec<IpAddr> = ranges.iter().map(|range| range.gateway()).collect();
        pod.set_up_pod(addresses, &gateways).await?;
        if let Some(mut news) = news {
            node.wait_until_up(&name, &mut news).await?;
        }
        Ok(())
    }

    /// What the interface with this node's address carries: more would be cut up or lost there.
    async fn uplink_mtu(&self, node: &Links) -> Result<u32, rtnetlink::Error> {
        let own: Vec<IpAddr> = self
            .state
            .read(|state| state.node.as_deref().map(internal_addresses))
            .unwrap_or_default();
        let interfaces = node.addresses().await?;
        let uplink = interfaces.iter().find(|with| own.contains(&with.address));
        let Some(uplink) = uplink.map(|with| with.interface) else { return Ok(ETHERNET_MTU) };
        let all = node.all().await?;
        let uplink = all.iter().find(|link| link.header.index == uplink);
        Ok(uplink.and_then(links::mtu_of).unwrap_or(ETHERNET_MTU))
    }
}

#[async_trait::async_trait]
impl PodNetwork for BridgeNetwork {
    async fn attach(&self, attachment: &Attachment<'_>) -> Result<Vec<IpAddr>, NetworkError> {
        let Attachment { pod_uid, netns, ports, .. } = *attachment;
        let failed = |reason| NetworkError { operation: format!("attach pod {pod_uid}"), reason };
        let ranges = self.own_ranges().await;
        let lease =
            self.lease(pod_uid, &ranges, ports).await.map_err(|error| failed(error.to_string()))?;
        // No packet of the pod's passes before it is known who may talk to it.
        self.addresses.set(pod_uid, &lease.addresses);
        self.addresses.guarded(pod_uid).await;
        self.connect(pod_uid, netns, &lease.addresses, &ranges)
            .await
            .map_err(|error| failed(error.to_string()))?;
        self.host_ports.set(pod_uid, ports_of(&lease));
        debug!(pod_uid, addresses = ?lease.addresses, "attached a pod");
        Ok(lease.addresses)
    }

    async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        let failed = |reason| NetworkError { operation: format!("detach pod {pod_uid}"), reason };
        self.host_ports.remove(pod_uid);
        let links = Links::open().map_err(|error| failed(error.to_string()))?;
        links.remove(&veth_name(pod_uid)).await.map_err(|error| failed(error.to_string()))?;
        // Before the address can be another's.
        self.addresses.remove(pod_uid);
        let uid = pod_uid.to_owned();
        self.leases(move |ipam| ipam.release(&uid, uptime()?))
            .await
            .map_err(|error| failed(error.to_string()))?;
        debug!(pod_uid, "detached a pod");
        Ok(())
    }

    async fn retain(&self, alive: &[String]) -> Result<(), NetworkError> {
        let held: Vec<String> = self
            .leases(|ipam| Ok(ipam.pods().keys().cloned().collect()))
            .await
            .map_err(|error| NetworkError {
                operation: "list the addresses in use".into(),
                reason: error.to_string(),
            })?;
        for pod_uid in held.iter().filter(|uid| !alive.contains(uid)) {
            self.detach(pod_uid).await?;
        }
        // An interface without a lease: the lease was taken back, then the kubelet was killed, or
        // the folder with the leases was removed.
        let known: Vec<String> = held.iter().map(|uid| veth_name(uid)).collect();
        remove_ports(&self.config.bridge, |name| !known.iter().any(|known| known == name))
            .await
            .map_err(|error| NetworkError {
                operation: "remove interfaces of pods that are gone".into(),
                reason: error.to_string(),
            })
    }
}

/// Removes all that a [`BridgeNetwork`] of this configuration has made in the kernel: routes,
/// interfaces, the bridge. The folder with the addresses is the caller's.
pub(super) async fn teardown(config: &NetworkConfig) -> Result<(), NetworkError> {
    let failed = |error: Problem| NetworkError {
        operation: format!("take down the pod network on {}", config.bridge),
        reason: error.to_string(),
    };
    let links = Links::open().map_err(|error| failed(error.into()))?;
    routes::remove_all(&links, &config.table).await?;
    remove_ports(&config.bridge, |_| true).await.map_err(failed)?;
    links.remove(&config.bridge).await.map_err(|error| failed(error.into()))
}

/// Removes the pods' interfaces on the bridge that are `unwanted`.
async fn remove_ports(bridge: &str, unwanted: impl Fn(&str) -> bool) -> Result<(), Problem> {
    let links = Links::open()?;
    let Some(bridge) = links.find(bridge).await? else { return Ok(()) };
    for link in links.all().await? {
        if links::controller_of(&link) != Some(bridge.header.index) {
            continue;
        }
        if let Some(name) = links::name_of(&link)
            && name.starts_with(VETH_PREFIX)
            && unwanted(name)
        {
            links.remove(name).await?;
        }
    }
    Ok(())
}

/// Whether both ends of the pod's interface are where they should be.
async fn is_connected(
    node: &Links,
    pod: &Links,
    name: &str,
    bridge: u32,
) -> Result<bool, rtnetlink::Error> {
    let on_bridge = |link: LinkMessage| links::controller_of(&link) == Some(bridge);
    Ok(node.find(name).await?.is_some_and(on_bridge)
        && pod.find(links::POD_INTERFACE).await?.is_some())
}

fn ports_of(lease: &Lease) -> PodHostPorts {
    PodHostPorts { addresses: lease.addresses.clone(), ports: lease.host_ports.clone() }
}

pub(crate) fn internal_addresses(node: &Node) -> Vec<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
    addresses
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// The name of a pod's interface on the node. Interface names are short: so much of the hash of
/// the uid as fits.
pub(crate) fn veth_name(pod_uid: &str) -> String {
    let hash = Sha256::digest(pod_uid.as_bytes());
    let hex: String = hash.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    format!("{VETH_PREFIX}{hex}")
}
