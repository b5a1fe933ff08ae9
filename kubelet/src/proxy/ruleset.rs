//! What the kernel should do for Services: a value, made from what the master told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::{Service, ServicePort as ApiPort, ServiceSpec};
use proto::k8s::api::discovery::v1::EndpointSlice;

use super::endpoints::{PortOf, SlicesByService, arrange};
use super::program::{Door, Shape};
use crate::network::{Cidr4, PodHostPorts, ipv4_ranges, own_range};
use crate::state::ClusterState;

/// A transport protocol that Services know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From its name in the API; nothing said means TCP.
    pub(crate) fn parse(name: Option<&str>) -> Option<Self> {
        match name {
            None | Some("TCP") => Some(Self::Tcp),
            Some("UDP") => Some(Self::Udp),
            Some("SCTP") => Some(Self::Sctp),
            Some(_) => None,
        }
    }

    /// Its number in the IP header.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// From its number in the IP header.
    pub(crate) fn of_number(number: u8) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|known| known.number() == number)
    }
}

/// Where clients turn to. The address `0.0.0.0` stands for all addresses of this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frontend {
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// Where they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Target {
    pub(crate) address: Ipv4Addr,
    pub(crate) port: u16,
}

/// Ranges of addresses the rules depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// Of this node's pods.
    pub(crate) own: Option<Cidr4>,
    /// Of all pods.
    pub(crate) pods: Vec<Cidr4>,
    /// Of all Services.
    pub(crate) services: Vec<Cidr4>,
}

/// What is done for those who turn to one frontend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServicePort {
    /// As `default/web:http`.
    pub(crate) name: String,
    /// For how many seconds a client is sent to the same endpoint.
    pub(crate) affinity: Option<u32>,
    /// Whether endpoints see the node instead of the client, so that answers come back through it.
    /// That goes without saying for cluster addresses, where only pods of this node are seen.
    pub(crate) masquerade: bool,
    /// The endpoints, by place.
    pub(crate) targets: Vec<Target>,
    /// Where clients stay with an endpoint, its number in the same place: an endpoint keeps it for
    /// good, and it is not given again.
    pub(crate) numbers: Vec<u32>,
    /// No number so high was given yet.
    pub(crate) next_number: u32,
}

impl ServicePort {
    /// The choice to be made for a frontend; nothing without endpoints.
    pub(crate) fn shape(&self, at: Frontend) -> Option<Shape> {
        let door = if at.address.is_unspecified() { Door::NodePort } else { Door::Address };
        let count = u32::try_from(self.targets.len()).unwrap_or(u32::MAX);
        (count > 0).then_some(Shape { door, count, affinity: self.affinity })
    }
}

impl ServicePort {
    fn give_numbers(&mut self, before: Option<&Self>) {
        let had: HashMap<Target, u32> = before
            .iter()
            .flat_map(|before| before.targets.iter().copied().zip(before.numbers.iter().copied()))
            .collect();
        let mut next = before.map_or(0, |before| before.next_number);
        let number = |target: &Target| {
            had.get(target).copied().unwrap_or_else(|| {
                next += 1;
                next - 1
            })
        };
        self.numbers = self.targets.iter().map(number).collect();
        self.next_number = next;
    }
}

/// All that the kernel should do for Services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) ranges: Ranges,
    /// Cluster addresses, node ports and external addresses alike. Shared between versions, so that
    /// what is unchanged is seen at once.
    pub(crate) services: BTreeMap<Frontend, Arc<ServicePort>>,
    pub(crate) host_ports: BTreeMap<Frontend, Target>,
    /// Pods of this node that may reach themselves through a service.
    pub(crate) hairpins: BTreeSet<Ipv4Addr>,
}

/// What of the cluster's state the rules follow from.
#[derive(Default)]
pub(crate) struct View {
    /// Whether a master has said so since the kubelet started; what was on disk may be outdated.
    pub(crate) confirmed: bool,
    pub(crate) ranges: Ranges,
    pub(crate) services: Vec<(ObjectKey, Arc<Service>)>,
    pub(crate) slices: Vec<Arc<EndpointSlice>>,
}

