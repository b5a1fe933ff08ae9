//! Pod Security: what pods of a namespace may ask for, by the namespace's labels
//! `pod-security.kubernetes.io/enforce`, `warn` and `audit`.
//!
//! `policy` reads the labels, `checks` holds a pod against a standard; here is what follows from it
//! for a write: a refusal, warnings, a line in the log and a count. All of it is pure but for the
//! latter two.

mod checks;
pub(crate) mod policy;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    Container, Pod, PodSpec, PodTemplate, PodTemplateSpec, ReplicationController,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s as k8s_openapi;

use self::checks::{Violation, violations};
use self::policy::{Level, Policy, Standard};
use crate::api::registry::AnyObject;
use crate::metrics::{POD_SECURITY, PodSecurity};

/// Of how many pods of a namespace that becomes stricter its author is told.
pub(crate) const MAX_CHECKED: usize = 3000;

/// What follows from a namespace's policy for a write.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Review {
    /// Why it is refused.
    pub(crate) refusal: Option<String>,
    /// What its author is told.
    pub(crate) warnings: Vec<String>,
    /// What is written down.
    pub(crate) audit: Option<String>,
}

/// Holds an object that is created, or changed from `old`, against the policy of its namespace. Only
/// pods are refused: who makes them for others finds out by that.
pub(crate) fn review(
    labels: &BTreeMap<String, String>,
    object: &dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Review {
    let (policy, _) = Policy::of(labels);
    if policy == Policy::default() {
        return Review::default();
    }
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        let old = old.and_then(|old| old.as_any().downcast_ref::<Pod>());
        let Some(spec) = pod.spec.as_ref().filter(|_| is_significant(pod, old)) else {
            return Review::default();
        };
        return hold(policy, &pod.metadata, spec, true);
    }
    let Some(template) = template(object) else { return Review::default() };
    let none = ObjectMeta::default();
    let meta = template.metadata.as_ref().unwrap_or(&none);
    template.spec.as_ref().map(|spec| hold(policy, meta, spec, false)).unwrap_or_default()
}

impl Review {
    /// Writes down what is to be written down.
    pub(crate) fn note(&self, object: &dyn AnyObject) {
        if let Some(violations) = &self.audit {
            let meta = object.meta();
            tracing::info!(
                namespace = meta.namespace.as_deref().unwrap_or_default(),
                name = meta.name.as_deref().or(meta.generate_name.as_deref()).unwrap_or_default(),
                violations,
                "pod security audit"
            );
        }
    }
}

fn hold(policy: Policy, meta: &ObjectMeta, spec: &PodSpec, enforce: bool) -> Review {
    let told = |standard: Standard| {
        let found = violations(standard, meta, spec);
        (!found.is_empty()).then(|| details(&found))
    };
    let mut review = Review::default();
    if enforce {
        let found = told(policy.enforce);
        POD_SECURITY.count(PodSecurity::ENFORCE, policy.enforce.level, found.is_some());
        review.refusal =
            found.map(|found| format!("violates PodSecurity \"{}\": {found}", policy.enforce));
    }
    let would = |standard: Standard, mode: usize| {
        let found = told(standard)?;
        POD_SECURITY.count(mode, standard.level, true);
        Some(format!("would violate PodSecurity \"{standard}\": {found}"))
    };
    review.audit = would(policy.audit, PodSecurity::AUDIT);
    // Whoever is refused need not be warned.
    if review.refusal.is_none() {
        review.warnings.extend(would(policy.warn, PodSecurity::WARN));
    }
    review
}

fn details(violations: &[Violation]) -> String {
    let one = |violation: &Violation| match violation.detail.as_str() {
        "" => violation.reason.to_owned(),
        detail => format!("{} ({detail})", violation.reason),
    };
    violations.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Whether an update of a pod changes what can be objected to: images and added containers; nothing
/// else of it can be changed.
fn is_significant(new: &Pod, old: Option<&Pod>) -> bool {
    let Some(old) = old else { return true };
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return true };
    let images = |list: Option<&Vec<Container>>| -> Vec<Option<String>> {
        list.into_iter().flatten().map(|one| one.image.clone()).collect()
    };
    let ephemeral = |spec: &PodSpec| spec.ephemeral_containers.as_ref().map_or(0, Vec::len);
    images(Some(&new.containers)) != images(Some(&old.containers))
        || images(new.init_containers.as_ref()) != images(old.init_containers.as_ref())
        || ephemeral(new) != ephemeral(old)
}

/// What pods an object makes.
fn template(object: &dyn AnyObject) -> Option<&PodTemplateSpec> {
    let any = object.as_any();
    if let Some(one) = any.downcast_ref::<ReplicationController>() {
        return one.spec.as_ref()?.template.as_ref();
    }
    if let Some(one) = any.downcast_ref::<ReplicaSet>() {
        return one.spec.template.as_ref();
    }
    if let Some(one) = any.downcast_ref::<Deployment>() {
        return Some(&one.spec.template);
    }
    any.downcast_ref::<PodTemplate>()?.template.as_ref()
}

/// The standard that a namespace enforces from now on, if there may be pods that do not meet it.
pub(crate) fn tightened(
    new: &BTreeMap<String, String>,
    old: &BTreeMap<String, String>,
) -> Option<Standard> {
    let (new, old) = (Policy::of(new).0.enforce, Policy::of(old).0.enforce);
    let relaxed = new.version == old.version && new.level <= old.level;
    (new != old && new.level != Level::Privileged && !relaxed).then_some(new)
}

/// What whoever makes a namespace stricter is told of the pods that are there, `count` in all, of
/// which these were looked at.
pub(crate) fn review_pods(
    namespace: &str,
    standard: Standard,
    count: usize,
    pods: &[Pod],
) -> Vec<String> {
    // By what is wrong: the first pod by name, and how many there are.
    let mut found: BTreeMap<String, (String, usize)> = BTreeMap::new();
    for pod in pods {
        let Some(spec) = &pod.spec else { continue };
        let violations = violations(standard, &pod.metadata, spec);
        if violations.is_empty() {
            continue;
        }
        let reasons: Vec<&str> = violations.iter().map(|violation| violation.reason).collect();
        let name = pod.metadata.name.clone().unwrap_or_default();
        let (first, count) = found.entry(reasons.join(", ")).or_insert((name.clone(), 0));
        if name < *first {
            *first = name;
        }
        *count += 1;
    }
    let mut warnings = Vec::new();
    if count > pods.len() {
        let checked = pods.len();
        warnings.push(format!(
            "new PodSecurity enforce level only checked against the first {checked} of {count} \
             existing pods"
        ));
    }
    if !found.is_empty() {
        warnings.push(format!(
            "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \
             \"{standard}\""
        ));
    }
    let mut lines: Vec<String> = found
        .into_iter()
        .map(|(reasons, (first, count))| match count {
            1 => format!("{first}: {reasons}"),
            2 => format!("{first} (and 1 other pod): {reasons}"),
            _ => format!("{first} (and {} other pods): {reasons}", count - 1),
        })
        .collect();
    lines.sort();
    warnings.extend(lines);
    warnings
}
