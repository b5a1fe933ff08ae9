//! `endpointslices`: where a Service's traffic goes, in pieces that stay small.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, age, column, name, shortened};
use super::endpoints::{app_protocol, endpoint_ip, protocol};
use super::path::Path;
use super::{Column, Kind, ResourceInfo};
use crate::api::field_error::{FieldError, FieldErrors};

const ADDRESS_TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];
const MAX_ENDPOINTS: usize = 1000;
const MAX_PORTS: usize = 100;
const MAX_ADDRESSES: usize = 100;
const MAX_HINTS: usize = 8;
const UNSET: &str = "<unset>";

/// `endpointslices`
#[derive(Debug)]
pub enum EndpointSlices {}

impl Kind for EndpointSlices {
    type Object = EndpointSlice;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "discovery.k8s.io",
        version: "v1",
        kind: "EndpointSlice",
        plural: "endpointslices",
        singular: "endpointslice",
        short_names: &[],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    fn default(object: &mut EndpointSlice) {
        for port in object.ports.iter_mut().flatten() {
            port.name.get_or_insert_default();
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
    }

    fn prepare_create(object: &mut EndpointSlice) {
        object.metadata.generation = Some(1);
        drop_topology(object);
    }

    fn prepare_update(new: &mut EndpointSlice, old: &EndpointSlice) {
        if new.endpoints != old.endpoints {
            drop_topology(new);
        }
    }

    fn spec_changed(new: &EndpointSlice, old: &EndpointSlice) -> bool {
        // Controllers of traffic select by labels.
        new.endpoints != old.endpoints
            || new.ports != old.ports
            || new.metadata.labels != old.metadata.labels
    }

    fn validate(object: &EndpointSlice) -> FieldErrors {
        let mut errors = FieldErrors::new();
        match object.address_type.as_str() {
            "" => errors.push(FieldError::required("addressType", "")),
            known if ADDRESS_TYPES.contains(&known) => {}
            other => errors.push(FieldError::not_supported("addressType", other, ADDRESS_TYPES)),
        }
        let endpoints = object.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > MAX_ENDPOINTS {
            errors.push(FieldError::too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
        }
        for (index, endpoint) in endpoints.iter().enumerate() {
            let path = Path::new("endpoints").index(index);
            validate_endpoint(endpoint, &object.address_type, &path, &mut errors);
        }
        validate_ports(object, &mut errors);
        errors
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> FieldErrors {
        if new.address_type == old.address_type {
            return FieldErrors::new();
        }
        FieldError::invalid("addressType", new.address_type.as_str(), "field is immutable").into()
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            NAME,
            column("AddressType", "string", "The type of addresses in this slice."),
            column("Ports", "string", "The ports of every endpoint in this slice."),
            column("Endpoints", "string", "The endpoints in this slice."),
            AGE,
        ];
        COLUMNS
    }

    fn row(object: &EndpointSlice, now: Timestamp) -> Vec<Value> {
        let ports = object.ports.iter().flatten().map(|port| match (port.port, &port.name) {
            (Some(port), _) => port.to_string(),
            (None, Some(name)) if !name.is_empty() => name.clone(),
            (None, _) => "*".to_owned(),
        });
        let addresses = object.endpoints.iter().flatten().flat_map(|e| e.addresses.iter().cloned());
        vec![
            json!(name(&object.metadata)),
            json!(object.address_type),
            json!(shortened(ports).unwrap_or_else(|| UNSET.to_owned())),
            json!(shortened(addresses).unwrap_or_else(|| UNSET.to_owned())),
            json!(age(&object.metadata, now)),
        ]
    }
}

/// Nothing of it can be written in this version of the group: `nodeName` and `zone` say it.
fn drop_topology(slice: &mut EndpointSlice) {
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.deprecated_topology = None;
    }
}

fn validate_endpoint(
    endpoint: &Endpoint,
    address_type: &str,
    path: &Path,
    errors: &mut FieldErrors,
) {
    let addresses = path.child("addresses");
    match endpoint.addresses.len() {
        0 => {
            errors.push(FieldError::required(&addresses, "must contain at least 1 address"));
        }
        count if count > MAX_ADDRESSES => {
            errors.push(FieldError::too_many(&addresses, count, MAX_ADDRESSES));
        }
        _ => {}
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses.index(index);
        match address_type {
            "IPv4" if address.parse::<Ipv4Addr>().is_err() => {
                let detail = "must be a valid IPv4 address";
                errors.push(FieldError::invalid(path, address.as_str(), detail));
            }
            "IPv6" if address.parse::<Ipv6Addr>().is_err() => {
                let detail = "must be a valid IPv6 address";
                errors.push(FieldError::invalid(path, address.as_str(), detail));
            }
            "IPv4" | "IPv6" => endpoint_ip(address, &path, errors),
            "FQDN" => domain_name(address, &path, errors),
            _ => {}
        }
    }
    validate_meaning(endpoint, path, errors);
    if let Some(node) = &endpoint.node_name {
        for reason in names::dns_subdomain(node) {
            errors.push(FieldError::invalid(path.child("nodeName"), node.as_str(), reason));
        }
    }
    if let Some(hostname) = endpoint.hostname.as_deref().filter(|name| !name.is_empty()) {
        for reason in names::dns_label(hostname) {
            errors.push(FieldError::invalid(path.child("hostname"), hostname, reason));
        }
    }
}

/// A name with a domain.
fn domain_name(name: &str, path: &Path, errors: &mut FieldErrors) {
    // The dot of the root may be said.
    let labels = name.strip_suffix('.').unwrap_or(name);
    let reasons = names::dns_subdomain(labels);
    if reasons.is_empty() && !labels.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, name, detail));
    }
    for reason in reasons {
        errors.push(FieldError::invalid(path, name, reason));
    }
}

