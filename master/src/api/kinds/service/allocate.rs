//! Addresses and node ports of Services. What is picked is claimed in the transaction that writes the
//! object; a claim lost in a race is picked again.

use std::net::IpAddr;
use std::ops::Range;

use k8s_openapi::api::core::v1::ServiceSpec;
use proto::k8s as k8s_openapi;
use serde_json::json;
use uuid::Uuid;

use super::super::cidr::Family;
use super::super::path::Path;
use super::{
    EXTERNAL_NAME, HEADLESS, families, gets_node_ports, is_headless, may_have_node_ports,
    needs_health_check, protocol, type_of,
};
use crate::api::field_error::{FieldError, FieldErrors};
use crate::api::kinds::ClusterConfig;

/// Guesses before a search from end to end. At nine tenths taken, all of them miss once in thirty
/// times, and a search of 65 536 addresses takes about a millisecond.
const GUESSES: usize = 32;
/// How far a search goes. A range of IPv6 has no end that anybody could reach; where 32 guesses and
/// then so many in a row are taken, it counts as full.
const SEARCH: u128 = 1 << 20;

/// Health is asked for by HTTP.
const HEALTH_PROTOCOL: &str = "TCP";

/// What a Service holds that no other may hold.
pub(super) fn claims(spec: &ServiceSpec) -> Vec<String> {
    let mut claims = Vec::new();
    for ip in spec.cluster_ips.iter().flatten().filter(|ip| *ip != HEADLESS && !ip.is_empty()) {
        // There are many ways to write an address of IPv6.
        claims.push(ip.parse::<IpAddr>().map_or_else(|_| ip_claim(ip), ip_claim));
    }
    for port in spec.ports.iter().flatten() {
        if let Some(number) = port.node_port.filter(|number| *number != 0) {
            claims.push(port_claim(protocol(port.protocol.as_deref()), number));
        }
    }
    if let Some(number) = spec.health_check_node_port.filter(|number| *number != 0) {
        claims.push(port_claim(HEALTH_PROTOCOL, number));
    }
    claims
}

fn ip_claim(ip: impl std::fmt::Display) -> String {
    format!("service-ip/{ip}")
}

fn port_claim(protocol: &str, number: i32) -> String {
    format!("node-port/{protocol}/{number}")
}

/// Picks what is still to be picked and checks what was asked for. `old` is what the Service was before
/// an update: what it held it keeps, wherever the ranges are by now.
pub(super) fn allocate(
    spec: &mut ServiceSpec,
    old: Option<&ServiceSpec>,
    cluster: &ClusterConfig,
    claimed: &dyn Fn(&str) -> bool,
) -> Result<(), FieldErrors> {
    let held = old.map(claims).unwrap_or_default();
    let pool = Pool { cluster, claimed, held: &held };
    let mut errors = FieldErrors::new();
    if type_of(spec) != EXTERNAL_NAME {
        families::choose(spec, old, cluster)?;
        if !is_headless(spec) {
            pool.allocate_ips(spec, &mut errors);
        }
    }
    if may_have_node_ports(spec) {
        pool.allocate_ports(spec, &mut errors);
    }
    if needs_health_check(spec) {
        pool.allocate_health_port(spec, &mut errors);
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// What is there to choose from.
struct Pool<'a> {
    cluster: &'a ClusterConfig,
    claimed: &'a dyn Fn(&str) -> bool,
    /// Claims of the Service itself.
    held: &'a [String],
}

impl Pool<'_> {
    fn holds(&self, claim: &str) -> bool {
        self.held.iter().any(|own| own == claim)
    }

    /// Whether somebody else has it.
    fn taken(&self, claim: &str) -> bool {
        !self.holds(claim) && (self.claimed)(claim)
    }

    /// One address of each family.
    fn allocate_ips(&self, spec: &mut ServiceSpec, errors: &mut FieldErrors) {
        let families = spec.ip_families.clone().unwrap_or_default();
        let ips = spec.cluster_ips.get_or_insert_default();
        for (index, family) in families.iter().enumerate() {
            let given = match ips.get(index) {
                Some(ip) => self.request_ip(ip),
                None => self.pick_ip(Family::of_name(family)).map(|ip| ips.push(ip.to_string())),
            };
            if let Err(detail) = given {
                errors.push(FieldError::invalid("spec.clusterIPs", json!(ips), detail));
            }
        }
        spec.cluster_ip = ips.first().cloned();
    }

    fn request_ip(&self, requested: &str) -> Result<(), String> {
        let failed = |reason: String| Err(format!("failed to allocate IP {requested}: {reason}"));
        let Ok(ip) = requested.parse::<IpAddr>() else {
            return failed("it is no address".to_owned());
        };
        let claim = ip_claim(ip);
        if self.holds(&claim) {
            return Ok(());
        }
        let range = self.cluster.service_cidrs.of(Family::of(requested));
        match range.filter(|range| range.usable(ip)) {
            None => failed(format!(
                "the provided IP ({requested}) is not in the valid range. The range of valid IPs is \
                 {}",
                range.unwrap_or(self.cluster.service_cidrs.primary())
            )),
            Some(_) if self.taken(&claim) => failed("provided IP is already allocated".to_owned()),
            Some(_) => Ok(()),
        }
    }

    fn pick_ip(&self, family: Family) -> Result<IpAddr, String> {
        let failed = |reason: &str| format!("failed to allocate IP : {reason}");
        let range = self.cluster.service_cidrs.of(family);
        let range = range.ok_or_else(|| failed("the family is not configured on this cluster"))?;
        // The network's own address comes first, and is nobody's.
        let low = 1 + low_band(range.size(), ADDRESS_BANDS);
        let picked = pick(low..range.size(), |offset| {
            let ip = range.nth(offset).filter(|ip| range.usable(*ip))?;
            (!self.taken(&ip_claim(ip))).then_some(ip)
        });
        picked.ok_or_else(|| failed("range is full"))
    }
}

