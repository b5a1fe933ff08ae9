//! What this machine has and how it fares, as `status` of its Node object.
//!
//! [`Machine::observe`] reads the kernel's files; [`describe`] decides what they mean.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::k8s::api::core::v1::{Node, NodeAddress, NodeCondition, NodeStatus, NodeSystemInfo};
use proto::k8s::apimachinery::pkg::api::resource::Quantity;
use proto::k8s::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proto::k8s::jiff::Timestamp;
use proto::quantity;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::MasterUrl;
use crate::reporter::Reporter;

/// How often the machine is looked at: pressure that lasts should show within a minute, and three
/// small files every half minute cost nothing that could be measured.
const INTERVAL: Duration = Duration::from_secs(30);
/// Below it new processes soon fail: Kubernetes' default eviction threshold.
const LOW_MEMORY_BYTES: u64 = 100 << 20;
/// Below this share of free space or inodes, images and logs soon fail: Kubernetes' defaults.
const LOW_STORAGE: f64 = 0.10;
/// So much free storage is no pressure, however large the whole: a tenth of a large disk holds
/// thousands of images. Kubernetes' own share alone would close a half-empty node.
const AMPLE_STORAGE_BYTES: u64 = 1 << 30;
const LOW_INODES: f64 = 0.05;
/// Above this share of all process ids in use, a fork soon fails.
const MANY_PROCESSES: f64 = 0.90;

/// What was found out about a machine.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Processors online.
    pub processors: u64,
    /// Of memory.
    pub memory_bytes: u64,
    /// Of memory, to be had without swapping.
    pub memory_available_bytes: u64,
    /// Of the file system of the kubelet's state.
    pub storage_bytes: u64,
    /// Free there.
    pub storage_free_bytes: u64,
    /// Of the same file system; 0 where it does not count them.
    pub inodes: u64,
    /// Free there.
    pub inodes_free: u64,
    /// Processes and threads.
    pub processes: u64,
    /// So many there can be.
    pub processes_max: u64,
    /// So many pods the operator allows.
    pub max_pods: u32,
    /// Under which other nodes reach it.
    pub addresses: Vec<IpAddr>,
    /// Its host name.
    pub hostname: String,
    /// Versions and identifiers.
    pub info: NodeSystemInfo,
}

/// Finds the facts.
pub trait Observe: Send + Sync + 'static {
    /// Looks now. May read files of the kernel, but not wait for anything.
    fn observe(&self) -> Facts;
}

/// The machine this process runs on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The file system it is on counts as the node's storage.
    pub root_dir: PathBuf,
    /// The node's address.
    pub address: IpAddr,
    /// As the operator says.
    pub max_pods: u32,
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

impl Observe for Machine {
    fn observe(&self) -> Facts {
        let memory = read("/proc/meminfo");
        let (storage, inodes) = match nix::sys::statvfs::statvfs(&self.root_dir) {
            Ok(fs) => (
                (fs.blocks() * fs.fragment_size(), fs.blocks_available() * fs.fragment_size()),
                (fs.files(), fs.files_available()),
            ),
            Err(_) => ((0, 0), (0, 0)),
        };
        let processors = nix::unistd::sysconf(nix::unistd::SysconfVar::_NPROCESSORS_ONLN);
        Facts {
            processors: processors.ok().flatten().and_then(|n| u64::try_from(n).ok()).unwrap_or(1),
            memory_bytes: meminfo(&memory, "MemTotal"),
            memory_available_bytes: meminfo(&memory, "MemAvailable"),
            storage_bytes: storage.0,
            storage_free_bytes: storage.1,
            inodes: inodes.0,
            inodes_free: inodes.1,
            processes: processes(&read("/proc/loadavg")),
            processes_max: read("/proc/sys/kernel/pid_max").trim().parse().unwrap_or(0),
            max_pods: self.max_pods,
            addresses: vec![self.address],
            hostname: nix::unistd::gethostname()
                .map(|name| name.to_string_lossy().into_owned())
                .unwrap_or_default(),
            info: system_info(),
        }
    }
}

fn read(path: &str) -> String {
    // What a kernel does not tell is told as unknown.
    fs::read_to_string(path).unwrap_or_default()
}

