//! Network policies, by what is answered: three namespaces with three pods each on one node, every
//! pair of them, two ports of two protocols, under hundreds of policies one after the other.

mod begun;
mod oracle;
mod sources;
mod truth;
mod world;

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;

use kubelet::state::{Change, StateHandle};
use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{Namespaces, PeerSet, PodPeer, Policy};
use serde_json::{Value, json};

use crate::ground::{Cluster, Namespace, TestNode, TestPod, eventually, is_root};

const SPACES: [&str; 3] = ["x", "y", "z"];
const PODS: [&str; 3] = ["a", "b", "c"];
const PORTS: [u16; 2] = [80, 81];

/// Where a pod is and which it is.
type Place = (usize, usize);

fn places() -> impl Iterator<Item = Place> {
    (0..3).flat_map(|space| (0..3).map(move |pod| (space, pod)))
}

fn pod(place: Place) -> Arc<Pod> {
    let (space, pod) = (SPACES[place.0], PODS[place.1]);
    let object = json!({
        "metadata": {"namespace": space, "name": pod, "uid": format!("{space}-{pod}"), "labels": {"pod": pod}},
        "spec": {"containers": [{"name": "main", "ports": [
            {"name": "web", "containerPort": 80}, {"name": "dns", "containerPort": 81, "protocol": "UDP"},
        ]}]},
    });
    Arc::new(serde_json::from_value(object).unwrap())
}

/// The pods of each set, by the names of both.
type Peers = HashMap<String, BTreeMap<String, Arc<PodPeer>>>;

/// Tells a node of policies and of the pods that they are about, in place of those that it knows.
fn put(state: &StateHandle, policies: &[NetworkPolicy], peers: &Peers) {
    let named = policies.iter().map(|policy| {
        let meta = &policy.metadata;
        let key = ObjectKey::new(meta.namespace.clone().unwrap(), meta.name.clone().unwrap());
        (key, Arc::new(policy.clone()))
    });
    let named: HashMap<ObjectKey, Arc<NetworkPolicy>> = named.collect();
    let of_peers = |peers: &Peers| -> Vec<Change> {
        let pods = peers.iter().flat_map(|(set, pods)| pods.keys().map(move |pod| (set, pod)));
        pods.map(|(set, pod)| Change::PolicyPeer(ObjectKey::new(set, pod))).collect()
    };
    let mut changes = state.read(|state| {
        let old = state.network_policies.keys().cloned().map(Change::NetworkPolicy);
        old.chain(of_peers(&state.policy_peers)).collect::<Vec<_>>()
    });
    changes.extend(of_peers(peers));
    changes.extend(named.keys().cloned().map(Change::NetworkPolicy));
    let is_mark =
        |change: &Change| matches!(change, Change::NetworkPolicy(key) if key.name == "mark");
    changes.retain(|change| !is_mark(change));
    changes.push(Change::NetworkPolicy(ObjectKey::new("mark", "mark")));
    state.write(changes, |state| {
        state.network_policies = named;
        state.policy_peers.clone_from(peers);
    });
}

/// Tells nodes of policies, and waits until their kernels have them and look at everything anew. Each node
/// has a [marker]; `told` counts.
fn tell(nodes: &[TestNode], told: &mut u16, policies: &[NetworkPolicy], peers: &Peers) {
    // What a node is told it may take up in several steps. What comes after all of them is seen in the kernel when
    // they are there; the number of the rules changes once more behind that.
    let mut seen = Vec::new();
    for _ in 0..2 {
        *told += 1;
        let mut all = policies.to_vec();
        all.push(policy("mark", "mark", json!({
            "podSelector": {}, "policyTypes": ["Ingress"], "ingress": [{"ports": [{"port": 1000 + *told}]}],
        })));
        let list =
            |node: &TestNode, what: &str| node.namespace.command(&format!("nft list {what}"));
        for node in nodes {
            put(&node.state, &all, peers);
        }
        let mark = format!(". {}", 1000 + *told);
        for node in nodes {
            let table = || list(node, "table ip6 kutter-policy");
            eventually("the mark", table, |text| text.contains(&mark));
        }
        let forward = |node| list(node, "chain ip6 kutter-policy forward");
        for (node, before) in nodes.iter().zip(&seen) {
            eventually("the number", || forward(node), |text| text != before);
        }
        seen = nodes.iter().map(forward).collect();
    }
}

