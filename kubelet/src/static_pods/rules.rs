//! What a pod in a file may say. Pure.
//!
//! What the API would refuse of it is told again when it is to be shown there; here is what has to hold
//! before it may run: its names become names of files, what it needs has to be on the node, and
//! nothing is accepted that nobody would do.

use std::collections::BTreeSet;

use proto::k8s::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements, Volume};
use proto::quantity::Quantity;
use proto::{huge_pages, names, priority};

use super::manifest::Problem;
use crate::pods::names_any_object;

/// All that is wrong with a pod whose defaults are filled in.
pub(super) fn check(pod: &Pod, node: &str) -> Vec<Problem> {
    let mut found = Findings::default();
    let meta = &pod.metadata;
    match meta.name.as_deref() {
        None | Some("") => found.add("metadata.name", "Required value: a file names its pod"),
        Some(name) => found.name("metadata.name", name, names::dns_subdomain),
    }
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    found.name("metadata.namespace", namespace, names::dns_label);
    let given = [
        ("metadata.uid", meta.uid != pod_hash(pod)),
        ("metadata.generateName", meta.generate_name.is_some()),
        ("metadata.ownerReferences", meta.owner_references.is_some()),
        ("metadata.finalizers", meta.finalizers.is_some()),
        ("metadata.deletionTimestamp", meta.deletion_timestamp.is_some()),
    ];
    for (field, _) in given.into_iter().filter(|(_, is_given)| *is_given) {
        found.add(field, "Forbidden: the node gives a static pod what identifies it; remove it");
    }
    let spec = pod.spec.clone().unwrap_or_default();
    if spec.node_name.as_deref() != Some(node) {
        let said = spec.node_name.as_deref().unwrap_or_default();
        found.add("spec.nodeName", format!("Invalid value: {said:?}: it runs on {node:?}"));
    }
    api_objects(&spec, &mut found);
    importance(&spec, &mut found);
    meaningless(&spec, &mut found);
    structure(&spec, &mut found);
    found.0
}

fn pod_hash(pod: &Pod) -> Option<String> {
    pod.metadata.annotations.as_ref()?.get(super::HASH_ANNOTATION).cloned()
}

#[derive(Default)]
struct Findings(Vec<Problem>);

impl Findings {
    fn add(&mut self, field: impl Into<String>, what: impl Into<String>) {
        self.0.push(Problem::new(field, what));
    }

    fn name(&mut self, field: &str, value: &str, rule: fn(&str) -> Vec<String>) {
        for reason in rule(value) {
            self.add(field, format!("Invalid value: {value:?}: {reason}"));
        }
    }

    fn one_of(&mut self, field: &str, value: Option<&str>, known: &[&str]) {
        let value = value.unwrap_or_default();
        if !known.contains(&value) {
            let known: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
            let known = known.join(", ");
            self.add(field, format!("Unsupported value: {value:?}: supported values: {known}"));
        }
    }
}

/// It runs whether or not there is an API, so it needs nothing of it; as in Kubernetes.
fn api_objects(spec: &PodSpec, found: &mut Findings) {
    let said = |field: &Option<String>| field.as_deref().is_some_and(|name| !name.is_empty());
    let advice = "Forbidden: a static pod may not use objects of the API; use files of the node, \
                  by hostPath";
    if said(&spec.service_account_name) || said(&spec.service_account) {
        found.add("spec.serviceAccountName", advice);
    }
    if spec.image_pull_secrets.as_ref().is_some_and(|secrets| !secrets.is_empty()) {
        found.add("spec.imagePullSecrets", advice);
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        found.add("spec.resourceClaims", advice);
    }
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        if let Some(source) = api_source(volume) {
            found.add(format!("spec.volumes[{index}].{source}"), advice);
        }
    }
    for (list, container) in containers(spec) {
        for field in names_any_object(container) {
            found.add(format!("{list}.{field}"), advice);
        }
    }
    if spec.ephemeral_containers.as_ref().is_some_and(|all| !all.is_empty()) {
        let what = "Forbidden: static pods do not support ephemeral containers";
        found.add("spec.ephemeralContainers", what);
    }
}

