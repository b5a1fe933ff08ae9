//! Three namespaces of three pods, and policies about them: for the table that is asked of the kernel and
//! for the one that is asked of the rules.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use fastrand::Rng;
use proto::k8s::api::networking::v1::NetworkPolicy;
use proto::policy::{Namespaces, PeerSet, PodPeer, PodPort, Policy, protocol_number};
use serde_json::{Value, json};

use super::oracle::{Labels, Pod};

pub(crate) const PORTS: [u16; 2] = [80, 81];
pub(crate) const PROTOCOLS: [&str; 2] = ["TCP", "UDP"];

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// The pods, with addresses by their number. No two of a namespace call the same ports the same.
pub(crate) fn pods(addresses: impl Fn(usize) -> Vec<IpAddr>) -> Vec<Pod> {
    let namespaces = [
        ("x", labels(&[("ns", "x"), ("team", "red")])),
        ("y", labels(&[("ns", "y"), ("team", "blue")])),
        ("z", labels(&[("ns", "z")])),
    ];
    let named = [
        (
            "a",
            labels(&[("pod", "a"), ("tier", "front")]),
            vec![("web", "TCP", 80), ("dns", "UDP", 81)],
        ),
        (
            "b",
            labels(&[("pod", "b"), ("tier", "back")]),
            vec![("web", "TCP", 81), ("dns", "UDP", 80)],
        ),
        ("c", labels(&[("pod", "c")]), vec![("web", "UDP", 80)]),
    ];
    let all = namespaces.iter().flat_map(|namespace| named.iter().map(move |pod| (namespace, pod)));
    all.enumerate()
        .map(|(number, ((namespace, namespace_labels), (name, labels, ports)))| Pod {
            namespace: (*namespace).to_owned(),
            namespace_labels: namespace_labels.clone(),
            name: (*name).to_owned(),
            labels: labels.clone(),
            addresses: addresses(number),
            ports: ports.clone(),
        })
        .collect()
}

/// What a master tells of the pods that policies are about.
pub(crate) fn peers(
    policies: &[NetworkPolicy],
    pods: &[Pod],
) -> HashMap<String, BTreeMap<String, Arc<PodPeer>>> {
    let understood: Vec<Policy> = policies.iter().map(|one| Policy::of(one).unwrap()).collect();
    let sets = understood.iter().flat_map(Policy::peer_sets);
    sets.map(|set| {
        let peers = pods.iter().filter_map(|pod| {
            Some((format!("{}/{}", pod.namespace, pod.name), Arc::new(peer(set, pod)?)))
        });
        (set.to_string(), peers.collect())
    })
    .collect()
}

fn peer(set: &PeerSet, pod: &Pod) -> Option<PodPeer> {
    let there = match &set.namespaces {
        Namespaces::One(namespace) => *namespace == pod.namespace,
        Namespaces::Labelled(selector) => selector.matches(&pod.namespace_labels),
    };
    let called = pod.ports.iter().filter(|(name, ..)| set.ports.contains(*name));
    let ports: Vec<PodPort> = called
        .map(|(name, protocol, number)| PodPort {
            name: (*name).to_owned(),
            protocol: protocol_number(protocol).unwrap(),
            number: *number,
        })
        .collect();
    let is_in =
        there && set.pods.matches(&pod.labels) && !(set.with_ports_only && ports.is_empty());
    is_in.then(|| PodPeer { addresses: pod.addresses.clone(), ports })
}

pub(crate) fn policy(namespace: &str, name: &str, spec: Value) -> NetworkPolicy {
    let meta = json!({"namespace": namespace, "name": name});
    serde_json::from_value(json!({"metadata": meta, "spec": spec})).unwrap()
}

fn expression(key: &str, operator: &str, values: &[&str]) -> Value {
    let values = (!values.is_empty()).then_some(values);
    json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]})
}

fn pod_selectors() -> Vec<Value> {
    vec![
        json!({}),
        json!({"matchLabels": {"pod": "a"}}),
        expression("pod", "In", &["b", "c"]),
        expression("pod", "NotIn", &["a"]),
        expression("tier", "Exists", &[]),
        expression("tier", "DoesNotExist", &[]),
        expression("tier", "NotIn", &["front"]),
        json!({"matchLabels": {"pod": "nobody"}}),
    ]
}

fn namespace_selectors() -> Vec<Value> {
    vec![
        json!({}),
        json!({"matchLabels": {"ns": "y"}}),
        json!({"matchLabels": {"ns": "x", "team": "red"}}),
        expression("team", "Exists", &[]),
        expression("team", "DoesNotExist", &[]),
        expression("ns", "NotIn", &["x"]),
        expression("team", "NotIn", &["blue"]),
    ]
}

/// A range around an address: its own, or a wider one.
fn around(random: &mut Rng, address: IpAddr, widest: u8) -> (String, u8) {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let length = random.u8(widest..=longest);
    (format!("{address}/{length}"), length)
}

fn block(random: &mut Rng, addresses: &[IpAddr]) -> Value {
    let address = addresses[random.usize(..addresses.len())];
    let widest = match (address.is_ipv4(), random.bool()) {
        (_, true) => 0,
        (true, false) => 24,
        (false, false) => 120,
    };
    let (cidr, length) = around(random, address, widest);
    let inside: Vec<IpAddr> =
        addresses.iter().copied().filter(|one| one.is_ipv4() == address.is_ipv4()).collect();
    let except: Vec<String> = (0..random.usize(..3))
        .map(|_| {
            // Often inside, as the API demands; what is elsewhere must not matter.
            let one = if random.bool() { address } else { inside[random.usize(..inside.len())] };
            let longest = if one.is_ipv4() { 32 } else { 128 };
            around(random, one, (length + 1).clamp(longest - 8, longest)).0
        })
        .collect();
    json!({"ipBlock": {"cidr": cidr, "except": except}})
}

