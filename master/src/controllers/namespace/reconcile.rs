//! What has to be done so that a namespace that is to go can go. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use crate::api::kinds::namespace::FINALIZER;

/// An object in the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The plural of its kind, with the group: `pods`, `endpointslices.discovery.k8s.io`.
    pub(crate) resource: String,
    pub(crate) key: ObjectKey,
    pub(crate) uid: String,
    /// Its deletion was asked for already.
    pub(crate) deleting: bool,
    /// What holds it, if its deletion was asked for.
    pub(crate) finalizers: Vec<String>,
}

/// One change.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Deletes the object at this place in the list of contents.
    Delete(usize),
    /// Lets the namespace go.
    Finalize,
}

/// What has to be done, in this order.
pub(crate) fn reconcile(namespace: &Namespace, contents: &[Content]) -> Vec<Action> {
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref());
    let held = finalizers.unwrap_or_default().iter().any(|finalizer| finalizer == FINALIZER);
    if namespace.metadata.deletion_timestamp.is_none() || !held {
        return Vec::new();
    }
    if contents.is_empty() {
        return vec![Action::Finalize];
    }
    let left = contents.iter().enumerate().filter(|(_, content)| !content.deleting);
    left.map(|(index, _)| Action::Delete(index)).collect()
}

/// What the status has to say while the namespace is being emptied.
pub(crate) fn status(
    namespace: &Namespace,
    contents: &[Content],
    failure: Option<&str>,
    now: Timestamp,
) -> NamespaceStatus {
    let mut by_resource = BTreeMap::<&str, usize>::new();
    let mut by_finalizer = BTreeMap::<&str, usize>::new();
    for content in contents {
        *by_resource.entry(&content.resource).or_default() += 1;
        for finalizer in &content.finalizers {
            *by_finalizer.entry(finalizer).or_default() += 1;
        }
    }
    let list = |counts: &BTreeMap<&str, usize>, words: &str| {
        let parts: Vec<String> = counts
            .iter()
            .map(|(name, count)| format!("{name} {words} {count} resource instances"))
            .collect();
        parts.join(", ")
    };
    let remaining = if by_resource.is_empty() {
        (false, "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let list = list(&by_resource, "has");
        (true, "SomeResourcesRemain", format!("Some resources are remaining: {list}"))
    };
    let finalizers = if by_finalizer.is_empty() {
        (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let list = list(&by_finalizer, "in");
        let message = format!("Some content in the namespace has finalizers remaining: {list}");
        (true, "SomeFinalizersRemain", message)
    };
    let content_failure = match failure {
        Some(message) => (true, "ContentDeletionFailed", message.to_owned()),
        None => {
            let message = "All content successfully deleted, may be waiting on finalization";
            (false, "ContentDeleted", message.to_owned())
        }
    };
    let old = namespace.status.as_ref().and_then(|status| status.conditions.clone());
    let mut conditions = old.unwrap_or_default();
    for (type_, (holds, reason, message)) in [
        ("NamespaceDeletionContentFailure", content_failure),
        ("NamespaceContentRemaining", remaining),
        ("NamespaceFinalizersRemaining", finalizers),
    ] {
        set(&mut conditions, type_, holds, reason, message, now);
    }
    NamespaceStatus { phase: Some("Terminating".to_owned()), conditions: Some(conditions) }
}

fn set(
    conditions: &mut Vec<NamespaceCondition>,
    type_: &str,
    holds: bool,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let status = if holds { "True" } else { "False" };
    let mut new = NamespaceCondition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    };
    match conditions.iter_mut().find(|condition| condition.type_ == type_) {
        Some(old) => {
            if old.status == new.status {
                new.last_transition_time.clone_from(&old.last_transition_time);
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}
