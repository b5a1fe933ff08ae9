//! Which address families a Service gets, out of what it asks for, what it had and what the cluster has.

use k8s_openapi::api::core::v1::ServiceSpec;
use proto::k8s as k8s_openapi;
use serde_json::json;

use super::super::cidr::Family;
use super::super::path::Path;
use super::{HEADLESS, is_headless, type_of};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::kinds::ClusterConfig;

pub(super) const SINGLE: &str = "SingleStack";
pub(super) const PREFER_DUAL: &str = "PreferDualStack";
pub(super) const DUAL: &str = "RequireDualStack";

/// Fills in policy and families of a Service that has addresses, or may have; `old` is what it was
/// before an update. Form and policy have been validated.
pub(super) fn choose(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    cluster: &ClusterConfig,
) -> Result<(), FieldErrors> {
    // What stays as it was is not looked at again: a Service that prefers two families is neither
    // given nor deprived of one because the cluster was.
    if old.is_some_and(|old| is_settled(old) && same(spec, old)) {
        return Ok(());
    }
    let strangers = is_of_strangers(spec);
    let policy = match &spec.ip_family_policy {
        Some(policy) => policy.clone(),
        None if strangers => DUAL.to_owned(),
        None => SINGLE.to_owned(),
    };
    spec.ip_family_policy = Some(policy.clone());
    let single = policy == SINGLE;
    if let Some(old) = old.filter(|_| single) {
        release_second(spec, old);
    }
    let mut errors = FieldErrors::new();
    if single {
        refuse_second(spec, &policy, &mut errors);
    }
    infer(spec, cluster, &mut errors);
    if !errors.is_empty() {
        return Err(errors);
    }
    let families = spec.ip_families.get_or_insert_default();
    if !strangers {
        check(families, &policy, cluster)?;
    }
    if families.is_empty() {
        families.push(cluster.service_cidrs.primary().family().to_string());
    }
    // Endpoints of strangers may be of a family that the cluster does not have.
    if !single && families.len() == 1 && (strangers || cluster.service_cidrs.is_dual()) {
        families.push(Family::of_name(&families[0]).other().to_string());
    }
    Ok(())
}

/// Whether it is headless and its endpoints are somebody else's.
fn is_of_strangers(spec: &ServiceSpec) -> bool {
    is_headless(spec) && spec.selector.as_ref().is_none_or(|selector| selector.is_empty())
}

/// Whether it has been given all that it can have.
fn is_settled(spec: &ServiceSpec) -> bool {
    let count = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len);
    let families = count(&spec.ip_families);
    spec.ip_family_policy.is_some()
        && families > 0
        && (is_headless(spec) || count(&spec.cluster_ips) == families)
}

fn same(new: &ServiceSpec, old: &ServiceSpec) -> bool {
    type_of(new) == type_of(old)
        && new.ip_family_policy == old.ip_family_policy
        && new.ip_families == old.ip_families
        && new.cluster_ips == old.cluster_ips
}

/// Turning to one family is said by the policy alone: what was not changed beside it is cut to fit.
fn release_second(spec: &mut ServiceSpec, old: &ServiceSpec) {
    let cut = |list: &mut Option<Vec<String>>, before: &Option<Vec<String>>| {
        if list == before {
            list.iter_mut().for_each(|list| list.truncate(1));
        }
    };
    cut(&mut spec.cluster_ips, &old.cluster_ips);
    cut(&mut spec.ip_families, &old.ip_families);
}

fn refuse_second(spec: &ServiceSpec, policy: &str, errors: &mut FieldErrors) {
    for (list, what) in [(&spec.cluster_ips, "cluster IPs"), (&spec.ip_families, "IP families")] {
        if list.as_ref().is_some_and(|list| list.len() > 1) {
            let detail = format!(
                "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
            );
            errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
        }
    }
}

/// Addresses that are asked for say which families are.
fn infer(spec: &mut ServiceSpec, cluster: &ClusterConfig, errors: &mut FieldErrors) {
    let ips = spec.cluster_ips.clone().unwrap_or_default();
    let families = spec.ip_families.get_or_insert_default();
    for (index, ip) in ips.iter().enumerate().skip(families.len()) {
        if ip == HEADLESS {
            return;
        }
        let family = Family::of(ip);
        if cluster.service_cidrs.of(family).is_some() {
            families.push(family.to_string());
        } else {
            let path = Path::new("spec.clusterIPs").index(index);
            let detail = format!("{family} is not configured on this cluster");
            errors.push(FieldError::invalid(path, json!(ips), detail));
        }
    }
}

/// Whether the cluster has what is asked for.
fn check(families: &[String], policy: &str, cluster: &ClusterConfig) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    if policy == DUAL && !cluster.service_cidrs.is_dual() {
        let detail = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid("spec.ipFamilyPolicy", policy, detail));
    }
    for (index, family) in families.iter().enumerate() {
        if cluster.service_cidrs.of(Family::of_name(family)).is_none() {
            let path = Path::new("spec.ipFamilies").index(index);
            let detail = "not configured on this cluster";
            errors.push(FieldError::invalid(path, family.as_str(), detail));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