fn api_source(volume: &Volume) -> Option<&'static str> {
    let projected = volume.projected.iter().flat_map(|all| all.sources.iter().flatten());
    let in_projected = projected.filter_map(|source| {
        let kinds = [
            (source.secret.is_some(), "projected.sources.secret"),
            (source.config_map.is_some(), "projected.sources.configMap"),
            (source.service_account_token.is_some(), "projected.sources.serviceAccountToken"),
            (source.cluster_trust_bundle.is_some(), "projected.sources.clusterTrustBundle"),
            (source.pod_certificate.is_some(), "projected.sources.podCertificate"),
        ];
        kinds.into_iter().find(|(is_there, _)| *is_there)
    });
    let kinds = [
        (volume.secret.is_some(), "secret"),
        (volume.config_map.is_some(), "configMap"),
        (volume.persistent_volume_claim.is_some(), "persistentVolumeClaim"),
        (volume.ephemeral.is_some(), "ephemeral"),
        (volume.csi.is_some(), "csi"),
    ];
    let found = kinds.into_iter().find(|(is_there, _)| *is_there);
    found.or_else(|| in_projected.into_iter().next()).map(|(_, field)| field)
}

/// How important it is, its node says without asking anybody.
fn importance(spec: &PodSpec, found: &mut Findings) {
    let name = spec.priority_class_name.as_deref().filter(|name| !name.is_empty());
    let known = priority::SYSTEM_CLASSES.map(|class| class.name);
    let value = match name.map(priority::system_class) {
        None => priority::DEFAULT,
        Some(Some(class)) => class.value,
        Some(None) => return found.one_of("spec.priorityClassName", name, &known),
    };
    if let Some(said) = spec.priority.filter(|said| *said != value) {
        let what = format!(
            "Invalid value: {said}: spec.priorityClassName says {value}; remove it, or name \
             another class: {}",
            known.join(", ")
        );
        found.add("spec.priority", what);
    }
}

/// Nobody schedules it, so nobody would do as these say.
fn meaningless(spec: &PodSpec, found: &mut Findings) {
    let is_set = |list: usize| list > 0;
    let advice = "Forbidden: a static pod is not scheduled; remove it";
    for (set, field) in [
        (spec.affinity.is_some(), "affinity"),
        (
            is_set(spec.topology_spread_constraints.as_ref().map_or(0, Vec::len)),
            "topologySpreadConstraints",
        ),
        (is_set(spec.scheduling_gates.as_ref().map_or(0, Vec::len)), "schedulingGates"),
    ] {
        if set {
            found.add(format!("spec.{field}"), advice);
        }
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        found.add("spec.os.name", "Unsupported value: nodes run \"linux\"");
    }
}

const RESTART_POLICIES: &[&str] = &["Always", "OnFailure", "Never"];
const DNS_POLICIES: &[&str] = &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"];
const PULL_POLICIES: &[&str] = &["Always", "IfNotPresent", "Never"];
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

fn structure(spec: &PodSpec, found: &mut Findings) {
    found.one_of("spec.restartPolicy", spec.restart_policy.as_deref(), RESTART_POLICIES);
    found.one_of("spec.dnsPolicy", spec.dns_policy.as_deref(), DNS_POLICIES);
    if spec.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0) {
        let what = "Invalid value: must be greater than or equal to 0";
        found.add("spec.terminationGracePeriodSeconds", what);
    }
    if spec.containers.is_empty() {
        found.add("spec.containers", "Required value: a pod has at least one container");
    }
    let mut volumes = BTreeSet::new();
    for (index, volume) in spec.volumes.iter().flatten().enumerate() {
        let field = format!("spec.volumes[{index}].name");
        found.name(&field, &volume.name, names::dns_label);
        if !volumes.insert(volume.name.as_str()) {
            found.add(field, format!("Duplicate value: {:?}", volume.name));
        }
    }
    let mut seen = BTreeSet::new();
    for (field, container) in containers(spec) {
        if !seen.insert(container.name.as_str()) {
            found.add(format!("{field}.name"), format!("Duplicate value: {:?}", container.name));
        }
        check_container(container, &field, &volumes, found);
    }
}

