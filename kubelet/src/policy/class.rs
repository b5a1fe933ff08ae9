//! Pods that the same policies select are of one class per direction. A class says for addresses of pods, and
//! for ranges of all others, to which ports: what is asked of the kernel about a packet is the class of one
//! end and what that says of the other, however many policies there are. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proto::ObjectKey;
use proto::policy::{Block, Peer, PodPeer, PodPort, Policy, Ports, Rule, Which};
use sha2::{Digest, Sha256};

use super::model::KnownPod;
use super::reach::{Allowed, Reach, apart, range_of, resolved, without};

/// Which way connections go, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    pub(super) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// What pods of a class are allowed in one direction. Nothing else is.
#[derive(Clone, Debug)]
pub(super) struct Class {
    pub(super) direction: Direction,
    /// Addresses of pods for which something else holds than for the range they are in.
    pub(super) peers: BTreeMap<IpAddr, Allowed>,
    /// Ranges, in order and apart.
    pub(super) blocks: Vec<(IpAddr, IpAddr, Allowed)>,
    rules: Vec<Lets>,
    ranges: Vec<(IpAddr, IpAddr, Reach)>,
}

/// A rule, as far as it is about pods.
#[derive(Clone, Debug)]
struct Lets {
    /// The sets of pods, by name; whether only those of its pods are meant that are in one of the blocks.
    sets: Vec<(String, bool)>,
    blocks: Vec<Block>,
    to: Reach,
    /// What is resolved anew for each pod: ports that it has the names of.
    named: Option<Vec<Ports>>,
}

/// The pods of a set of peers.
#[derive(Debug, Default)]
pub(super) struct Peers {
    pods: HashMap<String, Arc<PodPeer>>,
    /// Two have one address while one of them is said to be there still.
    by_address: HashMap<IpAddr, Vec<Arc<PodPeer>>>,
}

impl Peers {
    /// Enters what a pod is now; returns the addresses that this concerns.
    pub(super) fn set(&mut self, pod: &str, peer: Option<Arc<PodPeer>>) -> BTreeSet<IpAddr> {
        let mut concerned = BTreeSet::new();
        if let Some(old) = self.pods.remove(pod) {
            for address in &old.addresses {
                if let Some(all) = self.by_address.get_mut(address) {
                    all.retain(|one| !Arc::ptr_eq(one, &old));
                    if all.is_empty() {
                        self.by_address.remove(address);
                    }
                }
            }
            concerned.extend(&old.addresses);
        }
        if let Some(new) = peer {
            for address in &new.addresses {
                self.by_address.entry(*address).or_default().push(new.clone());
            }
            concerned.extend(&new.addresses);
            self.pods.insert(pod.to_owned(), new);
        }
        concerned
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

/// What a class is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) direction: Direction,
    /// Nothing: pods that no master knows.
    pub(super) policies: Vec<ObjectKey>,
    /// What its pods call the ports that the policies call by name.
    pub(super) ports: Vec<PodPort>,
}

impl Origin {
    /// Of a pod; nothing when nothing isolates it. `policies` are those of its namespace.
    pub(super) fn of<'a>(
        pod: Option<&KnownPod>,
        direction: Direction,
        policies: impl Iterator<Item = (&'a ObjectKey, &'a Arc<Policy>)>,
    ) -> Option<Self> {
        let Some(known) = pod else {
            // It is about to end, and the policies that guarded it may be gone already.
            return Some(Self { direction, policies: Vec::new(), ports: Vec::new() });
        };
        let own: Vec<(&ObjectKey, &Arc<Policy>)> = policies
            .filter(|(_, policy)| {
                rules(policy, direction).is_some() && policy.pods.matches(&known.labels)
            })
            .collect();
        if own.is_empty() {
            return None;
        }
        let mut ports = Vec::new();
        if direction == Direction::Ingress {
            // What its ports are called makes a difference only where policies call them by name.
            let called: BTreeSet<&str> = own
                .iter()
                .flat_map(|(_, policy)| policy.ingress.iter().flatten())
                .flat_map(|rule| rule.ports.iter().flatten())
                .filter_map(|ports| match &ports.which {
                    Which::Named(name) => Some(name.as_str()),
                    Which::Range(..) => None,
                })
                .collect();
            let ports_called =
                known.ports.iter().filter(|port| called.contains(port.name.as_str()));
            ports.extend(ports_called.cloned());
        }
        let policies = own.into_iter().map(|(key, _)| key.clone()).collect();
        Some(Self { direction, policies, ports })
    }

