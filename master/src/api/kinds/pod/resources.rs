//! What a container asks for and may use.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::super::resource_names;
use super::validate::{invalid_each, one_of};
use super::{NOT_NEGATIVE, QUANTITY_RULE, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

/// All that is wrong with requests and limits.
pub(super) fn validate(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let default = ResourceRequirements::default();
    let ResourceRequirements { claims, limits, requests } =
        container.resources.as_ref().unwrap_or(&default);
    if claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        let instead = "nodes offer cpu, memory and ephemeral-storage only";
        unsupported::refuse(&path.child("claims"), claims, instead, errors);
    }
    for (field, list) in [("limits", limits), ("requests", requests)] {
        let path = path.child(field);
        for (name, amount) in list.iter().flatten() {
            let path = path.key(name);
            validate_name(name, &path, errors);
            quantity(amount, &path, errors);
        }
    }
    for (name, request) in requests.iter().flatten() {
        let Some(limit) = limits.as_ref().and_then(|limits| limits.get(name)) else { continue };
        let amounts = (Quantity::try_from(request), Quantity::try_from(limit));
        if let (Ok(request), Ok(limit)) = amounts
            && request > limit
        {
            let detail = format!("must be less than or equal to {name} limit of {limit}");
            let value = request.to_string();
            errors.push(FieldError::invalid(path.child("requests"), value, detail));
        }
    }
}

const RESIZED: &[&str] = &["cpu", "memory"];
const RESTARTS: &[&str] = &["NotRequired", "RestartContainer"];

/// All that is wrong with what a resize of the container would do.
pub(super) fn validate_resize(
    container: &Container,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen = BTreeSet::new();
    for (index, policy) in container.resize_policy.iter().flatten().enumerate() {
        let name = policy.resource_name.as_str();
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.index(index), name));
        }
        one_of(Some(name), RESIZED, path, errors);
        let restart = policy.restart_policy.as_str();
        one_of(Some(restart), RESTARTS, path, errors);
        if spec.restart_policy.as_deref() == Some("Never") && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}

/// A resource that containers may ask for. `path` is that of the name.
pub(in crate::api::kinds) fn validate_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    match name {
        "cpu" | "memory" | "ephemeral-storage" => {}
        _ if name.starts_with("hugepages-") || name.contains('/') => {
            let reasons = names::qualified_name(name);
            if reasons.is_empty() {
                let instead = "nodes offer cpu, memory and ephemeral-storage only";
                unsupported::refuse(path, (), instead, errors);
            }
            invalid_each(path, name, reasons, errors);
        }
        _ => {
            resource_names::validate(name, path, errors);
            let detail = "must be a standard resource for containers";
            errors.push(FieldError::invalid(path, name, detail));
        }
    }
}

/// An amount that can be read and is not below zero.
pub(in crate::api::kinds) fn quantity(
    amount: &WireQuantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match Quantity::try_from(amount) {
        Err(error) => errors.push(FieldError::invalid(path, error.text, QUANTITY_RULE)),
        Ok(value) if value.is_negative() => {
            errors.push(FieldError::invalid(path, amount.0.as_str(), NOT_NEGATIVE));
        }
        Ok(_) => {}
    }
}
