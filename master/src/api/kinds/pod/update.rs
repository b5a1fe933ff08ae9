//! What an update may change of a pod: little, since containers are not remade.

use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use proto::k8s as k8s_openapi;

use super::{annotations, gates};
use crate::api::field_error::{FieldError, FieldErrors};

const RULE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
    `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
    existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
    previously negative)";

/// What is wrong with a change.
pub(super) fn validate(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = FieldErrors::new();
    annotations::validate_update(new, old, &mut errors);
    let (new, old) = (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
    let initial = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    for (field, differs) in [
        ("spec.containers", new.containers.len() != old.containers.len()),
        ("spec.initContainers", initial(&new) != initial(&old)),
    ] {
        if differs {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(field, detail));
            return errors;
        }
    }
    validate_deadline(&new, &old, &mut errors);
    let tolerations = new.tolerations.as_deref().unwrap_or_default();
    // For how long something is tolerated may change.
    let same = |new: &Toleration, old: &Toleration| {
        *new == Toleration { toleration_seconds: new.toleration_seconds, ..old.clone() }
    };
    let is_kept = |old: &Toleration| tolerations.iter().any(|new| same(new, old));
    if !old.tolerations.iter().flatten().all(is_kept) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden("spec.tolerations", detail));
    }
    // With all that may change put back, nothing may differ.
    let mut rest = new.clone();
    let olds = old.containers.iter().chain(old.init_containers.iter().flatten());
    let all = rest.containers.iter_mut().chain(rest.init_containers.iter_mut().flatten());
    for (container, old) in all.zip(olds) {
        container.image.clone_from(&old.image);
    }
    rest.active_deadline_seconds = old.active_deadline_seconds;
    rest.tolerations.clone_from(&old.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && rest.termination_grace_period_seconds == Some(1)
    {
        rest.termination_grace_period_seconds = old.termination_grace_period_seconds;
    }
    errors.extend(gates::validate_update(&new, &old, &mut rest));
    if rest != old {
        let detail = format!("{RULE}; what differs: {}", differences(&rest, &old).join(", "));
        errors.push(FieldError::forbidden("spec", detail));
    }
    errors
}

fn validate_deadline(new: &PodSpec, old: &PodSpec, errors: &mut FieldErrors) {
    let path = "spec.activeDeadlineSeconds";
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(path, new, detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, serde_json::Value::Null, detail));
        }
        _ => {}
    }
}

/// Names of the members that differ.
fn differences(new: &PodSpec, old: &PodSpec) -> Vec<String> {
    let members = |spec| match serde_json::to_value(spec) {
        Ok(serde_json::Value::Object(members)) => members,
        _ => serde_json::Map::new(),
    };
    let (new, old) = (members(new), members(old));
    let names: std::collections::BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    names.into_iter().filter(|name| new.get(*name) != old.get(*name)).cloned().collect()
}
