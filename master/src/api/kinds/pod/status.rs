//! What a client may write into the status of a pod. The kubelets' own reports take another way.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerStatus, ContainerUser, Pod, PodSpec, PodStatus};
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::ip;
use super::super::path::Path;
use super::security;
use super::validate::invalid_each;
use crate::api::field_error::{FieldError, FieldErrors};

/// The conditions that Kubernetes knows; others are named by whoever sets them.
const CONDITIONS: &[&str] = &["PodScheduled", "Ready", "Initialized"];

/// Carries over what a client that does not know of it leaves out.
pub(super) fn keep(new: &mut PodStatus, old: &PodStatus) {
    if new.qos_class.as_ref().is_none_or(String::is_empty) {
        new.qos_class.clone_from(&old.qos_class);
    }
    if new.observed_generation.unwrap_or(0) == 0 {
        new.observed_generation = old.observed_generation;
    }
    let mut known: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
    for condition in old.conditions.iter().flatten().rev() {
        known.entry(&condition.type_).or_default().push(condition.observed_generation);
    }
    for condition in new.conditions.iter_mut().flatten() {
        let before = known.get_mut(condition.type_.as_str()).and_then(Vec::pop).flatten();
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = before;
        }
    }
}

/// All that is wrong with a status.
pub(super) fn validate_update(new: &Pod, old: &Pod) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let spec = old.spec.clone().unwrap_or_default();
    let (new, old) =
        (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let path = Path::new("status");
    for (index, condition) in new.conditions.iter().flatten().enumerate() {
        let kind = condition.type_.as_str();
        if !CONDITIONS.contains(&kind) {
            // Where Kubernetes says that it is.
            let path = Path::new("metadata.conditions").index(index).child("Type");
            invalid_each(&path, kind, names::qualified_name(kind), &mut errors);
        }
    }
    if new.nominated_node_name != old.nominated_node_name
        && let Some(node) = new.nominated_node_name.as_deref().filter(|node| !node.is_empty())
    {
        let path = path.child("nominatedNodeName");
        invalid_each(&path, node, names::dns_subdomain(node), &mut errors);
    }
    if new.qos_class != old.qos_class {
        let value = json!(new.qos_class);
        errors.push(FieldError::invalid(path.child("qosClass"), value, "field is immutable"));
    }
    let pod_ips: Vec<String> = new.pod_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    addresses(&pod_ips, &path.child("podIPs"), &mut errors);
    let host_ips: Vec<String> = new.host_ips.iter().flatten().map(|ip| ip.ip.clone()).collect();
    if let Some(first) = host_ips.first()
        && new.host_ip.as_ref() != Some(first)
    {
        let path = path.child("hostIPs").index(0).child("ip");
        errors.push(FieldError::invalid(path, first.as_str(), "must be equal to `hostIP`"));
    }
    addresses(&host_ips, &path.child("hostIPs"), &mut errors);
    for (field, new, old) in [
        ("containerStatuses", &new.container_statuses, &old.container_statuses),
        ("initContainerStatuses", &new.init_container_statuses, &old.init_container_statuses),
        (
            "ephemeralContainerStatuses",
            &new.ephemeral_container_statuses,
            &old.ephemeral_container_statuses,
        ),
    ] {
        let path = path.child(field);
        let (new, old) = (new.as_deref().unwrap_or_default(), old.as_deref().unwrap_or_default());
        stays_ended(new, old, &spec, &path, &mut errors);
        for (index, status) in new.iter().enumerate() {
            users(status.user.as_ref(), &path.index(index).child("linux"), &mut errors);
        }
    }
    errors
}

/// When a container is started again; an ephemeral one never is.
fn restarts<'a>(spec: &'a PodSpec, name: &str) -> &'a str {
    let mut own = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let Some(container) = own.find(|container| container.name == name) else { return "Never" };
    // What its rules make of it, their reader knows.
    if container.restart_policy_rules.as_ref().is_some_and(|rules| !rules.is_empty()) {
        return "Always";
    }
    let policy = container.restart_policy.as_deref().or(spec.restart_policy.as_deref());
    policy.unwrap_or("Always")
}

/// A container that ended for good does not run again.
fn stays_ended(
    new: &[ContainerStatus],
    old: &[ContainerStatus],
    spec: &PodSpec,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let ended = |status: &ContainerStatus| {
        status.state.as_ref().and_then(|state| state.terminated.as_ref()).map(|end| end.exit_code)
    };
    for (index, before) in old.iter().enumerate() {
        let Some(code) = ended(before) else { continue };
        let policy = restarts(spec, &before.name);
        if policy == "Always" || code != 0 && policy == "OnFailure" {
            continue;
        }
        for _ in new.iter().filter(|now| now.name == before.name && ended(now).is_none()) {
            let detail = "may not be transitioned to non-terminated state";
            errors.push(FieldError::forbidden(path.index(index).child("state"), detail));
        }
    }
}

/// One address of each family, and none twice.
fn addresses(ips: &[String], path: &Path, errors: &mut FieldErrors) {
    for (index, text) in ips.iter().enumerate() {
        ip::validate(text, &path.index(index), errors);
        if ips[..index].contains(text) {
            errors.push(FieldError::duplicate(path.index(index), json!({"ip": text})));
        }
    }
    let of_version_6 = |text: &&String| text.contains(':');
    let many = ips.len() > 2 || ips.len() == 2 && ips.iter().filter(of_version_6).count() != 1;
    if many {
        let value: Vec<_> = ips.iter().map(|ip| json!({"ip": ip})).collect();
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, json!(value), detail));
    }
}

fn users(user: Option<&ContainerUser>, path: &Path, errors: &mut FieldErrors) {
    let Some(linux) = user.and_then(|user| user.linux.as_ref()) else { return };
    security::validate_id(Some(linux.uid), &path.child("uid"), errors);
    security::validate_id(Some(linux.gid), &path.child("gid"), errors);
    for (index, group) in linux.supplemental_groups.iter().flatten().enumerate() {
        security::validate_id(Some(*group), &path.child("supplementalGroups").index(index), errors);
    }
}