/// For whom an endpoint is meant.
fn validate_meaning(endpoint: &Endpoint, path: &Path, errors: &mut FieldErrors) {
    let hints = endpoint.hints.clone().unwrap_or_default();
    let zones = hints.for_zones.unwrap_or_default().into_iter().map(|zone| zone.name).collect();
    let nodes = hints.for_nodes.unwrap_or_default().into_iter().map(|node| node.name).collect();
    let path = path.child("hints");
    validate_hints(zones, names::label_value, &path.child("forZones"), errors);
    validate_hints(nodes, names::dns_subdomain, &path.child("forNodes"), errors);
}

fn validate_hints(
    hints: Vec<String>,
    rule: fn(&str) -> Vec<String>,
    path: &Path,
    errors: &mut FieldErrors,
) {
    if hints.len() > MAX_HINTS {
        errors.push(FieldError::too_many(path, hints.len(), MAX_HINTS));
        return;
    }
    let mut seen = BTreeSet::new();
    for (index, hint) in hints.iter().enumerate() {
        let path = path.index(index).child("name");
        if !seen.insert(hint) {
            errors.push(FieldError::duplicate(&path, hint.as_str()));
        }
        for reason in rule(hint) {
            errors.push(FieldError::invalid(&path, hint.as_str(), reason));
        }
    }
}

fn validate_ports(object: &EndpointSlice, errors: &mut FieldErrors) {
    let ports = object.ports.as_deref().unwrap_or_default();
    if ports.len() > MAX_PORTS {
        errors.push(FieldError::too_many("ports", ports.len(), MAX_PORTS));
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = Path::new("ports").index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.child("name"), name));
        }
        if !name.is_empty() {
            for reason in names::dns_label(name) {
                errors.push(FieldError::invalid(path.child("name"), name, reason));
            }
        }
        if let Some(number) = port.port {
            for reason in names::port_number(number) {
                errors.push(FieldError::invalid(path.child("port"), number, reason));
            }
        }
        protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
        app_protocol(port.app_protocol.as_deref(), &path.child("appProtocol"), errors);
    }
}
