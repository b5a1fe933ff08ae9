//! What a Service says when its user does not.

use k8s_openapi::api::core::v1::{ClientIPConfig, ServiceSpec, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::k8s as k8s_openapi;

use super::{
    CLUSTER_IP, EXTERNAL_NAME, HEADLESS, LOAD_BALANCER, NODE_PORT, cluster_ip, has_node_ports,
    protocol, type_of,
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
        _ if spec.session_affinity_config == Some(SessionAffinityConfig::default())
            || spec.session_affinity_config
                == Some(SessionAffinityConfig { client_ip: Some(ClientIPConfig::default()) }) =>
        {
            spec.session_affinity_config = None;
        }
        _ => {}
    }
    let kind = type_of(spec).to_owned();
    if [CLUSTER_IP, NODE_PORT, LOAD_BALANCER].contains(&kind.as_str()) {
        set(&mut spec.internal_traffic_policy, "Cluster");
    }
    if [NODE_PORT, LOAD_BALANCER].contains(&kind.as_str()) {
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
    // The older field and the first of the newer ones always say the same.
    match (&spec.cluster_ip, spec.cluster_ips.as_deref().unwrap_or_default()) {
        (Some(ip), []) if !ip.is_empty() => spec.cluster_ips = Some(vec![ip.clone()]),
        (None, [first, ..]) => spec.cluster_ip = Some(first.clone()),
        _ => {}
    }
}

/// Carries over what was allocated, so that a client need not read before it writes; and drops what a
/// change of type has made meaningless, unless the client changed it as well.
pub(super) fn carry_over(new: &mut ServiceSpec, old: &ServiceSpec) {
    let addressed = |spec: &ServiceSpec| type_of(spec) != EXTERNAL_NAME;
    if addressed(new) && addressed(old) {
        if cluster_ip(new).is_empty() {
            new.cluster_ip.clone_from(&old.cluster_ip);
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
        if new.ip_families.is_none() {
            new.ip_families.clone_from(&old.ip_families);
        }
        if new.ip_family_policy.is_none() {
            new.ip_family_policy.clone_from(&old.ip_family_policy);
        }
    }
    if !addressed(new) && addressed(old) && cluster_ip(new) == cluster_ip(old) {
        new.cluster_ip = None;
        new.cluster_ips = None;
    }
    if !addressed(new) && new.ip_families == old.ip_families {
        new.ip_families = None;
    }
    if !addressed(new) && new.ip_family_policy == old.ip_family_policy {
        new.ip_family_policy = None;
    }
    if has_node_ports(new) && has_node_ports(old) {
        let known: Vec<_> = old.ports.clone().unwrap_or_default();
        let requested: Vec<i32> =
            new.ports.iter().flatten().filter_map(|port| port.node_port).collect();
        for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let same = known.iter().find(|old| {
                old.port == port.port
                    && protocol(old.protocol.as_deref()) == protocol(port.protocol.as_deref())
                    && old.node_port.is_some_and(|number| !requested.contains(&number))
            });
            port.node_port = same.and_then(|old| old.node_port);
        }
    }
    if !has_node_ports(new) && has_node_ports(old) {
        let before: Vec<i32> = old.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.is_some_and(|number| before.contains(&number)) {
                port.node_port = None;
            }
        }
    }
    let external = |spec: &ServiceSpec| [NODE_PORT, LOAD_BALANCER].contains(&type_of(spec));
    if !external(new) && external(old) && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
    if type_of(new) != LOAD_BALANCER && type_of(old) == LOAD_BALANCER {
        new.allocate_load_balancer_node_ports = None;
    }
    if type_of(new) == EXTERNAL_NAME && new.internal_traffic_policy == old.internal_traffic_policy {
        new.internal_traffic_policy = None;
    }
    if cluster_ip(new) == HEADLESS {
        new.cluster_ips = Some(vec![HEADLESS.to_owned()]);
    }
}
