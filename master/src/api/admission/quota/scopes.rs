//! Which objects a quota is about. Pure.

use k8s_openapi::api::core::v1::{Pod, ResourceQuota, ScopedResourceSelectorRequirement};
use proto::k8s as k8s_openapi;

use crate::api::kinds::pod::qos;
use crate::api::kinds::resource_quota::{
    BEST_EFFORT, NOT_BEST_EFFORT, NOT_TERMINATING, PRIORITY_CLASS, TERMINATING,
};
use crate::api::registry::AnyObject;

/// Whether a quota is about some pods only.
pub(super) fn is_scoped(quota: &ResourceQuota) -> bool {
    requirements(quota).next().is_some()
}

/// Whether a quota is about an object.
pub(super) fn includes(quota: &ResourceQuota, object: &dyn AnyObject) -> bool {
    match object.as_any().downcast_ref::<Pod>() {
        Some(pod) => requirements(quota).all(|requirement| holds(&requirement, pod)),
        None => !is_scoped(quota),
    }
}

fn requirements(
    quota: &ResourceQuota,
) -> impl Iterator<Item = ScopedResourceSelectorRequirement> + '_ {
    let spec = quota.spec.as_ref();
    let scopes = spec.and_then(|spec| spec.scopes.as_ref()).into_iter().flatten();
    let scopes = scopes.map(|scope| ScopedResourceSelectorRequirement {
        operator: "Exists".to_owned(),
        scope_name: scope.clone(),
        values: None,
    });
    let selector = spec.and_then(|spec| spec.scope_selector.as_ref());
    let expressions = selector.and_then(|selector| selector.match_expressions.as_ref());
    scopes.chain(expressions.into_iter().flatten().cloned())
}

fn holds(requirement: &ScopedResourceSelectorRequirement, pod: &Pod) -> bool {
    let spec = pod.spec.clone().unwrap_or_default();
    let best_effort = qos::class(&spec) == "BestEffort";
    let terminating = spec.active_deadline_seconds.is_some();
    match requirement.scope_name.as_str() {
        BEST_EFFORT => best_effort,
        NOT_BEST_EFFORT => !best_effort,
        TERMINATING => terminating,
        NOT_TERMINATING => !terminating,
        PRIORITY_CLASS => {
            let class = spec.priority_class_name.filter(|class| !class.is_empty());
            let values = requirement.values.clone().unwrap_or_default();
            let listed = class.as_ref().is_some_and(|class| values.contains(class));
            match requirement.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "DoesNotExist" => class.is_none(),
                _ => class.is_some(),
            }
        }
        _ => false,
    }
}
