//! Labels and annotations wherever they are beside an object's own metadata, which the machinery checks.

use std::collections::BTreeMap;

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
