//! What has to be done so that as many pods run as a ReplicationController or ReplicaSet says. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::selector::Selector;

use crate::controllers::pods::{Phase, PodView};
use crate::selection::selects;

/// Pods made or deleted in one pass at the most, as in Kubernetes: one object must not keep a
/// controller busy for longer than it takes others to have their turn.
pub(crate) const BURST: usize = 500;

/// What a ReplicationController or a ReplicaSet wants.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    pub(crate) key: ObjectKey,
    /// What its pods carry.
    pub(crate) owner: OwnerReference,
    pub(crate) generation: Option<i64>,
    /// Its deletion has begun.
    pub(crate) deleting: bool,
    pub(crate) replicas: usize,
    pub(crate) min_ready_seconds: i32,
    /// An empty one selects nothing; the API lets none in.
    pub(crate) selector: Selector,
    pub(crate) template: PodTemplateSpec,
    /// What was reported last.
    pub(crate) status: ReplicaSetStatus,
}

/// What is there.
pub(crate) struct Observed<'a> {
    /// Pods that the selector selects, and pods that name this object as their controller.
    pub(crate) pods: &'a [Arc<PodView>],
    /// An input, so that tests choose the time.
    pub(crate) now: Timestamp,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Becomes the controller of a pod that has none.
    Adopt { pod: ObjectKey, uid: String },
    /// Gives up a pod that the selector no longer selects.
    Release { pod: ObjectKey, uid: String },
    /// Makes this many pods.
    Create(usize),
    /// Deletes a pod that is too much.
    Delete { pod: ObjectKey, uid: String },
}

/// Why pods could not be made or deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// `FailedCreate` or `FailedDelete`.
    pub(crate) reason: &'static str,
    /// The server's words.
    pub(crate) message: String,
}

/// What has to be done, in this order.
pub(crate) fn reconcile(desired: &Desired, observed: &Observed<'_>) -> Vec<Action> {
    // Being deleted, it neither takes pods nor makes them; the garbage collector has its say.
    if desired.deleting {
        return Vec::new();
    }
    let uid = &*desired.owner.uid;
    let mut actions = Vec::new();
    let mut kept = Vec::new();
    for pod in observed.pods {
        let selected = is_selected(desired, pod);
        match pod.controller_uid() {
            Some(controller) if controller == uid && selected => kept.push(pod),
            // A pod on its way out is not worth a write.
            Some(controller) if controller == uid && !pod.deleting => {
                actions.push(Action::Release { pod: pod.key.clone(), uid: pod.uid.clone() })
            }
            None if selected && pod.is_active() => {
                actions.push(Action::Adopt { pod: pod.key.clone(), uid: pod.uid.clone() });
                kept.push(pod);
            }
            _ => {}
        }
    }
    let active: Vec<&PodView> =
        kept.into_iter().map(|pod| &**pod).filter(|pod| pod.is_active()).collect();
    let replicas = desired.replicas;
    if active.len() < replicas {
        actions.push(Action::Create((replicas - active.len()).min(BURST)));
    } else {
        let surplus = (active.len() - replicas).min(BURST);
        actions.extend(
            least_wanted(active, surplus)
                .into_iter()
                .map(|pod| Action::Delete { pod: pod.key.clone(), uid: pod.uid.clone() }),
        );
    }
    actions
}

/// What the status has to say about the pods that were found.
pub(crate) fn status(
    desired: &Desired,
    observed: &Observed<'_>,
    failure: Option<&Failure>,
) -> ReplicaSetStatus {
    let pods: Vec<&PodView> = owned_active(desired, observed).collect();
    let template = desired.template.metadata.as_ref();
    let template_labels = template.and_then(|meta| meta.labels.clone()).unwrap_or_default();
    let available =
        |pod: &&&PodView| available_at(desired, pod).is_some_and(|since| since <= observed.now);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let of = |holds: &dyn Fn(&&&PodView) -> bool| {
        Some(count(pods.iter().filter(|pod| holds(pod)).count())).filter(|count| *count > 0)
    };
    ReplicaSetStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: of(&|pod| selects(&template_labels, &pod.labels)),
        ready_replicas: of(&|pod| pod.ready),
        available_replicas: of(&available),
        terminating_replicas: None,
        observed_generation: desired.generation,
        conditions: conditions(desired, failure, observed.now),
    }
}

