//! Addresses and node ports of Services. What is picked is claimed in the transaction that writes the
//! object; a claim lost in a race is picked again.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::ServiceSpec;
use proto::k8s as k8s_openapi;
use serde_json::json;
use uuid::Uuid;

use super::super::cidr::Ipv4Range;
use super::super::path::Path;
use super::{
    EXTERNAL_NAME, HEADLESS, addresses, cluster_ip, gets_node_ports, may_have_node_ports, protocol,
    type_of,
};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::kinds::ClusterConfig;

/// Guesses before a search from end to end. At nine tenths taken, all of them miss once in thirty
/// times, and a search of 65 536 addresses takes about a millisecond.
const GUESSES: usize = 32;

/// What a Service holds that no other may hold.
pub(super) fn claims(spec: &ServiceSpec) -> Vec<String> {
    let mut claims = Vec::new();
    for ip in spec.cluster_ips.iter().flatten().filter(|ip| *ip != HEADLESS && !ip.is_empty()) {
        claims.push(ip_claim(ip));
    }
    for port in spec.ports.iter().flatten() {
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            claims.push(port_claim(protocol(port.protocol.as_deref()), number));
        }
    }
    claims
}

fn ip_claim(ip: impl std::fmt::Display) -> String {
    format!("service-ip/{ip}")
}

fn port_claim(protocol: &str, number: i32) -> String {
    format!("node-port/{protocol}/{number}")
}

/// Picks what is still to be picked and checks what was asked for. `taken` leaves out what this Service
/// holds already.
pub(super) fn allocate(
    spec: &mut ServiceSpec,
    cluster: &ClusterConfig,
    taken: &dyn Fn(&str) -> bool,
) -> Result<(), FieldErrors> {
    let mut errors = FieldErrors::new();
    if type_of(spec) != EXTERNAL_NAME {
        allocate_ip(spec, cluster, taken, &mut errors);
        addresses::default(spec);
    }
    if may_have_node_ports(spec) {
        allocate_ports(spec, cluster, taken, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

fn allocate_ip(
    spec: &mut ServiceSpec,
    cluster: &ClusterConfig,
    taken: &dyn Fn(&str) -> bool,
    errors: &mut FieldErrors,
) {
    let mut failed = |ip: &str, reason: String| {
        let detail = format!("failed to allocate IP {ip}: {reason}");
        errors.push(FieldError::invalid("spec.clusterIPs", json!([ip]), detail));
    };
    let range = match cluster.service_cidr.parse::<Ipv4Range>() {
        Ok(range) => range,
        Err(error) => return failed("", format!("{}: {error}", cluster.service_cidr)),
    };
    match cluster_ip(spec) {
        HEADLESS => return,
        "" => {}
        requested => {
            let ip = requested.parse::<Ipv4Addr>().ok().filter(|ip| usable(&range, *ip));
            match ip {
                None => failed(
                    requested,
                    format!(
                        "the provided IP ({requested}) is not in the valid range. The range of \
                         valid IPs is {range}"
                    ),
                ),
                Some(ip) if taken(&ip_claim(ip)) => {
                    failed(requested, "provided IP is already allocated".to_owned());
                }
                Some(_) => {}
            }
            return;
        }
    }
    let pick = pick(range.size(), |offset| {
        let ip = range.nth(offset).filter(|ip| usable(&range, *ip))?;
        (!taken(&ip_claim(ip))).then_some(ip)
    });
    let Some(ip) = pick else { return failed("", "range is full".to_owned()) };
    spec.cluster_ip = Some(ip.to_string());
    spec.cluster_ips = Some(vec![ip.to_string()]);
}

/// Neither the network's own address nor the one for broadcast.
fn usable(range: &Ipv4Range, ip: Ipv4Addr) -> bool {
    range.contains(ip)
        && (range.size() <= 2
            || (Some(ip) != range.nth(0) && Some(ip) != range.nth(range.size() - 1)))
}

/// The first of `count` candidates that will do, tried from random places so that what was given up
/// lately is not given out again at once.
fn pick<T>(count: u64, mut accept: impl FnMut(u64) -> Option<T>) -> Option<T> {
    let random = || (Uuid::new_v4().as_u128() >> 64) as u64 % count.max(1);
    for _ in 0..GUESSES {
        if let Some(found) = accept(random()) {
            return Some(found);
        }
    }
    let start = random();
    (0..count).find_map(|offset| accept((start + offset) % count))
}

fn allocate_ports(
    spec: &mut ServiceSpec,
    cluster: &ClusterConfig,
    taken: &dyn Fn(&str) -> bool,
    errors: &mut FieldErrors,
) {
    let (low, high) = (i32::from(cluster.node_ports.0), i32::from(cluster.node_ports.1));
    let ports = spec.ports.as_deref().unwrap_or_default();
    let mut own: Vec<(String, i32, i32)> = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let Some(number) = port.node_port.filter(|number| *number != 0) else { continue };
        let path = Path::new("spec.ports").index(index).child("nodePort");
        let protocol = protocol(port.protocol.as_deref());
        if !(low..=high).contains(&number) {
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            );
            errors.push(FieldError::invalid(path, number, detail));
        } else if taken(&port_claim(protocol, number)) {
            let detail = "provided port is already allocated";
            errors.push(FieldError::invalid(path, number, detail));
        }
        own.push((protocol.to_owned(), port.port, number));
    }
    if !gets_node_ports(spec) {
        return;
    }
    for (index, port) in spec.ports.iter_mut().flatten().enumerate() {
        if port.node_port.unwrap_or(0) != 0 {
            continue;
        }
        let protocol = protocol(port.protocol.as_deref()).to_owned();
        let free = |number: i32| {
            !own.iter().any(|(p, _, n)| *p == protocol && *n == number)
                && !taken(&port_claim(&protocol, number))
        };
        // The same port of another protocol (DNS is on both) gets the same node port.
        let twin = own.iter().find(|(_, number, node)| *number == port.port && free(*node));
        let number = twin.map(|(_, _, node)| *node).or_else(|| {
            pick(u64::try_from(high - low + 1).unwrap_or(0), |offset| {
                let number = low + i32::try_from(offset).ok()?;
                // A number of this service's other protocols is left to their twins.
                let unused = !own.iter().any(|(_, _, node)| *node == number);
                (unused && free(number)).then_some(number)
            })
        });
        match number {
            Some(number) => {
                port.node_port = Some(number);
                own.push((protocol, port.port, number));
            }
            None => errors.push(FieldError::invalid(
                Path::new("spec.ports").index(index).child("nodePort"),
                0,
                "failed to allocate a nodePort: range is full",
            )),
        }
    }
}
