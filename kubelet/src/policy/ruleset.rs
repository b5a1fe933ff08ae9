//! What policies come to on this node: who may reach each pod and whom it may reach. Pure.
//!
//! Pods that the same policies select are of one class per direction. A class says for addresses of
//! pods, and for ranges of all others, to which ports: what is asked of the kernel about a packet is
//! the class of one end and what that says of the other, however many policies there are.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proto::ObjectKey;
use proto::policy::{Peer, PodPeer, PodPort, Policy, Ports, Rule, Which};
use sha2::{Digest, Sha256};

/// Which way connections go, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

/// A pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalPod {
    /// Nothing: a pod that is attached, and that the master does not know any more.
    pub(super) known: Option<KnownPod>,
    pub(super) addresses: Vec<IpAddr>,
}

/// What a master says of a pod of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPod {
    pub(super) namespace: String,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) ports: Vec<PodPort>,
}

/// All that rules follow from.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) pods: Vec<LocalPod>,
    pub(super) policies: BTreeMap<ObjectKey, Arc<Policy>>,
    pub(super) sets: HashMap<String, BTreeMap<String, Arc<PodPeer>>>,
}

/// To which ports: ranges of single protocols, in order and apart; nothing: everything.
pub(super) type Allowed = Option<Arc<Vec<PortRange>>>;

/// Protocol, first and last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct PortRange {
    pub(super) protocol: u8,
    pub(super) first: u16,
    pub(super) last: u16,
}

/// What pods of a class are allowed in one direction. Nothing else is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Class {
    /// Addresses of pods for which something else holds than for the range they are in.
    pub(super) peers: BTreeMap<IpAddr, Allowed>,
    /// Ranges, in order and apart.
    pub(super) blocks: Vec<(IpAddr, IpAddr, Allowed)>,
}

/// What is to be in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ruleset {
    /// By name.
    pub(super) classes: BTreeMap<String, (Direction, Class)>,
    /// The class of each isolated address, by direction.
    pub(super) isolated: BTreeMap<(Direction, IpAddr), String>,
}

/// Decides.
pub(super) fn ruleset(view: &View) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for pod in &view.pods {
        for direction in [Direction::Ingress, Direction::Egress] {
            let Some((name, policies)) = class_of(pod, view, direction) else { continue };
            for address in &pod.addresses {
                ruleset.isolated.insert((direction, *address), name.clone());
            }
            ruleset.classes.entry(name).or_insert_with(|| {
                let ports = pod.known.as_ref().map_or(&[][..], |known| &known.ports);
                (direction, class(&policies, direction, ports, view))
            });
        }
    }
    ruleset
}

/// The name of a pod's class and its policies; nothing when nothing isolates the pod.
fn class_of<'a>(
    pod: &LocalPod,
    view: &'a View,
    direction: Direction,
) -> Option<(String, Vec<&'a Policy>)> {
    let Some(known) = &pod.known else {
        // It is about to end, and the policies that guarded it may be gone already.
        return Some((name(direction, "unknown"), Vec::new()));
    };
    let mut text = String::new();
    let mut policies = Vec::new();
    let start = ObjectKey::new(known.namespace.as_str(), "");
    let own = view.policies.range(start..).take_while(|(key, _)| key.namespace == known.namespace);
    for (key, policy) in own {
        if rules(policy, direction).is_some() && policy.pods.matches(&known.labels) {
            let _ = write!(text, "{key};");
            policies.push(policy.as_ref());
        }
    }
    if policies.is_empty() {
        return None;
    }
    if direction == Direction::Ingress {
        // What its ports are called makes a difference only where policies call them by name.
        let called: BTreeSet<&str> = policies
            .iter()
            .flat_map(|policy| policy.ingress.iter().flatten())
            .flat_map(|rule| rule.ports.iter().flatten())
            .filter_map(|ports| match &ports.which {
                Which::Named(name) => Some(name.as_str()),
                Which::Range(..) => None,
            })
            .collect();
        for port in known.ports.iter().filter(|port| called.contains(port.name.as_str())) {
            let _ = write!(text, "{}={}/{};", port.name, port.protocol, port.number);
        }
    }
    Some((name(direction, &text), policies))
}

