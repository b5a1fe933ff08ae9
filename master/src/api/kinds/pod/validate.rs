//! What a pod has to keep to.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use crate::api::field_error::FieldError;

/// All that is wrong with the spec of a pod or template whose defaults are filled in.
pub(in crate::api::kinds) fn spec(spec: &PodSpec, path: &Path, errors: &mut Vec<FieldError>) {
    let containers = path.child("containers");
    if spec.containers.is_empty() {
        errors.push(FieldError::required(&containers, ""));
    }
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = containers.index(index);
        if container.name.is_empty() {
            errors.push(FieldError::required(path.child("name"), ""));
        } else {
            for reason in names::dns_label(&container.name) {
                let value = container.name.as_str();
                errors.push(FieldError::invalid(path.child("name"), value, reason));
            }
            if !seen.insert(&container.name) {
                errors.push(FieldError::duplicate(path.child("name"), container.name.as_str()));
            }
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(path.child("image"), ""));
        }
    }
}

/// What the pod's own name brings with it.
pub(super) fn names(_object: &Pod, _errors: &mut Vec<FieldError>) {}
