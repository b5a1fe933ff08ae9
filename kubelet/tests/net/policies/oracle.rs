//! What network policies allow, as the documentation of `networking.k8s.io/v1` has it, and as plainly as
//! can be: every policy is asked about every connection. Nothing here is what it is held against.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::k8s::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use proto::k8s::apimachinery::pkg::apis::meta::v1::LabelSelector;
use proto::k8s::apimachinery::pkg::util::intstr::IntOrString;

pub(crate) type Labels = BTreeMap<String, String>;

/// A pod, with all that a policy can ask of it.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) namespace_labels: Labels,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    /// Name, protocol and number.
    pub(crate) ports: Vec<(&'static str, &'static str, u16)>,
}

/// Somebody by an address of theirs: a pod, or nothing the cluster knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End<'a> {
    pub(crate) pod: Option<&'a Pod>,
    pub(crate) address: IpAddr,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connection<'a> {
    pub(crate) from: End<'a>,
    pub(crate) to: End<'a>,
    pub(crate) protocol: &'a str,
    pub(crate) port: u16,
}

/// Both ends have to agree: what isolates the source for egress, and the destination for ingress.
pub(crate) fn allows(policies: &[NetworkPolicy], connection: &Connection<'_>) -> bool {
    // "Traffic … from a pod to itself is always allowed."
    if connection.from.address == connection.to.address {
        return true;
    }
    egress(policies, connection) && ingress(policies, connection)
}

fn ingress(policies: &[NetworkPolicy], connection: &Connection<'_>) -> bool {
    let Some(pod) = connection.to.pod else { return true };
    let mut isolated = false;
    for policy in policies {
        let spec = policy.spec.as_ref().expect("a spec");
        let types = spec.policy_types.as_deref().unwrap_or_default();
        // Without a word a policy speaks of ingress.
        if !selects(policy, pod) || !(types.is_empty() || types.iter().any(|t| t == "Ingress")) {
            continue;
        }
        isolated = true;
        for rule in spec.ingress.iter().flatten() {
            if matches(
                policy,
                rule.from.as_deref(),
                rule.ports.as_deref(),
                connection.from,
                connection,
            ) {
                return true;
            }
        }
    }
    !isolated
}

fn egress(policies: &[NetworkPolicy], connection: &Connection<'_>) -> bool {
    let Some(pod) = connection.from.pod else { return true };
    let mut isolated = false;
    for policy in policies {
        let spec = policy.spec.as_ref().expect("a spec");
        let types = spec.policy_types.as_deref().unwrap_or_default();
        let rules = spec.egress.as_deref().unwrap_or_default();
        // Without a word it does of egress if it has rules for it.
        let speaks = types.iter().any(|t| t == "Egress") || types.is_empty() && !rules.is_empty();
        if !selects(policy, pod) || !speaks {
            continue;
        }
        isolated = true;
        for rule in rules {
            if matches(policy, rule.to.as_deref(), rule.ports.as_deref(), connection.to, connection)
            {
                return true;
            }
        }
    }
    !isolated
}

fn selects(policy: &NetworkPolicy, pod: &Pod) -> bool {
    let selector = policy.spec.as_ref().and_then(|spec| spec.pod_selector.as_ref());
    policy.metadata.namespace.as_ref() == Some(&pod.namespace)
        && selector.is_none_or(|selector| has(selector, &pod.labels))
}

/// One rule: one of its peers and one of its ports; none given is all.
fn matches(
    policy: &NetworkPolicy,
    peers: Option<&[NetworkPolicyPeer]>,
    ports: Option<&[NetworkPolicyPort]>,
    peer: End<'_>,
    connection: &Connection<'_>,
) -> bool {
    let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
    (peers.is_empty() || peers.iter().any(|one| is_peer(policy, one, peer)))
        && (ports.is_empty() || ports.iter().any(|one| is_port(one, connection)))
}

fn is_peer(policy: &NetworkPolicy, wanted: &NetworkPolicyPeer, end: End<'_>) -> bool {
    if let Some(block) = &wanted.ip_block {
        return in_block(block, end.address);
    }
    let Some(pod) = end.pod else { return false };
    let there = match &wanted.namespace_selector {
        Some(selector) => has(selector, &pod.namespace_labels),
        None => policy.metadata.namespace.as_ref() == Some(&pod.namespace),
    };
    there && wanted.pod_selector.as_ref().is_none_or(|selector| has(selector, &pod.labels))
}

fn is_port(wanted: &NetworkPolicyPort, connection: &Connection<'_>) -> bool {
    if wanted.protocol.as_deref().unwrap_or("TCP") != connection.protocol {
        return false;
    }
    match &wanted.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            let last = wanted.end_port.unwrap_or(*first);
            (*first..=last).contains(&i32::from(connection.port))
        }
        // The name is the destination's, in either direction.
        Some(IntOrString::String(name)) => connection.to.pod.is_some_and(|pod| {
            pod.ports.contains(&(name.as_str(), connection.protocol, connection.port))
        }),
    }
}

fn has(selector: &LabelSelector, labels: &Labels) -> bool {
    let all = selector.match_labels.iter().flatten();
    let equal = all.into_iter().all(|(key, value)| labels.get(key) == Some(value));
    equal
        && selector.match_expressions.iter().flatten().all(|expression| {
            let value = labels.get(&expression.key);
            let listed = || expression.values.iter().flatten().any(|one| Some(one) == value);
            match expression.operator.as_str() {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                other => panic!("operator {other}"),
            }
        })
}

fn in_block(block: &IPBlock, address: IpAddr) -> bool {
    in_range(&block.cidr, address)
        && !block.except.iter().flatten().any(|except| in_range(except, address))
}

fn in_range(range: &str, address: IpAddr) -> bool {
    let (start, length) = range.split_once('/').expect("a range");
    let start: IpAddr = start.parse().expect("an address");
    let length: usize = length.parse().expect("a length");
    start.is_ipv4() == address.is_ipv4() && bits(start)[..length] == bits(address)[..length]
}

fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
}
