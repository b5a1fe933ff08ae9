//! What has to be done so that as many pods run as a ReplicationController says. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Pod, ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::controllers::pods::{Phase, PodView};
use crate::selection::selects;

/// Pods made or deleted in one pass at the most, as in Kubernetes: one object must not keep a
/// controller busy for longer than it takes others to have their turn.
pub(crate) const BURST: usize = 500;

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
pub(crate) fn reconcile(desired: &ReplicationController, observed: &Observed<'_>) -> Vec<Action> {
    // Being deleted, it neither takes pods nor makes them; the garbage collector has its say.
    if desired.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let uid = uid(desired);
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
    let replicas = replicas(desired);
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
    desired: &ReplicationController,
    observed: &Observed<'_>,
    failure: Option<&Failure>,
) -> ReplicationControllerStatus {
    let pods: Vec<&PodView> = owned_active(desired, observed).collect();
    let template_labels = desired
        .spec
        .as_ref()
        .and_then(|spec| spec.template.as_ref()?.metadata.as_ref()?.labels.clone())
        .unwrap_or_default();
    let available =
        |pod: &&&PodView| available_at(desired, pod).is_some_and(|since| since <= observed.now);
    let count = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
    let of = |holds: &dyn Fn(&&&PodView) -> bool| {
        Some(count(pods.iter().filter(|pod| holds(pod)).count())).filter(|count| *count > 0)
    };
    ReplicationControllerStatus {
        replicas: count(pods.len()),
        fully_labeled_replicas: of(&|pod| selects(&template_labels, &pod.labels)),
        ready_replicas: of(&|pod| pod.ready),
        available_replicas: of(&available),
        observed_generation: desired.metadata.generation,
        conditions: conditions(desired, failure, observed.now),
    }
}

/// When the status will have to say something else though nothing happens: when the next ready pod
/// has been ready for long enough.
pub(crate) fn changes_at(
    desired: &ReplicationController,
    observed: &Observed<'_>,
) -> Option<Timestamp> {
    owned_active(desired, observed)
        .filter_map(|pod| available_at(desired, pod))
        .filter(|at| *at > observed.now)
        .min()
}

/// The pod that the template describes.
pub(crate) fn new_pod(desired: &ReplicationController) -> Pod {
    let template = desired.spec.as_ref().and_then(|spec| spec.template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", name(desired))),
            namespace: desired.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner_reference(desired)]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// What its pods carry.
pub(crate) fn owner_reference(desired: &ReplicationController) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "ReplicationController".to_owned(),
        name: name(desired),
        uid: uid(desired).to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// `metadata.uid`
pub(crate) fn uid(desired: &ReplicationController) -> &str {
    desired.metadata.uid.as_deref().unwrap_or_default()
}

fn name(desired: &ReplicationController) -> String {
    desired.metadata.name.clone().unwrap_or_default()
}

fn replicas(desired: &ReplicationController) -> usize {
    let replicas = desired.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or(0)
}

/// An empty selector selects nothing; the API sets it to the template's labels when it is left out.
fn is_selected(desired: &ReplicationController, pod: &PodView) -> bool {
    let selector = desired.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    selector.is_some_and(|selector| !selector.is_empty() && selects(selector, &pod.labels))
}

/// The active pods it controls or is about to.
fn owned_active<'a>(
    desired: &'a ReplicationController,
    observed: &'a Observed<'_>,
) -> impl Iterator<Item = &'a PodView> {
    let uid = uid(desired);
    observed.pods.iter().map(|pod| &**pod).filter(move |pod| {
        pod.is_active()
            && is_selected(desired, pod)
            && pod.controller_uid().is_none_or(|controller| controller == uid)
    })
}

/// When the pod counts as available: ready for `minReadySeconds`.
fn available_at(desired: &ReplicationController, pod: &PodView) -> Option<Timestamp> {
    let seconds = desired.spec.as_ref().and_then(|spec| spec.min_ready_seconds).unwrap_or(0);
    pod.ready.then(|| {
        let wait = SignedDuration::from_secs(seconds.into());
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
    desired: &ReplicationController,
    failure: Option<&Failure>,
    now: Timestamp,
) -> Option<Vec<ReplicationControllerCondition>> {
    let old = desired.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = old.unwrap_or_default();
    let known = conditions.iter().position(|condition| condition.type_ == "ReplicaFailure");
    match (known, failure) {
        // It says so already; when it began to fail is worth more than the newest words.
        (Some(index), Some(failure))
            if conditions[index].reason.as_deref() == Some(failure.reason) => {}
        (known, failure) => {
            if let Some(index) = known {
                conditions.remove(index);
            }
            conditions.extend(failure.map(|failure| ReplicationControllerCondition {
                type_: "ReplicaFailure".to_owned(),
                status: "True".to_owned(),
                reason: Some(failure.reason.to_owned()),
                message: Some(failure.message.clone()),
                last_transition_time: Some(Time(now)),
            }));
        }
    }
    (!conditions.is_empty()).then_some(conditions)
}
