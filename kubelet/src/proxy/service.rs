//! Where a Service is served, and what is done for those who turn there.

use std::net::IpAddr;

use ipnet::IpNet;
use proto::ObjectKey;
use proto::k8s::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};

use super::address::{Frontend, Protocol, any};
use super::endpoints::{Endpoints, PortOf};
use super::ranges;
use super::ruleset::{Choice, Otherwise, ServicePort};
use crate::nft::expr::Ip;

/// Says that another program proxies a Service.
pub(crate) const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";

/// A way to a port of a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entrance {
    pub(crate) at: Frontend,
    /// The port's place in the Service.
    pub(crate) port: usize,
    pub(crate) kind: Kind,
}

/// How clients come to it. No entrance of another kind may take a Service's own address, hence the
/// order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// By the Service's own address.
    Cluster,
    /// By the address of a load balancer.
    LoadBalancer,
    /// By an address that leads to a node.
    External,
    /// By a port of every node.
    NodePort,
}

/// All ways to a Service; headless ones, mere names and those that somebody else proxies have none.
pub(crate) fn entrances(service: &Service) -> Vec<Entrance> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let labels = service.metadata.labels.as_ref();
    if labels.is_some_and(|labels| labels.contains_key(OTHER_PROXY)) {
        return Vec::new();
    }
    let own = cluster_addresses(spec);
    if own.is_empty() {
        return Vec::new();
    }
    let mut entrances = Vec::new();
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let Some(protocol) = Protocol::parse(port.protocol.as_deref()) else { continue };
        let Ok(number) = u16::try_from(port.port) else { continue };
        let mut add = |kind, address, port| {
            let at = Frontend { address, protocol, port };
            entrances.push(Entrance { at, port: index, kind });
        };
        own.iter().for_each(|address| add(Kind::Cluster, *address, number));
        let balancers = balancers(service).map(|address| (Kind::LoadBalancer, address));
        let external = spec.external_ips.iter().flatten().filter_map(|text| text.parse().ok());
        let others = balancers.chain(external.map(|address| (Kind::External, address)));
        for (kind, address) in others.filter(|(_, address)| !address.is_unspecified()) {
            add(kind, address, number);
        }
        if let Some(number) = node_port(spec, port) {
            own.iter().for_each(|address| add(Kind::NodePort, any(Ip::of(*address)), number));
        }
    }
    entrances
}

/// The addresses that are the Service's own, of each version at most one.
fn cluster_addresses(spec: &ServiceSpec) -> Vec<IpAddr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return Vec::new();
    }
    let several = spec.cluster_ips.iter().flatten();
    let mut addresses: Vec<IpAddr> = Vec::new();
    for address in spec.cluster_ip.iter().chain(several).filter_map(|text| text.parse().ok()) {
        if !addresses.iter().any(|known| Ip::of(*known) == Ip::of(address)) {
            addresses.push(address);
        }
    }
    addresses
}

fn node_port(spec: &ServiceSpec, port: &ApiPort) -> Option<u16> {
    let has_node_port = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let number = port.node_port.filter(|number| has_node_port && *number != 0)?;
    u16::try_from(number).ok()
}

/// Addresses of load balancers that send packets here as they are. One that makes connections of its
/// own sends them elsewhere, so nothing may be caught on the way to it.
fn balancers(service: &Service) -> impl Iterator<Item = IpAddr> {
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
    ingress
        .filter(|ingress| ingress.ip_mode.as_deref().is_none_or(|mode| mode == "VIP"))
        .filter_map(|ingress| ingress.ip.as_deref()?.parse().ok())
}

/// The port of a Service that an entrance leads to.
pub(crate) fn port_of<'a>(service: &'a Service, entrance: &Entrance) -> Option<PortOf<'a>> {
    let port = service.spec.as_ref()?.ports.as_ref()?.get(entrance.port)?;
    Some(PortOf { name: port.name.as_deref().unwrap_or_default(), protocol: entrance.at.protocol })
}