/// A name that stays the same as long as what it is about does.
fn name(direction: Direction, text: &str) -> String {
    let kind = match direction {
        Direction::Ingress => "in",
        Direction::Egress => "out",
    };
    format!("{kind}-{}", digest(text.as_bytes()))
}

pub(super) fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

fn rules(policy: &Policy, direction: Direction) -> Option<&Vec<Rule>> {
    match direction {
        Direction::Ingress => policy.ingress.as_ref(),
        Direction::Egress => policy.egress.as_ref(),
    }
}

/// Ranges of ports, or everything. An empty list is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reach {
    All,
    Ranges(Vec<PortRange>),
}

impl Reach {
    fn add(&mut self, other: &Self) {
        match (&mut *self, other) {
            (Self::All, _) => {}
            (_, Self::All) => *self = Self::All,
            (Self::Ranges(own), Self::Ranges(more)) => own.extend(more),
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Ranges(ranges) if ranges.is_empty())
    }

    fn settled(self) -> Allowed {
        let Self::Ranges(mut ranges) = self else { return None };
        ranges.sort_unstable();
        let mut joined: Vec<PortRange> = Vec::new();
        for range in ranges {
            match joined.last_mut() {
                Some(last)
                    if last.protocol == range.protocol
                        && range.first <= last.last.saturating_add(1) =>
                {
                    last.last = last.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        Some(Arc::new(joined))
    }
}

/// Ports whose names are those of the pod that is reached.
fn resolved(ports: Option<&[Ports]>, named: &[PodPort]) -> Reach {
    let Some(ports) = ports else { return Reach::All };
    let mut ranges = Vec::new();
    for Ports { protocol, which } in ports {
        let protocol = *protocol;
        match which {
            Which::Range(first, last) => {
                ranges.push(PortRange { protocol, first: *first, last: *last });
            }
            Which::Named(name) => {
                let same = |port: &&PodPort| port.name == *name && port.protocol == protocol;
                ranges.extend(named.iter().filter(same).map(|port| PortRange {
                    protocol,
                    first: port.number,
                    last: port.number,
                }));
            }
        }
    }
    Reach::Ranges(ranges)
}

fn class(policies: &[&Policy], direction: Direction, own: &[PodPort], view: &View) -> Class {
    let mut peers: BTreeMap<IpAddr, Reach> = BTreeMap::new();
    let mut blocks: Vec<(IpAddr, IpAddr, Reach)> = Vec::new();
    let everywhere = [
        (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
        (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
    ];
    let all = policies.iter().flat_map(|policy| rules(policy, direction).into_iter().flatten());
    for rule in all {
        let ports = rule.ports.as_deref();
        // Names are those of the pod itself, or of the other end.
        let plain = match direction {
            Direction::Ingress => resolved(ports, own),
            Direction::Egress => resolved(ports, &[]),
        };
        let of_peer = |peer: &PodPeer| match direction {
            Direction::Ingress => plain.clone(),
            Direction::Egress => resolved(ports, &peer.ports),
        };
        let sets = rule.peers.iter().flatten().filter_map(|peer| match peer {
            Peer::Pods(set) => Some(set),
            Peer::Block(_) => None,
        });
        for set in sets.chain(&rule.named) {
            for peer in view.sets.get(&set.to_string()).into_iter().flat_map(BTreeMap::values) {
                let ports = of_peer(peer);
                for address in &peer.addresses {
                    let nothing = || Reach::Ranges(Vec::new());
                    peers.entry(*address).or_insert_with(nothing).add(&ports);
                }
            }
        }
        match &rule.peers {
            None => {
                blocks.extend(everywhere.map(|(first, last)| (first, last, plain.clone())));
            }
            Some(peers) => {
                for block in peers.iter().filter_map(|peer| match peer {
                    Peer::Block(block) => Some(block),
                    Peer::Pods(_) => None,
                }) {
                    let parts = without(block.range, &block.except);
                    blocks.extend(parts.into_iter().map(|(a, b)| (a, b, plain.clone())));
                }
            }
        }
    }
    let blocks = apart(&blocks);
    let mut class = Class::default();
    for (address, mut ports) in peers {
        let around = range_of(&blocks, address);
        if let Some(around) = around {
            ports.add(around);
        }
        let same = around.map(|around| around.clone().settled());
        let settled = ports.clone().settled();
        if !ports.is_nothing() && same.as_ref() != Some(&settled) {
            class.peers.insert(address, settled);
        }
    }
    class.blocks =
        blocks.into_iter().map(|(first, last, ports)| (first, last, ports.settled())).collect();
    class
}

fn range_of(blocks: &[(IpAddr, IpAddr, Reach)], address: IpAddr) -> Option<&Reach> {
    let at = blocks.partition_point(|(first, ..)| *first <= address).checked_sub(1)?;
    let (_, last, ports) = &blocks[at];
    (*last >= address).then_some(ports)
}

/// The address behind; nothing behind the last.
fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            address.to_bits().checked_add(1).map(|bits| Ipv4Addr::from(bits).into())
        }
        IpAddr::V6(address) => {
            address.to_bits().checked_add(1).map(|bits| Ipv6Addr::from(bits).into())
        }
    }
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            address.to_bits().checked_sub(1).map(|bits| Ipv4Addr::from(bits).into())
        }
        IpAddr::V6(address) => {
            address.to_bits().checked_sub(1).map(|bits| Ipv6Addr::from(bits).into())
        }
    }
}

