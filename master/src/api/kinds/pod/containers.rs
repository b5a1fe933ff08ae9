//! The containers of a pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::path::Path;
use super::super::{endpoints, ip};
use super::validate::{climbs, invalid_each, one_of, unique};
use super::{env, host, lifecycle, probes, resources, security, unsupported, volumes};
use crate::api::field_error::{FieldError, FieldErrors};

pub(super) const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: &[&str] = &["File", "FallbackToLogsOnError"];

/// All that is wrong with the containers. `volume_names` are the volumes that exist.
pub(super) fn validate(
    spec: &PodSpec,
    volume_names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if spec.containers.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    let mut seen = BTreeSet::new();
    for (index, container) in spec.containers.iter().enumerate() {
        let path = path.index(index);
        unique(&mut seen, container.name.as_str(), &path.child("name"), errors);
        validate_own(container, spec, volume_names, &path, errors);
        validate_kept(container, spec, &path, errors);
    }
    validate_host_ports(&spec.containers, path, errors);
}

/// All that is wrong with the init containers.
pub(super) fn validate_init(
    spec: &PodSpec,
    volume_names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let mut seen: BTreeSet<&str> = spec.containers.iter().map(|one| one.name.as_str()).collect();
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        let on_list = path;
        let path = path.index(index);
        validate_own(container, spec, volume_names, &path, errors);
        unique(&mut seen, container.name.as_str(), &path.child("name"), errors);
        // Each by itself: they come one after the other.
        validate_host_ports(std::slice::from_ref(container), on_list, errors);
        if container.restart_policy.as_deref() == Some("Always") {
            validate_kept(container, spec, &path, errors);
            continue;
        }
        for (set, field) in [
            (container.lifecycle.is_some(), "lifecycle"),
            (container.liveness_probe.is_some(), "livenessProbe"),
            (container.readiness_probe.is_some(), "readinessProbe"),
            (container.startup_probe.is_some(), "startupProbe"),
        ] {
            if set {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
        }
        if let Some(policy) = container.resize_policy.as_ref().filter(|list| !list.is_empty()) {
            let detail = "must not be set for non-restartable init containers";
            errors.push(FieldError::invalid(path.child("resizePolicy"), json!(policy), detail));
        }
    }
}

/// What holds for init containers and for those that the pod is there for.
fn validate_own(
    container: &Container,
    spec: &PodSpec,
    volume_names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    validate_common(container, spec, volume_names, path, errors);
    validate_ports(container, &path.child("ports"), errors);
    resources::validate(container, &path.child("resources"), errors);
    lifecycle::validate_restarts(container, path, errors);
    unsupported::container(container, path, errors);
}

/// What holds for containers that are kept running.
fn validate_kept(container: &Container, spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    if let Some(all) = &container.lifecycle {
        lifecycle::validate(all, spec, &path.child("lifecycle"), errors);
    }
    probes::validate(container, path, errors);
    resources::validate_resize(container, spec, &path.child("resizePolicy"), errors);
}

/// What holds for containers of every sort.
pub(super) fn validate_common(
    container: &Container,
    spec: &PodSpec,
    volume_names: &BTreeSet<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let name = container.name.as_str();
    if name.is_empty() {
        errors.push(FieldError::required(path.child("name"), ""));
    } else {
        invalid_each(&path.child("name"), name, names::dns_label(name), errors);
    }
    validate_image(container, path, errors);
    env::validate(container, spec, path, errors);
    volumes::validate_mounts(container, volume_names, &path.child("volumeMounts"), errors);
    if let Some(context) = &container.security_context {
        let path = path.child("securityContext");
        security::validate_container(context, &path, errors);
        host::validate_proc_mount(context, spec, &path, errors);
    }
}

/// What is wrong with the containers of a pod, and let pass in a template.
pub(super) fn validate_of_pod(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let initial = spec.init_containers.as_deref().unwrap_or_default();
    for (field, list) in [("containers", &*spec.containers), ("initContainers", initial)] {
        for (index, container) in list.iter().enumerate() {
            let image = container.image.as_deref().unwrap_or_default();
            if image != image.trim() {
                let path = path.child(field).index(index).child("image");
                let detail = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(path, image, detail));
            }
        }
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let Some(image) = &volume.image else { continue };
        let path = path.child("volumes").index(index).child("image").child("reference");
        match image.reference.as_deref().unwrap_or_default() {
            "" => errors.push(FieldError::required(path, "")),
            text if text != text.trim() => {
                let detail = "must not have leading or trailing whitespace";
                errors.push(FieldError::invalid(path, text, detail));
            }
            _ => {}
        }
    }
}

fn validate_image(container: &Container, path: &Path, errors: &mut FieldErrors) {
    if container.image.as_deref().unwrap_or_default().is_empty() {
        errors.push(FieldError::required(path.child("image"), ""));
    }
    let policy = container.image_pull_policy.as_deref();
    one_of(policy, PULL_POLICIES, &path.child("imagePullPolicy"), errors);
    let policy = container.termination_message_policy.as_deref();
    one_of(policy, MESSAGE_POLICIES, &path.child("terminationMessagePolicy"), errors);
    for (field, value) in [
        ("terminationMessagePath", &container.termination_message_path),
        ("workingDir", &container.working_dir),
    ] {
        let Some(value) = value.as_deref().filter(|value| !value.is_empty()) else { continue };
        let path = path.child(field);
        if !value.starts_with('/') {
            errors.push(FieldError::invalid(path, value, "must be an absolute path"));
        } else if climbs(value) {
            errors.push(FieldError::invalid(path, value, "must not contain '..'"));
        }
    }
}

fn validate_ports(container: &Container, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            match names::port_name(name) {
                reasons if reasons.is_empty() => {
                    unique(&mut seen, name, &path.child("name"), errors);
                }
                reasons => invalid_each(&path.child("name"), name, reasons, errors),
            }
        }
        if port.container_port == 0 {
            errors.push(FieldError::required(path.child("containerPort"), ""));
        } else {
            for reason in names::port_number(port.container_port) {
                let number = port.container_port;
                errors.push(FieldError::invalid(path.child("containerPort"), number, reason));
            }
        }
        if let Some(number) = port.host_port.filter(|number| *number != 0) {
            for reason in names::port_number(number) {
                errors.push(FieldError::invalid(path.child("hostPort"), number, reason));
            }
        }
        endpoints::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        if let Some(text) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            ip::validate(text, &path.child("hostIP"), errors);
        }
    }
}

/// One port of the host cannot lead to two containers.
fn validate_host_ports(containers: &[Container], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (container_index, container) in containers.iter().enumerate() {
        for (index, port) in container.ports.iter().flatten().enumerate() {
            let Some(number) = port.host_port.filter(|number| *number != 0) else { continue };
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let ip = port.host_ip.as_deref().unwrap_or_default();
            if !seen.insert((protocol, ip, number)) {
                let path =
                    path.index(container_index).child("ports").index(index).child("hostPort");
                errors.push(FieldError::duplicate(path, format!("{protocol}/{ip}/{number}")));
            }
        }
    }
}
