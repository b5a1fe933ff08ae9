//! Holds what is created to the ResourceQuotas of its namespace. Pure.
//!
//! How much is used stands in one key for each namespace with quotas ([`Used`]). Who creates something
//! adds to it in the same transaction, on condition that the key is still as it was read: so however
//! many create at once, no more comes about than may be. That something was deleted, the controller
//! (`controllers/quota`) sees; it counts anew, on the same condition, and tells in the statuses.
//! (The quotas themselves are not written by who creates: two in one transaction would share a
//! `resourceVersion`.)

mod scopes;
mod usage;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceQuota, Service};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as WireQuantity;
use proto::k8s as k8s_openapi;
use proto::quantity::Quantity;

use crate::api::kinds::ResourceInfo;
use crate::api::registry::AnyObject;

pub(super) use usage::with_initial;
pub(crate) use usage::{Amounts, count_name, ends_at};

/// Of these each container has to say something where a quota bounds them.
const TO_BE_SAID: &[&str] =
    &["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];

/// What is used of each quota of a namespace, by the quotas' uids.
pub(crate) type Used = BTreeMap<String, BTreeMap<String, WireQuantity>>;

/// As [`Used`] has it.
pub(crate) fn to_wire(amounts: Amounts) -> BTreeMap<String, WireQuantity> {
    amounts.into_iter().map(|(name, amount)| (name, amount.to_wire())).collect()
}

/// What a quota says about an object that is created, or changed from `old`: what is used with the
/// object counted in, nothing when that makes no difference, or why the object cannot be.
pub(crate) fn charge(
    quota: &ResourceQuota,
    used: Option<&BTreeMap<String, WireQuantity>>,
    resource: &ResourceInfo,
    object: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
    now: Timestamp,
) -> Result<Option<Amounts>, String> {
    let hard = hard(quota);
    let counted = |object: &dyn AnyObject| {
        let mut usage = Amounts::new();
        if scopes::includes(quota, object) {
            usage = usage::of(resource, object, now);
            usage.retain(|name, _| hard.contains_key(name));
        }
        usage
    };
    let quota_name = quota.metadata.name.as_deref().unwrap_or_default();
    if old.is_none() && scopes::includes(quota, object) {
        says_enough(object, &hard).map_err(|what| format!("failed quota: {quota_name}: {what}"))?;
    }
    let before = old.map(counted).unwrap_or_default();
    let mut more = counted(object);
    more.retain(|name, amount| {
        *amount -= before.get(name).copied().unwrap_or_default();
        *amount > Quantity::ZERO
    });
    if more.is_empty() {
        return Ok(None);
    }
    let mut used = amounts(used);
    let unknown: Vec<&str> =
        more.keys().filter(|name| !used.contains_key(*name)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        return Err(format!("status unknown for quota: {quota_name}, resources: {unknown}"));
    }
    let total: Amounts =
        more.iter().map(|(name, more)| (name.clone(), used[name] + *more)).collect();
    let exceeded: Vec<&String> = total.keys().filter(|name| total[*name] > hard[*name]).collect();
    if !exceeded.is_empty() {
        let list = |amounts: &Amounts| {
            let texts = exceeded.iter().map(|name| format!("{name}={}", amounts[*name]));
            texts.collect::<Vec<_>>().join(",")
        };
        return Err(format!(
            "exceeded quota: {quota_name}, requested: {}, used: {}, limited: {}",
            list(&more),
            list(&used),
            list(&hard)
        ));
    }
    used.extend(total);
    Ok(Some(used))
}

/// What there is in a namespace.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) pods: Vec<Pod>,
    pub(crate) services: Vec<Service>,
    /// Of every kind, by [`count_name`]; those two included.
    pub(crate) counts: BTreeMap<String, usize>,
}

/// What is used of a quota, counted anew.
pub(crate) fn count(quota: &ResourceQuota, contents: &Contents, now: Timestamp) -> Amounts {
    let hard = hard(quota);
    let mut used: Amounts = hard.keys().map(|name| (name.clone(), Quantity::ZERO)).collect();
    let mut add = |usage: Amounts| {
        for (name, amount) in usage {
            if let Some(sum) = used.get_mut(&name) {
                *sum += amount;
            }
        }
    };
    for pod in contents.pods.iter().filter(|pod| scopes::includes(quota, *pod)) {
        add(usage::of_pod(pod, now));
    }
    if !scopes::is_scoped(quota) {
        contents.services.iter().for_each(|service| add(usage::of_service(service)));
        for (name, count) in &contents.counts {
            add(usage::of_count(name, *count));
        }
    }
    used
}

fn hard(quota: &ResourceQuota) -> Amounts {
    amounts(quota.spec.as_ref().and_then(|spec| spec.hard.as_ref()))
}

/// Validation lets no quantity in that does not parse.
fn amounts(list: Option<&BTreeMap<String, WireQuantity>>) -> Amounts {
    let all = list.into_iter().flatten();
    all.filter_map(|(name, wire)| Some((name.clone(), Quantity::try_from(wire).ok()?))).collect()
}

/// Whether each container says how much it needs of what is bounded.
fn says_enough(object: &dyn AnyObject, hard: &Amounts) -> Result<(), String> {
    let Some(spec) = object.as_any().downcast_ref::<Pod>().and_then(|pod| pod.spec.as_ref()) else {
        return Ok(());
    };
    let mut missing = BTreeMap::<&str, Vec<&str>>::new();
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let said = usage::of_container(container);
        for name in TO_BE_SAID.iter().filter(|name| hard.contains_key(**name)) {
            if !said.contains_key(*name) {
                missing.entry(name).or_default().push(&container.name);
            }
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let told: Vec<String> = missing
        .into_iter()
        .map(|(name, mut containers)| {
            containers.sort_unstable();
            format!("{name} for: {}", containers.join(","))
        })
        .collect();
    Err(format!("must specify {}", told.join("; ")))
}
