//! Labels and annotations wherever they are beside an object's own metadata, which the machinery checks.

use std::collections::BTreeMap;

use proto::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proto::names;

use super::path::Path;
use crate::api::field_error::{FieldError, FieldErrors};

/// All annotations of an object together.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Labels of templates and in selectors.
pub(super) fn labels(
    labels: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (key, value) in labels.into_iter().flatten() {
        for reason in names::qualified_name(key) {
            errors.push(FieldError::invalid(path, key.as_str(), reason));
        }
        for reason in names::label_value(value) {
            errors.push(FieldError::invalid(path, value.as_str(), reason));
        }
    }
}

/// All that is wrong with a selector of labels; an empty one is right.
pub(super) fn selector(selector: &LabelSelector, path: &Path, errors: &mut FieldErrors) {
    labels(selector.match_labels.as_ref(), &path.child("matchLabels"), errors);
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(index);
        let valued = expression.values.as_ref().is_some_and(|values| !values.is_empty());
        match expression.operator.as_str() {
            "In" | "NotIn" if !valued => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(FieldError::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if valued => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(FieldError::forbidden(path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(path.child("operator"), other, detail));
            }
        }
        for reason in names::qualified_name(&expression.key) {
            errors.push(FieldError::invalid(path.child("key"), expression.key.as_str(), reason));
        }
        for (index, value) in expression.values.iter().flatten().enumerate() {
            for reason in names::label_value(value) {
                let path = path.child("values").index(index);
                errors.push(FieldError::invalid(path, value.as_str(), reason));
            }
        }
    }
}

/// Annotations of templates.
pub(super) fn annotations(
    annotations: Option<&BTreeMap<String, String>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut size = 0;
    for (key, value) in annotations.into_iter().flatten() {
        size += key.len() + value.len();
        // Unlike labels, keys of annotations may be in upper case before the slash.
        for reason in names::qualified_name(&key.to_lowercase()) {
            errors.push(FieldError::invalid(path, key.as_str(), reason));
        }
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}
