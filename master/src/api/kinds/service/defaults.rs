//! What a Service says when its user does not.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::k8s as k8s_openapi;

use super::{
    CLUSTER_IP, EXTERNAL_NAME, LOAD_BALANCER, NODE_PORT, is_reached_from_outside,
    may_have_node_ports, needs_health_check, type_of,
};

/// Three hours.
const AFFINITY_SECONDS: i32 = 10800;

/// Fills in defaults.
pub(super) fn spec(spec: &mut ServiceSpec) {
    let set = |field: &mut Option<String>, value: &str| {
        if field.as_deref().is_none_or(str::is_empty) {
            *field = Some(value.to_owned());
        }
    };
    set(&mut spec.type_, CLUSTER_IP);
    set(&mut spec.session_affinity, "None");
    match spec.session_affinity.as_deref() {
        Some("ClientIP") => {
            let config = spec.session_affinity_config.get_or_insert_default();
            let client = config.client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        }
        // A configuration without affinity means nothing; an update may leave it behind.
        Some("None") => spec.session_affinity_config = None,
        _ => {}
    }
    let kind = type_of(spec).to_owned();
    if [CLUSTER_IP, NODE_PORT, LOAD_BALANCER].contains(&kind.as_str()) {
        set(&mut spec.internal_traffic_policy, "Cluster");
    }
    if is_reached_from_outside(spec) {
        set(&mut spec.external_traffic_policy, "Cluster");
    }
    if kind == LOAD_BALANCER {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    for port in spec.ports.iter_mut().flatten() {
        set(&mut port.protocol, "TCP");
        let unset = match &port.target_port {
            None => true,
            Some(IntOrString::Int(number)) => *number == 0,
            Some(IntOrString::String(name)) => name.is_empty(),
        };
        // A headless service is not translated, but says the same.
        if unset {
            port.target_port = Some(IntOrString::Int(port.port));
        }
    }
    // A client of the older field need not know the newer one, but not the other way round.
    if let Some(ip) = spec.cluster_ip.as_ref().filter(|ip| !ip.is_empty())
        && spec.cluster_ips.as_ref().is_none_or(Vec::is_empty)
    {
        spec.cluster_ips = Some(vec![ip.clone()]);
    }
}

/// Carries over what was allocated, so that a client need not read before it writes; and drops what a
/// change of type has made meaningless, unless the client changed it as well.
pub(super) fn carry_over(new: &mut ServiceSpec, old: &ServiceSpec) {
    let addressed = |spec: &ServiceSpec| type_of(spec) != EXTERNAL_NAME;
    if addressed(new) && addressed(old) {
        if new.cluster_ip.as_ref().is_none_or(String::is_empty) {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if may_have_node_ports(new) && may_have_node_ports(old) {
        carry_over_node_ports(new, old);
    }
    let number = |spec: &ServiceSpec| spec.health_check_node_port.filter(|number| *number != 0);
    match (needs_health_check(new), needs_health_check(old)) {
        (true, true) if number(new).is_none() => {
            new.health_check_node_port = old.health_check_node_port;
        }
        (false, true) if number(new) == number(old) => new.health_check_node_port = None,
        _ => {}
    }
    // A client of the older field has changed it, and sent back the newer one as it was.
    if new.cluster_ip != old.cluster_ip
        && new.cluster_ips == old.cluster_ips
        && let Some(ip) = new.cluster_ip.as_ref().filter(|ip| !ip.is_empty())
    {
        new.cluster_ips = Some(vec![ip.clone()]);
    }
    if !addressed(new) && addressed(old) {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if !may_have_node_ports(new)
        && may_have_node_ports(old)
        && node_ports(new).is_subset(&node_ports(old))
    {
        for port in new.ports.iter_mut().flatten() {
            port.node_port = None;
        }
    }
    if !is_reached_from_outside(new)
        && is_reached_from_outside(old)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
    if type_of(new) != LOAD_BALANCER && type_of(old) == LOAD_BALANCER {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
        if new.load_balancer_ip == old.load_balancer_ip {
            new.load_balancer_ip = None;
        }
    }
}

fn node_ports(spec: &ServiceSpec) -> BTreeSet<i32> {
    let numbers = spec.ports.iter().flatten().filter_map(|port| port.node_port);
    numbers.filter(|number| *number != 0).collect()
}

/// A port keeps its node port by its name, whatever else of it changes, unless another port asks for
/// that number.
fn carry_over_node_ports(new: &mut ServiceSpec, old: &ServiceSpec) {
    let used: BTreeSet<i32> = node_ports(old).intersection(&node_ports(new)).copied().collect();
    let named = |name: &Option<String>| name.clone().unwrap_or_default();
    let known: BTreeMap<String, Option<i32>> =
        old.ports.iter().flatten().map(|port| (named(&port.name), port.node_port)).collect();
    for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
        let before = known.get(&named(&port.name)).copied().flatten();
        port.node_port = before.filter(|number| !used.contains(number));
    }
}