/// A range without some.
fn without(range: (IpAddr, IpAddr), except: &[(IpAddr, IpAddr)]) -> Vec<(IpAddr, IpAddr)> {
    let mut except = except.to_vec();
    except.sort_unstable();
    let mut parts = Vec::new();
    let mut from = Some(range.0);
    for (first, last) in except {
        let Some(start) = from else { break };
        if let Some(before) = previous(first).filter(|before| *before >= start) {
            parts.push((start, before));
        }
        from = next(last).map(|behind| behind.max(start));
    }
    if let Some(start) = from.filter(|start| *start <= range.1) {
        parts.push((start, range.1));
    }
    parts
}

/// Ranges that may overlap as ranges that do not, in order.
fn apart(blocks: &[(IpAddr, IpAddr, Reach)]) -> Vec<(IpAddr, IpAddr, Reach)> {
    let mut starts: BTreeSet<IpAddr> = BTreeSet::new();
    for (first, last, _) in blocks {
        starts.insert(*first);
        starts.extend(next(*last));
    }
    let starts: Vec<IpAddr> = starts.into_iter().collect();
    let mut ranges: Vec<(IpAddr, IpAddr, Reach)> = Vec::new();
    for (index, first) in starts.iter().enumerate() {
        let covering = || blocks.iter().filter(|(a, b, _)| a <= first && first <= b);
        let mut ports = Reach::Ranges(Vec::new());
        covering().for_each(|(_, _, more)| ports.add(more));
        if ports.is_nothing() {
            continue;
        }
        let end = starts[index + 1..].first().filter(|end| end.is_ipv4() == first.is_ipv4());
        let last = match end.and_then(|end| previous(*end)) {
            Some(last) => last,
            // Nothing begins behind: it goes to the end of those that cover it.
            None => match covering().map(|(_, last, _)| *last).min() {
                Some(last) => last,
                None => continue,
            },
        };
        match ranges.last_mut() {
            Some((_, before, same))
                if next(*before) == Some(*first)
                    && same.clone().settled() == ports.clone().settled() =>
            {
                *before = last;
            }
            _ => ranges.push((*first, last, ports)),
        }
    }
    ranges
}
