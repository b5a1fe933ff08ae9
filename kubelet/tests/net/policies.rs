//! Network policies, by what is answered: three namespaces with three pods each on one node, every
//! pair of them, two ports of two protocols, under hundreds of policies one after the other.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::net::IpAddr;
use std::sync::Arc;

use kubelet::state::{Change, ClusterState};
use proto::ObjectKey;
use proto::k8s::api::core::v1::Pod;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{Namespaces, PeerSet, PodPeer, Policy};
use serde_json::{Value, json};

use crate::ground::{Cluster, TestPod, eventually, is_root};

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

/// What a master makes of policies: themselves, and the pods that they are about.
fn tell(state: &mut ClusterState, policies: &[NetworkPolicy], addresses: &HashMap<Place, IpAddr>) {
    state.network_policies.clear();
    state.policy_peers.clear();
    for policy in policies {
        let meta = &policy.metadata;
        let key = ObjectKey::new(meta.namespace.clone().unwrap(), meta.name.clone().unwrap());
        for set in Policy::of(policy).unwrap().peer_sets() {
            let peers = places().filter(|place| contains(set, *place));
            let peers = peers.map(|place| (format!("{place:?}"), peer(addresses[&place])));
            state.policy_peers.insert(set.to_string(), peers.collect::<BTreeMap<_, _>>());
        }
        state.network_policies.insert(key, Arc::new(policy.clone()));
    }
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
    told: u32,
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
        Self { cluster, pods, addresses, told: 0 }
    }

    /// Tells the node, and waits until the kernel has it.
    fn tell(&mut self, policies: &[NetworkPolicy]) {
        let before = self.rules();
        self.told += 1;
        // Rules are numbered: one more policy that selects nobody's traffic makes every telling a change.
        let mut all = policies.to_vec();
        let first = 1000 + self.told;
        all.push(policy("x", "mark", json!({
            "podSelector": {}, "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"ipBlock": {"cidr": "192.0.2.1/32"}}], "ports": [{"port": first}]}],
        })));
        let addresses = &self.addresses;
        self.cluster.tell(&[Change::NetworkPolicy(ObjectKey::new("x", "mark"))], |state| {
            tell(state, &all, addresses);
        });
        eventually("the rules", || self.rules(), |rules| *rules != before);
    }

    fn rules(&self) -> String {
        let chain = "nft list chain ip kutter-policy forward";
        self.cluster.nodes[0].namespace.command(chain)
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
    // Only the mark: namespace x lets nobody in.
    table.tell(&[]);
    table.check("nobody into x", |_, to, _, _| to.0 != 0);
    table.tell(&[deny("Egress", "y")]);
    table.check("nobody out of y", |from, to, _, _| to.0 != 0 && from.0 != 1);
    let from = json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}, "podSelector": {"matchLabels": {"pod": "a"}}}]);
    table.tell(&[ingress(json!({
        "podSelector": {"matchLabels": {"pod": "b"}}, "policyTypes": ["Ingress"],
        "ingress": [{"from": from, "ports": [{"port": 80}]}],
    }))]);
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
    table.tell(&[]);
    assert!(!table.reaches((1, 0), (0, 0), 80, true));
    let node = &table.cluster.nodes[0].namespace;
    node.command("nft delete table ip kutter-policy");
    // No connection is begun in between: one that waits silently would not hear of its end.
    let tables = || node.command("nft list tables");
    eventually("the rules", tables, |tables| tables.contains("table ip kutter-policy"));
    assert!(!table.reaches((1, 0), (0, 0), 80, true));
}
