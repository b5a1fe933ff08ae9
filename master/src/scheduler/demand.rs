//! What a pod demands of a node.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint};
use proto::ObjectKey;
use proto::containers::lasting;
use proto::{k8s as k8s_openapi, priority};

use super::affinity::Affinity;
use super::filter::{AVOIDING_EFFECT, NodeInfo};
use super::resized;
use super::resources::{self, Resources};

/// All that decides on which nodes a pod can run. Pods with equal demands fit the same nodes, so
/// they share one value, one place in the queue and one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// Of all that follows. A pod is looked up by its demand many times, which is longer than it looks.
    hash: u64,
    /// Higher goes first.
    pub(crate) priority: i32,
    /// Whether less important pods give way to it.
    pub(crate) preempts: bool,
    /// What it takes from a node's allocatable.
    pub(crate) requests: Resources,
    /// CPU (thousandths) and memory (bytes) it counts for when nodes are compared.
    pub(crate) nominal: (i64, i64),
    /// Labels a node must have.
    pub(crate) node_selector: BTreeMap<String, String>,
    /// Which taints it can live with.
    pub(crate) tolerations: Vec<Toleration>,
    /// Ports of the node itself that it takes.
    pub(crate) host_ports: Vec<HostPort>,
    /// Whose pod it is, and what others know it by: others may want to be near it, or not.
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    /// What it wants of nodes and of others. Most want nothing.
    pub(crate) affinity: Option<Box<Affinity>>,
}

impl Demand {
    pub(crate) fn of(
        spec: &PodSpec,
        namespace: &str,
        labels: &Arc<BTreeMap<String, String>>,
    ) -> Self {
        let mut this = Self {
            hash: 0,
            priority: spec.priority.unwrap_or(priority::DEFAULT),
            preempts: spec.preemption_policy.as_deref() != Some(priority::PREEMPT_NEVER),
            requests: resources::pod_requests(spec),
            nominal: resources::pod_nominal(spec),
            node_selector: spec.node_selector.clone().unwrap_or_default(),
            tolerations: spec.tolerations.iter().flatten().map(Toleration::from).collect(),
            host_ports: host_ports(spec),
            namespace: namespace.into(),
            labels: Arc::clone(labels),
            affinity: Affinity::of(spec, namespace, labels).map(Box::new),
        };
        this.hash = this.digest();
        this
    }

    fn digest(&self) -> u64 {
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        let Self {
            hash: _,
            priority,
            preempts,
            requests,
            nominal,
            node_selector,
            tolerations,
            host_ports,
            namespace,
            labels,
            affinity,
        } = self;
        let amounts = (priority, preempts, requests, nominal);
        KEYS.hash_one((
            amounts,
            node_selector,
            tolerations,
            host_ports,
            namespace,
            labels,
            affinity,
        ))
    }

    /// Whether the node is one of those on which the pod may be: by its labels and name.
    pub(crate) fn admits_node(&self, node: &NodeInfo) -> bool {
        self.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value))
            && self
                .affinity
                .as_ref()
                .is_none_or(|affinity| affinity.admits(&node.name, &node.labels))
    }

    /// Whether it can live with all that repels from the node.
    pub(crate) fn tolerates_all(&self, node: &NodeInfo) -> bool {
        node.taints.iter().all(|taint| self.tolerates(taint))
    }

    /// How many taints say of the node that this pod is better elsewhere.
    pub(crate) fn avoids(&self, node: &NodeInfo) -> i64 {
        if node.avoided.is_empty() {
            return 0;
        }
        let count = node.avoided.iter().filter(|taint| !self.tolerates(taint)).count();
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// Whether it may be indifferent to some of them.
    pub(crate) fn may_not_avoid(&self) -> bool {
        let meant = |one: &Toleration| one.effect.is_empty() || one.effect == AVOIDING_EFFECT;
        self.tolerations.iter().any(meant)
    }

    /// Whether where other pods are decides where this one may be.
    pub(crate) fn heeds_pods(&self) -> bool {
        self.affinity.as_ref().is_some_and(|affinity| affinity.heeds_pods())
    }

    /// Whether one of the tolerations covers the taint.
    pub(crate) fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| toleration.covers(taint))
    }
}

impl Hash for Demand {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.hash);
    }
}

/// A pod's statement that it can live with a taint. `tolerationSeconds` is not here: it says how
/// long a running pod stays and is no matter of placement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Toleration {
    key: String,
    exists: bool,
    value: String,
    effect: String,
}

impl From<&k8s_openapi::api::core::v1::Toleration> for Toleration {
    fn from(toleration: &k8s_openapi::api::core::v1::Toleration) -> Self {
        Self {
            key: toleration.key.clone().unwrap_or_default(),
            exists: toleration.operator.as_deref() == Some("Exists"),
            value: toleration.value.clone().unwrap_or_default(),
            effect: toleration.effect.clone().unwrap_or_default(),
        }
    }
}

impl Toleration {
    /// An empty effect covers every effect, an empty key with `Exists` every taint.
    pub(crate) fn covers(&self, taint: &Taint) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key == taint.key || (self.key.is_empty() && self.exists))
            && (self.exists || self.value == taint.value.as_deref().unwrap_or_default())
    }
}

/// A port of the node taken by a container.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct HostPort {
    pub(crate) port: i32,
    pub(crate) protocol: String,
    /// Empty: every address of the node.
    pub(crate) ip: String,
}

impl HostPort {
    /// Two cannot both be had on one node.
    pub(crate) fn conflicts_with(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip.is_empty() || other.ip.is_empty() || self.ip == other.ip)
    }
}

fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let mut ports: Vec<_> = lasting(spec)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let ip = match port.host_ip.as_deref() {
                None | Some("0.0.0.0" | "::") => String::new(),
                Some(ip) => ip.to_owned(),
            };
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            let number = port.host_port.filter(|port| *port != 0)?;
            Some(HostPort { port: number, protocol, ip })
        })
        .collect();
    ports.sort();
    ports
}

/// A pod as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodInfo {
    pub(crate) key: ObjectKey,
    pub(crate) uid: Arc<str>,
    pub(crate) demand: Arc<Demand>,
    /// For the Services that select it.
    pub(crate) labels: Arc<BTreeMap<String, String>>,
    /// The uid of its controller: pods of one controller are spread.
    pub(crate) controller: Option<Arc<str>>,
    /// When it was made, in seconds since 1970.
    pub(crate) created: i64,
}

impl PodInfo {
    pub(crate) fn of(pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        let controller = metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true))
            .map(|owner| owner.uid.as_str().into());
        let labels = Arc::new(metadata.labels.clone().unwrap_or_default());
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        Self {
            key: ObjectKey::new(
                metadata.namespace.clone().unwrap_or_default(),
                metadata.name.clone().unwrap_or_default(),
            ),
            uid: metadata.uid.as_deref().unwrap_or_default().into(),
            demand: Arc::new(Demand::of(&resized::counted(pod), namespace, &labels)),
            labels,
            controller,
            created: metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        }
    }
}
