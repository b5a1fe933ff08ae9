//! What follows from a node's state for its conditions, its taints and its pods. Pure.
//!
//! ```text
//!              session ends                 grace period over            eviction timeout over
//!   connected ─────────────► waited for ──────────────────────► lost ─────────────────────────► pods
//!       ▲                        │            Ready: Unknown,     │                            deleted
//!       │     session begins     │            taint unreachable,  │
//!       └────────────────────────┴──────────  pods not ready      ┘
//! ```

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, NodeCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::controllers::Config;
use crate::controllers::pods::PodView;
use crate::scheduler::Toleration;

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are a trouble when true, with the taint each means.
const TROUBLES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
/// Conditions that nobody can vouch for when the node is lost.
const VOUCHED_FOR: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
const NO_SCHEDULE: &str = "NoSchedule";
const NO_EXECUTE: &str = "NoExecute";

/// What is there.
pub(crate) struct Observed<'a> {
    /// The pods that are bound to the node.
    pub(crate) pods: &'a [Arc<PodView>],
    /// For how long the node has had no session, as far as this leader has seen; nothing while it
    /// has one.
    pub(crate) absent_for: Option<Duration>,
    /// Whether some node of the cluster is ready.
    pub(crate) some_node_ready: bool,
    /// An input, so that tests choose the time.
    pub(crate) now: Timestamp,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Nobody vouches for the node any more: these are its conditions.
    MarkLost(Vec<NodeCondition>),
    /// The node's taints.
    SetTaints(Vec<Taint>),
    /// Nobody vouches for the pod any more, so no traffic may be sent to it.
    MarkPodNotReady { pod: ObjectKey, uid: String },
    /// Deletes a pod that may not stay on the node.
    Evict { pod: ObjectKey, uid: String },
}

/// What has to be done, and when to look again though nothing happens.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Plan {
    /// In this order.
    pub(crate) actions: Vec<Action>,
    pub(crate) again_after: Option<Duration>,
}

impl Plan {
    fn look_again(&mut self, after: Duration) {
        self.again_after = Some(self.again_after.map_or(after, |other| other.min(after)));
    }
}

/// What has to be done about a node.
pub(crate) fn reconcile(config: &Config, node: &Node, observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    let grace = config.node_monitor_grace_period;
    let lost = observed.absent_for.is_some_and(|absent| absent >= grace);
    let mut conditions = conditions(node).to_vec();
    if lost && forswear(&mut conditions, observed.now) {
        plan.actions.push(Action::MarkLost(conditions.clone()));
    }
    if let Some(absent) = observed.absent_for.filter(|_| !lost) {
        plan.look_again(grace - absent);
    }
    let old = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let taints = taints(node, &old, &conditions, observed.now);
    if taints != old {
        plan.actions.push(Action::SetTaints(taints.clone()));
    }
    if lost {
        let ready = observed.pods.iter().filter(|pod| pod.ready && !pod.is_finished());
        plan.actions.extend(
            ready.map(|pod| Action::MarkPodNotReady { pod: pod.key.clone(), uid: pod.uid.clone() }),
        );
    }
    for pod in observed.pods.iter().filter(|pod| pod.is_active()) {
        let Some(at) = leaves_at(config, pod, &taints, observed, lost) else { continue };
        match Duration::try_from(at.duration_since(observed.now)) {
            Ok(wait) if !wait.is_zero() => plan.look_again(wait),
            _ => plan.actions.push(Action::Evict { pod: pod.key.clone(), uid: pod.uid.clone() }),
        }
    }
    plan
}

/// Whether the node says that it is ready.
pub(crate) fn is_ready(node: &Node) -> bool {
    status_of(conditions(node), "Ready") == Some("True")
}

/// Whether the node has been without a session for longer than its grace period.
pub(in crate::controllers) fn is_lost(node: &Node) -> bool {
    status_of(conditions(node), "Ready") == Some("Unknown")
}

/// Whether pods may have to leave the node.
pub(crate) fn repels_pods(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    !is_ready(node) || taints.into_iter().any(|taint| taint.effect == NO_EXECUTE)
}

fn conditions(node: &Node) -> &[NodeCondition] {
    node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default()
}