/// Bytes of a line such as `MemTotal:  16318412 kB`.
fn meminfo(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().trim_end_matches(" kB").parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The total in the fourth field of `/proc/loadavg`, `running/total`.
fn processes(loadavg: &str) -> u64 {
    loadavg
        .split_whitespace()
        .nth(3)
        .and_then(|field| field.split_once('/'))
        .and_then(|(_, total)| total.parse().ok())
        .unwrap_or(0)
}

fn system_info() -> NodeSystemInfo {
    let uname = nix::sys::utsname::uname().ok();
    let machine_id = read("/etc/machine-id").trim().to_owned();
    let product = read("/sys/class/dmi/id/product_uuid").trim().to_owned();
    let version = proto::KUBERNETES_VERSION;
    NodeSystemInfo {
        architecture: architecture().to_owned(),
        boot_id: read("/proc/sys/kernel/random/boot_id").trim().to_owned(),
        container_runtime_version: format!("kutter://{}", env!("CARGO_PKG_VERSION")),
        kernel_version: uname
            .map(|uname| uname.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        kube_proxy_version: version.to_owned(),
        kubelet_version: version.to_owned(),
        system_uuid: if product.is_empty() { machine_id.clone() } else { product },
        machine_id,
        operating_system: "linux".to_owned(),
        os_image: os_image(&read("/etc/os-release")),
        ..NodeSystemInfo::default()
    }
}

fn os_image(os_release: &str) -> String {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(|| "Linux".to_owned(), |name| name.trim_matches(['"', '\'']).to_owned())
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
pub fn describe(facts: &Facts, previous: Option<&NodeStatus>, now: Timestamp) -> NodeStatus {
    let Facts {
        processors,
        memory_bytes,
        memory_available_bytes,
        storage_bytes,
        storage_free_bytes,
        inodes,
        inodes_free,
        processes,
        processes_max,
        max_pods,
        addresses,
        hostname,
        info,
    } = facts;
    let quantity = |value: quantity::Quantity| value.to_wire();
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let capacity: BTreeMap<String, Quantity> = [
        ("cpu", quantity(quantity::Quantity::from_units(signed(*processors)))),
        ("memory", Quantity(format!("{}Ki", memory_bytes / 1024))),
        ("ephemeral-storage", Quantity(format!("{}Ki", storage_bytes / 1024))),
        ("pods", quantity(quantity::Quantity::from_units(i64::from(*max_pods)))),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    let share =
        |part: u64, whole: u64| if whole == 0 { None } else { Some(part as f64 / whole as f64) };
    let below = |part, whole, limit| share(part, whole).is_some_and(|share| share < limit);
    let low_memory = *memory_bytes > 0 && *memory_available_bytes < LOW_MEMORY_BYTES;
    let low_storage = below(*storage_free_bytes, *storage_bytes, LOW_STORAGE)
        && *storage_free_bytes < AMPLE_STORAGE_BYTES;
    let low_disk = low_storage || below(*inodes_free, *inodes, LOW_INODES);
    let many = share(*processes, *processes_max).is_some_and(|share| share > MANY_PROCESSES);
    let conditions = [
        condition(
            "MemoryPressure",
            low_memory,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
        condition(
            "DiskPressure",
            low_disk,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
        condition(
            "PIDPressure",
            many,
            "KubeletHasInsufficientPID",
            "kubelet has insufficient PID available",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available",
        ),
        condition(
            "Ready",
            true,
            "KubeletReady",
            "kubelet is posting ready status",
            "KubeletReady",
            "",
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
        allocatable: Some(capacity.clone()),
        capacity: Some(capacity),
        conditions: Some(conditions.into()),
        node_info: Some(info.clone()),
        ..NodeStatus::default()
    }
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
    status: watch::Sender<NodeStatus>,
}

impl NodeStatusKeeper {
    /// Looks at the machine for the first time.
    pub fn new(
        observe: Arc<dyn Observe>,
        name: String,
        mut labels: BTreeMap<String, String>,
    ) -> Self {
        let status = describe(&observe.observe(), None, Timestamp::now());
        for (key, value) in [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", architecture()),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        Self { observe, name, labels, status: watch::Sender::new(status) }
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
            let status = describe(&self.observe.observe(), Some(&previous), Timestamp::now());
            if says_the_same(&status, &previous) {
                return;
            }
            status
        };
        self.status.send_replace(status.clone());
        reporter.node_status(status);
    }

    /// Looks every half minute until shutdown.
    pub async fn run(self, reporter: Reporter, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(tokio::time::sleep(INTERVAL)).await.is_some() {
            self.look(&reporter);
        }
    }
}

#[cfg(test)]
mod tests;