fn check_container(
    container: &Container,
    field: &str,
    volumes: &BTreeSet<&str>,
    found: &mut Findings,
) {
    let at = |name: &str| format!("{field}.{name}");
    found.name(&at("name"), &container.name, names::dns_label);
    if container.image.as_deref().is_none_or(str::is_empty) {
        found.add(at("image"), "Required value: a container runs an image");
    }
    let policy = container.image_pull_policy.as_deref();
    found.one_of(&at("imagePullPolicy"), policy, PULL_POLICIES);
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        let field = at(&format!("volumeMounts[{index}]"));
        if !volumes.contains(mount.name.as_str()) {
            let what = format!("Not found: {:?}; spec.volumes has no such volume", mount.name);
            found.add(format!("{field}.name"), what);
        }
        if mount.mount_path.is_empty() {
            found.add(format!("{field}.mountPath"), "Required value");
        }
    }
    if container.volume_devices.as_ref().is_some_and(|devices| !devices.is_empty()) {
        found.add(at("volumeDevices"), "Forbidden: there are no block volumes");
    }
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let field = at(&format!("ports[{index}]"));
        found.one_of(&format!("{field}.protocol"), port.protocol.as_deref(), PROTOCOLS);
        let ports = [("containerPort", Some(port.container_port)), ("hostPort", port.host_port)];
        for (name, number) in ports {
            if let Some(number) = number.filter(|number| !(1..=65_535).contains(number)) {
                let what = format!("Invalid value: {number}: must be between 1 and 65535");
                found.add(format!("{field}.{name}"), what);
            }
        }
    }
    if let Some(resources) = &container.resources {
        check_resources(resources, &at("resources"), found);
    }
}

fn check_resources(resources: &ResourceRequirements, field: &str, found: &mut Findings) {
    let mut limits = std::collections::BTreeMap::new();
    for (list, amounts) in [("limits", &resources.limits), ("requests", &resources.requests)] {
        for (name, amount) in amounts.iter().flatten() {
            let field = format!("{field}.{list}.{name}");
            let text = &amount.0;
            match Quantity::parse(text) {
                Err(error) => found.add(field, format!("Invalid value: {text:?}: {error}")),
                Ok(amount) if amount.is_negative() => {
                    let what = "must be greater than or equal to 0";
                    found.add(field, format!("Invalid value: {text:?}: {what}"));
                }
                Ok(amount)
                    if huge_pages::is_resource(name) && !huge_pages::is_whole(name, amount) =>
                {
                    let what = format!("is not positive integer multiple of {name}");
                    found.add(field, format!("Invalid value: {text:?}: {what}"));
                }
                Ok(amount) if list == "limits" => {
                    limits.insert(name, amount);
                }
                Ok(amount) => {
                    let limit = limits.get(name);
                    if huge_pages::is_resource(name) && limit != Some(&amount) {
                        let what = format!("must be equal to {name} limit");
                        found.add(field, format!("Invalid value: {text:?}: {what}"));
                    } else if limit.is_some_and(|limit| amount > *limit) {
                        let what = format!("must be less than or equal to {name} limit");
                        found.add(field, format!("Invalid value: {text:?}: {what}"));
                    }
                }
            }
        }
    }
    let mut names =
        [&resources.limits, &resources.requests].into_iter().flatten().flat_map(|l| l.keys());
    let has_pages = names.clone().any(|name| huge_pages::is_resource(name));
    if has_pages && !names.any(|name| ["cpu", "memory"].contains(&name.as_str())) {
        found.add(field, "Forbidden: HugePages require cpu or memory");
    }
}

/// All containers with their fields.
fn containers(spec: &PodSpec) -> impl Iterator<Item = (String, &Container)> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, one)| (format!("spec.initContainers[{index}]"), one));
    let regular = spec.containers.iter().enumerate();
    init.chain(regular.map(|(index, one)| (format!("spec.containers[{index}]"), one)))
}
