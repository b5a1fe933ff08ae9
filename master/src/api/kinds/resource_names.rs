//! Names of resources, as pods ask for them and quotas bound them.

use proto::names;

use super::path::Path;
use crate::api::field_error::{FieldError, FieldErrors};

/// What is counted in whole objects.
pub(crate) const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

/// What is measured.
const MEASURED: &[&str] = &[
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
];

/// Whether a quota may name it without a domain.
pub(super) fn is_of_quota(name: &str) -> bool {
    COUNTED.contains(&name)
        || MEASURED.contains(&name)
        || name.starts_with("hugepages-")
        || name.starts_with("requests.hugepages-")
}

/// All that is wrong with the name of any resource.
pub(super) fn validate(name: &str, path: &Path, errors: &mut FieldErrors) {
    let reasons = names::qualified_name(name);
    let qualified = reasons.is_empty();
    errors.extend(reasons.into_iter().map(|reason| FieldError::invalid(path, name, reason)));
    if qualified && !name.contains('/') && !is_of_quota(name) && name != "storage" {
        let detail = "must be a standard resource type or fully qualified";
        errors.push(FieldError::invalid(path, name, detail));
    }
}
