//! Services in a table.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Service, ServiceSpec};
use proto::k8s as k8s_openapi;
use serde_json::{Value, json};

use super::super::Column;
use super::super::columns::{AGE, NAME, NONE, age, column, labels, name, or_none, wide};
use super::{EXTERNAL_NAME, LOAD_BALANCER, cluster_ip, protocol, type_of};

pub(super) const COLUMNS: &[Column] = &[
    NAME,
    column("Type", "string", "How the service is exposed."),
    column("Cluster-IP", "string", "The address within the cluster."),
    column("External-IP", "string", "Addresses that reach it from outside."),
    column("Port(s)", "string", "Its ports, with node ports and protocols."),
    AGE,
    wide("Selector", "string", "Labels of the pods it reaches."),
];

pub(super) fn row(object: &Service, now: Timestamp) -> Vec<Value> {
    let spec = object.spec.clone().unwrap_or_default();
    vec![
        json!(name(&object.metadata)),
        json!(type_of(&spec)),
        json!(or_none(Some(cluster_ip(&spec)))),
        json!(external(object, &spec)),
        json!(ports(&spec)),
        json!(age(&object.metadata, now)),
        json!(labels(spec.selector.as_ref())),
    ]
}

fn external(object: &Service, spec: &ServiceSpec) -> String {
    if type_of(spec) == EXTERNAL_NAME {
        return spec.external_name.clone().unwrap_or_default();
    }
    let balancer = object.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = balancer.and_then(|balancer| balancer.ingress.as_deref()).unwrap_or_default();
    let balanced = ingress.iter().filter_map(|i| i.ip.clone().or_else(|| i.hostname.clone()));
    let mut addresses: Vec<String> =
        if type_of(spec) == LOAD_BALANCER { balanced.collect() } else { Vec::new() };
    addresses.extend(spec.external_ips.iter().flatten().cloned());
    match addresses.is_empty() {
        true if type_of(spec) == LOAD_BALANCER => "<pending>".to_owned(),
        true => NONE.to_owned(),
        false => addresses.join(","),
    }
}

fn ports(spec: &ServiceSpec) -> String {
    let ports: Vec<String> = spec
        .ports
        .iter()
        .flatten()
        .map(|port| match port.node_port {
            Some(node) if node > 0 => {
                format!("{}:{node}/{}", port.port, protocol(port.protocol.as_deref()))
            }
            _ => format!("{}/{}", port.port, protocol(port.protocol.as_deref())),
        })
        .collect();
    if ports.is_empty() { NONE.to_owned() } else { ports.join(",") }
}
