//! What a node's reports change of the objects that the master keeps. A node decides how its pods
//! and itself fare; what the master or people have written beside that stays.

use std::collections::BTreeMap;

use proto::k8s::api::core::v1::{Node, NodeCondition, NodeStatus, Pod, PodCondition, PodStatus};
use proto::k8s::apimachinery::pkg::apis::meta::v1::Time;
use proto::k8s::jiff::Timestamp;

/// The pod conditions that a kubelet decides on: those that it does not report are no more. `PodScheduled` and
/// readiness gates belong to others.
const KUBELET_CONDITIONS: [&str; 6] = [
    "Ready",
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizePending",
    "PodResizeInProgress",
];

/// Why somebody has ended the pod.
const DISRUPTION: &str = "DisruptionTarget";
/// Its reason when that was the node.
const BY_KUBELET: &str = "TerminationByKubelet";

/// Whether a phase is the last one.
fn is_terminal(phase: Option<&str>) -> bool {
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Puts a node's report into a pod; tells whether that changes anything. A pod that has ended stays
/// ended, whatever a late report says.
pub(crate) fn pod_status(pod: &mut Pod, mut reported: PodStatus) -> bool {
    let current = pod.status.get_or_insert_default();
    if is_terminal(current.phase.as_deref()) && !is_terminal(reported.phase.as_deref()) {
        return false;
    }
    let is_kubelets =
        |condition: &PodCondition| KUBELET_CONDITIONS.contains(&condition.type_.as_str());
    let others = current.conditions.iter().flatten().filter(|condition| !is_kubelets(condition));
    let told = reported.conditions.take().unwrap_or_default();
    let mut conditions: Vec<PodCondition> =
        told.iter().filter(|condition| is_kubelets(condition)).cloned().collect();
    // Others may have said so before; a node that ends a pod says why, and nobody takes that back.
    let ends = |condition: &&PodCondition| {
        condition.type_ == DISRUPTION && condition.reason.as_deref() == Some(BY_KUBELET)
    };
    let end = told.iter().find(ends);
    conditions.extend(others.filter(|other| end.is_none() || other.type_ != DISRUPTION).cloned());
    conditions.extend(end.cloned());
    // Nobody has placed a pod that named its node itself.
    if !conditions.iter().any(|condition| condition.type_ == "PodScheduled") {
        conditions.push(PodCondition {
            type_: "PodScheduled".to_owned(),
            status: "True".to_owned(),
            last_transition_time: reported.start_time.clone(),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    keep_order(&mut conditions, current.conditions.as_deref().unwrap_or_default(), |condition| {
        &condition.type_
    });
    reported.conditions = (!conditions.is_empty()).then_some(conditions);
    // What the master decided on when it made or bound the pod.
    reported.qos_class = current.qos_class.take().or(reported.qos_class);
    reported.nominated_node_name = current.nominated_node_name.take();
    reported.start_time = reported.start_time.or(current.start_time.take());
    reported.resize = reported.resize.or(current.resize.take());
    let unchanged = restored(current, &reported) == reported;
    *current = reported;
    !unchanged
}

/// The current status with what [`pod_status`] took out of it put back, to be compared.
fn restored(current: &PodStatus, reported: &PodStatus) -> PodStatus {
    let mut current = current.clone();
    current.qos_class.clone_from(&reported.qos_class);
    current.nominated_node_name.clone_from(&reported.nominated_node_name);
    current.start_time = current.start_time.or_else(|| reported.start_time.clone());
    current.resize = current.resize.or_else(|| reported.resize.clone());
    current
}

/// Conditions keep the places they had, so that equal sets compare equal and people find them where
/// they were.
fn keep_order<T>(new: &mut [T], old: &[T], type_of: impl Fn(&T) -> &String) {
    let place = |condition: &T| {
        old.iter().position(|old| type_of(old) == type_of(condition)).unwrap_or(old.len())
    };
    new.sort_by_key(place);
}

/// Puts a node's report into its object; tells whether that changes anything. The mere time of the
/// report is no change.
pub(crate) fn node_status(node: &mut Node, mut reported: NodeStatus, now: Timestamp) -> bool {
    let current = node.status.get_or_insert_default();
    let old = current.conditions.as_deref().unwrap_or_default();
    let mut conditions = reported.conditions.take().unwrap_or_default();
    for condition in &mut conditions {
        let same = old.iter().find(|old| old.type_ == condition.type_);
        match same {
            Some(old) if says_the_same(old, condition) => condition.clone_from(old),
            Some(old) if old.status == condition.status => {
                condition.last_transition_time.clone_from(&old.last_transition_time);
            }
            // It changed in the eyes of those who read the object, whatever the node saw before.
            Some(_) => condition.last_transition_time = Some(Time(now)),
            None => {
                condition.last_transition_time.get_or_insert(Time(now));
            }
        }
    }
    let others = old
        .iter()
        .filter(|old| !conditions.iter().any(|condition| condition.type_ == old.type_))
        .cloned()
        .collect::<Vec<_>>();
    conditions.extend(others);
    keep_order(&mut conditions, old, |condition| &condition.type_);
    reported.conditions = (!conditions.is_empty()).then_some(conditions);
    reported.volumes_attached = current.volumes_attached.take();
    let mut compared = current.clone();
    compared.volumes_attached.clone_from(&reported.volumes_attached);
    let changed = compared != reported;
    *current = reported;
    changed
}

/// Whether two conditions agree in all but the time of the look.
fn says_the_same(one: &NodeCondition, other: &NodeCondition) -> bool {
    one.status == other.status && one.reason == other.reason && one.message == other.message
}

/// Puts the labels of a node's own description into its object; tells whether that changes
/// anything. Labels that people added stay.
pub(crate) fn node_labels(node: &mut Node, labels: &BTreeMap<String, String>) -> bool {
    let current = node.metadata.labels.get_or_insert_default();
    let mut changed = false;
    for (key, value) in labels {
        if current.get(key) != Some(value) {
            current.insert(key.clone(), value.clone());
            changed = true;
        }
    }
    changed
}

/// The first label that a node may not give itself: those of Kubernetes' own domains that steer
/// where pods go, so that a node cannot attract what is not meant for it.
pub(crate) fn forbidden_label(labels: &BTreeMap<String, String>) -> Option<&str> {
    const ALLOWED: [&str; 11] = [
        "kubernetes.io/hostname",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
        "node.kubernetes.io/instance-type",
        "beta.kubernetes.io/instance-type",
        "topology.kubernetes.io/region",
        "topology.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
    ];
    const ALLOWED_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
    let within = |domain: &str, parent: &str| {
        domain == parent || domain.strip_suffix(parent).is_some_and(|rest| rest.ends_with('.'))
    };
    labels.keys().map(String::as_str).find(|key| {
        let Some((domain, _)) = key.split_once('/') else { return false };
        let reserved = within(domain, "kubernetes.io") || within(domain, "k8s.io");
        let allowed =
            ALLOWED.contains(key) || ALLOWED_DOMAINS.iter().any(|allowed| within(domain, allowed));
        reserved && !allowed
    })
}

#[cfg(test)]
mod tests;
