//! What others say about an object that is created: its PriorityClass and RuntimeClass, LimitRanges and the
//! ServiceAccount of its namespace about a pod, the namespace itself (Pod Security) about pods and whatever makes them,
//! ResourceQuotas about everything.
//!
//! The modules decide, and see objects only; this one finds the objects. (Quotas are found by the
//! writer, which counts in its transaction.)

mod account;
mod limits;
pub(crate) mod pod_security;
pub(crate) mod priority;
pub(crate) mod quota;
mod runtime;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LimitRange, Pod, ServiceAccount};
use k8s_openapi::api::node::v1::RuntimeClass;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use proto::ObjectKey;
use proto::k8s as k8s_openapi;
use proto::priority::system_class;
use serde::de::DeserializeOwned;

use crate::api::error::ApiError;
use crate::api::kinds::priority_class::DEFAULT_CLAIM;
use crate::api::kinds::{
    Kind, LimitRanges, Namespaces, Pods, PriorityClasses, ResourceInfo, RuntimeClasses,
    ServiceAccounts,
};
use crate::api::registry::AnyObject;
use crate::api::write::generated_name;
use crate::cache::{CachedObject, Caches};

/// Completes an object before it is checked, or refuses it.
pub(crate) async fn admit(
    caches: &Caches,
    resource: &ResourceInfo,
    object: &mut dyn AnyObject,
) -> Result<(), ApiError> {
    // Everything but pods is admitted as it is.
    let Some(pod) = object.as_any_mut().downcast_mut::<Pod>() else { return Ok(()) };
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().or_else(|| pod.metadata.generate_name.clone());
    let name = name.unwrap_or_default();
    let refused = |why: String| ApiError::forbidden(resource, &name, why);
    let class = class_of(caches, pod).await?;
    priority::complete(pod, class.as_ref()).map_err(refused)?;
    let class = runtime_of(caches, pod).await?;
    runtime::complete(pod, class.as_ref()).map_err(refused)?;
    let account = account_of(caches, &namespace, pod).await?;
    let volume = || generated_name(account::VOLUME);
    account::complete(pod, account.as_ref(), volume).map_err(refused)?;
    let ranges = in_namespace::<LimitRange>(caches, &LimitRanges::RESOURCE, &namespace)?;
    limits::complete(&ranges, pod);
    limits::check(&ranges, pod).map_err(refused)
}

