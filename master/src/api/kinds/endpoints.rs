//! `endpoints`: where a Service's traffic goes, in the older form that many clients still read.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EndpointAddress, EndpointPort, EndpointSubset, Endpoints};
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, NONE, age, column, name, shortened};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, ip};
use crate::api::field_error::{FieldError, FieldErrors};

pub(super) const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// `endpoints`; named so because `Endpoints` is the object.
#[derive(Debug)]
pub enum EndpointsKind {}

impl Kind for EndpointsKind {
    type Object = Endpoints;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "",
        version: "v1",
        kind: "Endpoints",
        plural: "endpoints",
        singular: "endpoints",
        short_names: &["ep"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    const CREATE_ON_UPDATE: bool = true;

    fn default(object: &mut Endpoints) {
        let ports = object.subsets.iter_mut().flatten().flat_map(|set| set.ports.iter_mut());
        for port in ports.flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn validate(object: &Endpoints) -> FieldErrors {
        let mut errors = FieldErrors::new();
        for (index, subset) in object.subsets.iter().flatten().enumerate() {
            validate_subset(subset, &Path::new("subsets").index(index), &mut errors);
        }
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Endpoints", "string", "Addresses and ports of what is ready."), AGE];
        COLUMNS
    }

    fn row(object: &Endpoints, now: Timestamp) -> Vec<Value> {
        vec![
            json!(name(&object.metadata)),
            json!(summary(object)),
            json!(age(&object.metadata, now)),
        ]
    }
}

fn summary(object: &Endpoints) -> String {
    let mut shown = Vec::new();
    for subset in object.subsets.iter().flatten() {
        let addresses = || subset.addresses.iter().flatten();
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            shown.extend(addresses().map(|address| address.ip.clone()));
        }
        for port in ports {
            shown.extend(addresses().map(|address| join(&address.ip, port.port)));
        }
    }
    shortened(shown).unwrap_or_else(|| NONE.to_owned())
}

fn join(ip: &str, port: i32) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

fn validate_subset(subset: &EndpointSubset, path: &Path, errors: &mut FieldErrors) {
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (index, address) in ready.iter().enumerate() {
        validate_address(address, &path.child("addresses").index(index), errors);
    }
    for (index, address) in not_ready.iter().enumerate() {
        validate_address(address, &path.child("notReadyAddresses").index(index), errors);
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (index, port) in ports.iter().enumerate() {
        validate_port(port, ports.len() > 1, &path.child("ports").index(index), errors);
    }
}

fn validate_address(address: &EndpointAddress, path: &Path, errors: &mut FieldErrors) {
    endpoint_ip(&address.ip, &path.child("ip"), errors);
    if let Some(hostname) = address.hostname.as_deref().filter(|name| !name.is_empty()) {
        for reason in names::dns_label(hostname) {
            errors.push(FieldError::invalid(path.child("hostname"), hostname, reason));
        }
    }
    if let Some(node) = &address.node_name {
        for reason in names::dns_subdomain(node) {
            errors.push(FieldError::invalid(path.child("nodeName"), node.as_str(), reason));
        }
    }
}

/// Whether the API lets it in as an endpoint's address.
pub(crate) fn is_endpoint(text: &str) -> bool {
    let mut errors = FieldErrors::new();
    endpoint_ip(text, &Path::new("ip"), &mut errors);
    errors.is_empty()
}

/// An address that traffic may be sent to from anywhere: no loopback, no link-local.
pub(super) fn endpoint_ip(text: &str, path: &Path, errors: &mut FieldErrors) {
    ip::validate(text, path, errors);
    let Ok(address) = text.parse::<IpAddr>() else { return };
    if address.is_unspecified() {
        let detail = format!("may not be unspecified ({text})");
        errors.push(FieldError::invalid(path, text, detail));
        return;
    }
    let reason = match address {
        ip if ip.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        IpAddr::V4(ip) if ip.is_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V6(ip) if ip.is_unicast_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V4(ip) if ip.octets()[..3] == [224, 0, 0] => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        IpAddr::V6(ip) if ip.segments()[0] == 0xff02 => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        _ => return,
    };
    errors.push(FieldError::invalid(path, text, reason));
}

fn validate_port(port: &EndpointPort, needs_name: bool, path: &Path, errors: &mut FieldErrors) {
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
    protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    app_protocol(port.app_protocol.as_deref(), &path.child("appProtocol"), errors);
}

/// A protocol that is known.
pub(super) fn protocol(protocol: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    match protocol.unwrap_or_default() {
        "" => errors.push(FieldError::required(path, "")),
        known if PROTOCOLS.contains(&known) => {}
        other => errors.push(FieldError::not_supported(path, other, PROTOCOLS)),
    }
}

/// What is spoken on a port, for people and proxies to read.
pub(super) fn app_protocol(protocol: Option<&str>, path: &Path, errors: &mut FieldErrors) {
    if let Some(protocol) = protocol {
        for reason in names::qualified_name(protocol) {
            errors.push(FieldError::invalid(path, protocol, reason));
        }
    }
}
