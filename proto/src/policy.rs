//! Network policies as masters and nodes understand them, made of the API's objects.
//!
//! A node is sent the policies that select pods of its own, as objects, and for each [`PeerSet`] that
//! these name the pods that are in it. Both sides find out here which these are.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::{Deserialize, Serialize};

use crate::k8s as k8s_openapi;
use crate::selector::{Selector, SelectorError};

/// A policy that says what cannot be. The API lets none through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A selector is broken.
    #[error(transparent)]
    Selector(#[from] SelectorError),
    /// A range of addresses is none.
    #[error("{0:?} is not a range of addresses")]
    Range(String),
    /// A protocol nobody knows.
    #[error("{0:?} is not a protocol of ports: TCP, UDP or SCTP")]
    Protocol(String),
    /// A port that cannot be.
    #[error("{0} is not the number of a port")]
    Port(i32),
}

/// What a policy says of the pods it selects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The pods of its namespace that it applies to.
    pub pods: Selector,
    /// Who may reach them; nothing: the policy does not speak of that.
    pub ingress: Option<Vec<Rule>>,
    /// Whom they may reach; likewise.
    pub egress: Option<Vec<Rule>>,
}

/// Lets some peers through to some ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Any of these; nothing: anybody.
    pub peers: Option<Vec<Peer>>,
    /// Any of these; nothing: all of every protocol, also of those without ports.
    pub ports: Option<Vec<Ports>>,
    /// Pods with the ports that the rule calls by name, for a rule about where they may be reached that
    /// does not say which pods: those with an address in one of its blocks, or all if it has no peers.
    pub named: Option<PeerSet>,
}

/// Somebody at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Pods, of which masters know.
    Pods(PeerSet),
    /// Addresses.
    Block(Block),
}

/// A range of addresses with exceptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// First and last.
    pub range: (IpAddr, IpAddr),
    /// Likewise, of those left out.
    pub except: Vec<(IpAddr, IpAddr)>,
}

/// Ports of one protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Its number on the wire.
    pub protocol: u8,
    /// Which.
    pub which: Which,
}

/// Ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// First and last.
    Range(u16, u16),
    /// As the pod that is reached calls it.
    Named(String),
}

/// Pods of one or several namespaces, for the peers of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSet {
    /// Where they are.
    pub namespaces: Namespaces,
    /// Which of those.
    pub pods: Selector,
    /// Ports whose numbers are asked for.
    pub ports: BTreeSet<String>,
    /// Whether pods without any of the ports are left out.
    pub with_ports_only: bool,
}

/// Where the pods of a [`PeerSet`] are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespaces {
    /// In the policy's own.
    One(String),
    /// In those with certain labels.
    Labelled(Selector),
}

/// A pod of a [`PeerSet`], as a node keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPeer {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What the set asks for of its ports.
    pub ports: Vec<PodPort>,
}

/// A port that a pod has a name for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodPort {
    /// The name.
    pub name: String,
    /// Number of the protocol on the wire.
    pub protocol: u8,
    /// Number of the port.
    pub number: u16,
}

/// The number of a transport protocol with ports.
pub fn protocol_number(name: &str) -> Option<u8> {
    match name {
        "TCP" => Some(6),
        "UDP" => Some(17),
        "SCTP" => Some(132),
        _ => None,
    }
}

impl Policy {
    /// Lets nobody through, to or from any pod of its namespace: what stands for a policy that nobody
    /// can make sense of. To leave that out would open what it was to close.
    pub fn closed() -> Self {
        Self { pods: Selector::everything(), ingress: Some(Vec::new()), egress: Some(Vec::new()) }
    }