impl View {
    /// Takes references only: the session waits meanwhile. Nothing before this node knows its range.
    pub(crate) fn of(state: &ClusterState) -> Option<Self> {
        let own = own_range(state.node.as_deref()?)?;
        let services = state.services.iter();
        Some(Self {
            confirmed: state.confirmed,
            ranges: Ranges {
                own: Some(own),
                pods: ipv4_ranges(&state.pod_cidrs),
                services: ipv4_ranges(&state.service_cidrs),
            },
            services: services.map(|(key, service)| (key.clone(), Arc::clone(service))).collect(),
            slices: state.endpoint_slices.values().map(Arc::clone).collect(),
        })
    }
}

/// The rules for a cluster. `before` is what they were: endpoints keep their numbers where they can.
/// Where two Services want the same, the older has it; the names of the others are returned too.
pub(crate) fn ruleset(
    view: &View,
    node_name: &str,
    host_ports: &BTreeMap<String, PodHostPorts>,
    before: &Ruleset,
) -> (Ruleset, BTreeSet<String>) {
    let mut build = Build {
        node_name,
        slices: SlicesByService::of(&view.slices),
        before,
        ruleset: Ruleset { ranges: view.ranges.clone(), ..Ruleset::default() },
        taken: HashMap::new(),
        conflicts: BTreeSet::new(),
    };
    let mut services: Vec<&(ObjectKey, Arc<Service>)> = view.services.iter().collect();
    services.sort_by_key(|(key, service)| {
        let created = service.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (created, key)
    });
    // Cluster addresses first: no entrance of one Service may take another's own address.
    let mut ports = Vec::new();
    for (key, service) in services {
        let Some(spec) = &service.spec else { continue };
        let Some(address) = cluster_address(spec) else { continue };
        for port in spec.ports.iter().flatten() {
            let Some(at) = frontend(address, port) else { continue };
            if build.claim(at, key, port) {
                let only_local = spec.internal_traffic_policy.as_deref() == Some("Local");
                build.add(key, spec, port, at, only_local, false);
            }
            ports.push((key, spec, port, at.protocol));
        }
    }
    for (key, spec, port, protocol) in ports {
        let only_local = spec.external_traffic_policy.as_deref() == Some("Local");
        for at in entrances(spec, port, protocol) {
            if build.claim(at, key, port) {
                build.add(key, spec, port, at, only_local, !only_local);
            }
        }
    }
    build.ruleset.add_host_ports(host_ports);
    build.ruleset.add_hairpins();
    (build.ruleset, build.conflicts)
}

/// The rules with the Services of `before` left as they are: what this node knows better is only
/// which pods it has.
pub(crate) fn with_same_services(
    ranges: &Ranges,
    host_ports: &BTreeMap<String, PodHostPorts>,
    before: &Ruleset,
) -> Ruleset {
    let services = before.services.clone();
    let mut ruleset = Ruleset { ranges: ranges.clone(), services, ..Ruleset::default() };
    ruleset.add_host_ports(host_ports);
    ruleset.add_hairpins();
    ruleset
}

/// A Service's IPv4 cluster address; headless ones and mere names have none.
fn cluster_address(spec: &ServiceSpec) -> Option<Ipv4Addr> {
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let several = spec.cluster_ips.iter().flatten();
    spec.cluster_ip.iter().chain(several).find_map(|text| text.parse().ok())
}

fn frontend(address: Ipv4Addr, port: &ApiPort) -> Option<Frontend> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    Some(Frontend { address, protocol, port: u16::try_from(port.port).ok()? })
}

