//! What a container asks for and may use.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{huge_pages, k8s as k8s_openapi, names};

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
        unsupported::refuse(&path.child("claims"), claims, OFFERED, errors);
    }
    for (field, list) in [("limits", limits), ("requests", requests)] {
        let path = path.child(field);
        for (name, amount) in list.iter().flatten() {
            let path = path.key(name);
            validate_name(name, &path, errors);
            quantity(amount, &path, errors);
            whole_pages(name, amount, &path, errors);
        }
    }
    for (name, request) in requests.iter().flatten() {
        // Nobody gives a page to two.
        let is_shared = !huge_pages::is_resource(name);
        let Some(limit) = limits.as_ref().and_then(|limits| limits.get(name)) else {
            if !is_shared {
                let detail = "Limit must be set for non overcommitable resources";
                errors.push(FieldError::required(path.child("limits"), detail));
            }
            continue;
        };
        let amounts = (Quantity::try_from(request), Quantity::try_from(limit));
        let (Ok(request), Ok(limit)) = amounts else { continue };
        let rule = match is_shared {
            true if request > limit => "less than or equal to",
            false if request != limit => "equal to",
            _ => continue,
        };
        let detail = format!("must be {rule} {name} limit of {limit}");
        let value = request.to_string();
        errors.push(FieldError::invalid(path.child("requests"), value, detail));
    }
    pages_with_memory(limits.iter().chain(requests).flat_map(BTreeMap::keys), path, errors);
}

/// Pages are no memory to run in.
pub(super) fn pages_with_memory<'a>(
    mut names: impl Iterator<Item = &'a String> + Clone,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let has_pages = names.clone().any(|name| huge_pages::is_resource(name));
    if has_pages && !names.any(|name| RESIZED.contains(&name.as_str())) {
        errors.push(FieldError::forbidden(path, "HugePages require cpu or memory"));
    }
}

/// Pages are not divided.
pub(super) fn whole_pages(
    name: &str,
    amount: &WireQuantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Ok(parsed) = Quantity::try_from(amount) else { return };
    if huge_pages::is_resource(name) && !huge_pages::is_whole(name, parsed) {
        let detail = format!("{parsed} is not positive integer multiple of {name}");
        errors.push(FieldError::invalid(path, amount.0.as_str(), detail));
    }
}

const OFFERED: &str = "nodes offer cpu, memory, ephemeral-storage and huge pages only";

/// What a container may be given other amounts of while it runs.
pub(super) const RESIZED: &[&str] = &["cpu", "memory"];
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
        _ if huge_pages::is_resource(name) => {
            invalid_each(path, name, names::qualified_name(name), errors);
        }
        _ if name.contains('/') => {
            let reasons = names::qualified_name(name);
            if reasons.is_empty() {
                unsupported::refuse(path, (), OFFERED, errors);
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