    /// Out of the object.
    ///
    /// # Errors
    /// When it says what no policy can say.
    pub fn of(object: &NetworkPolicy) -> Result<Self, PolicyError> {
        let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
        let spec = object.spec.clone().unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        let speaks_of = |direction: &str| types.iter().any(|one| one == direction);
        let ingress = spec.ingress.unwrap_or_default().into_iter().map(|rule| {
            // What a port is called says the selected pod itself.
            Rule::of(namespace, rule.from, rule.ports, false)
        });
        let egress = spec
            .egress
            .unwrap_or_default()
            .into_iter()
            .map(|rule| Rule::of(namespace, rule.to, rule.ports, true));
        Ok(Self {
            pods: Selector::from_label_selector(&spec.pod_selector.unwrap_or_default())?,
            ingress: speaks_of("Ingress").then(|| ingress.collect()).transpose()?,
            egress: speaks_of("Egress").then(|| egress.collect()).transpose()?,
        })
    }

    /// All sets of pods that its rules name, by name.
    pub fn peer_sets(&self) -> impl Iterator<Item = &PeerSet> {
        let rules = self.ingress.iter().chain(&self.egress).flatten();
        rules.flat_map(|rule| {
            let peers = rule.peers.iter().flatten().filter_map(|peer| match peer {
                Peer::Pods(set) => Some(set),
                Peer::Block(_) => None,
            });
            peers.chain(&rule.named)
        })
    }
}

impl Rule {
    fn of(
        namespace: &str,
        peers: Option<Vec<NetworkPolicyPeer>>,
        ports: Option<Vec<NetworkPolicyPort>>,
        ports_are_the_peers: bool,
    ) -> Result<Self, PolicyError> {
        // An empty list is as good as none.
        let ports = ports.filter(|ports| !ports.is_empty());
        let ports: Option<Vec<Ports>> =
            ports.map(|ports| ports.iter().map(Ports::of).collect::<Result<_, _>>()).transpose()?;
        let names = ports.iter().flatten().filter_map(|ports| match &ports.which {
            Which::Named(name) if ports_are_the_peers => Some(name.clone()),
            _ => None,
        });
        let names: BTreeSet<String> = names.collect();
        let peers = peers.filter(|peers| !peers.is_empty());
        let peers: Option<Vec<Peer>> = peers
            .map(|peers| {
                peers.iter().map(|peer| Peer::of(namespace, peer, &names)).collect::<Result<_, _>>()
            })
            .transpose()?;
        let by_address = |peers: &Vec<Peer>| peers.iter().any(|p| matches!(p, Peer::Block(_)));
        let anybody = peers.as_ref().is_none_or(by_address);
        let named = (anybody && !names.is_empty()).then(|| PeerSet {
            namespaces: Namespaces::Labelled(Selector::everything()),
            pods: Selector::everything(),
            ports: names,
            with_ports_only: true,
        });
        Ok(Self { peers, ports, named })
    }
}

impl Peer {
    fn of(
        namespace: &str,
        peer: &NetworkPolicyPeer,
        names: &BTreeSet<String>,
    ) -> Result<Self, PolicyError> {
        let NetworkPolicyPeer { ip_block, namespace_selector, pod_selector } = peer;
        if let Some(block) = ip_block {
            return Block::of(block).map(Self::Block);
        }
        let namespaces = match namespace_selector {
            Some(selector) => Namespaces::Labelled(Selector::from_label_selector(selector)?),
            None => Namespaces::One(namespace.to_owned()),
        };
        let pods = match pod_selector {
            Some(selector) => Selector::from_label_selector(selector)?,
            None => Selector::everything(),
        };
        let ports = names.clone();
        Ok(Self::Pods(PeerSet { namespaces, pods, ports, with_ports_only: false }))
    }
}

impl Block {
    /// Whether it lets an address through.
    pub fn contains(&self, address: IpAddr) -> bool {
        // An order of addresses has all of IPv4 before all of IPv6.
        let is_in = |(first, last): &(IpAddr, IpAddr)| *first <= address && address <= *last;
        is_in(&self.range) && !self.except.iter().any(is_in)
    }

