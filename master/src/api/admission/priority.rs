//! How important a new pod is: its class says. Pure.

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use proto::{k8s as k8s_openapi, priority};

use crate::api::kinds::priority_class::{is_default, value};

/// The class that a pod names.
pub(super) fn name(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref().and_then(|spec| spec.priority_class_name.as_deref());
    name.filter(|name| !name.is_empty())
}

/// The class of pods that name none. Should a restored backup have several, the least important counts,
/// as in Kubernetes.
pub(super) fn default(classes: Vec<PriorityClass>) -> Option<PriorityClass> {
    classes.into_iter().filter(is_default).min_by_key(value)
}

/// Gives the pod what its class says; nothing is `class` when the pod names one that there is not, or
/// names none and there is no default.
pub(super) fn complete(pod: &mut Pod, class: Option<&PriorityClass>) -> Result<(), String> {
    let named = name(pod).map(str::to_owned);
    let lower = priority::PREEMPT_LOWER;
    let (number, policy) = match (class, &named) {
        (Some(class), _) => (value(class), class.preemption_policy.as_deref().unwrap_or(lower)),
        (None, None) => (priority::DEFAULT, lower),
        // Pods of the system need not wait for their classes to be made.
        (None, Some(name)) => match priority::system_class(name) {
            Some(system) => (system.value, lower),
            None => return Err(format!("no PriorityClass with name {name} was found")),
        },
    };
    let spec = pod.spec.get_or_insert_default();
    if named.is_none() {
        spec.priority_class_name = class.and_then(|class| class.metadata.name.clone());
    }
    if let Some(said) = spec.priority.filter(|said| *said != number) {
        return Err(format!(
            "the integer value of priority ({said}) must not be provided in pod spec; priority \
             admission controller computed {number} from the given PriorityClass name"
        ));
    }
    if let Some(said) = spec.preemption_policy.as_deref().filter(|said| *said != policy) {
        return Err(format!(
            "the string value of PreemptionPolicy ({said}) must not be provided in pod spec; \
             priority admission controller computed {policy} from the given PriorityClass name"
        ));
    }
    spec.priority = Some(number);
    spec.preemption_policy = Some(policy.to_owned());
    Ok(())
}

/// What was given to a pod when it was made, an update that does not speak of it leaves.
pub(crate) fn carry_over(new: &mut PodSpec, old: &PodSpec) {
    if new.priority.is_none() {
        new.priority = old.priority;
    }
    if new.preemption_policy.is_none() {
        new.preemption_policy.clone_from(&old.preemption_policy);
    }
}
