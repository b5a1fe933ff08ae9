//! What a Service has to keep to.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::path::Path;
use super::super::{endpoints, metadata};
use super::{
    CLUSTER_IP, EXTERNAL_NAME, HEADLESS, LOAD_BALANCER, NODE_PORT, cluster_ip, has_node_ports,
    protocol, type_of,
};
use crate::api::field_error::{FieldError, FieldErrors};

const TYPES: &[&str] = &[CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
/// A day.
const MAX_AFFINITY_SECONDS: i32 = 86400;

/// All that is wrong with a spec whose defaults are filled in.
pub(super) fn spec(spec: &ServiceSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let path = Path::new("spec");
    let kind = type_of(spec);
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(path.child("type"), kind, TYPES));
    }
    validate_ports(spec, &path, &mut errors);
    validate_addresses(spec, &path, &mut errors);
    metadata::labels(spec.selector.as_ref(), &path.child("selector"), &mut errors);
    validate_affinity(spec, &path, &mut errors);
    validate_policies(spec, &path, &mut errors);
    unsupported(spec, &path, &mut errors);
    errors
}

fn validate_ports(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let path = path.child("ports");
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && type_of(spec) != EXTERNAL_NAME && cluster_ip(spec) != HEADLESS {
        errors.push(FieldError::required(&path, ""));
    }
    let (mut seen_names, mut seen, mut seen_nodes) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        validate_port(port, ports.len() > 1, &path, errors);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() && !seen_names.insert(name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        let protocol = protocol(port.protocol.as_deref());
        if !seen.insert((port.port, protocol)) {
            let value = json!({"port": port.port, "protocol": protocol});
            errors.push(FieldError::duplicate(&path, value));
        }
        let Some(node) = port.node_port.filter(|number| *number != 0) else { continue };
        let path = path.child("nodePort");
        if !has_node_ports(spec) {
            let detail = format!("may not be used when `type` is '{}'", type_of(spec));
            errors.push(FieldError::forbidden(path, detail));
        } else if !seen_nodes.insert((node, protocol)) {
            errors.push(FieldError::duplicate(path, node));
        }
    }
}

fn validate_port(port: &ServicePort, needs_name: bool, path: &Path, errors: &mut FieldErrors) {
    match port.name.as_deref().unwrap_or_default() {
        "" if needs_name => errors.push(FieldError::required(path.child("name"), "")),
        "" => {}
        name => {
            for reason in names::dns_label(name) {
                errors.push(FieldError::invalid(path.child("name"), name, reason));
            }
        }
    }
    for reason in names::port_number(port.port) {
        errors.push(FieldError::invalid(path.child("port"), port.port, reason));
    }
    let protocol_path = path.child("protocol");
    match protocol(port.protocol.as_deref()) {
        "SCTP" => errors.push(FieldError::forbidden(
            protocol_path,
            "SCTP is not supported by this version of Kutter: use TCP or UDP",
        )),
        other => endpoints::protocol(Some(other), &protocol_path, errors),
    }
    let path_to_target = path.child("targetPort");
    match &port.target_port {
        Some(IntOrString::Int(number)) => {
            for reason in names::port_number(*number) {
                errors.push(FieldError::invalid(&path_to_target, *number, reason));
            }
        }
        Some(IntOrString::String(name)) => {
            for reason in names::port_name(name) {
                errors.push(FieldError::invalid(&path_to_target, name.as_str(), reason));
            }
        }
        None => errors.push(FieldError::required(&path_to_target, "")),
    }
    endpoints::app_protocol(port.app_protocol.as_deref(), &path.child("appProtocol"), errors);
}

fn validate_addresses(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let kind = type_of(spec);
    let path_to_ips = path.child("clusterIPs");
    let ips = spec.cluster_ips.as_deref().unwrap_or_default();
    if kind == EXTERNAL_NAME {
        for (set, field) in [
            (!cluster_ip(spec).is_empty(), "clusterIPs"),
            (spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()), "ipFamilies"),
            (spec.ip_family_policy.is_some(), "ipFamilyPolicy"),
        ] {
            if set {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(path.child(field), detail));
            }
        }
        let path = path.child("externalName");
        match spec.external_name.as_deref().unwrap_or_default() {
            "" => errors.push(FieldError::required(path, "")),
            name => {
                for reason in names::dns_subdomain(name.strip_suffix('.').unwrap_or(name)) {
                    errors.push(FieldError::invalid(&path, name, reason));
                }
            }
        }
        return;
    }
    if spec.cluster_ip.as_deref().unwrap_or_default() != ips.first().map_or("", String::as_str) {
        let detail = "must be the same as `clusterIPs[0]`";
        errors.push(FieldError::invalid(path.child("clusterIP"), spec.cluster_ip.clone(), detail));
    }
    if ips.len() > 1 {
        let detail = "may only hold one address: this cluster has one address family";
        errors.push(FieldError::invalid(&path_to_ips, json!(ips), detail));
    }
    for (index, ip) in ips.iter().enumerate() {
        if ip == HEADLESS {
            if kind != CLUSTER_IP {
                let detail = format!("may not be set to 'None' for {kind} services");
                errors.push(FieldError::invalid(path_to_ips.index(index), ip.as_str(), detail));
            }
        } else if ip.parse::<Ipv4Addr>().is_err() {
            let detail = "must be a valid IPv4 address, (e.g. 10.9.8.7)";
            errors.push(FieldError::invalid(path_to_ips.index(index), ip.as_str(), detail));
        }
    }
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        let path = path.child("ipFamilies").index(index);
        match family.as_str() {
            "IPv4" if index == 0 => {}
            "IPv4" | "IPv6" => {
                let detail = "not configured on this cluster";
                errors.push(FieldError::invalid(path, family.as_str(), detail));
            }
            other => errors.push(FieldError::not_supported(path, other, &["IPv4", "IPv6"])),
        }
    }
    let policies = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    match spec.ip_family_policy.as_deref() {
        None | Some("SingleStack" | "PreferDualStack") => {}
        Some(policy @ "RequireDualStack") => {
            let detail = "this cluster is not configured for dual-stack services";
            errors.push(FieldError::invalid(path.child("ipFamilyPolicy"), policy, detail));
        }
        Some(other) => {
            errors.push(FieldError::not_supported(path.child("ipFamilyPolicy"), other, policies));
        }
    }
}

