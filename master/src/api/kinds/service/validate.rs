//! What a Service has to keep to, but for its addresses.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::cidr::IpRange;
use super::super::path::Path;
use super::super::pod::unsupported::refuse;
use super::super::{endpoints, ip, metadata};
use super::{
    CLUSTER_IP, EXTERNAL_NAME, HEADLESS, LOAD_BALANCER, NODE_PORT, addresses, cluster_ip,
    is_reached_from_outside, may_have_node_ports, needs_health_check, protocol, type_of,
};
use crate::api::field_error::{FieldError, FieldErrors};

const TYPES: &[&str] = &[CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
const TRAFFIC_POLICIES: &[&str] = &["Cluster", "Local"];
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameZone", "PreferSameNode"];
/// Clients of Kubernetes' kubelets connect to it; it is not to be led astray.
const KUBELET_PORT: i32 = 10250;
/// A day.
const MAX_AFFINITY_SECONDS: i32 = 86400;

/// Of the same meaning, the older one first.
const TOPOLOGY: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
const TOPOLOGY_MODES: &[&str] = &["Auto", "auto", "Disabled", "disabled"];
/// What `loadBalancerSourceRanges` once was.
const SOURCE_RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// All that is wrong with a Service whose defaults are filled in.
pub(super) fn service(service: &Service) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let default = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&default);
    let path = Path::new("spec");
    let kind = type_of(spec);
    validate_annotations(service, kind, &mut errors);
    if !TYPES.contains(&kind) {
        errors.push(FieldError::not_supported(path.child("type"), kind, TYPES));
    }
    validate_ports(spec, &path, &mut errors);
    addresses::validate(spec, &path, &mut errors);
    metadata::labels(spec.selector.as_ref(), &path.child("selector"), &mut errors);
    validate_affinity(spec, &path, &mut errors);
    validate_policies(spec, &path, &mut errors);
    validate_external_ips(spec, &path, &mut errors);
    validate_balancer(spec, &path, &mut errors);
    errors
}

fn validate_annotations(service: &Service, kind: &str, errors: &mut FieldErrors) {
    let path = Path::new("metadata.annotations");
    let annotation = |key: &str| service.metadata.annotations.as_ref().and_then(|all| all.get(key));
    let [hints, mode] = TOPOLOGY;
    if let (Some(hinted), Some(moded)) = (annotation(hints), annotation(mode))
        && hinted != moded
    {
        let detail = format!("must match annotations[{hints}] when both are specified");
        errors.push(FieldError::invalid(path.key(mode), moded.as_str(), detail));
    }
    for key in TOPOLOGY {
        let Some(said) = annotation(key) else { continue };
        if !TOPOLOGY_MODES.contains(&said.as_str()) {
            errors.push(FieldError::not_supported(path.key(key), said.as_str(), TOPOLOGY_MODES));
        }
    }
    if let Some(ranges) = annotation(SOURCE_RANGES) {
        let path = path.key(SOURCE_RANGES);
        if kind != LOAD_BALANCER {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(path, detail));
        } else if !ranges.trim().is_empty() {
            refuse(&path, ranges, "use spec.loadBalancerSourceRanges", errors);
        }
    }
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
        if !may_have_node_ports(spec) {
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
    endpoints::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
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
    let external = path.child("externalTrafficPolicy");
    match spec.external_traffic_policy.as_deref() {
        None | Some("") => {}
        Some(policy) if !is_reached_from_outside(spec) => {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(external, policy, detail));
        }
        Some(policy) => one_of(policy, TRAFFIC_POLICIES, external, errors),
    }
    if let Some(policy) = spec.internal_traffic_policy.as_deref() {
        one_of(policy, TRAFFIC_POLICIES, path.child("internalTrafficPolicy"), errors);
    }
    if let Some(wish) = spec.traffic_distribution.as_deref() {
        one_of(wish, DISTRIBUTIONS, path.child("trafficDistribution"), errors);
    }
    let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) else { return };
    let path = path.child("healthCheckNodePort");
    if !needs_health_check(spec) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                      'Local'";
        errors.push(FieldError::invalid(path, number, detail));
        return;
    }
    for reason in names::port_number(number) {
        errors.push(FieldError::invalid(&path, number, reason));
    }
    let twice =
        spec.ports.iter().flatten().any(|port| {
            port.node_port == Some(number) && protocol(port.protocol.as_deref()) == "TCP"
        });
    if twice {
        errors.push(FieldError::duplicate(path, number));
    }
}

fn one_of(value: &str, known: &[&str], path: Path, errors: &mut FieldErrors) {
    if !known.contains(&value) {
        errors.push(FieldError::not_supported(path, value, known));
    }
}

fn validate_external_ips(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    for (index, ip) in spec.external_ips.iter().flatten().enumerate() {
        endpoints::endpoint_ip(ip, &path.child("externalIPs").index(index), errors);
    }
}

/// What only a LoadBalancer may have.
fn validate_balancer(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let balanced = type_of(spec) == LOAD_BALANCER;
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let wanted = spec.load_balancer_ip.as_deref().unwrap_or_default();
    for (given, field) in [
        (!ranges.is_empty(), "loadBalancerSourceRanges"),
        (spec.allocate_load_balancer_node_ports.is_some(), "allocateLoadBalancerNodePorts"),
        (spec.load_balancer_class.is_some(), "loadBalancerClass"),
        (!wanted.is_empty(), "loadBalancerIP"),
    ] {
        if given && !balanced {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(path.child(field), detail));
        }
    }
    if !balanced {
        return;
    }
    if !wanted.is_empty() {
        ip::validate(wanted, &path.child("loadBalancerIP"), errors);
    }
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        if port.port == KUBELET_PORT {
            let detail = "may not expose port 10250 externally since it is used by kubelet";
            let path = path.child("ports").index(index);
            errors.push(FieldError::invalid(path, port.port, detail));
        }
    }
    for (index, range) in ranges.iter().enumerate() {
        // Once an annotation, in which spaces were allowed.
        if let Err(error) = range.trim().parse::<IpRange>() {
            let path = path.child("loadBalancerSourceRanges").index(index);
            errors.push(FieldError::invalid(path, range.as_str(), error.to_string()));
        }
    }
    if let Some(class) = &spec.load_balancer_class {
        for reason in names::qualified_name(class) {
            errors.push(FieldError::invalid(
                path.child("loadBalancerClass"),
                class.as_str(),
                reason,
            ));
        }
    }
}

/// What an update may not change, but for the addresses.
pub(super) fn update(new: &ServiceSpec, old: &ServiceSpec) -> FieldErrors {
    let mut errors = addresses::validate_update(new, old);
    let both = |has: fn(&ServiceSpec) -> bool| has(new) && has(old);
    if both(|spec| type_of(spec) == LOAD_BALANCER)
        && new.load_balancer_class != old.load_balancer_class
    {
        let class = json!(new.load_balancer_class);
        let detail = "may not change once set";
        errors.push(FieldError::invalid("spec.loadBalancerClass", class, detail));
    }
    if both(needs_health_check) && new.health_check_node_port != old.health_check_node_port {
        errors.push(FieldError::forbidden("spec.healthCheckNodePort", "field is immutable"));
    }
    errors
}
