//! `pods`: containers that live and die together on one node.
//!
//! [`proto::pod_defaults`] fill in, [`validate`] checks with the help of a file for each part of the spec,
//! [`host`] what it may have of its node; [`unsupported`] names what this version does not do, [`update`] what may change ([`ephemeral`] and
//! [`resize`]: by those subresources), [`status`] what a client may write of the status, [`columns`]
//! prints.
//!
//! The number of processes has no field in Kubernetes: every pod gets the kubelet's
//! `--pod-max-pids`.

mod affinity;
pub(super) mod annotations;
mod columns;
mod containers;
mod env;
mod ephemeral;
pub(crate) mod gates;
mod handlers;
mod host;
mod lifecycle;
mod probes;
pub(crate) mod qos;
mod resize;
pub(super) mod resources;
mod security;
mod status;
#[cfg(test)]
mod tests;
pub(super) mod unsupported;
mod update;
pub(super) mod validate;
mod volumes;

pub(crate) use ephemeral::is_mirror;
pub(super) use validate::{invalid_each, overhead, preemption_policy, validate_tolerations};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use proto::{k8s as k8s_openapi, pod_defaults};
use serde_json::Value;

use super::path::Path;
use super::{Column, Deletion, Kind, ResourceInfo};
use crate::api::admission::priority::carry_over;
use crate::api::field_error::FieldErrors;
use crate::api::objects::Part;
use crate::cache::{SelectableFields, selectable};

pub(super) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
pub(super) const QUANTITY_RULE: &str = proto::quantity::ParseQuantityError::RULE;

/// `pods`
#[derive(Debug)]
pub enum Pods {}

impl Kind for Pods {
    type Object = Pod;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Pod",
        plural: "pods",
        singular: "pod",
        short_names: &["po"],
        categories: &["all"],
        namespaced: true,
        status: true,
        scale: false,
    };

    const FIELDS: SelectableFields = &[
        selectable("spec.nodeName", &["spec", "nodeName"]),
        selectable("spec.restartPolicy", &["spec", "restartPolicy"]),
        selectable("spec.schedulerName", &["spec", "schedulerName"]),
        selectable("spec.serviceAccountName", &["spec", "serviceAccountName"]),
        selectable("spec.hostNetwork", &["spec", "hostNetwork"]).or("false"),
        selectable("status.phase", &["status", "phase"]),
        selectable("status.podIP", &["status", "podIP"]),
        selectable("status.podIPs", &["status", "podIPs", "ip"]),
        selectable("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    ];

    fn default(object: &mut Pod) {
        let is_mirror = is_mirror(object);
        let spec = object.spec.get_or_insert_default();
        pod_defaults::pod(spec);
        // What its node has in a file is nobody in the API.
        if !is_mirror {
            pod_defaults::account(spec);
        }
    }

    fn prepare_create(object: &mut Pod) {
        object.metadata.generation = Some(1);
        let class = qos::class(object.spec.as_ref().unwrap_or(&PodSpec::default()));
        let mut status = PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(class.to_owned()),
            ..Default::default()
        };
        if let Some(spec) = &object.spec {
            gates::tell(spec, &mut status);
        }
        object.status = Some(status);
    }

    fn prepare_update(new: &mut Pod, old: &Pod) {
        if let (Some(new), Some(old)) = (&mut new.spec, &old.spec) {
            carry_over(new, old);
        }
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut Pod, old: &Pod) {
        new.spec.clone_from(&old.spec);
        new.metadata.owner_references.clone_from(&old.metadata.owner_references);
        let (Some(status), Some(old)) = (new.status.as_mut(), old.status.as_ref()) else { return };
        status::keep(status, old);
    }

    fn prepare_part_update(part: Part, new: &mut Pod, old: &Pod) {
        match part {
            Part::Spec | Part::Status => {}
            Part::EphemeralContainers => *new = ephemeral::only(new, old),
            Part::Resize => *new = resize::only(new, old),
        }
    }

    fn spec_changed(new: &Pod, old: &Pod) -> bool {
        new.spec != old.spec
    }

    fn validate(object: &Pod) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let default = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default);
        validate::spec(spec, &Path::new("spec"), &mut errors);
        containers::validate_of_pod(spec, &Path::new("spec"), &mut errors);
        let path = Path::new("metadata.annotations");
        annotations::validate(object.metadata.annotations.as_ref(), spec, &path, &mut errors);
        errors
    }

    fn validate_create(object: &Pod) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let default = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default);
        let annotations = object.metadata.annotations.as_ref();
        annotations::agree(annotations, spec, &Path::new("spec"), &mut errors);
        errors.extend(ephemeral::validate_create(object));
        errors.extend(gates::validate_create(spec));
        errors
    }

    fn validate_part_update(part: Part, new: &Pod, old: &Pod) -> FieldErrors {
        match part {
            Part::Spec | Part::Status => FieldErrors::new(),
            Part::EphemeralContainers => ephemeral::validate_update(new, old),
            Part::Resize => resize::validate(new, old),
        }
    }

    fn validate_update(new: &Pod, old: &Pod) -> FieldErrors {
        update::validate(new, old)
    }

    fn validate_status_update(new: &Pod, old: &Pod) -> FieldErrors {
        status::validate_update(new, old)
    }

    fn deletion(object: &Pod, requested: Option<i64>) -> Deletion {
        let default = PodSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&default);
        let period = requested.or(spec.termination_grace_period_seconds).unwrap_or(30);
        let bound = spec.node_name.as_ref().is_some_and(|node| !node.is_empty());
        if period == 0 || !bound || finished(object) {
            return Deletion::Immediate;
        }
        // As in Kubernetes, a negative period is the shortest.
        Deletion::Graceful { grace_period_seconds: if period < 0 { 1 } else { period } }
    }

    fn columns() -> &'static [Column] {
        columns::COLUMNS
    }

    fn row(object: &Pod, now: Timestamp) -> Vec<Value> {
        columns::row(object, now)
    }
}

/// Whether all containers have ended for good.
fn finished(object: &Pod) -> bool {
    let phase = object.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}
