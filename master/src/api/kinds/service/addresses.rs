//! What the addresses of a Service have to keep to.

use k8s_openapi::api::core::v1::ServiceSpec;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::ip;
use super::super::path::Path;
use super::families::{DUAL, PREFER_DUAL, SINGLE};
use super::{EXTERNAL_NAME, HEADLESS, is_headless, type_of};
use crate::api::field_error::{FieldError, FieldErrors};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const POLICIES: &[&str] = &[PREFER_DUAL, DUAL, SINGLE];

/// All that is wrong with them.
pub(super) fn validate(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let kind = type_of(spec);
    if kind == EXTERNAL_NAME {
        return validate_external(spec, path, errors);
    }
    if is_headless(spec) && kind != super::CLUSTER_IP {
        let detail = format!("may not be set to 'None' for {kind} services");
        let path = path.child("clusterIPs").index(0);
        errors.push(FieldError::invalid(path, HEADLESS, detail));
    }
    validate_form(spec, path, errors);
}

fn validate_external(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let listed = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    for (set, field) in [
        (listed(&spec.cluster_ips), "clusterIPs"),
        (listed(&spec.ip_families), "ipFamilies"),
        (spec.ip_family_policy.is_some(), "ipFamilyPolicy"),
    ] {
        if set {
            let detail = "may not be set for ExternalName services";
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
    }
    let path = path.child("externalName");
    let name = spec.external_name.as_deref().unwrap_or_default();
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.push(FieldError::required(path, "")),
        name => {
            for reason in names::dns_subdomain(name) {
                errors.push(FieldError::invalid(&path, name, reason));
            }
        }
    }
}

fn validate_form(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let path_to_ips = path.child("clusterIPs");
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let first = spec.cluster_ip.as_deref().unwrap_or_default();
    match (first, ips) {
        ("", []) => {}
        ("", _) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
        }
        (_, []) => errors.push(FieldError::required(&path_to_ips, "")),
        (first, [other, ..]) if first != other => {
            let detail = "first value must match `clusterIP`";
            errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
        }
        _ => {}
    }
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (index, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(index);
        if !FAMILIES.contains(&family.as_str()) {
            errors.push(FieldError::not_supported(&path, family.as_str(), FAMILIES));
        }
        if families[..index].contains(family) {
            errors.push(FieldError::duplicate(path, family.as_str()));
        }
    }
    if let Some(policy) = spec.ip_family_policy.as_deref()
        && !POLICIES.contains(&policy)
    {
        let path = path.child("ipFamilyPolicy");
        errors.push(FieldError::not_supported(path, policy, POLICIES));
    }
    let before = errors.len();
    for (index, text) in ips.iter().enumerate() {
        if index > 0 || text != HEADLESS {
            ip::validate(text, &path_to_ips.index(index), errors);
        } else if ips.len() > 1 {
            let detail = "'None' must be the first and only value";
            errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
        }
    }
    let broken = errors.len() > before;
    if ips.len() > 2 {
        let detail = "may only hold up to 2 values";
        errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
    }
    if broken {
        return;
    }
    let of_version_6 = |ip: &&String| ip.contains(':');
    let count = ips.iter().filter(of_version_6).count();
    if ips.len() > 1 && (count == 0 || count == ips.len()) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
    }
    for (index, (ip, family)) in ips.iter().zip(families).enumerate() {
        let is_6 = of_version_6(&ip);
        if ip != HEADLESS && (family == "IPv4" && is_6 || family == "IPv6" && !is_6) {
            let detail =
                format!("expected an {family} value as indicated by `ipFamilies[{index}]`");
            errors.push(FieldError::invalid(path_to_ips.index(index), ip.as_str(), detail));
        }
    }
}

/// What an update may not change of them: the first address and family stay, a second one may come,
/// and go when that is said.
pub(super) fn validate_update(new: &ServiceSpec, old: &ServiceSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    // Becoming, or having been, an ExternalName gives up the address.
    if type_of(new) == EXTERNAL_NAME || type_of(old) == EXTERNAL_NAME {
        return errors;
    }
    let single = new.ip_family_policy.as_deref() == Some(SINGLE);
    let mut stays = |field: &str,
                     what: &str,
                     list: &Option<Vec<String>>,
                     before: &Option<Vec<_>>| {
        let (list, before) = (list.as_deref().unwrap_or_default(), before.as_deref());
        for (index, old) in before.unwrap_or_default().iter().enumerate() {
            let path = Path::new("spec").child(field).index(index);
            match list.get(index) {
                Some(new) if new == old => {}
                None if index == 1 && single => {}
                None if index == 1 => {
                    let detail = format!("must be 'SingleStack' to release the secondary {what}");
                    let policy = new.ip_family_policy.as_deref().unwrap_or_default();
                    errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
                }
                _ => errors.push(FieldError::invalid(path, json!(list), "may not change once set")),
            }
        }
    };
    let (headless, was_headless) = (is_headless(new), is_headless(old));
    if !(headless && was_headless) {
        stays("clusterIPs", "cluster IP", &new.cluster_ips, &old.cluster_ips);
    }
    if !headless && !was_headless {
        stays("ipFamilies", "IP family", &new.ip_families, &old.ip_families);
    }
    errors
}
