//! `networkpolicies`: who may talk to the pods of a namespace, and to whom these may talk. Nodes are
//! told of them by `nodes/policies`, and hold their pods to them.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::{k8s as k8s_openapi, names};
use serde_json::{Value, json};

use super::columns::{AGE, NAME, NONE, age, column, name};
use super::path::Path;
use super::{Column, Kind, ResourceInfo, ip, metadata, template};
use crate::api::field_error::{FieldError, FieldErrors};

const INGRESS: &str = "Ingress";
const EGRESS: &str = "Egress";
const PROTOCOLS: &[&str] = &["TCP", "UDP", "SCTP"];

/// `networkpolicies`
#[derive(Debug)]
pub enum NetworkPolicies {}

impl Kind for NetworkPolicies {
    type Object = NetworkPolicy;

    const RESOURCE: ResourceInfo = ResourceInfo {
        group: "networking.k8s.io",
        version: "v1",
        kind: "NetworkPolicy",
        plural: "networkpolicies",
        singular: "networkpolicy",
        short_names: &["netpol"],
        categories: &[],
        namespaced: true,
        status: false,
        scale: false,
    };

    fn default(object: &mut NetworkPolicy) {
        let spec = object.spec.get_or_insert_default();
        spec.pod_selector.get_or_insert_default();
        let ingress = spec.ingress.iter_mut().flatten().map(|rule| &mut rule.ports);
        let egress = spec.egress.iter_mut().flatten().map(|rule| &mut rule.ports);
        for port in ingress.chain(egress).flatten().flatten() {
            port.protocol.get_or_insert_with(|| "TCP".to_owned());
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let isolates_egress = spec.egress.as_ref().is_some_and(|rules| !rules.is_empty());
            let types = [INGRESS].into_iter().chain(isolates_egress.then_some(EGRESS));
            spec.policy_types = Some(types.map(str::to_owned).collect());
        }
    }

    fn prepare_create(object: &mut NetworkPolicy) {
        object.metadata.generation = Some(1);
    }

    fn spec_changed(new: &NetworkPolicy, old: &NetworkPolicy) -> bool {
        new.spec != old.spec
    }

    fn validate(object: &NetworkPolicy) -> FieldErrors {
        let mut errors = FieldErrors::new();
        let NetworkPolicySpec { egress, ingress, pod_selector, policy_types } =
            object.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let selector = pod_selector.unwrap_or_default();
        metadata::selector(&selector, &path.child("podSelector"), &mut errors);
        for (index, rule) in ingress.iter().flatten().enumerate() {
            let path = path.child("ingress").index(index);
            validate_ports(rule.ports.as_deref(), &path.child("ports"), &mut errors);
            validate_peers(rule.from.as_deref(), &path.child("from"), &mut errors);
        }
        for (index, rule) in egress.iter().flatten().enumerate() {
            let path = path.child("egress").index(index);
            validate_ports(rule.ports.as_deref(), &path.child("ports"), &mut errors);
            validate_peers(rule.to.as_deref(), &path.child("to"), &mut errors);
        }
        validate_types(&policy_types.unwrap_or_default(), &path.child("policyTypes"), &mut errors);
        errors
    }

    fn columns() -> &'static [Column] {
        const COLUMNS: &[Column] =
            &[NAME, column("Pod-Selector", "string", "The pods that the policy applies to."), AGE];
        COLUMNS
    }

    fn row(object: &NetworkPolicy, now: Timestamp) -> Vec<Value> {
        let selector = object.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
        let text = selector.map(template::selector_text).filter(|text| !text.is_empty());
        vec![
            json!(name(&object.metadata)),
            json!(text.as_deref().unwrap_or(NONE)),
            json!(age(&object.metadata, now)),
        ]
    }
}

fn validate_types(types: &[String], path: &Path, errors: &mut FieldErrors) {
    let supported = &[INGRESS, EGRESS];
    if types.len() > supported.len() {
        let detail = "may not specify more than two policyTypes";
        errors.push(FieldError::invalid(path, json!(types), detail));
        return;
    }
    for (index, one) in types.iter().enumerate() {
        if !supported.contains(&one.as_str()) {
            errors.push(FieldError::not_supported(path.index(index), one.as_str(), supported));
        }
    }
}

fn validate_ports(ports: Option<&[NetworkPolicyPort]>, path: &Path, errors: &mut FieldErrors) {
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let NetworkPolicyPort { end_port, port, protocol } = port;
        let path = path.index(index);
        if let Some(other) = protocol.as_deref().filter(|name| !PROTOCOLS.contains(name)) {
            errors.push(FieldError::not_supported(path.child("protocol"), other, PROTOCOLS));
        }
        let end = path.child("endPort");
        let mut without = |detail| {
            if let Some(number) = end_port {
                errors.push(FieldError::invalid(&end, *number, detail));
            }
        };
        let path = path.child("port");
        match port {
            None => without("may not be specified when `port` is not specified"),
            Some(IntOrString::String(name)) => {
                without("may not be specified when `port` is non-numeric");
                for reason in names::port_name(name) {
                    errors.push(FieldError::invalid(&path, name.as_str(), reason));
                }
            }
            Some(IntOrString::Int(number)) => {
                for reason in names::port_number(*number) {
                    errors.push(FieldError::invalid(&path, *number, reason));
                }
                let Some(last) = end_port else { continue };
                if last < number {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end, *last, detail));
                }
                for reason in names::port_number(*last) {
                    errors.push(FieldError::invalid(&end, *last, reason));
                }
            }
        }
    }
}

fn validate_peers(peers: Option<&[NetworkPolicyPeer]>, path: &Path, errors: &mut FieldErrors) {
    for (index, peer) in peers.into_iter().flatten().enumerate() {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        let path = path.index(index);
        let selectors = [("podSelector", pod_selector), ("namespaceSelector", namespace_selector)];
        for (field, selector) in selectors {
            if let Some(selector) = selector {
                metadata::selector(selector, &path.child(field), errors);
            }
        }
        let selects = pod_selector.is_some() || namespace_selector.is_some();
        match ip_block {
            Some(block) => {
                validate_block(block, &path.child("ipBlock"), errors);
                if selects {
                    let detail = "may not specify both ipBlock and another peer";
                    errors.push(FieldError::forbidden(&path, detail));
                }
            }
            None if !selects => errors.push(FieldError::required(&path, "must specify a peer")),
            None => {}
        }
    }
}

fn validate_block(block: &IPBlock, path: &Path, errors: &mut FieldErrors) {
    let IPBlock { cidr, except } = block;
    if cidr.is_empty() {
        errors.push(FieldError::required(path.child("cidr"), ""));
        return;
    }
    let whole = ip::validate_range(cidr, &path.child("cidr"), errors);
    for (index, text) in except.iter().flatten().enumerate() {
        let path = path.child("except").index(index);
        let part = ip::validate_range(text, &path, errors);
        let (Some(whole), Some(part)) = (whole, part) else { continue };
        if !(contains(whole, part.0) && part.1 > whole.1) {
            let detail = "must be a strict subset of `cidr`";
            errors.push(FieldError::invalid(path, text.as_str(), detail));
        }
    }
}

/// Whether an address lies in a range.
fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(prefix);
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(shift).unwrap_or(0) == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(prefix);
            let differing = network.to_bits() ^ address.to_bits();
            differing.checked_shr(shift).unwrap_or(0) == 0
        }
        _ => false,
    }
}
