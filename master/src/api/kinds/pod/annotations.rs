//! Annotations that once were fields, or act like them.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod, PodSpec, SeccompProfile, Toleration};
use proto::k8s as k8s_openapi;

use super::super::path::Path;
use super::unsupported::refuse;
use super::validate::{climbs, validate_tolerations};
use crate::api::field_error::{FieldError, FieldErrors};

type Annotations = BTreeMap<String, String>;

/// The pod is the image of one that a node runs by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Which pod of a set goes first.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
const TOLERATIONS: &str = "scheduler.alpha.kubernetes.io/tolerations";
const SECCOMP: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP_OF: &str = "container.seccomp.security.alpha.kubernetes.io/";
const APP_ARMOR_OF: &str = "container.apparmor.security.beta.kubernetes.io/";
const BANDWIDTH: [&str; 2] = ["kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"];

/// All that is wrong with the annotations of a pod or template.
pub(in crate::api::kinds) fn validate(
    annotations: Option<&Annotations>,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (key, value) in annotations.into_iter().flatten() {
        let at = path.key(key);
        match key.as_str() {
            MIRROR if spec.node_name.as_ref().is_none_or(String::is_empty) => {
                let detail = "must set spec.nodeName if mirror pod annotation is set";
                errors.push(FieldError::invalid(at, value.as_str(), detail));
            }
            DELETION_COST if !is_cost(value) => {
                errors.push(FieldError::invalid(at, value.as_str(), "must be a 32bit integer"));
            }
            TOLERATIONS if !value.is_empty() => {
                match serde_json::from_str::<Vec<Toleration>>(value) {
                    Ok(tolerations) => {
                        validate_tolerations(&tolerations, &path.child(TOLERATIONS), errors);
                    }
                    Err(error) => {
                        errors.push(FieldError::invalid(path, TOLERATIONS, error.to_string()));
                    }
                }
            }
            key if BANDWIDTH.contains(&key) => {
                refuse(&at, value, "the bandwidth of pods is not limited", errors);
            }
            key if key == SECCOMP || key.starts_with(SECCOMP_OF) => {
                validate_seccomp(value, &path.child(key), errors);
            }
            key => {
                if let Some(container) = key.strip_prefix(APP_ARMOR_OF) {
                    validate_app_armor(container, value, spec, &at, errors);
                }
            }
        }
    }
}

/// A number in one spelling: no plus, no zeros before it.
fn is_cost(text: &str) -> bool {
    let plain = match text.as_bytes() {
        [b'0'] => true,
        [first, ..] => matches!(first, b'-' | b'1'..=b'9'),
        [] => false,
    };
    plain && text.parse::<i32>().is_ok()
}

/// Since fields say it, this is checked and no more, as in Kubernetes.
fn validate_seccomp(value: &str, path: &Path, errors: &mut FieldErrors) {
    let detail = match value.strip_prefix("localhost/") {
        Some(file) if file.starts_with('/') => "must be a relative path",
        Some(file) if climbs(file) => "must not contain '..'",
        Some(_) => return,
        None if matches!(value, "runtime/default" | "docker/default" | "unconfined") => return,
        None => "must be a valid seccomp profile",
    };
    errors.push(FieldError::invalid(path, value, detail));
}

/// What took the annotation's place.
const FIELD_INSTEAD: &str = "set securityContext.appArmorProfile";

fn validate_app_armor(
    container: &str,
    value: &str,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let initial = spec.init_containers.iter().flatten();
    if !spec.containers.iter().chain(initial).any(|one| one.name == container) {
        errors.push(FieldError::invalid(path, container, "container not found"));
    }
    match value {
        "" | "unconfined" => {}
        "runtime/default" => refuse(path, value, FIELD_INSTEAD, errors),
        _ if value.starts_with("localhost/") => {
            refuse(path, value, FIELD_INSTEAD, errors);
        }
        _ => {
            let detail = format!("invalid AppArmor profile name: {value:?}");
            errors.push(FieldError::invalid(path, value, detail));
        }
    }
}

