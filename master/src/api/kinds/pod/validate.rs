//! What a pod has to keep to. The parts have files of their own; here is what is left of the spec.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::{k8s as k8s_openapi, names, priority};
use serde_json::json;

use super::super::path::Path;
use super::super::{ip, metadata};
use super::{
    affinity, containers, ephemeral, gates, host, resources, security, unsupported, volumes,
};
use crate::api::field_error::{FieldError, FieldErrors};

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
/// What the C library's resolver reads.
const MAX_NAME_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
/// All of them in one line.
const MAX_SEARCH_CHARACTERS: usize = 2048;

/// All that is wrong with the spec of a pod or template whose defaults are filled in.
pub(in crate::api::kinds) fn spec(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let volumes = volumes::validate(spec, &path.child("volumes"), errors);
    containers::validate(spec, &volumes, &path.child("containers"), errors);
    containers::validate_init(spec, &volumes, &path.child("initContainers"), errors);
    ephemeral::validate(spec, &volumes, &path.child("ephemeralContainers"), errors);
    one_of(spec.restart_policy.as_deref(), RESTART_POLICIES, &path.child("restartPolicy"), errors);
    one_of(spec.dns_policy.as_deref(), DNS_POLICIES, &path.child("dnsPolicy"), errors);
    validate_dns(spec, path, errors);
    validate_hostname_override(spec, path, errors);
    validate_deadline(spec.active_deadline_seconds, path, errors);
    for (index, gate) in spec.readiness_gates.iter().flatten().enumerate() {
        let path = path.child("readinessGates").index(index).child("conditionType");
        let kind = gate.condition_type.as_str();
        invalid_each(&path, kind, names::qualified_name(kind), errors);
    }
    metadata::labels(spec.node_selector.as_ref(), &path.child("nodeSelector"), errors);
    for (field, value, rule) in [
        ("nodeName", &spec.node_name, names::dns_subdomain as fn(&str) -> Vec<String>),
        ("priorityClassName", &spec.priority_class_name, names::dns_subdomain),
        ("runtimeClassName", &spec.runtime_class_name, names::dns_subdomain),
        ("serviceAccountName", &spec.service_account_name, names::dns_subdomain),
        ("hostname", &spec.hostname, names::dns_label),
        ("subdomain", &spec.subdomain, names::dns_label),
    ] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            invalid_each(&path.child(field), value, rule(value), errors);
        }
    }
    overhead(spec.overhead.as_ref(), &path.child("overhead"), errors);
    let policy = spec.preemption_policy.as_deref();
    preemption_policy(policy, &path.child("preemptionPolicy"), errors);
    match spec.os.as_ref().map(|os| os.name.as_str()) {
        None | Some("linux" | "windows") => {}
        Some("") => errors.push(FieldError::required(path.child("os.name"), "cannot be empty")),
        Some(other) => {
            let supported = &["linux", "windows"];
            errors.push(FieldError::not_supported(path.child("os"), other, supported));
        }
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    validate_tolerations(tolerations, &path.child("tolerations"), errors);
    validate_host_aliases(spec, &path.child("hostAliases"), errors);
    if let Some(context) = &spec.security_context {
        security::validate_pod(context, &path.child("securityContext"), errors);
    }
    affinity::validate(spec, path, errors);
    gates::validate(spec, path, errors);
    host::validate(spec, path, errors);
    unsupported::spec(spec, path, errors);
}

/// What running a pod takes beside its containers.
pub(in crate::api::kinds) fn overhead(
    amounts: Option<&BTreeMap<String, WireQuantity>>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (name, amount) in amounts.into_iter().flatten() {
        let path = path.key(name);
        resources::validate_name(name, &path, errors);
        resources::quantity(amount, &path, errors);
        resources::whole_pages(name, amount, &path, errors);
    }
    resources::pages_with_memory(amounts.into_iter().flat_map(BTreeMap::keys), path, errors);
}

/// Whether others give way to a pod.
pub(in crate::api::kinds) fn preemption_policy(
    policy: Option<&str>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if policy.is_some() {
        one_of(policy, &[priority::PREEMPT_LOWER, priority::PREEMPT_NEVER], path, errors);
    }
}

/// A reason for each rule that a text breaks.
pub(in crate::api::kinds) fn invalid_each(
    path: &Path,
    value: &str,
    reasons: Vec<String>,
    errors: &mut FieldErrors,
) {
    errors.extend(reasons.into_iter().map(|reason| FieldError::invalid(path, value, reason)));
}

/// A word out of a list; that it is there is seen to by the defaults.
pub(super) fn one_of(
    value: Option<&str>,
    supported: &[&str],
    path: &Path,
    errors: &mut FieldErrors,
) {
    match value.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        known if supported.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path, other, supported)),
    }
}

/// `value` where it is one, and otherwise an error under its path.
pub(super) fn unique<'a>(
    seen: &mut BTreeSet<&'a str>,
    value: &'a str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if !value.is_empty() && !seen.insert(value) {
        errors.push(FieldError::duplicate(path, value));
    }
}