    fn of(block: &IPBlock) -> Result<Self, PolicyError> {
        let except = block.except.iter().flatten().map(|text| range(text));
        Ok(Self { range: range(&block.cidr)?, except: except.collect::<Result<_, _>>()? })
    }
}

/// First and last address of a range in CIDR notation.
fn range(text: &str) -> Result<(IpAddr, IpAddr), PolicyError> {
    let not_one = || PolicyError::Range(text.to_owned());
    let (address, prefix) = text.split_once('/').ok_or_else(not_one)?;
    let prefix: u32 = prefix.parse().map_err(|_| not_one())?;
    match address.parse().map_err(|_| not_one())? {
        IpAddr::V4(address) if prefix <= 32 => {
            let host = u32::MAX.checked_shr(prefix).unwrap_or(0);
            let bits = address.to_bits();
            Ok((
                IpAddr::from((bits & !host).to_be_bytes()),
                IpAddr::from((bits | host).to_be_bytes()),
            ))
        }
        IpAddr::V6(address) if prefix <= 128 => {
            let host = u128::MAX.checked_shr(prefix).unwrap_or(0);
            let bits = address.to_bits();
            Ok((
                IpAddr::from((bits & !host).to_be_bytes()),
                IpAddr::from((bits | host).to_be_bytes()),
            ))
        }
        _ => Err(not_one()),
    }
}

impl Ports {
    fn of(port: &NetworkPolicyPort) -> Result<Self, PolicyError> {
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let protocol =
            protocol_number(protocol).ok_or_else(|| PolicyError::Protocol(protocol.to_owned()))?;
        let number = |number: i32| u16::try_from(number).map_err(|_| PolicyError::Port(number));
        let which = match &port.port {
            None => Which::Range(0, u16::MAX),
            Some(IntOrString::String(name)) => Which::Named(name.clone()),
            Some(IntOrString::Int(first)) => {
                Which::Range(number(*first)?, number(port.end_port.unwrap_or(*first))?)
            }
        };
        Ok(Self { protocol, which })
    }
}

