//! The objects themselves, as functions of where the masters are.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use proto::ObjectKey;
use proto::k8s::api::core::v1::{
    EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort,
    ServiceSpec,
};
use proto::k8s::api::discovery::v1::{
    Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice,
};
use proto::k8s::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use proto::k8s::apimachinery::pkg::util::intstr::IntOrString;

const NAME: &str = "kubernetes";
const NAMESPACE: &str = "default";
const PORT_NAME: &str = "https";
/// Inside the cluster the API is where every HTTPS server is.
const SERVICE_PORT: i32 = 443;

pub(super) fn namespace(name: &str) -> Namespace {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Namespace { metadata, ..Namespace::default() }
}

pub(super) fn service_key() -> ObjectKey {
    ObjectKey::new(NAMESPACE, NAME)
}

fn metadata(labels: &[(&str, &str)]) -> ObjectMeta {
    let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ObjectMeta {
        name: Some(NAME.to_owned()),
        namespace: Some(NAMESPACE.to_owned()),
        labels: Some(labels.collect::<BTreeMap<_, _>>()),
        ..ObjectMeta::default()
    }
}

/// Where all masters listen; with different ports among them, where the first one does.
fn port(masters: &[SocketAddr]) -> i32 {
    // A master on loopback serves its own machine only, and has no say in where pods are led to.
    let reachable = masters.iter().find(|master| !master.ip().is_loopback());
    reachable.or(masters.first()).map_or(proto::DEFAULT_MASTER_PORT, SocketAddr::port).into()
}

/// The addresses that can be endpoints: those that others can reach, all of one family, which is the
/// Service's if there are such.
fn addresses(service: IpAddr, masters: &[SocketAddr]) -> Vec<IpAddr> {
    let reachable = || {
        let port = port(masters);
        masters
            .iter()
            .filter(move |master| i32::from(master.port()) == port)
            .map(SocketAddr::ip)
            .filter(|address| !address.is_loopback())
    };
    let (same, other): (Vec<_>, Vec<_>) =
        reachable().partition(|address| address.is_ipv4() == service.is_ipv4());
    if same.is_empty() { other } else { same }
}

pub(super) fn service(address: IpAddr, masters: &[SocketAddr]) -> Service {
    Service {
        metadata: metadata(&[("component", "apiserver"), ("provider", "kubernetes")]),
        spec: Some(ServiceSpec {
            cluster_ip: Some(address.to_string()),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: SERVICE_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::Int(port(masters))),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

pub(super) fn endpoints(service: IpAddr, masters: &[SocketAddr]) -> Endpoints {
    let addresses: Vec<_> = addresses(service, masters)
        .into_iter()
        .map(|address| EndpointAddress { ip: address.to_string(), ..EndpointAddress::default() })
        .collect();
    let subset = EndpointSubset {
        addresses: Some(addresses.clone()),
        not_ready_addresses: None,
        ports: Some(vec![EndpointPort {
            name: Some(PORT_NAME.to_owned()),
            port: port(masters),
            protocol: Some("TCP".to_owned()),
            ..EndpointPort::default()
        }]),
    };
    Endpoints {
        // The slice beside it is made here as well.
        metadata: metadata(&[("endpointslice.kubernetes.io/skip-mirror", "true")]),
        subsets: (!addresses.is_empty()).then(|| vec![subset]),
    }
}

pub(super) fn endpoint_slice(service: IpAddr, masters: &[SocketAddr]) -> EndpointSlice {
    let addresses = addresses(service, masters);
    let family = if addresses.iter().any(IpAddr::is_ipv6) { "IPv6" } else { "IPv4" };
    let endpoint = |address: &IpAddr| Endpoint {
        addresses: vec![address.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    EndpointSlice {
        metadata: metadata(&[("kubernetes.io/service-name", NAME)]),
        address_type: family.to_owned(),
        endpoints: Some(addresses.iter().map(endpoint).collect()),
        ports: Some(vec![SlicePort {
            name: Some(PORT_NAME.to_owned()),
            port: Some(port(masters)),
            protocol: Some("TCP".to_owned()),
            ..SlicePort::default()
        }]),
    }
}

/// Whether a Service leads to where it should; what defaulting filled in is left alone.
pub(super) fn same_ports(found: &ServiceSpec, desired: &ServiceSpec) -> bool {
    let ports = |spec: &ServiceSpec| -> Vec<_> {
        spec.ports
            .iter()
            .flatten()
            .map(|port| (port.name.clone(), port.port, port.target_port.clone()))
            .collect()
    };
    ports(found) == ports(desired)
}

pub(super) fn same_subsets(found: &Endpoints, desired: &Endpoints) -> bool {
    type Subset = (Vec<String>, bool, Vec<(Option<String>, i32)>);
    let subsets = |endpoints: &Endpoints| -> Vec<Subset> {
        endpoints
            .subsets
            .iter()
            .flatten()
            .map(|subset| {
                let ips = subset.addresses.iter().flatten().map(|one| one.ip.clone()).collect();
                let none_unready = subset.not_ready_addresses.iter().flatten().next().is_none();
                let ports =
                    subset.ports.iter().flatten().map(|port| (port.name.clone(), port.port));
                (ips, none_unready, ports.collect())
            })
            .collect()
    };
    subsets(found) == subsets(desired)
}

pub(super) fn same_slice(found: &EndpointSlice, desired: &EndpointSlice) -> bool {
    type Parts = (Vec<(Vec<String>, Option<bool>)>, Vec<(Option<String>, Option<i32>)>);
    let parts = |slice: &EndpointSlice| -> Parts {
        let ready = |one: &Endpoint| one.conditions.as_ref().and_then(|c| c.ready);
        let endpoints = slice
            .endpoints
            .iter()
            .flatten()
            .map(|one| (one.addresses.clone(), ready(one)))
            .collect();
        let ports = slice.ports.iter().flatten().map(|port| (port.name.clone(), port.port));
        (endpoints, ports.collect())
    };
    let labelled = || {
        let labels = desired.metadata.labels.iter().flatten();
        let found = found.metadata.labels.as_ref();
        labels.into_iter().all(|(name, value)| {
            found.and_then(|found| found.get(name)).is_some_and(|found| found == value)
        })
    };
    found.address_type == desired.address_type && parts(found) == parts(desired) && labelled()
}
