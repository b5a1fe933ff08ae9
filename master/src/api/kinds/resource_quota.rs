//! `resourcequotas`: how much of everything there may be in a namespace. `api/admission/quota` holds
//! what is created to them, `controllers/quota` counts what there is.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, ScopedResourceSelectorRequirement,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, pod, resource_names};
use crate::api::field_error::{FieldError, FieldErrors};

/// Pods that ask for nothing.
pub(crate) const BEST_EFFORT: &str = "BestEffort";
/// Pods that ask for something.
pub(crate) const NOT_BEST_EFFORT: &str = "NotBestEffort";
/// Pods with a deadline.
pub(crate) const TERMINATING: &str = "Terminating";
/// Pods without a deadline.
pub(crate) const NOT_TERMINATING: &str = "NotTerminating";
/// Pods of some priority class.
pub(crate) const PRIORITY_CLASS: &str = "PriorityClass";

/// Scopes of which a quota can have one only.
const OPPOSITES: [[&str; 2]; 2] = [[BEST_EFFORT, NOT_BEST_EFFORT], [TERMINATING, NOT_TERMINATING]];

/// What a quota on some pods may bound; one on best-effort pods only the first.
const OF_PODS: &[&str] =
    &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

/// `resourcequotas`
#[derive(Debug)]
pub enum ResourceQuotas {}

impl Kind for ResourceQuotas {
    type Object = ResourceQuota;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "ResourceQuota",
        plural: "resourcequotas",
        singular: "resourcequota",
        short_names: &["quota"],
        categories: &[],
        namespaced: true,
        status: true,
        scale: false,
    };

    fn default(_object: &mut ResourceQuota) {}

    fn prepare_create(object: &mut ResourceQuota) {
        object.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_update(new: &mut ResourceQuota, old: &ResourceQuota) {
        new.status.clone_from(&old.status);
    }

    fn prepare_status_update(new: &mut ResourceQuota, old: &ResourceQuota) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &ResourceQuota) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let ResourceQuotaSpec { hard, scope_selector, scopes } =
            object.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        validate_amounts(hard.as_ref(), &path.child("hard"), &mut errors);
        let names: Vec<&String> = hard.iter().flat_map(BTreeMap::keys).collect();
        let scopes = scopes.unwrap_or_default();
        validate_scopes(&scopes, &names, &path.child("scopes"), &mut errors);
        if let Some(selector) = scope_selector {
            let expressions = selector.match_expressions.unwrap_or_default();
            let path = path.child("scopeSelector.matchExpressions");
            validate_selector(&expressions, &names, &path, &mut errors);
            let chosen: Vec<String> = expressions.into_iter().map(|one| one.scope_name).collect();
            // Kubernetes shows the other list here.
            conflicts(&chosen, &json!(scopes), &path, &mut errors);
        }
        errors
    }

    fn validate_status_update(new: &ResourceQuota, _old: &ResourceQuota) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let status = new.status.clone().unwrap_or_default();
        let path = Path::new("status");
        validate_amounts(status.hard.as_ref(), &path.child("hard"), &mut errors);
        validate_amounts(status.used.as_ref(), &path.child("used"), &mut errors);
        errors
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> FieldErrors {
        let scopes = |quota: &ResourceQuota| -> BTreeSet<String> {
            quota.spec.iter().flat_map(|spec| spec.scopes.iter().flatten()).cloned().collect()
        };
        let changed = scopes(new);
        if changed == scopes(old) {
            return FieldErrors::new();
        }
        FieldError::invalid("spec.scopes", json!(changed), "field is immutable").into()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Request", "string", "What is asked for, of what may be asked for."),
            column("Limit", "string", "The limits that are set, of those that may be."),
            AGE,
        ];
        COLUMNS
    }

    fn row(object: &ResourceQuota, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let used = status.used.unwrap_or_default();
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (name, hard) in status.hard.iter().flatten() {
            let used = used.get(name).map_or("0", |used| used.0.as_str());
            let list = if name.starts_with("limits") { &mut limits } else { &mut requests };
            list.push(format!("{name}: {used}/{}", hard.0));
        }
        vec![
            json!(name(&object.metadata)),
            json!(requests.join(", ")),
            json!(limits.join(", ")),
            json!(age(&object.metadata, now)),
        ]
    }
}