/// Names a port of a Service, as `default/web:http`.
pub(crate) fn port_name(key: &ObjectKey, service: &Service, index: usize) -> String {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    match ports.and_then(|ports| ports.get(index)?.name.as_deref()) {
        None | Some("") => key.to_string(),
        Some(name) => format!("{key}:{name}"),
    }
}

/// What is done for those who come by an entrance. `before` is what was done for them: endpoints
/// keep their places and numbers as far as they can. `own` are this node's addresses.
pub(crate) fn service_port(
    key: &ObjectKey,
    service: &Service,
    entrance: &Entrance,
    endpoints: &Endpoints,
    before: Option<&ServicePort>,
    own: &[IpAddr],
) -> ServicePort {
    let spec = service.spec.as_ref();
    let only_local = spec.is_some_and(|spec| match entrance.kind {
        Kind::Cluster => is_local(&spec.internal_traffic_policy),
        Kind::LoadBalancer | Kind::External | Kind::NodePort => {
            is_local(&spec.external_traffic_policy)
        }
    });
    let affinity = spec.and_then(affinity);
    let is_external = entrance.kind != Kind::Cluster;
    let wanted = if only_local { &endpoints.local } else { &endpoints.cluster };
    let has_affinity = affinity.is_some();
    let choice = Choice::between(wanted, has_affinity, before.map(|before| &before.choice));
    let has_inside = is_external && only_local && !endpoints.cluster.is_empty();
    let inside = has_inside.then(|| {
        let before = before.and_then(|before| before.inside.as_ref());
        Choice::between(&endpoints.cluster, has_affinity, before)
    });
    let otherwise = if endpoints.any { Otherwise::Drop } else { Otherwise::Reject };
    let sources = (entrance.kind == Kind::LoadBalancer)
        .then(|| sources(service, entrance.at.ip(), own))
        .flatten();
    ServicePort {
        name: port_name(key, service, entrance.port),
        affinity,
        masquerade: is_external && !only_local,
        choice,
        inside,
        otherwise,
        sources,
    }
}

/// From where one may turn to a Service's load balancers; nothing means from everywhere.
fn sources(service: &Service, ip: Ip, own: &[IpAddr]) -> Option<Vec<IpNet>> {
    let said = service.spec.as_ref()?.load_balancer_source_ranges.as_ref()?;
    let mut sources: Vec<IpNet> = said
        .iter()
        // The API has always let spaces through.
        .filter_map(|text| text.trim().parse().ok())
        .filter(|range| ranges::of(range) == ip)
        .collect();
    if sources.is_empty() {
        return None;
    }
    // The balancer's address may have been put on this node: what this node itself sends there comes
    // from that address.
    if own.iter().any(|address| sources.iter().any(|range| range.contains(address))) {
        sources.extend(balancers(service).filter(|at| Ip::of(*at) == ip).map(IpNet::from));
    }
    let sources = IpNet::aggregate(&sources);
    sources.iter().all(|range| range.prefix_len() > 0).then_some(sources)
}

/// The port at which this node tells load balancers whether it has endpoints of a Service.
pub(crate) fn health_check_port(service: &Service) -> Option<u16> {
    let spec = service.spec.as_ref()?;
    let asks =
        spec.type_.as_deref() == Some("LoadBalancer") && is_local(&spec.external_traffic_policy);
    let number = spec.health_check_node_port.filter(|number| asks && *number != 0)?;
    u16::try_from(number).ok()
}

fn is_local(policy: &Option<String>) -> bool {
    policy.as_deref() == Some("Local")
}

/// As long as Kubernetes when the Service does not say.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;

fn affinity(spec: &ServiceSpec) -> Option<u32> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let config = spec.session_affinity_config.as_ref();
    let seconds = config
        .and_then(|config| config.client_ip.as_ref())
        .and_then(|client_ip| client_ip.timeout_seconds)
        .and_then(|seconds| u32::try_from(seconds).ok())
        .filter(|seconds| *seconds > 0);
    Some(seconds.unwrap_or(DEFAULT_AFFINITY_SECONDS))
}
