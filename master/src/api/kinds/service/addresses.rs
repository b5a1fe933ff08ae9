//! What the addresses of a Service have to keep to.

use k8s_openapi::api::core::v1::ServiceSpec;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::ip;
use super::super::path::Path;
use super::{EXTERNAL_NAME, HEADLESS, type_of};
use crate::api::field_error::{FieldError, FieldErrors};

const FAMILIES: &[&str] = &["IPv4", "IPv6"];
const SINGLE: &str = "SingleStack";
pub(super) const DUAL: &str = "RequireDualStack";
const POLICIES: &[&str] = &["PreferDualStack", DUAL, SINGLE];

/// Whether it is headless and its endpoints are somebody else's: they may be of any family.
pub(super) fn is_of_strangers(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.selector.as_ref().is_none_or(|selector| selector.is_empty())
}

fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ips.as_deref().is_some_and(|ips| ips.len() == 1 && ips[0] == HEADLESS)
}

/// The families and the policy that a Service gets which does not say.
pub(super) fn default(spec: &mut ServiceSpec) {
    let strangers = is_of_strangers(spec);
    let policy = spec
        .ip_family_policy
        .get_or_insert_with(|| if strangers { DUAL.to_owned() } else { SINGLE.to_owned() });
    let single = policy == SINGLE;
    let families = spec.ip_families.get_or_insert_default();
    if families.is_empty() {
        families.push("IPv4".to_owned());
    }
    if strangers && !single && families.len() == 1 {
        let other = FAMILIES.iter().find(|family| **family != families[0]);
        families.extend(other.map(|family| (*family).to_owned()));
    }
}

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
    let before = errors.len();
    validate_form(spec, path, errors);
    // What the cluster does not have is told of what is well formed.
    if errors.len() == before {
        validate_stack(spec, path, errors);
    }
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

/// This cluster has one address family.
fn validate_stack(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let before = errors.len();
    let strangers = is_of_strangers(spec);
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    let path_to_policy = path.child("ipFamilyPolicy");
    let policy = spec.ip_family_policy.as_deref();
    let policy = policy.unwrap_or(if strangers { DUAL } else { SINGLE });
    if policy == SINGLE {
        for (many, what) in [(ips.len() == 2, "cluster IPs"), (families.len() == 2, "IP families")]
        {
            if many {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are \
                     specified"
                );
                errors.push(FieldError::invalid(&path_to_policy, policy, detail));
            }
        }
    }
    for (index, ip) in ips.iter().enumerate().skip(families.len()) {
        if ip.contains(':') {
            let path = path.child("clusterIPs").index(index);
            let detail = "IPv6 is not configured on this cluster";
            errors.push(FieldError::invalid(path, json!(ips), detail));
        }
    }
    if errors.len() > before || strangers {
        return;
    }
    if policy == DUAL {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(path_to_policy, policy, detail));
    }
    for (index, family) in families.iter().enumerate().filter(|(_, family)| *family == "IPv6") {
        let path = path.child("ipFamilies").index(index);
        errors.push(FieldError::invalid(path, family.as_str(), "not configured on this cluster"));
    }
}

/// What an update may not change of them.
pub(super) fn validate_update(new: &ServiceSpec, old: &ServiceSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    // Becoming, or having been, an ExternalName gives up the address.
    if type_of(new) == EXTERNAL_NAME || type_of(old) == EXTERNAL_NAME {
        return errors;
    }
    let (headless, was_headless) = (is_headless(new), is_headless(old));
    if !(headless && was_headless) {
        let (ips, before) = (new.cluster_ips.as_deref(), old.cluster_ips.as_deref());
        let (ips, before) = (ips.unwrap_or_default(), before.unwrap_or_default());
        for (index, _) in before.iter().enumerate().filter(|(at, ip)| ips.get(*at) != Some(ip)) {
            let path = Path::new("spec.clusterIPs").index(index);
            errors.push(FieldError::invalid(path, json!(ips), "may not change once set"));
        }
    }
    if !headless && !was_headless {
        let (families, before) = (new.ip_families.as_deref(), old.ip_families.as_deref());
        let (families, before) = (families.unwrap_or_default(), before.unwrap_or_default());
        if before.iter().enumerate().any(|(at, family)| families.get(at) != Some(family)) {
            let path = Path::new("spec.ipFamilies").index(0);
            errors.push(FieldError::invalid(path, json!(families), "may not change once set"));
        }
    }
    errors
}
