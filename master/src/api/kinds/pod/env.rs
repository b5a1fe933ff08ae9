//! The variables of a container.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::quantity::Quantity;
use proto::{huge_pages, k8s as k8s_openapi, names};

use super::super::path::Path;
use super::validate::invalid_each;
use super::{resources, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

/// What a variable may be made of.
const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// What there is of a pod beside, for selectors and volumes.
const OTHER_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "spec.restartPolicy",
    "spec.schedulerName",
    "status.phase",
];
/// What a file of a volume may be made of.
pub(super) const OF_VOLUMES: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// All that is wrong with `env` and `envFrom`.
pub(super) fn validate(
    container: &Container,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (index, variable) in container.env.iter().flatten().enumerate() {
        validate_variable(variable, spec, &path.child("env").index(index), errors);
    }
    for (index, source) in container.env_from.iter().flatten().enumerate() {
        validate_env_from(source, index, &path.child("envFrom"), errors);
    }
}

fn validate_variable(variable: &EnvVar, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if variable.name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        let name = variable.name.as_str();
        invalid_each(&path.child("name"), name, names::env_name(name), errors);
    }
    if variable.value.as_deref().unwrap_or_default().contains('\0') {
        // The kernel would end the value there.
        let detail = "must not contain a NUL character";
        errors.push(FieldError::invalid(path.child("value"), "", detail));
    }
    let Some(source) = &variable.value_from else { return };
    let path = path.child("valueFrom");
    let valued = variable.value.as_ref().is_some_and(|value| !value.is_empty());
    let detail = match validate_source(source, spec, &path, errors) {
        0 => {
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        }
        _ if valued => "may not be specified when `value` is not empty",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}

