//! The containers of a pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use proto::{k8s as k8s_openapi, names};

use super::super::path::Path;
use super::super::{endpoints, ip};
use super::validate::{climbs, invalid_each, one_of, unique};
use super::{env, host, probes, resources, security, unsupported, volumes};
use crate::api::field_error::{FieldError, FieldErrors};

const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
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
        validate_common(container, spec, volume_names, &path, errors);
        validate_ports(container, &path.child("ports"), errors);
        probes::validate(container, &path, errors);
        resources::validate(container, &path.child("resources"), errors);
        resources::validate_resize(container, spec, &path.child("resizePolicy"), errors);
        unsupported::container(container, &path, errors);
    }
    validate_host_ports(spec, path, errors);
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
    for (index, container) in spec.containers.iter().enumerate() {
        let image = container.image.as_deref().unwrap_or_default();
        if image != image.trim() {
            let detail = "must not have leading or trailing whitespace";
            errors.push(FieldError::invalid(path.index(index).child("image"), image, detail));
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
            if port.protocol.as_deref() == Some("SCTP") {
                unsupported::refuse(
                    &path.child("protocol"),
                    "SCTP",
                    "use TCP or UDP, or no hostPort",
                    errors,
                );
            }
        }
        endpoints::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        if let Some(text) = port.host_ip.as_deref().filter(|ip| !ip.is_empty()) {
            ip::validate(text, &path.child("hostIP"), errors);
        }
    }
}

/// One port of the host cannot lead to two containers.
fn validate_host_ports(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (container_index, container) in spec.containers.iter().enumerate() {
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