/// When the status will have to say something else though nothing happens: when the next ready pod
/// has been ready for long enough.
pub(crate) fn changes_at(desired: &Desired, observed: &Observed<'_>) -> Option<Timestamp> {
    owned_active(desired, observed)
        .filter_map(|pod| available_at(desired, pod))
        .filter(|at| *at > observed.now)
        .min()
}

/// The pod that the template describes.
pub(crate) fn new_pod(desired: &Desired) -> Pod {
    let template = desired.template.clone();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", desired.key.name)),
            namespace: Some(desired.key.namespace.clone()),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![desired.owner.clone()]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

fn is_selected(desired: &Desired, pod: &PodView) -> bool {
    !desired.selector.is_everything() && desired.selector.matches(&pod.labels)
}

/// The active pods it controls or is about to.
fn owned_active<'a>(
    desired: &'a Desired,
    observed: &'a Observed<'_>,
) -> impl Iterator<Item = &'a PodView> {
    let uid = &*desired.owner.uid;
    observed.pods.iter().map(|pod| &**pod).filter(move |pod| {
        pod.is_active()
            && is_selected(desired, pod)
            && pod.controller_uid().is_none_or(|controller| controller == uid)
    })
}

/// When the pod counts as available: ready for `minReadySeconds`.
fn available_at(desired: &Desired, pod: &PodView) -> Option<Timestamp> {
    pod.ready.then(|| {
        let wait = SignedDuration::from_secs(desired.min_ready_seconds.into());
        pod.ready_changed.checked_add(wait).unwrap_or(Timestamp::MAX)
    })
}

/// Those that are missed least, in the order in which they go: what costs nobody anything first
/// (no node yet, pending, not ready), then where a node has several, then the less proven.
fn least_wanted(mut pods: Vec<&PodView>, count: usize) -> Vec<&PodView> {
    let mut on_node = HashMap::<&str, usize>::new();
    for pod in &pods {
        *on_node.entry(&pod.node).or_default() += 1;
    }
    let phase = |pod: &PodView| match pod.phase {
        Phase::Pending => 0,
        Phase::Unknown => 1,
        _ => 2,
    };
    let mut chosen = Vec::with_capacity(count);
    // One by one: each deletion makes its node less crowded.
    while chosen.len() < count {
        let least = pods.iter().enumerate().min_by_key(|(_, pod)| {
            (
                !pod.node.is_empty(),
                phase(pod),
                pod.ready,
                pod.deletion_cost,
                Reverse(on_node.get(pod.node.as_str()).copied().unwrap_or(0)),
                // Among ready pods the one that became so last.
                Reverse(pod.ready.then_some(pod.ready_changed)),
                Reverse(pod.restarts),
                Reverse(pod.created),
                Reverse(&pod.key),
            )
        });
        let Some((index, _)) = least else { break };
        let pod = pods.swap_remove(index);
        if let Some(on_node) = on_node.get_mut(pod.node.as_str()) {
            *on_node -= 1;
        }
        chosen.push(pod);
    }
    chosen
}

fn conditions(
    desired: &Desired,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut conditions = desired.status.conditions.clone().unwrap_or_default();
    let known = conditions
        .iter()
        .position(|condition| condition.type_.as_deref() == Some("ReplicaFailure"));
    match (known, failure) {
        // It says so already; when it began to fail is worth more than the newest words.
        (Some(index), Some(failure))
            if conditions[index].reason.as_deref() == Some(failure.reason) => {}
        (known, failure) => {
            if let Some(index) = known {
                conditions.remove(index);
            }
            conditions.extend(failure.map(|failure| ReplicaSetCondition {
                type_: Some("ReplicaFailure".to_owned()),
                status: Some("True".to_owned()),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.message.clone()),
                last_transition_time: Some(Time(now)),
            }));
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}
