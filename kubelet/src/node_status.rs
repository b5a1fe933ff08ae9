//! What this machine has and how it fares, as `status` of its Node object.
//!
//! [`Machine`] reads the kernel's files; [`describe`] decides what they mean.

mod addresses;
mod beside;
mod enforce;
mod machine;
mod reserve;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use proto::k8s::api::core::v1::{
    ContainerImage, Node, NodeAddress, NodeCondition, NodeFeatures, NodeRuntimeHandler,
    NodeRuntimeHandlerFeatures, NodeStatus, NodeSystemInfo,
};
use proto::k8s::apimachinery::pkg::api::resource::Quantity;
use proto::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::k8s::jiff::Timestamp;
use proto::quantity;
use runtime::image::Image;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::MasterUrl;
use crate::network::own_addresses;
use crate::pressure::Conditions;
use crate::pressure::threshold::Condition;
use crate::reporter::Reporter;

pub use addresses::{InvalidNodeAddresses, NodeAddresses};
pub use enforce::{Enforced, InvalidEnforced, of_all_pods};
pub use machine::{Images, Machine};
pub use reserve::{InvalidReserve, Reserved};

/// How often the machine is looked at: an image that came or went should show within a minute, and a few
/// small files every half minute cost nothing that could be measured. How the node fares is heard of.
const INTERVAL: Duration = Duration::from_secs(30);
/// A node names so many of its images, the largest first, each by so many names, as in Kubernetes: the
/// scheduler of larger clusters goes by that, and the object has to stay small.
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;

/// What was found out about a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Processors online.
    pub processors: u64,
    /// Of memory.
    pub memory_bytes: u64,
    /// Of the file system of the kubelet's state.
    pub storage_bytes: u64,
    /// Pages of memory that are set aside, as size of a page and bytes in all.
    pub huge_pages: Vec<(u64, u64)>,
    /// What pods do not get.
    pub reserved: Reserved,
    /// What images are present.
    pub images: Vec<Image>,
    /// So many pods the operator allows.
    pub max_pods: u32,
    /// Whether pods can have users of their own.
    pub maps_users: bool,
    /// Under which other nodes reach it.
    pub addresses: Vec<IpAddr>,
    /// Its host name.
    pub hostname: String,
    /// Versions and identifiers.
    pub info: NodeSystemInfo,
}

/// How the node fares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// What it is short of.
    pub pressures: Conditions,
    /// Whether the machine is about to end.
    pub shutting_down: bool,
    /// Why pods cannot be connected.
    pub no_network: Option<String>,
}

/// Finds the facts.
pub trait Observe: Send + Sync + 'static {
    /// Looks now. May read files of the kernel, but not wait for anything.
    fn observe(&self) -> Facts;
}

