//! Decides at which nodes' addresses a Service is reached. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LoadBalancerIngress, Node, PortStatus, Service};
use proto::ObjectKey;
use proto::k8s as k8s_openapi;

use super::port::Port;
use super::{CLASS, EXCLUDED};

/// How many reasons a message tells.
const TOLD: usize = 3;

/// A Service that is to be balanced by us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Balanced {
    pub(super) key: ObjectKey,
    pub(super) uid: String,
    pub(super) created: Option<Timestamp>,
    /// Whether addresses of IPv6 are wanted, in the order of the families.
    pub(super) families: Vec<bool>,
    pub(super) ports: BTreeSet<Port>,
    /// Only nodes with endpoints of it are of use.
    pub(super) local: bool,
    /// The one address it is to have.
    pub(super) wanted: Option<IpAddr>,
    pub(super) deleting: bool,
    /// What its status says that it has.
    pub(super) holds: BTreeMap<IpAddr, BTreeSet<Port>>,
}

impl Balanced {
    /// Nothing if it is not for us to balance.
    pub(super) fn of(key: &ObjectKey, service: &Service) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ours = spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS);
        if spec.type_.as_deref() != Some("LoadBalancer") || !ours {
            return None;
        }
        let ports = spec.ports.iter().flatten();
        let ports: BTreeSet<Port> =
            ports.filter_map(|port| Port::new(port.protocol.as_deref(), port.port)).collect();
        let families = spec.ip_families.iter().flatten().map(|family| family == "IPv6").collect();
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
        let holds = ingress.filter_map(|ingress| {
            let address = ingress.ip.as_deref()?.parse().ok()?;
            let said = ingress.ports.iter().flatten();
            let said: BTreeSet<Port> =
                said.filter_map(|port| Port::new(Some(&port.protocol), port.port)).collect();
            Some((address, if said.is_empty() { ports.clone() } else { said }))
        });
        let wanted = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
        Some(Self {
            key: key.clone(),
            uid: service.metadata.uid.clone().unwrap_or_default(),
            created: service.metadata.creation_timestamp.as_ref().map(|time| time.0),
            families,
            local: spec.external_traffic_policy.as_deref() == Some("Local"),
            wanted: wanted.and_then(|text| text.parse().ok()),
            deleting: service.metadata.deletion_timestamp.is_some(),
            holds: holds.collect(),
            ports,
        })
    }

    fn holds(&self, address: IpAddr, port: Port) -> bool {
        self.holds.get(&address).is_some_and(|ports| ports.contains(&port))
    }

    /// Who is older keeps what both have, and goes first where something is free.
    pub(super) fn age(&self) -> (Option<Timestamp>, &ObjectKey) {
        (self.created, &self.key)
    }
}

/// A node, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Ready, not on its way out, and not labelled to be left out.
    pub(super) takes_part: bool,
    external: BTreeSet<IpAddr>,
    internal: BTreeSet<IpAddr>,
}

impl Place {
    pub(super) fn of(node: &Node) -> Self {
        let status = node.status.as_ref();
        let conditions = status.into_iter().flat_map(|status| status.conditions.iter().flatten());
        let mut ready = conditions.filter(|condition| condition.type_ == "Ready");
        let excluded =
            node.metadata.labels.as_ref().is_some_and(|labels| labels.contains_key(EXCLUDED));
        let addresses = |kind: &str| {
            let all = status.into_iter().flat_map(|status| status.addresses.iter().flatten());
            let named = all.filter(|address| address.type_ == kind);
            named.filter_map(|address| address.address.parse().ok()).collect()
        };
        Self {
            takes_part: ready.any(|condition| condition.status == "True")
                && !excluded
                && node.metadata.deletion_timestamp.is_none(),
            external: addresses("ExternalIP"),
            internal: addresses("InternalIP"),
        }
    }

    /// All by which it may be reached.
    fn has(&self, address: IpAddr) -> bool {
        self.external.contains(&address) || self.internal.contains(&address)
    }
}

/// What is there.
pub(super) struct Observed<'a> {
    pub(super) nodes: &'a BTreeMap<String, Place>,
    /// Ports that no Service may take from the nodes.
    pub(super) reserved: &'a BTreeSet<Port>,
    /// Other balanced Services with one of the ports.
    pub(super) rivals: Vec<&'a Balanced>,
    /// Other Services of which a port is a node port.
    pub(super) node_ports: BTreeMap<Port, ObjectKey>,
    /// Pods of which one of the ports is a host port, by the node they are on.
    pub(super) host_ports: BTreeMap<(String, Port), ObjectKey>,
    /// Nodes with endpoints of it; asked for only where that matters.
    pub(super) with_endpoints: BTreeSet<String>,
}

/// Why a node, or none at all, serves a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    /// It is the nodes' own.
    Reserved(Port),
    /// Another Service is reached at it on all nodes.
    NodePort(Port, ObjectKey),
    /// Another Service has it at this node.
    Taken { port: Port, node: String, address: IpAddr, service: ObjectKey },
    /// A pod has it on this node.
    HostPort { port: Port, node: String, pod: ObjectKey },
    /// The address that is asked for is nobody's.
    NotOurs(IpAddr),
    /// No node is ready and takes part.
    NoNode,
    /// None of them has an endpoint.
    NoEndpoint,
    /// None of them has an address of its families.
    NoFamily,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Reserved(port) => write!(
                f,
                "port {port} is kept for the nodes' own use \
                 (--load-balancer-reserved-ports of the masters, their port and etcd's)"
            ),
            Self::NodePort(port, service) => {
                write!(f, "port {port} is a node port of Service {service}")
            }
            Self::Taken { port, node, address, service } => {
                write!(f, "port {port} of {node} ({address}) is taken by Service {service}")
            }
            Self::HostPort { port, node, pod } => {
                write!(f, "port {port} of {node} is a host port of pod {pod}")
            }
            Self::NotOurs(address) => write!(
                f,
                "spec.loadBalancerIP {address} is no address of a node that could serve it; leave it \
                 out to be served at all nodes"
            ),
            Self::NoNode => {
                write!(f, "no node is ready that is not labelled {EXCLUDED}")
            }
            Self::NoEndpoint => f.write_str(
                "externalTrafficPolicy is Local, and no ready node has an endpoint that serves",
            ),
            Self::NoFamily => f.write_str("no ready node has an address of one of spec.ipFamilies"),
        }
    }
}

