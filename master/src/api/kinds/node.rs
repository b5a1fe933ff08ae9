//! `nodes`: the machines. A node's pod range is allocated out of the cluster's when it joins.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeSpec, Taint};
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::cidr::{Family, IpRange, RangeError};
use super::columns::{AGE, NAME, NONE, UNKNOWN, age, column, name, wide};
use super::path::Path;
use super::pod::unsupported::refuse;
use super::{ClusterConfig, Column, Kind, ResourceInfo, ip, resource_names};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::cache::{SelectableFields, selectable};

const EFFECTS: &[&str] = &["NoSchedule", "PreferNoSchedule", "NoExecute"];
const TAINTS: &str = "scheduler.alpha.kubernetes.io/taints";
const ROLE_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

/// `nodes`
#[derive(Debug)]
pub enum Nodes {}

impl Kind for Nodes {
    type Object = Node;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Node",
        plural: "nodes",
        singular: "node",
        short_names: &["no"],
        categories: &[],
        namespaced: false,
        status: true,
        scale: false,
    };

    const FIELDS: SelectableFields =
        &[selectable("spec.unschedulable", &["spec", "unschedulable"]).or("false")];

    fn default(object: &mut Node) {
        if let Some(status) = object.status.as_mut().filter(|status| status.allocatable.is_none()) {
            status.allocatable.clone_from(&status.capacity);
        }
        // The older field and the first of the newer ones always say the same.
        let Some(spec) = object.spec.as_mut() else { return };
        match (&spec.pod_cidr, spec.pod_cidrs.as_deref().unwrap_or_default()) {
            (Some(cidr), []) if !cidr.is_empty() => spec.pod_cidrs = Some(vec![cidr.clone()]),
            (None, [first, ..]) => spec.pod_cidr = Some(first.clone()),
            _ => {}
        }
    }

    fn prepare_update(new: &mut Node, old: &Node) {
        new.status.clone_from(&old.status);
        // A client that does not know of the range leaves it out; it stays.
        let ranges = |spec: &Option<NodeSpec>| spec.as_ref().and_then(|s| s.pod_cidrs.clone());
        if ranges(&new.spec).is_none_or(|ranges| ranges.is_empty())
            && let Some(old) = old.spec.as_ref().filter(|spec| spec.pod_cidrs.is_some())
        {
            let spec = new.spec.get_or_insert_default();
            spec.pod_cidr.clone_from(&old.pod_cidr);
            spec.pod_cidrs.clone_from(&old.pod_cidrs);
        }
    }

    fn prepare_status_update(new: &mut Node, old: &Node) {
        new.spec.clone_from(&old.spec);
    }

    fn validate(object: &Node) -> FieldErrors {
        let mut errors = FieldErrors::new();
        if let Some(spec) = &object.spec {
            validate_spec(spec, &mut errors);
        }
        validate_annotations(object, &mut errors);
        validate_status(object, &mut errors);
        errors
    }

    fn validate_status_update(new: &Node, _old: &Node) -> FieldErrors {
        let mut errors = FieldErrors::new();
        validate_status(new, &mut errors);
        validate_addresses(new, &mut errors);
        errors
    }

    fn validate_update(new: &Node, old: &Node) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let (new, old) =
            (new.spec.clone().unwrap_or_default(), old.spec.clone().unwrap_or_default());
        // A second family may be added when the cluster gets one.
        let (ranges, before) =
            (new.pod_cidrs.unwrap_or_default(), old.pod_cidrs.unwrap_or_default());
        if !ranges.starts_with(&before) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.podCIDRs", detail));
        }
        if old.provider_id.is_some() && new.provider_id != old.provider_id {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden("spec.providerID", detail));
        }
        if new.external_id.unwrap_or_default() != old.external_id.unwrap_or_default() {
            errors.push(FieldError::forbidden("spec.externalID", "may not be updated"));
        }
        errors
    }

    const ALLOCATES: bool = true;

    fn allocate(
        object: &mut Node,
        old: Option<&Node>,
        cluster: &ClusterConfig,
        claimed: &dyn Fn(&str) -> bool,
    ) -> Result<(), FieldErrors> {
        let held = old.and_then(|old| old.spec.as_ref()?.pod_cidrs.clone()).unwrap_or_default();
        let spec = object.spec.get_or_insert_default();
        let ranges = spec.pod_cidrs.get_or_insert_default();
        check_ranges(ranges, &held, cluster, claimed)?;
        let path = Path::new("spec.podCIDRs");
        let have: Vec<_> = ranges.iter().map(|range| Family::of(range)).collect();
        for pods in cluster.pod_cidrs.iter().filter(|pods| !have.contains(&pods.family())) {
            let prefix = cluster.node_prefixes.of(pods.family());
            match pods.subnets(prefix).find(|range| !claimed(&claim(range))) {
                Some(range) => ranges.push(range.to_string()),
                // A node that is there goes on with the family that it has.
                None if !held.is_empty() => {}
                None => {
                    let detail = format!(
                        "no range is left: all /{prefix} ranges of {pods} are held by nodes"
                    );
                    return Err(FieldError::forbidden(path, detail).into());
                }
            }
        }
        spec.pod_cidr = ranges.first().cloned();
        Ok(())
    }

    fn claims(object: &Node) -> Vec<String> {
        let ranges = object.spec.as_ref().and_then(|spec| spec.pod_cidrs.as_deref());
        // There are many ways to write a range of IPv6.
        let claimed = |text: &String| text.parse::<IpRange>().map_or_else(|_| claim(text), claim);
        ranges.into_iter().flatten().map(claimed).collect()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("Status", "string", "The status of the node"),
            column("Roles", "string", "The roles of the node"),
            AGE,
            column("Version", "string", "Kubelet Version reported by the node."),
            wide("Internal-IP", "string", "The address other nodes reach it by."),
            wide("External-IP", "string", "The address the world reaches it by."),
            wide("OS-Image", "string", "The operating system, as it calls itself."),
            wide("Kernel-Version", "string", "The version of the kernel."),
            wide("Container-Runtime", "string", "What runs the containers."),
        ];
        COLUMNS
    }

    fn row(object: &Node, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let address = |kind: &str| {
            let mut addresses = status.addresses.iter().flatten();
            addresses.find(|a| a.type_ == kind).map_or(NONE.to_owned(), |a| a.address.clone())
        };
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: &str| if text.is_empty() { UNKNOWN } else { text }.to_owned();
        vec![
            json!(name(&object.metadata)),
            json!(condition(object)),
            json!(roles(object)),
            json!(age(&object.metadata, now)),
            json!(info.kubelet_version),
            json!(address("InternalIP")),
            json!(address("ExternalIP")),
            json!(known(&info.os_image)),
            json!(known(&info.kernel_version)),
            json!(known(&info.container_runtime_version)),
        ]
    }
}