impl fmt::Display for PeerSet {
    /// Its name in the node protocol: equal sets have equal names, and others do not.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // None of these characters is part of a selector or a name of a namespace or port.
        match &self.namespaces {
            Namespaces::One(namespace) => write!(f, "{namespace}/[{}]", self.pods)?,
            Namespaces::Labelled(selector) => write!(f, "[{selector}]/[{}]", self.pods)?,
        }
        if !self.ports.is_empty() {
            let ports: Vec<&str> = self.ports.iter().map(String::as_str).collect();
            write!(f, ":{}", ports.join(","))?;
        }
        f.write_str(if self.with_ports_only { ":only" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn policy(spec: Value) -> Policy {
        let object = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
        Policy::of(&serde_json::from_value(object).unwrap()).unwrap()
    }

    fn names(policy: &Policy) -> Vec<String> {
        policy.peer_sets().map(ToString::to_string).collect()
    }

    #[test]
    fn what_nobody_can_make_sense_of_lets_nobody_through() {
        let broken = json!({"spec": {"policyTypes": ["Ingress"], "ingress": [{"from": [
            {"ipBlock": {"cidr": "10.0.0.0/40"}},
        ]}]}});
        let object = serde_json::from_value(broken).unwrap();
        assert_eq!(Policy::of(&object), Err(PolicyError::Range("10.0.0.0/40".to_owned())));
        let closed = Policy::closed();
        assert!(closed.pods.matches(&std::collections::BTreeMap::new()));
        assert_eq!((closed.ingress, closed.egress), (Some(Vec::new()), Some(Vec::new())));
    }

    #[test]
    fn a_policy_speaks_of_the_directions_that_it_names() {
        let egress = policy(json!({"policyTypes": ["Egress"], "ingress": [{}]}));
        assert_eq!((egress.ingress, egress.egress), (None, Some(Vec::new())));
        let anybody =
            policy(json!({"policyTypes": ["Ingress"], "ingress": [{"from": [], "ports": []}]}));
        let rule = Rule { peers: None, ports: None, named: None };
        assert_eq!(anybody.ingress, Some(vec![rule]));
    }

    #[test]
    fn sets_of_peers_are_told_apart_by_their_names() {
        let peers = json!([
            {"podSelector": {}},
            {"namespaceSelector": {}},
            {"namespaceSelector": {"matchLabels": {"team": "a"}}, "podSelector": {"matchLabels": {"app": "b"}}},
            {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}},
            {"ipBlock": {"cidr": "10.0.0.0/8"}},
        ]);
        let ingress = policy(
            json!({"policyTypes": ["Ingress"], "ingress": [{"from": peers, "ports": [{"port": "http"}]}]}),
        );
        assert_eq!(names(&ingress), ["shop/[]", "[]/[]", "[team=a]/[app=b]", "shop/[app]"]);
    }

    #[test]
    fn names_of_ports_are_asked_of_those_who_are_reached() {
        let ports = json!([{"port": "http"}, {"port": 53, "protocol": "UDP"}, {"port": "api"}]);
        let to = json!([{"podSelector": {}}]);
        let some =
            policy(json!({"policyTypes": ["Egress"], "egress": [{"to": to, "ports": ports}]}));
        assert_eq!(names(&some), ["shop/[]:api,http"]);
        let anybody = policy(json!({"policyTypes": ["Egress"], "egress": [{"ports": ports}]}));
        assert_eq!(names(&anybody), ["[]/[]:api,http:only"]);
        // Pods are reached in a block, too, and only they say what their ports are called.
        let block = json!([{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}]);
        let block =
            policy(json!({"policyTypes": ["Egress"], "egress": [{"to": block, "ports": ports}]}));
        assert_eq!(names(&block), ["shop/[]:api,http", "[]/[]:api,http:only"]);
        let rule = &block.egress.as_ref().unwrap()[0];
        let Some(Peer::Block(block)) = rule.peers.iter().flatten().next() else { panic!() };
        let contains = ["10.0.0.1", "10.1.0.1", "10.2.0.0", "11.0.0.0", "::a00:1"]
            .map(|address| block.contains(address.parse().unwrap()));
        assert_eq!(contains, [true, false, true, false, false]);
    }

    #[test]
    fn blocks_are_their_first_and_last_addresses() {
        let range = |text: &str| {
            super::range(text)
                .map(|(first, last)| format!("{first}-{last}"))
                .map_err(|e| e.to_string())
        };
        assert_eq!(range("10.1.2.3/8"), Ok("10.0.0.0-10.255.255.255".to_owned()));
        assert_eq!(range("0.0.0.0/0"), Ok("0.0.0.0-255.255.255.255".to_owned()));
        assert_eq!(range("10.0.0.1/32"), Ok("10.0.0.1-10.0.0.1".to_owned()));
        assert_eq!(range("fd00::/120"), Ok("fd00::-fd00::ff".to_owned()));
        assert_eq!(range("::1/128"), Ok("::1-::1".to_owned()));
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "x/8"] {
            assert_eq!(range(text), Err(format!("{text:?} is not a range of addresses")));
        }
    }

    #[test]
    fn ports_are_ranges_or_names() {
        let ports = json!([{"port": 80}, {"port": 80, "endPort": 90, "protocol": "UDP"}, {"protocol": "SCTP"}, {"port": "http"}]);
        let policy = policy(json!({"policyTypes": ["Ingress"], "ingress": [{"ports": ports}]}));
        let found = policy.ingress.unwrap().remove(0).ports.unwrap();
        let range = |protocol, first, last| Ports { protocol, which: Which::Range(first, last) };
        let named = Ports { protocol: 6, which: Which::Named("http".to_owned()) };
        assert_eq!(found, [range(6, 80, 80), range(17, 80, 90), range(132, 0, 65535), named]);
    }
}