/// A pod that nobody asks; its policy shows how far a node is.
fn marker(node: &TestNode) -> Namespace {
    let object = json!({
        "metadata": {"namespace": "mark", "name": "mark", "uid": "mark"},
        "spec": {"containers": [{"name": "main"}]},
    });
    let object: Arc<Pod> = Arc::new(serde_json::from_value(object).unwrap());
    let key = ObjectKey::new("mark", "mark");
    node.state.write([Change::Pod(key.clone())], |state| {
        state.pods.insert(key, object);
    });
    let namespace = Namespace::new();
    node.attach_all("mark", &namespace, &[]);
    namespace
}

/// What a master makes of policies: the pods that they are about.
fn peers_of(policies: &[NetworkPolicy], addresses: &HashMap<Place, IpAddr>) -> Peers {
    let mut all = Peers::new();
    for policy in policies {
        for set in Policy::of(policy).unwrap().peer_sets() {
            let peers = places().filter(|place| contains(set, *place));
            let peers = peers.map(|place| (format!("{place:?}"), peer(addresses[&place])));
            all.insert(set.to_string(), peers.collect());
        }
    }
    all
}

fn peer(address: IpAddr) -> Arc<PodPeer> {
    Arc::new(PodPeer { addresses: vec![address], ports: Vec::new() })
}

fn contains(set: &PeerSet, (space, pod): Place) -> bool {
    let labels = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let there = match &set.namespaces {
        Namespaces::One(namespace) => namespace == SPACES[space],
        Namespaces::Labelled(selector) => selector.matches(&labels("ns", SPACES[space])),
    };
    there && set.pods.matches(&labels("pod", PODS[pod]))
}

