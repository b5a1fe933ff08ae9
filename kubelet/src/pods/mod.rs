//! Pods: what the master wants of this node's pods, made true and reported.
//!
//! ```text
//! StateHandle ──changes──> manager ──wakes──> worker (one task per pod)
//! runtime events ────────────┘                  │ plan: (spec, observed, now) -> actions
//! probes ── results ────────────────────────────┤ act: sandbox, network, volumes, images, containers
//!                                               └ status ──> Reporter
//! ```

mod admission;
mod allocation;
pub(crate) mod bounds;
mod clock;
mod connect;
mod container;
mod env;
mod events;
mod hooks;
mod huge_pages;
mod images;
mod logs;
mod manager;
mod metrics;
mod names;
mod observed;
mod pages;
mod plan;
mod probes;
mod record;
mod recover;
mod references;
mod remains;
mod resources;
mod security;
mod selinux;
mod spec;
mod status;
mod streams;
mod termination;
#[cfg(test)]
pub(crate) mod test_support;
mod worker;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use runtime::ContainerRuntime;
use runtime::image::ImageService;
use tokio::sync::watch;

use crate::network::PodNetwork;
use crate::node_status::Health;
use crate::reporter::Reporter;
use crate::state::StateHandle;
use crate::tokens::TokenIssuer;

pub(crate) use clock::Clock;
pub use manager::PodManager;
pub(crate) use names::{AttemptLabels, PodIdentity};
pub(crate) use observed::PodFailure;
pub(crate) use references::names_any_object;
pub(crate) use resources::shares;
pub(crate) use spec::{is_static, most_together};

/// What pods need to know of their node.
#[derive(Clone, Debug)]
pub struct PodsConfig {
    /// Pods' volumes and records live in `<root_dir>/pods/<uid>`.
    pub root_dir: PathBuf,
    /// Containers' logs live in `<log_dir>/<namespace>_<name>_<uid>/<container>/<attempt>.log`.
    pub log_dir: PathBuf,
    /// Parent of every pod's cgroup, as `/kutter`.
    pub cgroup_root: String,
    /// `spec.nodeName` of the pods.
    pub node_name: String,
    /// Addresses of this node, the primary first: `status.hostIPs` of the pods.
    pub node_addresses: Vec<IpAddr>,
    /// Memory of this node; a pod's share of it sets its place in the order of out-of-memory kills.
    pub memory_capacity_bytes: u64,
    /// So many pods the node takes.
    pub max_pods: usize,
    /// Processes and threads a pod may have; -1: as many as there are.
    pub pod_max_pids: i64,
    /// Sizes of huge pages that the kernel knows, in bytes.
    pub page_sizes: Vec<u64>,
    /// Whether a pod that says nothing has users of its own.
    pub own_users: bool,
    /// Why AppArmor confines nobody on this node; nothing: it does.
    pub no_app_armor: Option<String>,
    /// Why nobody has SELinux labels on this node; nothing: all do.
    pub no_selinux: Option<String>,
}

impl PodsConfig {
    /// Labels that tell how this node confines pods that do not say otherwise, so that they can be placed, and
    /// described, by it.
    pub fn labels(&self) -> [(String, String); 3] {
        [
            ("own-users", self.own_users),
            ("apparmor", self.no_app_armor.is_none()),
            ("selinux", self.no_selinux.is_none()),
        ]
        .map(|(name, has)| (format!("kutter.dev/{name}"), has.to_string()))
    }
}

/// [`PodsConfig::pod_max_pids`], unless the operator says otherwise: far beyond what a service
/// needs, far below what hurts a node.
pub const DEFAULT_POD_MAX_PIDS: i64 = 1024;

/// What pods are made of.
#[derive(Clone)]
pub struct PodsDependencies {
    /// What the master said.
    pub state: StateHandle,
    /// Sandboxes and containers.
    pub runtime: Arc<dyn ContainerRuntime>,
    /// Images.
    pub images: Arc<dyn ImageService>,
    /// Addresses.
    pub network: Arc<dyn PodNetwork>,
    /// Where statuses and events go.
    pub reporter: Reporter,
    /// By which they say who they are.
    pub tokens: Arc<dyn TokenIssuer>,
    /// How the node fares.
    pub health: watch::Receiver<Health>,
}

/// The pods of this node could not be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PodsError {
    /// What runs on this node could not be listed.
    #[error("failed to list the sandboxes on this node")]
    List(#[source] runtime::Error),
    /// The folder of the pods could not be read or made.
    #[error("failed to open the pods' folder {path}")]
    Root {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}
