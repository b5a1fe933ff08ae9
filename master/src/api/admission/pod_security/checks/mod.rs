//! The controls of the Pod Security Standards, one function each: what a pod asks for that a level
//! does not allow, in Kubernetes' words.
//!
//! Source: <https://kubernetes.io/docs/concepts/security/pod-security-standards/>; the versions in
//! which a control came or changed are those of Kubernetes' admission. Containers of all three kinds
//! count. What concerns Windows is left out: no pod may ask for it.

mod baseline;
mod restricted;

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EphemeralContainer, Lifecycle, PodSpec, Probe, SecurityContext,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s as k8s_openapi;

use super::policy::{Level, Standard, Version};

/// Why a pod does not meet a standard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Violation {
    /// Short, and the same for all pods that do the same.
    pub(super) reason: &'static str,
    /// Which parts of this pod; may be empty.
    pub(super) detail: String,
}

/// A pod as the controls see it.
struct Subject<'a> {
    meta: &'a ObjectMeta,
    spec: &'a PodSpec,
    containers: Vec<Seen<'a>>,
    version: Version,
}

/// What all kinds of containers have.
struct Seen<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

impl<'a> From<&'a Container> for Seen<'a> {
    fn from(one: &'a Container) -> Self {
        let probes = [&one.liveness_probe, &one.readiness_probe, &one.startup_probe];
        Self {
            name: &one.name,
            security: one.security_context.as_ref(),
            ports: one.ports.as_deref().unwrap_or_default(),
            probes: probes.map(Option::as_ref),
            lifecycle: one.lifecycle.as_ref(),
        }
    }
}

impl<'a> From<&'a EphemeralContainer> for Seen<'a> {
    fn from(one: &'a EphemeralContainer) -> Self {
        let probes = [&one.liveness_probe, &one.readiness_probe, &one.startup_probe];
        Self {
            name: &one.name,
            security: one.security_context.as_ref(),
            ports: one.ports.as_deref().unwrap_or_default(),
            probes: probes.map(Option::as_ref),
            lifecycle: one.lifecycle.as_ref(),
        }
    }
}

impl Subject<'_> {
    /// Names of the containers of which this holds.
    fn containers_that(&self, holds: impl FnMut(&&Seen<'_>) -> bool) -> Vec<&str> {
        self.containers.iter().filter(holds).map(|one| one.name).collect()
    }

    /// Whether the pod says by itself that root in it is nobody on the host, which relaxes some.
    fn has_own_users(&self) -> bool {
        self.version >= Version::Minor(35) && self.spec.host_users == Some(false)
    }
}

/// One control.
struct Check {
    level: Level,
    /// The minor version of Kubernetes that brought it.
    since: u32,
    /// From this version on the level above has a stricter one in its place.
    superseded_since: Option<u32>,
    run: fn(&Subject<'_>) -> Option<Violation>,
}

const fn baseline(since: u32, run: fn(&Subject<'_>) -> Option<Violation>) -> Check {
    Check { level: Level::Baseline, since, superseded_since: None, run }
}

const fn restricted(since: u32, run: fn(&Subject<'_>) -> Option<Violation>) -> Check {
    Check { level: Level::Restricted, since, superseded_since: None, run }
}

impl Check {
    const fn superseded(self, since: u32) -> Self {
        Self { superseded_since: Some(since), ..self }
    }

    fn applies(&self, standard: Standard) -> bool {
        let reached = |since: u32| standard.version >= Version::Minor(since);
        let superseded = standard.level > self.level && self.superseded_since.is_some_and(reached);
        standard.level >= self.level && reached(self.since) && !superseded
    }
}

/// In the order in which they are told.
const CHECKS: [Check; 18] = [
    baseline(0, baseline::app_armor),
    baseline(0, baseline::host_namespaces),
    baseline(0, baseline::host_ports),
    baseline(34, baseline::probe_hosts),
    baseline(0, baseline::privileged),
    baseline(0, baseline::proc_mount).superseded(35),
    baseline(0, baseline::selinux),
    baseline(0, baseline::sysctls),
    baseline(0, baseline::capabilities).superseded(22),
    baseline(0, baseline::host_paths).superseded(0),
    baseline(0, baseline::seccomp).superseded(19),
    restricted(8, restricted::privilege_escalation),
    restricted(22, restricted::capabilities),
    restricted(35, restricted::proc_mount),
    restricted(0, restricted::volumes),
    restricted(0, restricted::not_root),
    restricted(23, restricted::user),
    restricted(19, restricted::seccomp),
];

/// All that a pod asks for and a standard does not allow.
pub(super) fn violations(standard: Standard, meta: &ObjectMeta, spec: &PodSpec) -> Vec<Violation> {
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let init = spec.init_containers.iter().flatten().map(Seen::from);
    let containers = init
        .chain(spec.containers.iter().map(Seen::from))
        .chain(spec.ephemeral_containers.iter().flatten().map(Seen::from))
        .collect();
    let subject = Subject { meta, spec, containers, version: standard.version };
    let checks = CHECKS.iter().filter(|check| check.applies(standard));
    checks.filter_map(|check| (check.run)(&subject)).collect()
}

/// `"a", "b"`
fn quoted<'t>(items: impl IntoIterator<Item = &'t str>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

fn plural<'t>(count: usize, one: &'t str, many: &'t str) -> &'t str {
    if count == 1 { one } else { many }
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural(names.len(), "container", "containers"), quoted(names.iter().copied()))
}

/// Those who say something that they must not: the pod itself, some of its containers, or both.
fn sayers(pod: bool, names: &[&str]) -> Option<String> {
    let pod = pod.then(|| "pod".to_owned());
    let names = (!names.is_empty()).then(|| containers(names));
    let sayers: Vec<String> = pod.into_iter().chain(names).collect();
    (!sayers.is_empty()).then(|| sayers.join(" and "))
}

fn quoted_set(values: &BTreeSet<&str>) -> String {
    quoted(values.iter().copied())
}