fn validate_amounts(
    amounts: Option<&BTreeMap<String, WireQuantity>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        resource_names::validate(name, &path, errors);
        if !name.contains('/') && !resource_names::is_of_quota(name) {
            let detail = "must be a standard resource for quota";
            errors.push(FieldError::invalid(&path, name.as_str(), detail));
        }
        resource_names::validate_amount(name, amount, &path, errors);
    }
}

/// Whether a quota in this scope may bound this resource; nothing when there is no such scope.
fn bounds(scope: &str, name: &str) -> Option<bool> {
    match scope {
        BEST_EFFORT => Some(name == "pods"),
        NOT_BEST_EFFORT | TERMINATING | NOT_TERMINATING | PRIORITY_CLASS => {
            Some(OF_PODS.contains(&name))
        }
        _ => None,
    }
}

/// Scopes of pods or claims that cannot be here.
fn is_foreign(scope: &str) -> bool {
    matches!(scope, "CrossNamespacePodAffinity" | "VolumeAttributesClass")
}

fn validate_scopes(scopes: &[String], names: &[&String], path: &Path, errors: &mut FieldErrors) {
    let all = json!(scopes);
    for scope in scopes {
        if is_foreign(scope) {
            pod::unsupported::refuse(
                path,
                scope,
                "there is nothing that the scope could select",
                errors,
            );
            continue;
        }
        if bounds(scope, "").is_none() {
            errors.push(FieldError::invalid(path, all.clone(), "unsupported scope"));
            continue;
        }
        for name in names.iter().filter(|name| resource_names::is_of_quota(name)) {
            if bounds(scope, name) == Some(false) {
                let detail = "unsupported scope applied to resource";
                errors.push(FieldError::invalid(path, all.clone(), detail));
            }
        }
    }
    conflicts(scopes, &all, path, errors);
}

fn conflicts(scopes: &[String], value: &Value, path: &Path, errors: &mut FieldErrors) {
    for pair in OPPOSITES {
        if pair.iter().all(|one| scopes.iter().any(|scope| scope == one)) {
            errors.push(FieldError::invalid(path, value.clone(), "conflicting scopes"));
        }
    }
}

fn validate_selector(
    expressions: &[ScopedResourceSelectorRequirement],
    names: &[&String],
    path: &Path,
    errors: &mut FieldErrors,
) {
    for expression in expressions {
        let ScopedResourceSelectorRequirement { operator, scope_name, values } = expression;
        let scope = scope_name.as_str();
        if is_foreign(scope) {
            let instead = "there is nothing that the scope could select";
            pod::unsupported::refuse(&path.child("scopeName"), scope, instead, errors);
            continue;
        }
        match bounds(scope, "") {
            None => {
                let path = path.child("scopeName");
                errors.push(FieldError::invalid(path, scope, "unsupported scope"));
            }
            Some(_) => {
                for name in names.iter().filter(|name| resource_names::is_of_quota(name)) {
                    if bounds(scope, name) == Some(false) {
                        let detail = "unsupported scope applied to resource";
                        let value = json!({"matchExpressions": expressions});
                        errors.push(FieldError::invalid(path, value, detail));
                    }
                }
            }
        }
        let values = values.clone().unwrap_or_default();
        if scope != PRIORITY_CLASS && bounds(scope, "").is_some() && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                          ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
                          ResourceQuotaScopeNotBestEffort or \
                          ResourceQuotaScopeCrossNamespacePodAffinity";
            let path = path.child("operator");
            errors.push(FieldError::invalid(path, operator.as_str(), detail));
        }
        match operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for \
                              scope selector";
                errors.push(FieldError::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for \
                              scope selector";
                errors.push(FieldError::invalid(path.child("values"), json!(values), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(path.child("operator"), other, detail));
            }
        }
    }
}