/// Holds an object that is about to be written against the Pod Security policy of its namespace, whose
/// labels these are; tells what its author is to be warned of.
pub(crate) fn secure(
    resource: &ResourceInfo,
    labels: &BTreeMap<String, String>,
    object: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Result<Vec<String>, ApiError> {
    let review = pod_security::review(labels, object, old);
    review.note(object);
    let meta = object.meta();
    let name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default();
    match review.refusal {
        Some(why) => Err(ApiError::forbidden(resource, name, why)),
        None => Ok(review.warnings),
    }
}

/// The same for an object that changes. Of a namespace that becomes stricter, its pods are looked at.
pub(crate) fn secure_update(
    caches: &Caches,
    resource: &ResourceInfo,
    object: &dyn AnyObject,
    old: &dyn AnyObject,
) -> Result<Vec<String>, ApiError> {
    let none = BTreeMap::new();
    if resource.kind == Namespaces::RESOURCE.kind && resource.group.is_empty() {
        let labels = |one: &dyn AnyObject| one.meta().labels.clone().unwrap_or_default();
        let Some(standard) = pod_security::tightened(&labels(object), &labels(old)) else {
            return Ok(Vec::new());
        };
        let name = object.meta().name.as_deref().unwrap_or_default();
        let Some(cache) = caches.resource(Pods::RESOURCE.plural) else { return Ok(Vec::new()) };
        let pods = cache.list(Some(name)).1;
        let decoded = pods.iter().take(pod_security::MAX_CHECKED).map(|pod| decode::<Pod>(pod));
        let decoded = decoded.collect::<Result<Vec<Pod>, ApiError>>()?;
        return Ok(pod_security::review_pods(name, standard, pods.len(), &decoded));
    }
    let namespace = ObjectKey::new("", object.meta().namespace.as_deref().unwrap_or_default());
    let cache = caches.resource(Namespaces::RESOURCE.plural);
    let found = cache.and_then(|cache| cache.get(&namespace));
    let labels = found.as_ref().map_or(&none, |found| &found.labels);
    secure(resource, labels, object, Some(old))
}

/// Whether what a pod is to have from now on is within the limits of its namespace.
pub(crate) fn admit_resize(
    caches: &Caches,
    resource: &ResourceInfo,
    object: &dyn AnyObject,
) -> Result<(), ApiError> {
    let Some(pod) = object.as_any().downcast_ref::<Pod>() else { return Ok(()) };
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let ranges = in_namespace::<LimitRange>(caches, &LimitRanges::RESOURCE, namespace)?;
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    limits::check(&ranges, pod).map_err(|why| ApiError::forbidden(resource, name, why))
}

/// The class that a pod names, or else the default one.
async fn class_of(caches: &Caches, pod: &Pod) -> Result<Option<PriorityClass>, ApiError> {
    let resource = &PriorityClasses::RESOURCE;
    let Some(cache) = caches.resource(resource.plural) else { return Ok(None) };
    let Some(name) = priority::name(pod) else {
        // Asked for each pod, and there seldom is one.
        if !caches.claimed(DEFAULT_CLAIM) {
            return Ok(None);
        }
        let classes = cache.list(None).1;
        let decoded = classes.iter().map(|class| decode(class)).collect::<Result<Vec<_>, _>>()?;
        return Ok(priority::default(decoded));
    };
    let key = ObjectKey::new("", name);
    let found = match cache.get(&key) {
        None if system_class(name).is_none() => {
            caches.fresh().await?;
            cache.get(&key)
        }
        found => found,
    };
    found.map(|class| decode(&class)).transpose()
}

/// The RuntimeClass that a pod names.
async fn runtime_of(caches: &Caches, pod: &Pod) -> Result<Option<RuntimeClass>, ApiError> {
    let Some(name) = runtime::name(pod) else { return Ok(None) };
    let Some(cache) = caches.resource(RuntimeClasses::RESOURCE.plural) else { return Ok(None) };
    let key = ObjectKey::new("", name);
    let found = match cache.get(&key) {
        None => {
            caches.fresh().await?;
            cache.get(&key)
        }
        found => found,
    };
    found.map(|class| decode(&class)).transpose()
}

async fn account_of(
    caches: &Caches,
    namespace: &str,
    pod: &Pod,
) -> Result<Option<ServiceAccount>, ApiError> {
    let Some(cache) = caches.resource(ServiceAccounts::RESOURCE.plural) else { return Ok(None) };
    let key = ObjectKey::new(namespace, account::name(pod));
    let found = match cache.get(&key) {
        None if account::is_required(pod) => {
            caches.fresh().await?;
            cache.get(&key)
        }
        found => found,
    };
    found.map(|account| decode(&account)).transpose()
}

fn in_namespace<T: DeserializeOwned>(
    caches: &Caches,
    resource: &ResourceInfo,
    namespace: &str,
) -> Result<Vec<T>, ApiError> {
    match caches.resource(resource.plural) {
        // Looked at for each pod, and there seldom are any.
        Some(cache) if !cache.is_empty() => {
            cache.list(Some(namespace)).1.iter().map(|object| decode(object)).collect()
        }
        _ => Ok(Vec::new()),
    }
}

fn decode<T: DeserializeOwned>(object: &CachedObject) -> Result<T, ApiError> {
    object
        .decode()
        .map_err(|error| ApiError::internal(format!("a stored object is broken: {error}")))
}