fn status_of<'a>(conditions: &'a [NodeCondition], type_: &str) -> Option<&'a str> {
    let found = conditions.iter().find(|condition| condition.type_ == type_);
    found.map(|condition| condition.status.as_str())
}

/// Makes the conditions say that nothing is known; tells whether that is news.
fn forswear(conditions: &mut Vec<NodeCondition>, now: Timestamp) -> bool {
    let mut news = false;
    for condition in &mut *conditions {
        let known = condition.status != "Unknown";
        if known && VOUCHED_FOR.contains(&condition.type_.as_str()) {
            condition.status = "Unknown".to_owned();
            condition.reason = Some("NodeStatusUnknown".to_owned());
            condition.message = Some("Kubelet stopped posting node status.".to_owned());
            condition.last_transition_time = Some(Time(now));
            news = true;
        }
    }
    if status_of(conditions, "Ready").is_none() {
        conditions.push(NodeCondition {
            type_: "Ready".to_owned(),
            status: "Unknown".to_owned(),
            reason: Some("NodeStatusNeverUpdated".to_owned()),
            message: Some("Kubelet never posted node status.".to_owned()),
            last_transition_time: Some(Time(now)),
            ..NodeCondition::default()
        });
        news = true;
    }
    news
}

/// The taints that the node should have: those that people gave it, and those its state means.
fn taints(node: &Node, old: &[Taint], conditions: &[NodeCondition], now: Timestamp) -> Vec<Taint> {
    let mut meant: Vec<(&str, &str)> = Vec::new();
    let ready = status_of(conditions, "Ready");
    if ready != Some("True") {
        let key = if ready == Some("Unknown") { UNREACHABLE } else { NOT_READY };
        meant.extend([(key, NO_SCHEDULE), (key, NO_EXECUTE)]);
    }
    for (type_, key) in TROUBLES {
        if status_of(conditions, type_) == Some("True") {
            meant.push((key, NO_SCHEDULE));
        }
    }
    if node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true)) {
        meant.push((UNSCHEDULABLE, NO_SCHEDULE));
    }
    let ours = |key: &str| {
        [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key)
            || TROUBLES.iter().any(|(_, taint)| *taint == key)
    };
    let same =
        |taint: &Taint, (key, effect): &(&str, &str)| taint.key == *key && taint.effect == *effect;
    let kept = old
        .iter()
        .filter(|taint| !ours(&taint.key) || meant.iter().any(|meant| same(taint, meant)))
        .cloned();
    let mut taints: Vec<Taint> = kept.collect();
    for meant in meant {
        if !taints.iter().any(|taint| same(taint, &meant)) {
            let (key, effect) = meant;
            taints.push(Taint {
                key: key.to_owned(),
                effect: effect.to_owned(),
                time_added: (effect == NO_EXECUTE).then_some(Time(now)),
                value: None,
            });
        }
    }
    taints
}

/// When the pod has to leave the node; nothing when it may stay.
fn leaves_at(
    config: &Config,
    pod: &PodView,
    taints: &[Taint],
    observed: &Observed<'_>,
    lost: bool,
) -> Option<Timestamp> {
    let repelling = taints.iter().filter(|taint| taint.effect == NO_EXECUTE);
    let leaves = repelling.filter_map(|taint| {
        // Where every node seems lost it is more likely that this master is, or the network: nothing
        // would be gained by deleting pods that have nowhere to go.
        let by_state = [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        if by_state && !observed.some_node_ready {
            return None;
        }
        // The node is back, or has still time to come back after a change of the leader.
        if taint.key == UNREACHABLE && !lost {
            return None;
        }
        let covering: Vec<_> =
            pod.tolerations.iter().filter(|one| Toleration::from(*one).covers(taint)).collect();
        let stays = if covering.is_empty() {
            if by_state { config.pod_eviction_timeout } else { Duration::ZERO }
        } else {
            // Without a number of seconds it stays for ever.
            let seconds = covering.iter().filter_map(|one| one.toleration_seconds).min()?;
            Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
        };
        let since = taint.time_added.as_ref().map_or(observed.now, |time| time.0);
        let stays = SignedDuration::try_from(stays).unwrap_or(SignedDuration::MAX);
        Some(since.checked_add(stays).unwrap_or(Timestamp::MAX))
    });
    leaves.min()
}