fn claim(range: impl std::fmt::Display) -> String {
    // A slash would read as a level of the key.
    format!("pod-cidr/{}", range.to_string().replace('/', "-"))
}

fn unschedulable(object: &Node) -> bool {
    object.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true))
}

fn condition(object: &Node) -> String {
    let conditions = object.status.iter().filter_map(|status| status.conditions.as_ref());
    let ready = conditions.flatten().find(|condition| condition.type_ == "Ready");
    let mut text = match ready.map(|condition| condition.status.as_str()) {
        Some("True") => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if unschedulable(object) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(object: &Node) -> String {
    let labels = object.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_PREFIX) {
            Some(role) if !role.is_empty() => Some(role),
            None if key == ROLE_LABEL && !value.is_empty() => Some(value),
            _ => None,
        })
        .collect();
    if roles.is_empty() { NONE.to_owned() } else { Vec::from_iter(roles).join(",") }
}

fn check_ranges(
    ranges: &[String],
    held: &[String],
    cluster: &ClusterConfig,
    claimed: &dyn Fn(&str) -> bool,
) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec.podCIDRs");
    for (index, text) in ranges.iter().enumerate().filter(|(_, text)| !held.contains(text)) {
        // That it reads as a range was seen in validation.
        let Ok(range) = text.parse::<IpRange>() else { continue };
        let path = path.index(index);
        let Some(pods) = cluster.pod_cidrs.of(range.family()) else {
            let detail = format!("{} is not configured on this cluster", range.family());
            errors.push(FieldError::invalid(path, text.as_str(), detail));
            continue;
        };
        let prefix = cluster.node_prefixes.of(range.family());
        // Ranges of one length never overlap in part, so claims of whole ranges suffice.
        if !pods.contains_range(&range) || range.prefix() != prefix {
            let detail = format!("must be a /{prefix} range out of {pods}");
            errors.push(FieldError::invalid(path, text.as_str(), detail));
        } else if claimed(&claim(range)) {
            errors.push(FieldError::invalid(path, text.as_str(), "held by another node"));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn validate_spec(spec: &NodeSpec, errors: &mut FieldErrors) {
    let path = Path::new("spec");
    validate_ranges(spec, &path, errors);
    if spec.config_source.is_some() {
        let detail = "configSource is no longer supported by Kubernetes, nor by Kutter";
        errors.push(FieldError::forbidden(path.child("configSource"), detail));
    }
    if spec.pod_preemption_policy.is_some() {
        let path = path.child("podPreemptionPolicy");
        refuse(&path, &spec.pod_preemption_policy, "nothing is preempted", errors);
    }
    // The path that Kubernetes tells.
    let path = Path::new("metadata.taints");
    validate_taints(spec.taints.as_deref().unwrap_or_default(), &path, errors);
}

fn validate_ranges(spec: &NodeSpec, path: &Path, errors: &mut FieldErrors) {
    let ranges = spec.pod_cidrs.as_deref().unwrap_or_default();
    let path_to_ranges = path.child("podCIDRs");
    let mut families = Vec::new();
    for (index, range) in ranges.iter().enumerate() {
        match range.parse::<IpRange>() {
            Ok(range) => families.push(range.family()),
            Err(error) => {
                let path = path_to_ranges.index(index);
                errors.push(FieldError::invalid(path, range.as_str(), misread(&error)));
            }
        }
        if ranges[..index].contains(range) {
            errors.push(FieldError::duplicate(path_to_ranges.index(index), range.as_str()));
        }
    }
    if ranges.len() > 2 || matches!(families[..], [first, second] if first == second) {
        let detail = "may specify no more than one CIDR for each IP family";
        errors.push(FieldError::invalid(path_to_ranges, json!(ranges), detail));
    }
    if let Some(cidr) = spec.pod_cidr.as_ref().filter(|cidr| !cidr.is_empty())
        && ranges.first() != Some(cidr)
    {
        let detail = "must be the same as podCIDRs[0]";
        errors.push(FieldError::invalid(path.child("podCIDR"), cidr.as_str(), detail));
    }
}

/// Why a text is no range, in Kubernetes' words.
fn misread(error: &RangeError) -> &'static str {
    match error {
        RangeError::HostBits { .. } => "must not have bits set beyond the prefix length",
        _ => "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
    }
}

fn validate_taints(taints: &[Taint], path: &Path, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        for reason in names::qualified_name(&taint.key) {
            errors.push(FieldError::invalid(path.child("key"), taint.key.as_str(), reason));
        }
        let value = taint.value.as_deref().unwrap_or_default();
        let reasons = names::label_value(value);
        if !reasons.is_empty() {
            errors.push(FieldError::invalid(path.child("value"), value, reasons.join(";")));
        }
        match taint.effect.as_str() {
            "" => errors.push(FieldError::required(path.child("effect"), "")),
            known if EFFECTS.contains(&known) => {}
            other => errors.push(FieldError::not_supported(path.child("effect"), other, EFFECTS)),
        }
        if !seen.insert((&taint.key, &taint.effect)) {
            let mut error = FieldError::duplicate(&path, json!(taint));
            error.detail = "taints must be unique by key and effect pair".to_owned();
            errors.push(error);
        }
    }
}