/// Folders above may not be reached by `..`.
pub(super) fn climbs(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// What Linux takes for a host's name.
const MAX_HOSTNAME: usize = 64;

fn validate_hostname_override(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let Some(name) = spec.hostname_override.as_deref() else { return };
    let own = path.child("hostnameOverride");
    invalid_each(&own, name, names::dns_subdomain(name), errors);
    if name.len() > MAX_HOSTNAME {
        errors.push(FieldError::too_long(&own, MAX_HOSTNAME));
    }
    for (field, set) in
        [("setHostnameAsFQDN", spec.set_hostname_as_fqdn), ("hostNetwork", spec.host_network)]
    {
        if set == Some(true) {
            let detail = format!("may not be specified when {field} is true");
            errors.push(FieldError::forbidden(&own, detail));
        }
    }
}

/// What is wrong with the deadline of a pod whose specification is at `path`.
pub(super) fn validate_deadline(deadline: Option<i64>, path: &Path, errors: &mut FieldErrors) {
    let most = i64::from(i32::MAX);
    if let Some(seconds) = deadline.filter(|seconds| !(1..=most).contains(seconds)) {
        let detail = format!("must be between 1 and {most}, inclusive");
        errors.push(FieldError::invalid(path.child("activeDeadlineSeconds"), seconds, detail));
    }
}

fn validate_dns(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("dnsConfig");
    let own = spec.dns_policy.as_deref() == Some("None");
    if own && spec.dns_config.is_none() {
        let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
        errors.push(FieldError::required(&path, detail));
    }
    let Some(config) = spec.dns_config.clone() else { return };
    let servers = config.nameservers.unwrap_or_default();
    if own && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(path.child("nameservers"), detail));
    }
    if servers.len() > MAX_NAME_SERVERS {
        let detail = format!("must not have more than {MAX_NAME_SERVERS} nameservers");
        errors.push(FieldError::invalid(path.child("nameservers"), json!(servers), detail));
    }
    let searches = config.searches.unwrap_or_default();
    let characters = searches.join(" ").len();
    for (exceeded, limit) in [
        (searches.len() > MAX_SEARCHES, format!("{MAX_SEARCHES} search paths")),
        (
            characters > MAX_SEARCH_CHARACTERS,
            format!("{MAX_SEARCH_CHARACTERS} characters (including spaces) in the search list"),
        ),
    ] {
        if exceeded {
            let detail = format!("must not have more than {limit}");
            errors.push(FieldError::invalid(path.child("searches"), json!(searches), detail));
        }
    }
    for (index, server) in servers.iter().enumerate() {
        ip::validate(server, &path.child("nameservers").index(index), errors);
    }
    for (index, search) in searches.iter().enumerate() {
        if search == "." {
            continue;
        }
        let name = search.strip_suffix('.').unwrap_or(search);
        let path = path.child("searches").index(index);
        invalid_each(&path, name, names::dns_subdomain_with_underscore(name), errors);
    }
    for (index, option) in config.options.iter().flatten().enumerate() {
        let path = path.child("options").index(index);
        let breaks = |text: &Option<String>| {
            text.as_ref().is_some_and(|text| text.contains(|c: char| c.is_whitespace()))
        };
        if option.name.as_deref().unwrap_or_default().is_empty() {
            errors.push(FieldError::required(path, "must not be empty"));
        } else if breaks(&option.name) || breaks(&option.value) {
            let value = option.name.clone();
            errors.push(FieldError::invalid(path, value, "must not contain white space"));
        }
    }
}

fn validate_host_aliases(spec: &PodSpec, path: &Path, errors: &mut FieldErrors) {
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = path.index(index);
        ip::validate(&alias.ip, &path.child("ip"), errors);
        for (index, name) in alias.hostnames.iter().flatten().enumerate() {
            let path = path.child("hostnames").index(index);
            invalid_each(&path, name, names::dns_subdomain(name), errors);
        }
    }
}

/// What is wrong with tolerations, in the spec or in an annotation.
pub(in crate::api::kinds) fn validate_tolerations(
    tolerations: &[Toleration],
    path: &Path,
    errors: &mut FieldErrors,
) {
    for (index, toleration) in tolerations.iter().enumerate() {
        validate_toleration(toleration, &path.index(index), errors);
    }
}

fn validate_toleration(toleration: &Toleration, path: &Path, errors: &mut FieldErrors) {
    let key = toleration.key.as_deref().unwrap_or_default();
    let value = toleration.value.as_deref().unwrap_or_default();
    let operator = toleration.operator.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    if !key.is_empty() {
        invalid_each(&path.child("key"), key, names::qualified_name(key), errors);
    } else if operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.push(FieldError::invalid(path.child("operator"), operator, detail));
    }
    match operator {
        "" | "Equal" => {
            // One cause, and where Kubernetes says that it is.
            let reasons = names::label_value(value);
            if !reasons.is_empty() {
                let path = path.child("operator");
                errors.push(FieldError::invalid(path, value, reasons.join(";")));
            }
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.push(FieldError::invalid(path.child("operator"), value, detail));
        }
        "Exists" => {}
        other => {
            let supported = &["Equal", "Exists"];
            errors.push(FieldError::not_supported(path.child("operator"), other, supported));
        }
    }
    if !effect.is_empty() && !EFFECTS.contains(&effect) {
        errors.push(FieldError::not_supported(path.child("effect"), effect, EFFECTS));
    }
    if toleration.toleration_seconds.is_some() && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.push(FieldError::invalid(path.child("effect"), effect, detail));
    }
}