/// What annotations and fields say of confinement has to be the same, in a new pod and in templates.
pub(in crate::api::kinds) fn agree(
    annotations: Option<&Annotations>,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let Some(annotations) = annotations else { return };
    let of_pod = spec.security_context.as_ref();
    if let (Some(said), Some(field)) =
        (annotations.get(SECCOMP), of_pod.and_then(|context| context.seccomp_profile.as_ref()))
    {
        seccomp_agrees(said, field, &path.child("securityContext.seccompProfile"), errors);
    }
    let initial = spec.init_containers.iter().flatten().enumerate();
    let initial = initial.map(|(index, one)| (path.child("initContainers").index(index), one));
    let regular = spec.containers.iter().enumerate();
    let regular = regular.map(|(index, one)| (path.child("containers").index(index), one));
    for (path, container) in initial.chain(regular) {
        let context = container.security_context.as_ref();
        let path = path.child("securityContext");
        let annotation = |prefix: &str| annotations.get(&format!("{prefix}{}", container.name));
        if let (Some(said), Some(field)) =
            (annotation(SECCOMP_OF), context.and_then(|context| context.seccomp_profile.as_ref()))
        {
            seccomp_agrees(said, field, &path.child("seccompProfile"), errors);
        }
        let field = context.and_then(|context| context.app_armor_profile.as_ref());
        let field = field.or(of_pod.and_then(|context| context.app_armor_profile.as_ref()));
        if let (Some(said), Some(field)) = (annotation(APP_ARMOR_OF), field) {
            app_armor_agrees(said, field, &path.child("appArmorProfile"), errors);
        }
    }
}

fn seccomp_agrees(said: &str, field: &SeccompProfile, path: &Path, errors: &mut FieldErrors) {
    let SeccompProfile { localhost_profile, type_ } = field;
    let agrees = match type_.as_str() {
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => matches!(said, "runtime/default" | "docker/default"),
        "Localhost" => said.starts_with("localhost/"),
        _ => true,
    };
    told_apart("seccomp", agrees, said, localhost_profile.as_deref(), (type_, path), errors);
}

fn app_armor_agrees(said: &str, field: &AppArmorProfile, path: &Path, errors: &mut FieldErrors) {
    let AppArmorProfile { localhost_profile, type_ } = field;
    let agrees = match type_.as_str() {
        "Unconfined" => said == "unconfined",
        "RuntimeDefault" => said == "runtime/default",
        "Localhost" => said.starts_with("localhost/"),
        _ => true,
    };
    told_apart("apparmor", agrees, said, localhost_profile.as_deref(), (type_, path), errors);
}

fn told_apart(
    what: &str,
    agrees: bool,
    said: &str,
    file: Option<&str>,
    (type_, path): (&str, &Path),
    errors: &mut FieldErrors,
) {
    if !agrees {
        let detail = format!("{what} type in annotation and field must match");
        errors.push(FieldError::forbidden(path.child("type"), detail));
    } else if type_ == "Localhost" && said.strip_prefix("localhost/") != file {
        let detail = format!("{what} profile in annotation and field must match");
        errors.push(FieldError::forbidden(path.child("localhostProfile"), detail));
    }
}

/// What an update may not change of them.
pub(super) fn validate_update(new: &Pod, old: &Pod, errors: &mut FieldErrors) {
    let path = Path::new("metadata.annotations");
    let empty = Annotations::new();
    let new = new.metadata.annotations.as_ref().unwrap_or(&empty);
    let old = old.metadata.annotations.as_ref().unwrap_or(&empty);
    let changed = old.iter().filter(|(key, value)| new.get(*key) != Some(*value));
    let changed = changed.map(|(key, _)| (key, "remove or update"));
    let added = new.keys().filter(|key| !old.contains_key(*key)).map(|key| (key, "add"));
    for (key, what) in changed.chain(added) {
        if key.starts_with(APP_ARMOR_OF) {
            let detail = format!("may not {what} AppArmor annotations");
            errors.push(FieldError::forbidden(path.key(key), detail));
        } else if key == MIRROR {
            let detail = format!("may not {what} mirror pod annotation");
            errors.push(FieldError::forbidden(path.key(key), detail));
        }
    }
}