/// Where a port of a Service is served beside the cluster address: on nodes, and at addresses from
/// elsewhere that lead to nodes.
fn entrances(spec: &ServiceSpec, port: &ApiPort, protocol: Protocol) -> Vec<Frontend> {
    let has_node_port = matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer"));
    let node_port = port
        .node_port
        .filter(|_| has_node_port)
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
        .map(|number| Frontend { address: Ipv4Addr::UNSPECIFIED, protocol, port: number });
    let external = spec.external_ips.iter().flatten().filter_map(|text| {
        let address: Ipv4Addr = text.parse().ok()?;
        frontend(address, port).filter(|at| !at.address.is_unspecified())
    });
    node_port.into_iter().chain(external).collect()
}

fn port_name(key: &ObjectKey, port: &ApiPort) -> String {
    match port.name.as_deref() {
        None | Some("") => key.to_string(),
        Some(name) => format!("{key}:{name}"),
    }
}

struct Build<'a> {
    node_name: &'a str,
    slices: SlicesByService<'a>,
    before: &'a Ruleset,
    ruleset: Ruleset,
    /// Who has which frontend.
    taken: HashMap<Frontend, String>,
    conflicts: BTreeSet<String>,
}

impl Build<'_> {
    /// Whether the frontend was free. A Service may name the same twice.
    fn claim(&mut self, at: Frontend, key: &ObjectKey, port: &ApiPort) -> bool {
        let name = port_name(key, port);
        match self.taken.get(&at) {
            None => {
                self.taken.insert(at, name);
                true
            }
            Some(owner) => {
                if *owner != name {
                    self.conflicts.insert(name);
                }
                false
            }
        }
    }

    /// `only_local`: leads to endpoints on this node alone.
    fn add(
        &mut self,
        key: &ObjectKey,
        spec: &ServiceSpec,
        port: &ApiPort,
        at: Frontend,
        only_local: bool,
        masquerade: bool,
    ) {
        let of = PortOf {
            namespace: &key.namespace,
            service: &key.name,
            name: port.name.as_deref().unwrap_or_default(),
            protocol: at.protocol,
        };
        let wanted = self.slices.endpoints(&of, only_local.then_some(self.node_name));
        let before = self.before.services.get(&at);
        let placed = before.map(|before| before.targets.as_slice()).unwrap_or_default();
        let mut service = ServicePort {
            name: port_name(key, port),
            affinity: affinity(spec),
            masquerade,
            targets: arrange(placed, wanted),
            numbers: Vec::new(),
            next_number: 0,
        };
        if service.affinity.is_some() {
            service.give_numbers(before.map(Arc::as_ref));
        }
        let service = match before {
            Some(before) if **before == service => Arc::clone(before),
            _ => Arc::new(service),
        };
        self.ruleset.services.insert(at, service);
    }
}

impl Ruleset {
    fn add_host_ports(&mut self, pods: &BTreeMap<String, PodHostPorts>) {
        for pod in pods.values() {
            let Some(address) = pod.addresses.iter().find_map(ipv4) else { continue };
            for port in &pod.ports {
                let Some(protocol) = Protocol::parse(Some(&port.protocol)) else { continue };
                let on = match &port.host_ip {
                    None => Ipv4Addr::UNSPECIFIED,
                    Some(IpAddr::V4(address)) => *address,
                    Some(IpAddr::V6(_)) => continue,
                };
                let at = Frontend { address: on, protocol, port: port.host_port };
                let target = Target { address, port: port.container_port };
                // The scheduler keeps pods with the same host port apart; while one goes and
                // another comes, the first by uid has it.
                self.host_ports.entry(at).or_insert(target);
            }
        }
    }

    /// Those that follow from the rest.
    pub(crate) fn add_hairpins(&mut self) {
        let Some(own) = self.ranges.own else { return };
        let services = self.services.values();
        let addresses = services
            .flat_map(|service| &service.targets)
            .chain(self.host_ports.values())
            .map(|target| target.address)
            .filter(|address| own.contains(*address))
            .collect();
        self.hairpins = addresses;
    }
}

fn ipv4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
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
