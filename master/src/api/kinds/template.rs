//! What the kinds share that make pods of a template: its defaults, its rules, its cells in tables.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proto::selector::Selector;
use proto::{k8s as k8s_openapi, pod_defaults};
use serde_json::json;

use super::columns::wide;
use super::path::Path;
use super::{Column, metadata, pod};
use crate::api::field_error::{FieldError, FieldErrors};

/// The columns that tell what a template runs.
pub(super) const CONTAINERS: Column =
    wide("Containers", "string", "Names of each container in the template.");
/// See [`CONTAINERS`].
pub(super) const IMAGES: Column =
    wide("Images", "string", "Images referenced by each container in the template.");

/// Fills in what a template does not say. One without a `spec` gets an empty one: what is wrong
/// with it then is that it has no containers, and not that the defaults are missing too.
pub(crate) fn default(template: &mut PodTemplateSpec) {
    pod_defaults::spec(template.spec.get_or_insert_default());
}

/// The cells of [`CONTAINERS`] and [`IMAGES`].
pub(super) fn cells(template: Option<&PodTemplateSpec>) -> (String, String) {
    let spec = template.and_then(|template| template.spec.as_ref());
    let containers = || spec.into_iter().flat_map(|spec| &spec.containers);
    let names: Vec<&str> = containers().map(|container| container.name.as_str()).collect();
    let images: Vec<&str> = containers().filter_map(|c| c.image.as_deref()).collect();
    (names.join(","), images.join(","))
}

/// All that is wrong with a template by itself.
pub(super) fn validate(template: &PodTemplateSpec, path: &Path, errors: &mut FieldErrors) {
    let meta = template.metadata.clone().unwrap_or_default();
    // These are the paths that Kubernetes tells.
    metadata::labels(meta.labels.as_ref(), &path.child("labels"), errors);
    let annotations = path.child("annotations");
    metadata::annotations(meta.annotations.as_ref(), &annotations, errors);
    let default = PodSpec::default();
    let spec = template.spec.as_ref().unwrap_or(&default);
    pod::annotations::validate(meta.annotations.as_ref(), spec, &annotations, errors);
    pod::validate::spec(spec, &path.child("spec"), errors);
    pod::annotations::agree(meta.annotations.as_ref(), spec, &path.child("spec"), errors);
    if spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(path.child("spec.ephemeralContainers"), detail));
    }
}

/// All that is wrong with a template whose pods are kept running by an object of kind `owner`, which
/// finds them by `selector` (nothing when the selector itself is broken).
pub(super) fn validate_kept(
    template: Option<&PodTemplateSpec>,
    selector: Option<&Selector>,
    owner: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(template) = template else {
        errors.push(FieldError::required(path, ""));
        return;
    };
    let labels = template.metadata.as_ref().and_then(|meta| meta.labels.clone());
    let labels: BTreeMap<String, String> = labels.unwrap_or_default();
    if selector.is_some_and(|selector| !selector.is_everything() && !selector.matches(&labels)) {
        errors.push(FieldError::invalid(
            path.child("metadata.labels"),
            json!(labels),
            "`selector` does not match template `labels`",
        ));
    }
    validate(template, path, errors);
    let default = PodSpec::default();
    let (spec, path) = (template.spec.as_ref().unwrap_or(&default), path.child("spec"));
    if let Some(policy) = spec.restart_policy.as_deref().filter(|policy| *policy != "Always") {
        let supported = &["Always"];
        errors.push(FieldError::not_supported(path.child("restartPolicy"), policy, supported));
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = format!("activeDeadlineSeconds in {owner} is not Supported");
        errors.push(FieldError::forbidden(path.child("activeDeadlineSeconds"), detail));
    }
}

/// Checks the selector of a ReplicaSet or Deployment; gives it when it is one.
pub(super) fn selector(
    selector: &LabelSelector,
    path: &Path,
    errors: &mut FieldErrors,
) -> Option<Selector> {
    let before = errors.len();
    metadata::selector(selector, path, errors);
    if selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
    {
        // Kubernetes says so for ReplicaSets as well.
        let detail = "empty selector is invalid for deployment";
        errors.push(FieldError::invalid(path, json!(selector), detail));
    }
    if errors.len() > before {
        return None;
    }
    match Selector::from_label_selector(selector) {
        Ok(selector) => Some(selector),
        Err(_) => {
            errors.push(FieldError::invalid(path, json!(selector), "invalid label selector"));
            None
        }
    }
}

/// A count that may be left out and must not be negative.
pub(super) fn not_negative<N: Into<i64> + Copy>(
    fields: &[(&str, Option<N>)],
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (field, value) in fields {
        if let Some(value) = value.map(Into::into).filter(|value| *value < 0) {
            errors.push(FieldError::invalid(path.child(field), value, pod::NOT_NEGATIVE));
        }
    }
}

/// What a status tells of the pods that are kept running.
pub(super) struct Counts {
    pub(super) replicas: i32,
    /// By what they are, those that are available last, those that are ready before them.
    pub(super) parts: [(&'static str, Option<i32>); 3],
    pub(super) observed_generation: Option<i64>,
}

/// What a status may not claim: less than nothing, or more of a part than there is of the whole.
pub(super) fn validate_counts(counts: &Counts, errors: &mut FieldErrors) {
    let path = Path::new("status");
    not_negative(&[("replicas", Some(counts.replicas))], &path, errors);
    not_negative(&counts.parts, &path, errors);
    not_negative(&[("observedGeneration", counts.observed_generation)], &path, errors);
    for (field, value) in counts.parts {
        let value = value.unwrap_or_default();
        if value > counts.replicas {
            let detail = "cannot be greater than status.replicas";
            errors.push(FieldError::invalid(path.child(field), value, detail));
        }
    }
    let [_, (_, ready), (field, available)] = counts.parts;
    let available = available.unwrap_or_default();
    if available > ready.unwrap_or_default() {
        let detail = "cannot be greater than readyReplicas";
        errors.push(FieldError::invalid(path.child(field), available, detail));
    }
}

/// A selector as `kubectl get -o wide` prints it, and as `/scale` tells it.
pub(super) fn selector_text(selector: &LabelSelector) -> String {
    Selector::from_label_selector(selector).map(|s| s.to_string()).unwrap_or_default()
}
