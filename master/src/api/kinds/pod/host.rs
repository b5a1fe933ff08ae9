//! What a pod may have of its node instead of having it for itself: namespaces, users, kernel
//! parameters; and how these go together.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, PodSpec, SecurityContext, Sysctl};
use proto::k8s as k8s_openapi;

use super::super::path::Path;
use super::unsupported::refuse;
use super::validate::unique;
use crate::api::field_error::{FieldError, FieldErrors};

/// Parameters that belong to a pod alone and harm no other: Kubernetes' list. The others an operator of
/// Kubernetes has to allow on each node.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

const MAX_SYSCTL: usize = 253;
const SYSCTL_RULE: &str = "must have at most 253 characters and match regex \
    ([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?";

/// All that does not go together.
pub(super) fn validate(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let is = |field: Option<bool>| field == Some(true);
    if is(spec.host_network) {
        validate_ports(&spec.containers, &path.child("containers"), errors);
        let init = spec.init_containers.as_deref().unwrap_or_default();
        validate_ports(init, &path.child("initContainers"), errors);
    }
    if is(spec.host_pid) && is(spec.share_process_namespace) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(path.child("shareProcessNamespace"), true, detail));
    }
    if spec.host_users == Some(false) {
        for (field, value) in [
            ("hostNetwork", spec.host_network),
            ("hostPID", spec.host_pid),
            ("hostIPC", spec.host_ipc),
        ] {
            if is(value) {
                errors.push(FieldError::forbidden(path.child(field), "when `hostUsers` is false"));
            }
        }
    }
    let sysctls = spec.security_context.as_ref().and_then(|context| context.sysctls.as_deref());
    let path = path.child("securityContext").child("sysctls");
    validate_sysctls(sysctls.unwrap_or_default(), spec, &path, errors);
}

fn validate_ports(containers: &[Container], path: &Path, errors: &mut FieldErrors) {
    for (index, container) in containers.iter().enumerate() {
        for (number, port) in container.ports.iter().flatten().enumerate() {
            // A template leaves it to the pods made of it.
            if port.host_port.is_some_and(|host| host != 0 && host != port.container_port) {
                let path = path.index(index).child("ports").index(number).child("containerPort");
                let detail = "must match `hostPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path, port.container_port, detail));
            }
        }
    }
}

/// All of `/proc` is shown to those only whose root is nobody on the node.
pub(super) fn validate_proc_mount(
    context: &SecurityContext,
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if context.proc_mount.as_deref() == Some("Unmasked") && spec.host_users != Some(false) {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(path.child("procMount"), "Unmasked", detail));
    }
}

fn validate_sysctls(sysctls: &[Sysctl], spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, Sysctl { name, value: _ }) in sysctls.iter().enumerate() {
        let path = path.index(index).child("name");
        let dotted = name.replace('/', ".");
        if name.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if !is_sysctl(name) {
            errors.push(FieldError::invalid(&path, name.as_str(), SYSCTL_RULE));
        } else if dotted.starts_with("net.") && spec.host_network == Some(true) {
            let detail = "may not be specified when 'hostNetwork' is true";
            errors.push(FieldError::invalid(&path, name.as_str(), detail));
        } else if dotted.starts_with("kernel.shm") && spec.host_ipc == Some(true) {
            let detail = "may not be specified when 'hostIPC' is true";
            errors.push(FieldError::invalid(&path, name.as_str(), detail));
        } else if !SAFE_SYSCTLS.contains(&dotted.as_str()) {
            refuse(&path, name, "only those that Kubernetes calls safe may be set", errors);
        }
        unique(&mut seen, name, &path, errors);
    }
}

fn is_sysctl(name: &str) -> bool {
    let part = |part: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        !part.is_empty()
            && part.starts_with(plain)
            && part.ends_with(plain)
            && part.chars().all(|c| plain(c) || matches!(c, '-' | '_'))
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(part)
}