fn peer_of(random: &mut Rng, addresses: &[IpAddr]) -> Value {
    let pods = pick(random, &pod_selectors());
    let namespaces = pick(random, &namespace_selectors());
    match random.u8(..4) {
        0 => json!({"podSelector": pods}),
        1 => json!({"namespaceSelector": namespaces}),
        2 => json!({"podSelector": pods, "namespaceSelector": namespaces}),
        _ => block(random, addresses),
    }
}

fn port(random: &mut Rng) -> Value {
    let protocol = pick(random, &[None, Some("TCP"), Some("UDP"), Some("SCTP")]);
    match random.u8(..5) {
        0 => json!({"protocol": protocol}),
        1 => json!({"protocol": protocol, "port": pick(random, &["web", "dns"])}),
        2 => {
            let first = random.u16(78..82);
            json!({"protocol": protocol, "port": first, "endPort": random.u16(first..84)})
        }
        _ => json!({"protocol": protocol, "port": pick(random, &PORTS)}),
    }
}

fn pick<T: Clone>(random: &mut Rng, all: &[T]) -> T {
    all[random.usize(..all.len())].clone()
}

fn rule(random: &mut Rng, peers: &str, addresses: &[IpAddr]) -> Value {
    let mut rule = json!({});
    // An empty list is as good as none.
    if random.u8(..6) > 0 {
        let some: Vec<Value> = (0..random.usize(..4)).map(|_| peer_of(random, addresses)).collect();
        rule[peers] = json!(some);
    }
    if random.bool() {
        let some: Vec<Value> = (0..random.usize(..4)).map(|_| port(random)).collect();
        rule["ports"] = json!(some);
    }
    rule
}

/// A policy about these pods, by chance.
pub(crate) fn any_policy(random: &mut Rng, name: &str, pods: &[Pod]) -> NetworkPolicy {
    let addresses: Vec<IpAddr> = pods.iter().flat_map(|pod| pod.addresses.clone()).collect();
    let types = pick(random, &[&["Ingress"][..], &["Egress"], &["Ingress", "Egress"]]);
    let mut spec = json!({"podSelector": pick(random, &pod_selectors()), "policyTypes": types});
    for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
        let rules: Vec<Value> =
            (0..random.usize(..4)).map(|_| rule(random, peers, &addresses)).collect();
        spec[direction] = json!(rules);
    }
    policy(&pick(random, pods).namespace, name, spec)
}

/// What a policy may say in a direction, from nothing to everything; no policy at all, too.
fn sayings(peers: &str, pods: &[Pod]) -> Vec<Option<Value>> {
    let blocks: Vec<Value> = pods[4]
        .addresses
        .iter()
        .map(|address| {
            let length = if address.is_ipv4() { 24 } else { 64 };
            json!({"ipBlock": {"cidr": format!("{address}/{length}"), "except": [
                format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 }),
            ]}})
        })
        .collect();
    let to = |who: Value| Some(json!([{peers: who}]));
    vec![
        None,
        Some(json!([])),
        Some(json!([{}])),
        to(json!([{"podSelector": {"matchLabels": {"pod": "a"}}}])),
        to(json!([{"namespaceSelector": {"matchLabels": {"ns": "y"}}}])),
        to(
            json!([{"namespaceSelector": expression("team", "Exists", &[]), "podSelector": expression("pod", "NotIn", &["a"])}]),
        ),
        to(json!(blocks)),
        Some(json!([{"ports": [{"port": "web"}, {"port": 81, "protocol": "UDP"}]}])),
        Some(json!([
            {peers: [{"podSelector": {}}], "ports": [{"port": 80, "endPort": 81, "protocol": "UDP"}]},
            {peers: [{"namespaceSelector": expression("ns", "NotIn", &["x"])}], "ports": [{"protocol": "TCP"}]},
        ])),
    ]
}

/// Everything a policy may say of ingress with everything one may say of egress: three of these pairs at a
/// time, each for one namespace and for other pods of it.
pub(crate) fn all_sayings(random: &mut Rng, pods: &[Pod]) -> Vec<Vec<NetworkPolicy>> {
    let (ingress, egress) = (sayings("from", pods), sayings("to", pods));
    let mut pairs: Vec<(Option<Value>, Option<Value>)> =
        ingress.iter().flat_map(|i| egress.iter().map(move |e| (i.clone(), e.clone()))).collect();
    random.shuffle(&mut pairs);
    let rounds = pairs.chunks(3).map(|chunk| {
        let mut policies = Vec::new();
        for (namespace, (ingress, egress)) in ["x", "y", "z"].into_iter().zip(chunk) {
            let selector = pick(random, &pod_selectors()[..7]);
            let say = |name: &str, types: &str, field: &str, rules: &Value| {
                let spec = json!({"podSelector": selector, "policyTypes": [types], field: rules});
                policy(namespace, name, spec)
            };
            policies.extend(ingress.as_ref().map(|rules| say("in", "Ingress", "ingress", rules)));
            policies.extend(egress.as_ref().map(|rules| say("out", "Egress", "egress", rules)));
        }
        policies
    });
    rounds.collect()
}
