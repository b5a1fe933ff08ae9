//! Which addresses and ports a Service leads to, out of the pods it selects. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints, ObjectReference, Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use proto::k8s as k8s_openapi;

pub(crate) use crate::api::kinds::cidr::Family;
use crate::api::kinds::endpoints::is_endpoint;
use crate::controllers::pods::PodView;

/// How many addresses of one subset of hand-made Endpoints are taken over, as in Kubernetes.
const MAX_MIRRORED: usize = 1000;

/// Endpoints that share a family and ports; such may be in one slice.
pub(crate) type Group = (Family, Vec<Port>);

/// A port of an endpoint, in an order.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    pub(crate) name: String,
    pub(crate) protocol: String,
    pub(crate) port: Option<i32>,
    pub(crate) app_protocol: Option<String>,
}

impl From<&EndpointPort> for Port {
    fn from(port: &EndpointPort) -> Self {
        Self {
            name: port.name.clone().unwrap_or_default(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
            port: port.port,
            app_protocol: port.app_protocol.clone(),
        }
    }
}

impl From<Port> for EndpointPort {
    fn from(port: Port) -> Self {
        Self {
            name: Some(port.name),
            protocol: Some(port.protocol),
            port: port.port,
            app_protocol: port.app_protocol,
        }
    }
}

/// The endpoints of a Service with a selector: its pods, those on their way out included, for whoever
/// wants to let connections end in peace.
pub(crate) fn of_pods(service: &Service, pods: &[Arc<PodView>]) -> BTreeMap<Group, Vec<Endpoint>> {
    let Some(spec) = &service.spec else { return BTreeMap::new() };
    let mut groups = BTreeMap::<Group, Vec<Endpoint>>::new();
    for pod in pods.iter().filter(|pod| !pod.is_finished()) {
        let ports = ports(spec, pod);
        for family in families(spec) {
            let addresses: Vec<String> =
                pod.ips.iter().filter(|ip| may_serve(ip, family)).cloned().collect();
            if !addresses.is_empty() {
                let endpoint = endpoint(service, spec, pod, addresses);
                groups.entry((family, ports.clone())).or_default().push(endpoint);
            }
        }
    }
    groups
}

/// Whether an address of a pod may be an endpoint's. One that may not is left out: the API would
/// refuse it, and with it all the others of the slice.
pub(crate) fn may_serve(ip: &str, family: Family) -> bool {
    Family::of(ip) == family && is_endpoint(ip)
}

/// The endpoints that somebody has written by hand for a Service without a selector.
pub(crate) fn of_endpoints(endpoints: &Endpoints) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups = BTreeMap::<Group, Vec<Endpoint>>::new();
    for subset in endpoints.subsets.iter().flatten() {
        let mut ports: Vec<Port> = subset
            .ports
            .iter()
            .flatten()
            .map(|port| Port {
                name: port.name.clone().unwrap_or_default(),
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                port: Some(port.port),
                app_protocol: port.app_protocol.clone(),
            })
            .collect();
        ports.sort();
        let ready = subset.addresses.iter().flatten().map(|address| (address, true));
        let waiting = subset.not_ready_addresses.iter().flatten().map(|address| (address, false));
        for (address, ready) in ready.chain(waiting).take(MAX_MIRRORED) {
            let endpoint = Endpoint {
                addresses: vec![address.ip.clone()],
                conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
                hostname: address.hostname.clone(),
                node_name: address.node_name.clone(),
                target_ref: address.target_ref.clone(),
                ..Endpoint::default()
            };
            let group = (Family::of(&address.ip), ports.clone());
            groups.entry(group).or_default().push(endpoint);
        }
    }
    groups
}

/// The families a Service is served in, its primary one first.
pub(crate) fn families(spec: &ServiceSpec) -> Vec<Family> {
    let families: Vec<Family> = spec
        .ip_families
        .iter()
        .flatten()
        .map(|family| if family == "IPv6" { Family::V6 } else { Family::V4 })
        .collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// Whether a Service has no address of its own.
pub(crate) fn is_headless(spec: &ServiceSpec) -> bool {
    spec.cluster_ip.as_deref() == Some("None")
}

/// The ports of a pod that the Service's ports lead to. A port that names one which the pod does not
/// have leads nowhere on it.
pub(crate) fn ports(spec: &ServiceSpec, pod: &PodView) -> Vec<Port> {
    let mut ports: Vec<Port> = spec
        .ports
        .iter()
        .flatten()
        .filter_map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".to_owned());
            Some(Port {
                name: port.name.clone().unwrap_or_default(),
                port: Some(target(port, &protocol, pod)?),
                protocol,
                app_protocol: port.app_protocol.clone(),
            })
        })
        .collect();
    ports.sort();
    ports
}

fn target(port: &ServicePort, protocol: &str, pod: &PodView) -> Option<i32> {
    match &port.target_port {
        Some(IntOrString::Int(number)) if *number > 0 => Some(*number),
        Some(IntOrString::String(name)) if !name.is_empty() => {
            let named = |own: &&_| {
                let own: &crate::controllers::pods::NamedPort = own;
                own.name == *name && own.protocol == protocol
            };
            pod.ports.iter().find(named).map(|own| own.port)
        }
        _ => Some(port.port),
    }
}

/// The name under which a pod can be found within a headless Service.
pub(crate) fn hostname(service: &Service, pod: &PodView) -> Option<String> {
    let same = Some(&pod.subdomain) == service.metadata.name.as_ref();
    (same && !pod.hostname.is_empty()).then(|| pod.hostname.clone())
}

/// Names the pod behind an endpoint.
pub(crate) fn target_ref(pod: &PodView) -> ObjectReference {
    ObjectReference {
        kind: Some("Pod".to_owned()),
        namespace: Some(pod.key.namespace.clone()),
        name: Some(pod.key.name.clone()),
        uid: Some(pod.uid.clone()),
        ..ObjectReference::default()
    }
}

fn endpoint(
    service: &Service,
    spec: &ServiceSpec,
    pod: &PodView,
    addresses: Vec<String>,
) -> Endpoint {
    let ready = publishes_not_ready(spec) || (pod.ready && !pod.deleting);
    Endpoint {
        addresses,
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            serving: Some(pod.ready),
            terminating: Some(pod.deleting),
        }),
        hostname: hostname(service, pod),
        node_name: (!pod.node.is_empty()).then(|| pod.node.clone()),
        target_ref: Some(target_ref(pod)),
        ..Endpoint::default()
    }
}

/// Whether pods that are not ready are to be found as well.
pub(crate) fn publishes_not_ready(spec: &ServiceSpec) -> bool {
    spec.publish_not_ready_addresses == Some(true)
}