fn policy(namespace: &str, name: &str, spec: Value) -> NetworkPolicy {
    let meta = json!({"namespace": namespace, "name": name});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

struct Table {
    cluster: Cluster,
    pods: BTreeMap<Place, TestPod>,
    addresses: HashMap<Place, IpAddr>,
    told: u16,
    _marker: Namespace,
}

impl Table {
    fn new() -> Self {
        let cluster = Cluster::new(1);
        cluster.tell(&[Change::Everything], |state| {
            for place in places() {
                let key = ObjectKey::new(SPACES[place.0], PODS[place.1]);
                state.pods.insert(key, pod(place));
            }
        });
        let node = &cluster.nodes[0];
        node.guard();
        // A refusal is told by ICMP, of which the kernel lets few through by default.
        for limit in ["icmp_ratelimit=0", "icmp_msgs_per_sec=1000000", "icmp_msgs_burst=1000000"] {
            node.namespace.command(&format!("sysctl -qw net.ipv4.{limit}"));
        }
        let pods: BTreeMap<Place, TestPod> = places()
            .map(|place| {
                let pod = node.pod(&format!("{}-{}", SPACES[place.0], PODS[place.1]));
                PORTS.iter().for_each(|port| {
                    pod.namespace.serve(&format!("{place:?}").replace(' ', ""), *port)
                });
                (place, pod)
            })
            .collect();
        let addresses = pods.iter().map(|(place, pod)| (*place, pod.address.into())).collect();
        let marker = marker(node);
        Self { cluster, pods, addresses, told: 0, _marker: marker }
    }

    /// Tells the node, and waits until the kernel has it.
    fn tell(&mut self, policies: &[NetworkPolicy]) {
        let peers = peers_of(policies, &self.addresses);
        tell(&self.cluster.nodes, &mut self.told, policies, &peers);
    }

    fn reaches(&self, from: Place, to: Place, port: u16, tcp: bool) -> bool {
        let client = &self.pods[&from].namespace;
        let server = format!("{}:{port}", self.pods[&to].address);
        let answer = if tcp { client.ask_tcp(&server) } else { client.ask_udp(&server) };
        match answer {
            Ok(answer) => {
                assert_eq!(answer.server, format!("{to:?}").replace(' ', ""));
                true
            }
            Err(error) => {
                assert!(
                    matches!(
                        error.kind(),
                        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable
                    ),
                    "{from:?} to {to:?} port {port}: {error}"
                );
                false
            }
        }
    }

    /// Looks at every pair, port and protocol.
    fn check(&self, what: &str, allowed: impl Fn(Place, Place, u16, bool) -> bool) {
        for from in places() {
            for to in places() {
                for port in PORTS {
                    for tcp in [true, false] {
                        let wanted = from == to || allowed(from, to, port, tcp);
                        let found = self.reaches(from, to, port, tcp);
                        assert_eq!(
                            found, wanted,
                            "{what}: {from:?} to {to:?} port {port} tcp {tcp}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn policies_hold_for_every_pair_of_pods() {
    if !is_root("policies_hold_for_every_pair_of_pods") {
        return;
    }
    let mut table = Table::new();
    let ingress = |spec: Value| policy("x", "ingress", spec);
    let deny = |direction: &str, space: &str| {
        policy(space, "deny", json!({"podSelector": {}, "policyTypes": [direction]}))
    };
    table.tell(&[]);
    table.check("nothing forbidden", |_, _, _, _| true);
    table.tell(&[deny("Ingress", "x")]);
    table.check("nobody into x", |_, to, _, _| to.0 != 0);
    table.tell(&[
        deny("Ingress", "x"),
        policy("y", "deny out", json!({"podSelector": {}, "policyTypes": ["Egress"]})),
    ]);
    table.check("nobody out of y", |from, to, _, _| to.0 != 0 && from.0 != 1);
    let from = json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}, "podSelector": {"matchLabels": {"pod": "a"}}}]);
    table.tell(&[
        deny("Ingress", "x"),
        ingress(json!({
            "podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"],
            "ingress": [{"from": from, "ports": [{"port": 80}]}],
        })),
    ]);
    table.check("one pod of y to one port", |from, to, port, tcp| {
        to.0 != 0 || (to == (0, 1) && from == (1, 0) && port == 80 && tcp)
    });
    table.tell(&[ingress(json!({
        "podSelector": {}, "policyTypes": ["Ingress"],
        "ingress": [
            {"from": [{"podSelector": {}}], "ports": [{"port": "dns", "protocol": "UDP"}]},
            {"from": [{"namespaceSelector": {"matchExpressions": [{"key": "ns", "operator": "NotIn", "values": ["x"]}]}}],
             "ports": [{"port": 79, "endPort": 80}]},
        ],
    }))]);
    table.check("names and ranges of ports", |from, to, port, tcp| match (to.0, from.0) {
        (0, 0) => port == 81 && !tcp,
        (0, _) => port == 80 && tcp,
        _ => true,
    });
}

#[test]
fn rules_are_made_anew_when_somebody_removes_them() {
    if !is_root("rules_are_made_anew_when_somebody_removes_them") {
        return;
    }
    let mut table = Table::new();
    table.tell(&[policy("x", "deny", json!({"podSelector": {}, "policyTypes": ["Ingress"]}))]);
    assert!(!table.reaches((1, 0), (0, 0), 80, true));
    let node = &table.cluster.nodes[0].namespace;
    node.command("nft delete table ip kutter-policy");
    // No connection is begun in between: one that waits silently would not hear of its end.
    let tables = || node.command("nft list tables");
    eventually("the rules", tables, |tables| tables.contains("table ip kutter-policy"));
    assert!(!table.reaches((1, 0), (0, 0), 80, true));
}
