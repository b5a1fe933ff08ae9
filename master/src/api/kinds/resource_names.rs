//! Names of resources, as pods ask for them and quotas bound them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{k8s as k8s_openapi, names};

use super::path::Path;
use super::pod;
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

/// All that is wrong with an amount of a resource: objects, and things with names of their own, come in
/// whole pieces.
pub(super) fn validate_amount(
    name: &str,
    amount: &WireQuantity,
    path: &Path,
    errors: &mut FieldErrors,
) {
    pod::resources::quantity(amount, path, errors);
    let whole = COUNTED.contains(&name) || is_extended(name);
    if whole && Quantity::try_from(amount).is_ok_and(|amount| !amount.is_whole()) {
        errors.push(FieldError::invalid(path, amount.0.as_str(), "must be an integer"));
    }
}

/// Whether it is somebody's own resource.
fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native
        && !name.starts_with("requests.")
        && names::qualified_name(&format!("requests.{name}")).is_empty()
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