/// Where a Service is to be reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In the order of the families.
    pub(super) addresses: Vec<IpAddr>,
    /// Why not at others.
    pub(super) reasons: BTreeSet<Reason>,
}

impl Plan {
    /// As it stands in the status.
    pub(super) fn ingress(&self, service: &Balanced) -> Vec<LoadBalancerIngress> {
        let port = |port: &Port| PortStatus {
            port: port.number.into(),
            protocol: port.protocol.to_owned(),
            error: None,
        };
        let ingress = |address: &IpAddr| LoadBalancerIngress {
            ip: Some(address.to_string()),
            ip_mode: Some("VIP".to_owned()),
            ports: Some(service.ports.iter().map(port).collect()),
            hostname: None,
        };
        self.addresses.iter().map(ingress).collect()
    }

    /// What its user should know of it, if anything.
    pub(super) fn trouble(&self) -> Option<String> {
        if self.reasons.is_empty() {
            return None;
        }
        let mut told: Vec<String> =
            self.reasons.iter().take(TOLD).map(ToString::to_string).collect();
        if self.reasons.len() > TOLD {
            told.push(format!("and {} more of the kind", self.reasons.len() - TOLD));
        }
        let told = told.join("; ");
        Some(match self.addresses.is_empty() {
            true => format!("No node can serve it: {told}"),
            false => format!("Some nodes do not serve it: {told}"),
        })
    }
}

/// Decides.
pub(super) fn reconcile(service: &Balanced, observed: &Observed<'_>) -> Plan {
    let mut plan = Plan::default();
    // Whoever it is for lets go of it first.
    if service.deleting {
        return plan;
    }
    for port in &service.ports {
        if observed.reserved.contains(port) {
            plan.reasons.insert(Reason::Reserved(*port));
        } else if let Some(other) = observed.node_ports.get(port) {
            plan.reasons.insert(Reason::NodePort(*port, other.clone()));
        }
    }
    if !plan.reasons.is_empty() {
        return plan;
    }
    let nodes = observed.nodes.iter().filter(|(_, node)| node.takes_part);
    let mut nodes: BTreeMap<&String, &Place> = nodes.collect();
    if nodes.is_empty() {
        plan.reasons.insert(Reason::NoNode);
        return plan;
    }
    if service.local {
        nodes.retain(|name, _| observed.with_endpoints.contains(*name));
        if nodes.is_empty() {
            plan.reasons.insert(Reason::NoEndpoint);
            return plan;
        }
    }
    let candidates = candidates(service, &nodes);
    if candidates.is_empty() {
        plan.reasons.insert(match service.wanted {
            Some(wanted) => Reason::NotOurs(wanted),
            None => Reason::NoFamily,
        });
        return plan;
    }
    let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
    for (address, node) in candidates {
        let taken =
            service.ports.iter().filter_map(|port| taken(service, observed, node, address, *port));
        let taken: Vec<Reason> = taken.collect();
        if taken.is_empty() {
            addresses.insert(address);
        }
        plan.reasons.extend(taken);
    }
    for is_6 in &service.families {
        plan.addresses.extend(addresses.iter().filter(|address| address.is_ipv6() == *is_6));
    }
    plan
}

/// The addresses at which it could be reached, with their nodes: where any node has an external one,
/// only those, as with k3s.
fn candidates<'a>(
    service: &Balanced,
    nodes: &BTreeMap<&'a String, &Place>,
) -> BTreeMap<IpAddr, &'a String> {
    if let Some(wanted) = service.wanted {
        let of_family = service.families.contains(&wanted.is_ipv6());
        let node = nodes.iter().find(|(_, node)| of_family && node.has(wanted));
        return node.map(|(name, _)| (wanted, *name)).into_iter().collect();
    }
    let of = |addresses: fn(&Place) -> &BTreeSet<IpAddr>| {
        let all = nodes.iter().flat_map(move |(name, node)| {
            addresses(node).iter().map(move |address| (*address, *name))
        });
        all.filter(|(address, _)| service.families.contains(&address.is_ipv6()))
            .collect::<BTreeMap<_, _>>()
    };
    let external = of(|node| &node.external);
    if external.is_empty() { of(|node| &node.internal) } else { external }
}

fn taken(
    service: &Balanced,
    observed: &Observed<'_>,
    node: &str,
    address: IpAddr,
    port: Port,
) -> Option<Reason> {
    let node = node.to_owned();
    if let Some(pod) = observed.host_ports.get(&(node.clone(), port)) {
        return Some(Reason::HostPort { port, node, pod: pod.clone() });
    }
    let mine = service.holds(address, port);
    // Who is reached there stays so. Both are where somebody else wrote a status; the older one stays.
    let mut before = observed
        .rivals
        .iter()
        .filter(|rival| rival.holds(address, port) && (!mine || rival.age() < service.age()));
    let rival = before.next()?;
    Some(Reason::Taken { port, node, address, service: rival.key.clone() })
}