fn validate_affinity(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let config = path.child("sessionAffinityConfig");
    match spec.session_affinity.as_deref().unwrap_or("None") {
        "None" => {
            if spec.session_affinity_config.is_some() {
                let detail = "must not be set when session affinity is None";
                errors.push(FieldError::forbidden(config, detail));
            }
        }
        "ClientIP" => {
            let client = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
            let seconds = client.and_then(|client| client.timeout_seconds).unwrap_or(0);
            if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
                errors.push(FieldError::invalid(
                    config.child("clientIP.timeoutSeconds"),
                    seconds,
                    format!("must be greater than 0 and less than {MAX_AFFINITY_SECONDS}"),
                ));
            }
        }
        other => {
            let path = path.child("sessionAffinity");
            errors.push(FieldError::not_supported(path, other, AFFINITIES));
        }
    }
}

fn validate_policies(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let supported = &["Cluster", "Local"];
    let external = path.child("externalTrafficPolicy");
    match spec.external_traffic_policy.as_deref() {
        None | Some("") => {}
        Some(_) if ![NODE_PORT, LOAD_BALANCER].contains(&type_of(spec)) => {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::forbidden(external, detail));
        }
        Some("Cluster") => {}
        Some("Local") => errors.push(FieldError::forbidden(
            external,
            "Local is not supported by this version of Kutter: traffic from outside goes to the \
             endpoints of all nodes",
        )),
        Some(other) => errors.push(FieldError::not_supported(external, other, supported)),
    }
    let internal = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster" | "") => {}
        Some("Local") => errors.push(FieldError::forbidden(
            internal,
            "Local is not supported by this version of Kutter: traffic goes to the endpoints of \
             all nodes",
        )),
        Some(other) => errors.push(FieldError::not_supported(internal, other, supported)),
    }
    if spec.allocate_load_balancer_node_ports.is_some() && type_of(spec) != LOAD_BALANCER {
        let path = path.child("allocateLoadBalancerNodePorts");
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// What would change where traffic goes, and does not yet.
fn unsupported(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let mut refuse = |set: bool, field: &str, instead: &str| {
        if set {
            let detail = format!("is not supported by this version of Kutter: {instead}");
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
    };
    let listed = |list: &Option<Vec<String>>| list.as_ref().is_some_and(|list| !list.is_empty());
    let said = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
    let node_port = "use a NodePort service";
    refuse(listed(&spec.external_ips), "externalIPs", node_port);
    refuse(said(&spec.load_balancer_ip), "loadBalancerIP", node_port);
    refuse(said(&spec.load_balancer_class), "loadBalancerClass", node_port);
    refuse(
        listed(&spec.load_balancer_source_ranges),
        "loadBalancerSourceRanges",
        "sources are not filtered",
    );
    refuse(
        spec.health_check_node_port.unwrap_or(0) != 0,
        "healthCheckNodePort",
        "it goes with externalTrafficPolicy Local",
    );
    refuse(
        said(&spec.traffic_distribution),
        "trafficDistribution",
        "traffic is spread over all endpoints evenly",
    );
}

/// What an update may not change.
pub(super) fn update(new: &ServiceSpec, old: &ServiceSpec) -> FieldErrors {
    let mut errors = FieldErrors::new();
    // Becoming, or having been, an ExternalName gives up the address.
    if type_of(new) == EXTERNAL_NAME || type_of(old) == EXTERNAL_NAME {
        return errors;
    }
    if cluster_ip(old) != cluster_ip(new) && !cluster_ip(old).is_empty() {
        errors.push(FieldError::invalid(
            "spec.clusterIPs[0]",
            json!(new.cluster_ips.clone().unwrap_or_default()),
            "may not change once set",
        ));
    }
    errors
}
