//! The variables of a container.

use k8s_openapi::api::core::v1::{
    Container, EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec,
    ResourceFieldSelector,
};
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::validate::invalid_each;
use super::{resources, unsupported};
use crate::api::field_error::{FieldError, FieldErrors};

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
const RESOURCES: &[&str] = &["limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];

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
        validate_env_from(source, &path.child("envFrom").index(index), errors);
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
    if variable.value.as_ref().is_some_and(|value| !value.is_empty()) {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(&path, "", detail));
    }
    validate_source(source, spec, &path, errors);
}

fn validate_source(source: &EnvVarSource, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
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
        validate_field(field, &path.child("fieldRef"), errors);
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
        unsupported::refuse(&path.child("fileKeyRef"), instead, errors);
    }
    match count {
        0 => errors.push(FieldError::invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`",
        )),
        1 => {}
        _ => {
            let detail = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}

fn validate_field(field: &ObjectFieldSelector, path: &Path, errors: &mut FieldErrors) {
    if field.api_version.as_deref().is_some_and(|version| version != "v1") {
        let value = field.api_version.clone();
        errors.push(FieldError::invalid(path.child("apiVersion"), value, "must be v1"));
    }
    let text = field.field_path.as_str();
    let path = path.child("fieldPath");
    if text.is_empty() {
        errors.push(FieldError::required(path, ""));
        return;
    }
    for map in ["metadata.labels", "metadata.annotations"] {
        let Some(rest) = text.strip_prefix(map) else { continue };
        match rest.strip_prefix("['").and_then(|rest| rest.strip_suffix("']")) {
            Some(key) => {
                let key =
                    if map == "metadata.labels" { key.to_owned() } else { key.to_lowercase() };
                invalid_each(&path, text, names::qualified_name(&key), errors);
            }
            None => {
                let detail = format!("a key has to be named: {map}['KEY']");
                errors.push(FieldError::invalid(path, text, detail));
            }
        }
        return;
    }
    if !FIELDS.contains(&text) {
        errors.push(FieldError::not_supported(path, text, FIELDS));
    }
}

fn validate_resource(
    resource: &ResourceFieldSelector,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    match resource.resource.as_str() {
        "" => errors.push(FieldError::required(path.child("resource"), "")),
        known if RESOURCES.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path.child("resource"), other, RESOURCES)),
    }
    if let Some(name) = resource.container_name.as_deref().filter(|name| !name.is_empty())
        && !spec.containers.iter().any(|container| container.name == name)
    {
        errors.push(FieldError::not_found(path.child("containerName"), name));
    }
    if let Some(divisor) = &resource.divisor {
        resources::quantity(divisor, &path.child("divisor"), errors);
    }
}

fn validate_key(name: &str, key: &str, path: &Path, errors: &mut FieldErrors) {
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    }
    if key.is_empty() {
        errors.push(FieldError::required(path.child("key"), ""));
    } else {
        invalid_each(&path.child("key"), key, names::config_key(key), errors);
    }
}

fn validate_env_from(source: &EnvFromSource, path: &Path, errors: &mut FieldErrors) {
    if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
        invalid_each(&path.child("prefix"), prefix, names::env_name(prefix), errors);
    }
    let named = [
        ("configMapRef", source.config_map_ref.as_ref().map(|map| map.name.as_str())),
        ("secretRef", source.secret_ref.as_ref().map(|secret| secret.name.as_str())),
    ];
    for (field, name) in named {
        if name == Some("") {
            errors.push(FieldError::required(path.child(field).child("name"), ""));
        }
    }
    match named.iter().filter(|(_, name)| name.is_some()).count() {
        0 => {
            let detail = "must specify one of: `configMapRef` or `secretRef`";
            errors.push(FieldError::invalid(path, "", detail));
        }
        1 => {}
        _ => {
            let detail = "may not have more than one field specified at a time";
            errors.push(FieldError::invalid(path, "", detail));
        }
    }
}