/// Checks each source, and tells how many there are.
fn validate_source(
    source: &EnvVarSource,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) -> usize {
    let EnvVarSource {
        config_map_key_ref,
        field_ref,
        file_key_ref,
        resource_field_ref,
        secret_key_ref,
    } = source;
    let mut count = 0;
    if let Some(field) = field_ref {
        count += 1;
        validate_field(field, FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = resource_field_ref {
        count += 1;
        validate_resource(resource, spec, &path.child("resourceFieldRef"), errors);
    }
    if let Some(key) = config_map_key_ref {
        count += 1;
        validate_key(&key.name, &key.key, &path.child("configMapKeyRef"), errors);
    }
    if let Some(key) = secret_key_ref {
        count += 1;
        validate_key(&key.name, &key.key, &path.child("secretKeyRef"), errors);
    }
    if file_key_ref.is_some() {
        count += 1;
        let instead = "use a ConfigMap or Secret";
        unsupported::refuse(&path.child("fileKeyRef"), file_key_ref, instead, errors);
    }
    count
}

/// `known` are the fields that there are at this place.
pub(super) fn validate_field(
    field: &ObjectFieldSelector,
    known: &[&str],
    path: &Path,
    errors: &mut FieldErrors,
) {
    let text = field.field_path.as_str();
    let path_to_path = path.child("fieldPath");
    if text.is_empty() {
        errors.push(FieldError::required(path_to_path, ""));
        return;
    }
    let mut broken = |reason: String| {
        let detail = format!("error converting fieldPath: {reason}");
        errors.push(FieldError::invalid(&path_to_path, text, detail));
    };
    let version = field.api_version.as_deref().unwrap_or("v1");
    if version != "v1" {
        return broken(format!("unsupported pod version: {version}"));
    }
    let subscript = text.strip_suffix("']").and_then(|text| text.split_once("['"));
    match subscript {
        // Of a map, one entry. What is wrong with its key is told of the reference, as in Kubernetes.
        Some(("metadata.labels", key)) => {
            invalid_each(path, key, names::qualified_name(key), errors);
        }
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            invalid_each(path, &key, names::qualified_name(&key), errors);
        }
        Some((map, _)) => broken(format!("field label does not support subscript: {map}")),
        None if known.contains(&text) => {}
        None if FIELDS.contains(&text) || OTHER_FIELDS.contains(&text) => {
            errors.push(FieldError::not_supported(path_to_path, text, known));
        }
        None => broken(format!("field label not supported: {text}")),
    }
}

pub(super) fn validate_resource(
    resource: &ResourceFieldSelector,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match resource.resource.as_str() {
        "" => errors.push(FieldError::required(path.child("resource"), "")),
        known if RESOURCES.contains(&known) || is_huge_pages(known) => {}
        other => errors.push(FieldError::not_supported(path.child("resource"), other, RESOURCES)),
    }
    if let Some(name) = resource.container_name.as_deref().filter(|name| !name.is_empty())
        && !containers(spec).any(|container| container.name == name)
    {
        errors.push(FieldError::not_found(path.child("containerName"), name));
    }
    if let Some(divisor) = &resource.divisor {
        validate_divisor(&resource.resource, divisor, &path.child("divisor"), errors);
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

/// Huge pages are told of whatever size, those included that no node has.
fn is_huge_pages(resource: &str) -> bool {
    let name = resource.strip_prefix("limits.").or_else(|| resource.strip_prefix("requests."));
    name.is_some_and(huge_pages::is_resource)
}

/// In which unit the amount is told.
fn validate_divisor(resource: &str, divisor: &WireQuantity, path: &Path, errors: &mut FieldErrors) {
    const OF_CPU: &[&str] = &["1m", "1"];
    const OF_BYTES: &[&str] =
        &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
    let Ok(quantity) = Quantity::try_from(divisor) else {
        resources::quantity(divisor, path, errors);
        return;
    };
    if quantity.is_zero() {
        return;
    }
    let (what, known, told) = match resource {
        "limits.cpu" | "requests.cpu" => ("cpu", OF_CPU, OF_CPU.join(" and ")),
        "limits.memory" | "requests.memory" => ("memory", OF_BYTES, OF_BYTES.join(", ")),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            ("local ephemeral storage", OF_BYTES, OF_BYTES.join(", "))
        }
        pages if is_huge_pages(pages) => ("hugepages", OF_BYTES, OF_BYTES.join(", ")),
        _ => return,
    };
    if !known.contains(&quantity.to_string().as_str()) {
        let detail = format!("only divisor's values {told} are supported with the {what} resource");
        errors.push(FieldError::invalid(path, resource, detail));
    }
}

fn validate_key(name: &str, key: &str, path: &Path, errors: &mut FieldErrors) {
    invalid_each(&path.child("name"), name, names::dns_subdomain(name), errors);
    if key.is_empty() {
        errors.push(FieldError::required(path.child("key"), ""));
    } else {
        invalid_each(&path.child("key"), key, names::config_key(key), errors);
    }
}

/// `path` is that of the list, to which Kubernetes ascribes what is wrong with the choice.
fn validate_env_from(source: &EnvFromSource, index: usize, path: &Path, errors: &mut FieldErrors) {
    let item = path.index(index);
    if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        invalid_each(&item.child("prefix"), prefix, names::env_name(prefix), errors);
    }
    let named = [
        ("configMapRef", source.config_map_ref.as_ref().map(|map| map.name.as_str())),
        ("secretRef", source.secret_ref.as_ref().map(|secret| secret.name.as_str())),
    ];
    for (field, name) in named {
        let path = item.child(field).child("name");
        match name {
            Some("") => errors.push(FieldError::required(path, "")),
            Some(name) => invalid_each(&path, name, names::dns_subdomain(name), errors),
            None => {}
        }
    }
    let detail = match named.iter().filter(|(_, name)| name.is_some()).count() {
        0 => "must specify one of: `configMapRef` or `secretRef`",
        1 => return,
        _ => "may not have more than one field specified at a time",
    };
    errors.push(FieldError::invalid(path, "", detail));
}