/// The address of this machine that its peers see: the one it would reach a master from. Asks the
/// routing table, sends nothing.
pub async fn address_towards(masters: &[MasterUrl]) -> Option<IpAddr> {
    for master in masters {
        let Ok(targets) = tokio::net::lookup_host((master.host.as_str(), master.port)).await else {
            continue;
        };
        for target in targets {
            let any: SocketAddr = match target {
                SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
                SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            let local = UdpSocket::bind(any).and_then(|socket| {
                socket.connect(target)?;
                socket.local_addr()
            });
            if let Ok(local) = local {
                return Some(local.ip());
            }
        }
    }
    None
}

/// The address of the other family that this machine has beside one of its own, on the same interface.
/// Nothing where there is none, or where the kernel does not say.
pub async fn address_beside(primary: IpAddr) -> Option<IpAddr> {
    match own_addresses().await {
        Ok(all) => beside::beside(primary, &all),
        Err(error) => {
            warn!(%error, "cannot list this machine's addresses: it is known by one of them only");
            None
        }
    }
}

/// The name that images and `kubernetes.io/arch` have for this machine's instruction set.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

/// The status that the facts mean. Conditions that have not changed keep their transition times.
pub fn describe(
    facts: &Facts,
    health: &Health,
    previous: Option<&NodeStatus>,
    now: Timestamp,
) -> NodeStatus {
    let Facts {
        processors,
        memory_bytes,
        storage_bytes,
        huge_pages,
        reserved,
        images,
        max_pods,
        maps_users,
        addresses,
        hostname,
        info,
    } = facts;
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let kibibytes = |bytes: i64| Quantity(format!("{}Ki", bytes.max(0) / 1024));
    let pages: i64 = huge_pages.iter().map(|(_, bytes)| signed(*bytes)).sum();
    let list = |taken: &Reserved, memory: i64| -> BTreeMap<String, Quantity> {
        let cpu = signed(*processors) * 1000 - taken.cpu_milli;
        let pods = quantity::Quantity::from_units(i64::from(*max_pods));
        let mut list = BTreeMap::from([
            ("cpu".to_owned(), quantity::Quantity::from_milli(cpu.max(0)).to_wire()),
            ("memory".to_owned(), kibibytes(memory)),
            (
                "ephemeral-storage".to_owned(),
                kibibytes(signed(*storage_bytes) - taken.ephemeral_storage),
            ),
            ("pods".to_owned(), pods.to_wire()),
        ]);
        list.extend(huge_pages.iter().map(|(size, bytes)| {
            let name = format!("hugepages-{}", quantity::Quantity::from_bytes(signed(*size)));
            (name, quantity::Quantity::from_bytes(signed(*bytes)).to_wire())
        }));
        list
    };
    let all = signed(*memory_bytes);
    let capacity = list(&Reserved::default(), all);
    // What is set aside for huge pages is no memory that others could have.
    let allocatable = list(reserved, all - reserved.memory - pages);
    let pressure = |condition: Condition| health.pressures.contains(&condition);
    let unready = unready(health);
    let conditions = [
        condition(
            "MemoryPressure",
            pressure(Condition::Memory),
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition(
            "DiskPressure",
            pressure(Condition::Disk),
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        condition(
            "PIDPressure",
            pressure(Condition::Pid),
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        condition(
            "Ready",
            unready.is_none(),
            "KubeletReady",
            "kubelet is posting ready status",
            "KubeletNotReady",
            unready.as_deref().unwrap_or_default(),
        ),
    ];
    let old = previous.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let conditions = conditions.map(|mut condition| {
        let same = old
            .iter()
            .find(|old| old.type_ == condition.type_ && old.status == condition.status)
            .and_then(|old| old.last_transition_time.clone());
        condition.last_transition_time = Some(same.unwrap_or(Time(now)));
        condition.last_heartbeat_time = Some(Time(now));
        condition
    });
    let internal = addresses.iter().map(|address| node_address("InternalIP", address.to_string()));
    NodeStatus {
        addresses: Some(internal.chain([node_address("Hostname", hostname.clone())]).collect()),
        allocatable: Some(allocatable),
        capacity: Some(capacity),
        conditions: Some(conditions.into()),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        images: Some(named(images)),
        node_info: Some(info.clone()),
        runtime_handlers: Some(handlers(*maps_users)),
        ..NodeStatus::default()
    }
}

/// The ways in which pods can be run: the one there is, which is also that of pods that name none.
fn handlers(maps_users: bool) -> Vec<NodeRuntimeHandler> {
    let features = NodeRuntimeHandlerFeatures {
        recursive_read_only_mounts: Some(true),
        user_namespaces: Some(maps_users),
    };
    ["", proto::RUNTIME_HANDLER]
        .map(|name| NodeRuntimeHandler {
            name: Some(name.to_owned()),
            features: Some(features.clone()),
        })
        .into()
}

/// Why the node is not ready, in Kubernetes' words; nothing when it is.
fn unready(health: &Health) -> Option<String> {
    let network = health.no_network.as_ref().map(|reason| {
        format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady \
             message:Network plugin returns error: {reason}"
        )
    });
    let end = health.shutting_down.then(|| "node is shutting down".to_owned());
    match (network, end) {
        (Some(network), Some(end)) => Some(format!("[{network}, {end}]")),
        (network, end) => network.or(end),
    }
}

/// The largest images, by those of their names that fit.
fn named(images: &[Image]) -> Vec<ContainerImage> {
    let mut images: Vec<&Image> = images.iter().collect();
    images.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then_with(|| a.id.cmp(&b.id)));
    let names = |image: &Image| {
        let all = image.repo_digests.iter().chain(&image.tags);
        Some(all.take(MAX_IMAGE_NAMES).cloned().collect())
    };
    images
        .into_iter()
        .take(MAX_IMAGES)
        .map(|image| ContainerImage {
            names: names(image),
            size_bytes: Some(i64::try_from(image.size_bytes).unwrap_or(i64::MAX)),
        })
        .collect()
}

fn node_address(type_: &str, address: String) -> NodeAddress {
    NodeAddress { type_: type_.to_owned(), address }
}

fn condition(
    type_: &str,
    holds: bool,
    reason: &str,
    message: &str,
    else_reason: &str,
    else_message: &str,
) -> NodeCondition {
    let (status, reason, message) =
        if holds { ("True", reason, message) } else { ("False", else_reason, else_message) };
    NodeCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        ..NodeCondition::default()
    }
}

/// Whether two statuses say the same; the time of the look does not count.
fn says_the_same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let timeless = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    timeless(one) == timeless(other)
}

/// Follows a machine's status and reports it when it changes.
#[derive(Clone)]
pub struct NodeStatusKeeper {
    observe: Arc<dyn Observe>,
    name: String,
    labels: BTreeMap<String, String>,
    health: watch::Receiver<Health>,
    status: watch::Sender<NodeStatus>,
}

impl NodeStatusKeeper {
    /// Looks at the machine for the first time.
    pub fn new(
        observe: Arc<dyn Observe>,
        name: String,
        mut labels: BTreeMap<String, String>,
        health: watch::Receiver<Health>,
    ) -> Self {
        let seen = health.borrow().clone();
        let status = describe(&observe.observe(), &seen, None, Timestamp::now());
        for (key, value) in [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        Self { observe, name, labels, health, status: watch::Sender::new(status) }
    }

    /// The node as it is now: what Hello says.
    pub fn node(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            status: Some(self.status.borrow().clone()),
            ..Node::default()
        }
    }

    /// Looks again; reports when something changed.
    fn look(&self, reporter: &Reporter) {
        let status = {
            let previous = self.status.borrow();
            let (facts, health) = (self.observe.observe(), self.health.borrow().clone());
            let status = describe(&facts, &health, Some(&previous), Timestamp::now());
            if says_the_same(&status, &previous) {
                return;
            }
            status
        };
        self.status.send_replace(status.clone());
        reporter.node_status(status);
    }

    /// Looks when the node fares otherwise, and every half minute, until shutdown.
    pub async fn run(mut self, reporter: Reporter, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                Ok(()) = self.health.changed() => {}
                () = tokio::time::sleep(INTERVAL) => {}
            }
            self.look(&reporter);
        }
    }
}

#[cfg(test)]
mod tests;