fn validate_status(object: &Node, errors: &mut FieldErrors) {
    let Some(status) = &object.status else { return };
    let path = Path::new("status");
    for (field, amounts) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        for (name, amount) in amounts.iter().flatten() {
            resource_names::validate_amount(name, amount, &path.child(field).child(name), errors);
        }
    }
    for (index, address) in status.addresses.iter().flatten().enumerate() {
        if address.type_.ends_with("IP") {
            let path = path.child("addresses").index(index).child("address");
            ip::validate(&address.address, &path, errors);
        }
    }
}

/// No address is told twice.
fn validate_addresses(object: &Node, errors: &mut FieldErrors) {
    let status = object.status.as_ref();
    let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
    for (index, address) in addresses.iter().enumerate() {
        if addresses[..index].contains(address) {
            let path = Path::new("status.addresses").index(index);
            errors.push(FieldError::duplicate(path, json!(address)));
        }
    }
}

/// What once was `spec.taints`.
fn validate_annotations(object: &Node, errors: &mut FieldErrors) {
    let annotation = object.metadata.annotations.as_ref().and_then(|all| all.get(TAINTS));
    let path = Path::new("metadata.annotations");
    match annotation.map(|text| serde_json::from_str::<Vec<Taint>>(text)) {
        Some(Ok(taints)) => validate_taints(&taints, &path.child(TAINTS), errors),
        Some(Err(error)) if annotation.is_some_and(|text| !text.is_empty()) => {
            errors.push(FieldError::invalid(path, TAINTS, error.to_string()));
        }
        _ => {}
    }
}