    /// A name that stays the same as long as what it is about does.
    pub(super) fn name(&self) -> String {
        let mut text = String::new();
        for key in &self.policies {
            let _ = write!(text, "{key};");
        }
        for port in &self.ports {
            let _ = write!(text, "{}={}/{};", port.name, port.protocol, port.number);
        }
        let kind = match self.direction {
            Direction::Ingress => "in",
            Direction::Egress => "out",
        };
        format!("{kind}-{}", digest(text.as_bytes()))
    }
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

impl Class {
    pub(super) fn new(
        origin: &Origin,
        policies: &BTreeMap<ObjectKey, Arc<Policy>>,
        sets: &HashMap<String, Peers>,
    ) -> Self {
        let direction = origin.direction;
        let own = origin.policies.iter().filter_map(|key| policies.get(key));
        let all: Vec<&Rule> =
            own.flat_map(|policy| rules(policy, direction).into_iter().flatten()).collect();
        let rules: Vec<Lets> =
            all.iter().map(|rule| Lets::of(rule, direction, &origin.ports)).collect();
        let ranges = rules.iter().zip(&all).flat_map(|(lets, rule)| lets.ranges(rule));
        let ranges = apart(&ranges.collect::<Vec<_>>());
        let blocks = ranges
            .iter()
            .map(|(first, last, ports)| (*first, *last, ports.clone().settled()))
            .collect();
        let mut class = Self { direction, peers: BTreeMap::new(), blocks, rules, ranges };
        let named: BTreeSet<&str> = class.sets().collect();
        let addresses: BTreeSet<IpAddr> = named
            .iter()
            .filter_map(|set| sets.get(*set))
            .flat_map(|peers| peers.by_address.keys().copied())
            .collect();
        let allowed = addresses.into_iter().filter_map(|one| Some((one, class.at(one, sets)?)));
        class.peers = allowed.collect();
        class
    }

    /// The sets of pods that it hangs on, by name.
    pub(super) fn sets(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().flat_map(|rule| rule.sets.iter().map(|(set, _)| set.as_str()))
    }

    /// What holds for an address of pods; nothing if that is the same as for the range it is in.
    pub(super) fn at(&self, address: IpAddr, sets: &HashMap<String, Peers>) -> Option<Allowed> {
        let mut ports = Reach::NOTHING;
        for rule in &self.rules {
            for (set, by_address) in &rule.sets {
                let meant = || {
                    !by_address
                        || rule.blocks.is_empty()
                        || rule.blocks.iter().any(|block| block.contains(address))
                };
                let peers = sets.get(set).and_then(|peers| peers.by_address.get(&address));
                for peer in peers.into_iter().flatten().filter(|_| meant()) {
                    match &rule.named {
                        Some(named) => ports.add(&resolved(Some(named), &peer.ports)),
                        None => ports.add(&rule.to),
                    }
                }
            }
        }
        if ports.is_nothing() {
            return None;
        }
        let around = range_of(&self.ranges, address);
        around.into_iter().for_each(|around| ports.add(around));
        let settled = ports.settled();
        (around.map(|around| around.clone().settled()).as_ref() != Some(&settled))
            .then_some(settled)
    }
}

impl Lets {
    fn of(rule: &Rule, direction: Direction, own: &[PodPort]) -> Self {
        let ports = rule.ports.as_deref();
        // Names are those of the pod itself, or of the other end.
        let (to, named) = match direction {
            Direction::Ingress => (resolved(ports, own), None),
            Direction::Egress => {
                let by_name =
                    |ports: &&[Ports]| ports.iter().any(|one| matches!(one.which, Which::Named(_)));
                (resolved(ports, &[]), ports.filter(by_name).map(<[Ports]>::to_vec))
            }
        };
        let mut sets = Vec::new();
        let mut blocks = Vec::new();
        for peer in rule.peers.iter().flatten() {
            match peer {
                Peer::Pods(set) => sets.push((set.to_string(), false)),
                Peer::Block(block) => blocks.push(block.clone()),
            }
        }
        sets.extend(rule.named.iter().map(|set| (set.to_string(), true)));
        Self { sets, blocks, to, named }
    }

    fn ranges(&self, rule: &Rule) -> Vec<(IpAddr, IpAddr, Reach)> {
        let everywhere = [
            (IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::BROADCAST)),
            (IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
        ];
        let ranges = match rule.peers {
            None => everywhere.to_vec(),
            Some(_) => {
                let parts = self.blocks.iter().map(|block| without(block.range, &block.except));
                parts.flatten().collect()
            }
        };
        ranges.into_iter().map(|(first, last)| (first, last, self.to.clone())).collect()
    }
}
