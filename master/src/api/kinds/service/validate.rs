//! What a Service has to keep to, but for its addresses.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};
use serde_json::json;

use super::super::path::Path;
use super::super::pod::unsupported::{given, refuse, refuse_set};
use super::super::{endpoints, metadata};
use super::{
    CLUSTER_IP, EXTERNAL_NAME, HEADLESS, LOAD_BALANCER, NODE_PORT, addresses, cluster_ip,
    may_have_node_ports, protocol, type_of,
};
use crate::api::field_error::{FieldError, FieldErrors};

const TYPES: &[&str] = &[CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT];
const AFFINITIES: &[&str] = &["ClientIP", "None"];
/// A day.
const MAX_AFFINITY_SECONDS: i32 = 86400;

/// Of the same meaning, the older one first.
const TOPOLOGY: [&str; 2] =
    ["service.kubernetes.io/topology-aware-hints", "service.kubernetes.io/topology-mode"];
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
    unsupported(spec, &path, &mut errors);
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
    if let Some(ranges) = annotation(SOURCE_RANGES) {
        let path = path.key(SOURCE_RANGES);
        if kind != LOAD_BALANCER {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            errors.push(FieldError::forbidden(path, detail));
        } else if !ranges.trim().is_empty() {
            refuse(&path, ranges, "sources are not filtered", errors);
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
    let protocol_path = path.child("protocol");
    match protocol(port.protocol.as_deref()) {
        "SCTP" => refuse(&protocol_path, "SCTP", "use TCP or UDP", errors),
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
        Some(policy) if !may_have_node_ports(spec) => {
            let detail = "may only be set for externally-accessible services";
            errors.push(FieldError::invalid(external, policy, detail));
        }
        Some("Cluster") => {}
        Some("Local") => {
            let instead = "traffic from outside goes to the endpoints of all nodes";
            refuse(&external, "Local", instead, errors);
        }
        Some(other) => errors.push(FieldError::not_supported(external, other, supported)),
    }
    let internal = path.child("internalTrafficPolicy");
    match spec.internal_traffic_policy.as_deref() {
        None | Some("Cluster" | "") => {}
        Some("Local") => {
            refuse(&internal, "Local", "traffic goes to the endpoints of all nodes", errors);
        }
        Some(other) => errors.push(FieldError::not_supported(internal, other, supported)),
    }
    if let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is \
                      'Local'";
        errors.push(FieldError::invalid(path.child("healthCheckNodePort"), number, detail));
    }
    if spec.allocate_load_balancer_node_ports.is_some() && type_of(spec) != LOAD_BALANCER {
        let path = path.child("allocateLoadBalancerNodePorts");
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// What would change where traffic goes, and does not yet.
fn unsupported(spec: &ServiceSpec, path: &Path, errors: &mut FieldErrors) {
    let node_port = "use a NodePort service";
    let fields = [
        (given(&spec.external_ips), "externalIPs", node_port),
        (given(&spec.load_balancer_ip), "loadBalancerIP", node_port),
        (
            given(&spec.load_balancer_source_ranges),
            "loadBalancerSourceRanges",
            "sources are not filtered",
        ),
        (
            given(&spec.traffic_distribution),
            "trafficDistribution",
            "traffic is spread over all endpoints evenly",
        ),
    ];
    refuse_set(path, fields, errors);
    let class = spec.load_balancer_class.is_some();
    if class && type_of(spec) != LOAD_BALANCER {
        let detail = "may only be used when `type` is 'LoadBalancer'";
        errors.push(FieldError::forbidden(path.child("loadBalancerClass"), detail));
    } else if class {
        refuse(&path.child("loadBalancerClass"), &spec.load_balancer_class, node_port, errors);
    }
}