/// How much of a range is left for those who ask for something of their own: this part of it, within
/// bounds. As Kubernetes has it.
struct Bands {
    part: u128,
    least: u128,
    most: u128,
}

const ADDRESS_BANDS: Bands = Bands { part: 16, least: 16, most: 256 };
const PORT_BANDS: Bands = Bands { part: 32, least: 16, most: 128 };

/// How long the lower band of a range is, of which something is picked only when the upper one is full.
fn low_band(size: u128, bands: Bands) -> u128 {
    if size <= bands.least { 0 } else { (size / bands.part).clamp(bands.least, bands.most) }
}

/// The first candidate that will do, tried from random places so that what was given up lately is not
/// given out again at once. What lies before the range is tried last.
fn pick<T>(range: Range<u128>, mut accept: impl FnMut(u128) -> Option<T>) -> Option<T> {
    let count = range.end.saturating_sub(range.start).max(1);
    let random = || Uuid::new_v4().as_u128() % count;
    for _ in 0..GUESSES {
        if let Some(found) = accept(range.start + random()) {
            return Some(found);
        }
    }
    let start = random();
    let mut upper = (0..count.min(SEARCH)).map(|step| range.start + (start + step) % count);
    upper.find_map(&mut accept).or_else(|| (0..range.start).find_map(accept))
}

impl Pool<'_> {
    fn request_port(&self, protocol: &str, number: i32) -> Result<(), String> {
        let (low, high) = self.cluster.node_ports;
        let claim = port_claim(protocol, number);
        if self.holds(&claim) {
            // Wherever the range is by now.
            Ok(())
        } else if !(i32::from(low)..=i32::from(high)).contains(&number) {
            Err(format!(
                "provided port is not in the valid range. The range of valid ports is {low}-{high}"
            ))
        } else if self.taken(&claim) {
            Err("provided port is already allocated".to_owned())
        } else {
            Ok(())
        }
    }

    /// A node port that `accept` agrees to.
    fn pick_port(&self, accept: impl Fn(i32) -> bool) -> Option<i32> {
        let (low, high) = self.cluster.node_ports;
        let count = u128::from(high.saturating_sub(low)) + 1;
        pick(low_band(count, PORT_BANDS)..count, |offset| {
            let number = i32::from(low) + i32::try_from(offset).ok()?;
            accept(number).then_some(number)
        })
    }

    fn allocate_health_port(&self, spec: &mut ServiceSpec, errors: &mut FieldErrors) {
        let own: Vec<i32> = spec.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        let number = match spec.health_check_node_port.filter(|number| *number != 0) {
            Some(number) => self.request_port(HEALTH_PROTOCOL, number).map(|()| number),
            None => self
                .pick_port(|number| {
                    !own.contains(&number) && !self.taken(&port_claim(HEALTH_PROTOCOL, number))
                })
                .ok_or_else(|| "failed to allocate a nodePort: range is full".to_owned()),
        };
        match number {
            Ok(number) => spec.health_check_node_port = Some(number),
            Err(detail) => {
                let asked = spec.health_check_node_port.unwrap_or(0);
                errors.push(FieldError::invalid("spec.healthCheckNodePort", asked, detail));
            }
        }
    }

    fn allocate_ports(&self, spec: &mut ServiceSpec, errors: &mut FieldErrors) {
        let ports = spec.ports.as_deref().unwrap_or_default();
        let mut own: Vec<(String, i32, i32)> = Vec::new();
        for (index, port) in ports.iter().enumerate() {
            let Some(number) = port.node_port.filter(|number| *number != 0) else { continue };
            let path = Path::new("spec.ports").index(index).child("nodePort");
            let protocol = protocol(port.protocol.as_deref());
            if let Err(detail) = self.request_port(protocol, number) {
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
                    && !self.taken(&port_claim(&protocol, number))
            };
            // The same port of another protocol (DNS is on both) gets the same node port.
            let twin = own.iter().find(|(_, number, node)| *number == port.port && free(*node));
            let number = twin.map(|(_, _, node)| *node).or_else(|| {
                // A number of this service's other protocols is left to their twins.
                let unused = |number| !own.iter().any(|(_, _, node)| *node == number);
                self.pick_port(|number| unused(number) && free(number))
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
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_lower_band_is_as_long_as_kubernetes_documents_it() {
        for (bits, long) in [(4, 0), (5, 16), (8, 16), (12, 256), (16, 256), (64, 256)] {
            assert_eq!(low_band(1 << bits, ADDRESS_BANDS), long, "{bits} bits");
        }
        for (count, long) in [(16, 0), (17, 16), (200, 16), (2768, 86), (10_000, 128)] {
            assert_eq!(low_band(count, PORT_BANDS), long, "{count} ports");
        }
    }

    #[test]
    fn the_lower_band_is_used_when_the_upper_one_is_full() {
        let mut taken = BTreeSet::new();
        for round in 0..60 {
            let picked = pick(20..60, |offset| (!taken.contains(&offset)).then_some(offset));
            let picked = picked.unwrap();
            assert_eq!(picked < 20, round >= 40, "{picked} in round {round}");
            taken.insert(picked);
        }
        assert_eq!(pick(20..60, |offset| (!taken.contains(&offset)).then_some(offset)), None);
    }
}
