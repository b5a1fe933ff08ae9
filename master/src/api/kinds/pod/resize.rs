//! Other resources for the containers of a pod that is there, by the subresource `resize`. A plain
//! update cannot: whether a node can give more is found out by its kubelet, which tells in the status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

use super::super::path::Path;
use super::resources::RESIZED;
use super::{ephemeral, qos};
use crate::api::field_error::{FieldError, FieldErrors};

/// The old pod with the resources and the resize policies of the new one's containers.
pub(super) fn only(new: &Pod, old: &Pod) -> Pod {
    let mut only = old.clone();
    let wanted = new.spec.iter().flat_map(own).map(|(_, container)| container);
    let wanted: BTreeMap<&str, &Container> =
        wanted.map(|container| (container.name.as_str(), container)).collect();
    let spec = only.spec.get_or_insert_default();
    let initial = spec.init_containers.iter_mut().flatten();
    for container in spec.containers.iter_mut().chain(initial) {
        if let Some(new) = wanted.get(container.name.as_str()) {
            container.resources.clone_from(&new.resources);
            container.resize_policy.clone_from(&new.resize_policy);
        }
    }
    only
}

/// What is wrong with a resize.
pub(super) fn validate(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if ephemeral::is_mirror(old) {
        errors.push(FieldError::forbidden("", "static pods cannot be resized"));
        return errors;
    }
    let default = PodSpec::default();
    let spec = |pod: &Pod| pod.spec.clone().unwrap_or_else(|| default.clone());
    let (new_spec, old_spec) = (spec(new), spec(old));
    let path = Path::new("spec");
    if qos::class(&new_spec) != qos::class(&old_spec) {
        let class = old.status.as_ref().and_then(|status| status.qos_class.clone());
        let detail = "Pod QOS Class may not change as a result of resizing";
        errors.push(FieldError::invalid(&path, class, detail));
    }
    if !is_supported(old) {
        let detail = "Pod running on node without support for resize";
        errors.push(FieldError::forbidden(&path, detail));
    }
    for ((place, new), (_, old)) in own(&new_spec).zip(own(&old_spec)) {
        let path = path.child(&place).child("resources");
        // An init container that does its work has what it was started with.
        let kept =
            place.starts_with("containers") || new.restart_policy.as_deref() == Some("Always");
        let (wanted, had) = (list(new), list(old));
        if !kept && wanted != had || fixed(&wanted) != fixed(&had) {
            let detail = "only cpu and memory resources are mutable";
            errors.push(FieldError::forbidden("spec", detail));
        }
        for (field, wanted, had) in
            [("requests", &wanted.requests, &had.requests), ("limits", &wanted.limits, &had.limits)]
        {
            if removes(wanted, had) {
                let detail = format!("resource {field} cannot be removed");
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
        }
        if new.resize_policy != old.resize_policy {
            let detail = "only cpu and memory resources are mutable";
            errors.push(FieldError::forbidden("spec", detail));
        }
    }
    errors
}

/// All containers but ephemeral ones, each with its place in the specification.
fn own(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let initial = spec.init_containers.iter().flatten().enumerate();
    let initial = initial.map(|(index, one)| (format!("initContainers[{index}]"), one));
    let regular = spec.containers.iter().enumerate();
    initial.chain(regular.map(|(index, one)| (format!("containers[{index}]"), one)))
}

fn list(container: &Container) -> ResourceRequirements {
    container.resources.clone().unwrap_or_default()
}

type Wire = Option<BTreeMap<String, WireQuantity>>;

fn removes(wanted: &Wire, had: &Wire) -> bool {
    let named = |name: &&str| wanted.as_ref().is_some_and(|wanted| wanted.contains_key(*name));
    let had = |name: &&str| had.as_ref().is_some_and(|had| had.contains_key(*name));
    RESIZED.iter().filter(|name| had(name)).any(|name| !named(name))
}

/// Requests and limits that a running container is not given anew.
fn fixed(all: &ResourceRequirements) -> [BTreeMap<&str, Option<Quantity>>; 2] {
    [&all.requests, &all.limits].map(|amounts| {
        let amounts = amounts.iter().flatten();
        let amounts =
            amounts.map(|(name, amount)| (name.as_str(), Quantity::try_from(amount).ok()));
        amounts.filter(|(name, _)| !RESIZED.contains(name)).collect()
    })
}

/// A kubelet that can tells what its containers have. One that has started none may yet be one.
fn is_supported(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let mut running =
        statuses.filter(|s| s.state.as_ref().is_some_and(|state| state.running.is_some()));
    running.next().is_none_or(|first| first.resources.is_some())
}
