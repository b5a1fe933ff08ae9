//! Whether a pod can run on a node. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node, Taint};
use proto::k8s as k8s_openapi;

use super::demand::{Demand, HostPort};
use super::resources::Resources;

/// Effects that keep a pod without a toleration from being placed.
const REPELLING_EFFECTS: [&str; 2] = ["NoSchedule", "NoExecute"];

/// The effect that keeps a pod away as long as there is room elsewhere.
pub(super) const AVOIDING_EFFECT: &str = "PreferNoSchedule";

/// A node as it describes itself, without what runs on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeInfo {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) allocatable: Resources,
    /// How many pods it takes.
    pub(crate) allocatable_pods: i64,
    /// Cordoned.
    pub(crate) unschedulable: bool,
    /// Those that repel: as written, and those that its conditions mean.
    pub(crate) taints: Vec<Taint>,
    /// Those for which pods are rather put elsewhere.
    pub(crate) avoided: Vec<Taint>,
}

impl NodeInfo {
    pub(crate) fn of(node: &Node) -> Self {
        let spec = node.spec.as_ref();
        let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
        let pods = allocatable
            .and_then(|list| list.get("pods"))
            .and_then(|pods| proto::quantity::Quantity::parse(&pods.0).ok());
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            allocatable: Resources::from_list(allocatable),
            allocatable_pods: pods.map_or(0, |pods| pods.value()),
            unschedulable: spec.and_then(|spec| spec.unschedulable) == Some(true),
            taints: repelling_taints(node),
            avoided: taints(node, &[AVOIDING_EFFECT]).collect(),
        }
    }

    /// Whether nothing speaks against any pod here, as far as the node says.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_open() && self.avoided.is_empty()
    }

    /// Whether a pod without tolerations may be placed here at all.
    pub(crate) fn is_open(&self) -> bool {
        !self.unschedulable && self.taints.is_empty()
    }
}

/// The taints as they are written that have one of the effects.
fn taints(node: &Node, effects: &[&str]) -> impl Iterator<Item = Taint> {
    let all = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    all.filter(move |taint| effects.contains(&taint.effect.as_str())).cloned()
}

/// The taints that repel. The node lifecycle controller writes the ones for a node that is not
/// ready; between the condition and that write, the condition alone has to keep pods away.
fn repelling_taints(node: &Node) -> Vec<Taint> {
    let mut taints: Vec<Taint> = taints(node, &REPELLING_EFFECTS).collect();
    let ready = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten())
        .find(|condition| condition.type_ == "Ready")
        .map(|condition| condition.status.as_str());
    let implied = match ready {
        Some("True") => None,
        Some("Unknown") => Some("node.kubernetes.io/unreachable"),
        _ => Some("node.kubernetes.io/not-ready"),
    };
    if let Some(key) = implied
        && !taints.iter().any(|taint| taint.key == key)
    {
        taints.push(Taint {
            key: key.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    taints
}

/// What the pods of a node have taken of it, assumed ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) requested: Resources,
    /// See [`Demand::nominal`].
    pub(crate) nominal: (i64, i64),
    pub(crate) pods: i64,
    /// With how many pods hold each; more than one only when pods were put here by hand.
    pub(crate) host_ports: BTreeMap<HostPort, u32>,
}

impl Usage {
    /// Counts a pod in.
    pub(crate) fn add(&mut self, demand: &Demand) {
        self.requested.add(&demand.requests);
        self.nominal.0 += demand.nominal.0;
        self.nominal.1 += demand.nominal.1;
        self.pods += 1;
        for port in &demand.host_ports {
            *self.host_ports.entry(port.clone()).or_default() += 1;
        }
    }

    /// Counts a pod out.
    pub(crate) fn subtract(&mut self, demand: &Demand) {
        self.requested.subtract(&demand.requests);
        self.nominal.0 -= demand.nominal.0;
        self.nominal.1 -= demand.nominal.1;
        self.pods -= 1;
        for port in &demand.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
    }
}

/// Why a pod cannot run on a node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Reason<'a> {
    Unschedulable,
    UntoleratedTaint(&'a Taint),
    NodeSelector,
    HostPort,
    TooManyPods,
    Insufficient(&'a str),
    /// It lacks a label by which pods are spread.
    NoTopology,
    /// Pods would not be spread evenly enough.
    Skew,
    /// Those that the pod wants to be near are not there.
    PodAffinity,
    /// Those that the pod wants to be apart from are.
    PodAntiAffinity,
    /// Others do not want to be near the pod.
    ExistingAntiAffinity,
}

/// Tells every reason of the first check that fails. The order of the checks is Kubernetes', so
/// that a node is counted under the reason a Kubernetes user expects.
pub(crate) fn filter<'a>(
    demand: &'a Demand,
    node: &'a NodeInfo,
    usage: &Usage,
    mut report: impl FnMut(Reason<'a>),
) {
    if node.unschedulable && !demand.tolerates(&cordon()) {
        return report(Reason::Unschedulable);
    }
    if let Some(taint) = node.taints.iter().find(|taint| !demand.tolerates(taint)) {
        // The cordon's own taint says the same as the field and is told in the field's words.
        if taint.key == CORDON_KEY {
            return report(Reason::Unschedulable);
        }
        return report(Reason::UntoleratedTaint(taint));
    }
    if !demand.admits_node(node) {
        return report(Reason::NodeSelector);
    }
    let taken = |port: &HostPort| usage.host_ports.keys().any(|other| other.conflicts_with(port));
    if demand.host_ports.iter().any(taken) {
        return report(Reason::HostPort);
    }
    if usage.pods >= node.allocatable_pods {
        report(Reason::TooManyPods);
    }
    let (asked, used, offered) = (&demand.requests, &usage.requested, &node.allocatable);
    // A pod that asks for nothing of a resource fits a node that has none left of it.
    let lacks = |asked: i64, used: i64, offered: i64| asked > 0 && asked > offered - used;
    if lacks(asked.cpu_milli, used.cpu_milli, offered.cpu_milli) {
        report(Reason::Insufficient("cpu"));
    }
    if lacks(asked.memory, used.memory, offered.memory) {
        report(Reason::Insufficient("memory"));
    }
    for (name, amount) in &asked.others {
        let of = |resources: &Resources| resources.others.get(name).copied().unwrap_or(0);
        if lacks(*amount, of(used), of(offered)) {
            report(Reason::Insufficient(name));
        }
    }
}

/// Whether a pod can run on a node.
pub(crate) fn fits(demand: &Demand, node: &NodeInfo, usage: &Usage) -> bool {
    let mut fits = true;
    filter(demand, node, usage, |_| fits = false);
    fits
}

const CORDON_KEY: &str = "node.kubernetes.io/unschedulable";

/// The taint that a cordon means; pods that tolerate it may still be placed.
fn cordon() -> Taint {
    Taint { key: CORDON_KEY.to_owned(), effect: "NoSchedule".to_owned(), ..Taint::default() }
}
