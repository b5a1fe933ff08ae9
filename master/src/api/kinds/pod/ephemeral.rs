//! Containers that are added to a pod that is there, to look into it. They come by the subresource
//! `ephemeralcontainers` alone, and neither change nor go.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{EphemeralContainer, Pod, PodSpec, ResourceRequirements};
use proto::{ephemeral, k8s as k8s_openapi};

use super::super::path::Path;
use super::containers;
use super::unsupported::refuse;
use super::validate::unique;
use crate::api::field_error::{FieldError, FieldErrors};

/// Marks the object of a pod that its node has from a file.
const MIRROR: &str = "kubernetes.io/config.mirror";
const FIELDS: &str = "spec.ephemeralContainers";
const REFUSED: &str = "cannot be set for an Ephemeral Container";

/// The old pod with the ephemeral containers of the new one.
pub(super) fn only(new: &Pod, old: &Pod) -> Pod {
    let mut only = old.clone();
    let wanted = new.spec.as_ref().and_then(|spec| spec.ephemeral_containers.clone());
    only.spec.get_or_insert_default().ephemeral_containers = wanted;
    only
}

/// All that is wrong with ephemeral containers. `volume_names` are the volumes that exist.
pub(super) fn validate(
    spec: &PodSpec,
    volume_names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = others.map(|container| container.name.as_str()).collect();
    let mut seen = others.clone();
    for (index, container) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.index(index);
        unique(&mut seen, container.name.as_str(), &path.child("name"), errors);
        let (common, target) = ephemeral::split(container.clone());
        containers::validate_common(&common, spec, volume_names, &path, errors);
        if let Some(target) = target.filter(|target| !target.is_empty())
            && !others.contains(target.as_str())
        {
            errors.push(FieldError::not_found(path.child("targetContainerName"), target));
        }
        validate_fields(container, &path, errors);
    }
}

/// Nothing that a service would be built upon.
fn validate_fields(container: &EphemeralContainer, path: &Path, errors: &mut FieldErrors) {
    fn listed<T>(list: &Option<Vec<T>>) -> bool {
        list.as_ref().is_some_and(|list| !list.is_empty())
    }
    let asks = container.resources.as_ref().is_some_and(|r| *r != ResourceRequirements::default());
    let restarts = container.restart_policy.as_ref().is_some_and(|policy| !policy.is_empty());
    for (set, field) in [
        (container.lifecycle.is_some(), "lifecycle"),
        (container.liveness_probe.is_some(), "livenessProbe"),
        (listed(&container.ports), "ports"),
        (container.readiness_probe.is_some(), "readinessProbe"),
        (listed(&container.resize_policy), "resizePolicy"),
        (asks, "resources"),
        (restarts, "restartPolicy"),
        (listed(&container.restart_policy_rules), "restartPolicyRules"),
        (container.startup_probe.is_some(), "startupProbe"),
    ] {
        if set {
            errors.push(FieldError::forbidden(path.child(field), REFUSED));
        }
    }
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let path = path.child("volumeMounts").index(index);
        for (field, value) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)]
        {
            if value.as_ref().is_some_and(|value| !value.is_empty()) {
                errors.push(FieldError::forbidden(path.child(field), REFUSED));
            }
        }
    }
    if listed(&container.volume_devices) {
        let instead = "there are no persistent volumes";
        refuse(&path.child("volumeDevices"), &container.volume_devices, instead, errors);
    }
}

/// A pod is not made with them.
pub(super) fn validate_create(pod: &Pod) -> FieldErrors {
    let spec = pod.spec.as_ref();
    let listed = spec.and_then(|spec| spec.ephemeral_containers.as_ref());
    let mut errors = FieldErrors::new();
    if listed.is_some_and(|list| !list.is_empty()) {
        errors.push(FieldError::forbidden(FIELDS, "cannot be set on create"));
    }
    errors
}

/// Whether a pod is its node's own, from a file there.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|annotations| annotations.contains_key(MIRROR))
}

/// What is wrong with a change: those that are there stay as they are, in whatever order.
pub(super) fn validate_update(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = FieldErrors::new();
    if is_mirror(old) {
        let detail = "static pods do not support ephemeral containers";
        errors.push(FieldError::forbidden("", detail));
        return errors;
    }
    let of = |pod: &Pod| -> Vec<EphemeralContainer> {
        pod.spec
            .iter()
            .flat_map(|spec| spec.ephemeral_containers.iter().flatten())
            .cloned()
            .collect()
    };
    let wanted = of(new);
    for old in of(old) {
        let name = &old.name;
        let change = match wanted.iter().find(|new| new.name == *name) {
            None => "removed",
            Some(new) if *new != old => "changed",
            Some(_) => continue,
        };
        let detail = format!("existing ephemeral containers {name:?} may not be {change}");
        errors.push(FieldError::forbidden(FIELDS, detail));
    }
    errors
}
