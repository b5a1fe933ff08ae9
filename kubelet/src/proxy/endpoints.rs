//! Which endpoints a port of a Service has.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::address::{Protocol, Target};
use crate::nft::expr::Ip;
use crate::state::{Endpoint, EndpointSlice, Standing};

/// Where this node is, as hints and endpoints name it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Here {
    /// The node's name.
    pub(crate) node: String,
    /// The zone it is in, by its label `topology.kubernetes.io/zone`.
    pub(crate) zone: Option<String>,
}

/// Names a port of a Service.
pub(crate) struct PortOf<'a> {
    /// Empty for the only port of a Service.
    pub(crate) name: &'a str,
    pub(crate) protocol: Protocol,
}

/// The endpoints of a Service's port that clients may be sent to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Endpoints {
    /// By the policy `Cluster`: all, or those near by if the hints say so.
    pub(crate) cluster: BTreeSet<Target>,
    /// By the policy `Local`: those on this node.
    pub(crate) local: BTreeSet<Target>,
    /// Whether there is one anywhere.
    pub(crate) any: bool,
}

impl Endpoints {
    /// With none ready, those that are being terminated and still serve are better than none; that
    /// is asked for each policy by itself.
    pub(crate) fn of<'a>(
        slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
        port: &PortOf<'_>,
        ip: Ip,
        here: &Here,
    ) -> Self {
        let mut candidates = Vec::new();
        for slice in slices.filter(|slice| slice.ip() == Some(ip)) {
            let Some(number) = port_number(slice, port) else { continue };
            let endpoints = slice.endpoints();
            candidates
                .extend(endpoints.filter_map(|endpoint| Candidate::of(endpoint, number, ip, here)));
        }
        let near = Near::of(&candidates);
        let ready = |candidate: &&Candidate| candidate.standing == Standing::Ready;
        let leaving = |candidate: &&Candidate| candidate.standing == Standing::Leaving;
        let near_by = |candidate: &&Candidate| near.allows(candidate);
        let local = |candidate: &&Candidate| candidate.is_local;
        let all = || candidates.iter();
        Self {
            cluster: targets(all().filter(ready).filter(near_by))
                .unwrap_or_else(|| targets(all().filter(leaving)).unwrap_or_default()),
            local: targets(all().filter(local).filter(ready)).unwrap_or_else(|| {
                targets(all().filter(local).filter(leaving)).unwrap_or_default()
            }),
            any: all().any(|candidate| candidate.standing != Standing::Out),
        }
    }
}

/// The addresses of a Service's endpoints on this node that are ready, whatever their ports.
pub(crate) fn ready_here<'a>(
    slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    here: &Here,
) -> usize {
    let endpoints = slices.flat_map(|slice| slice.endpoints());
    let ready = endpoints
        .filter(|endpoint| endpoint.node() == Some(&*here.node))
        .filter(|endpoint| endpoint.standing() == Standing::Ready);
    ready.map(Endpoint::address).collect::<BTreeSet<_>>().len()
}

fn targets<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<BTreeSet<Target>> {
    let targets: BTreeSet<Target> = candidates.map(|candidate| candidate.target).collect();
    (!targets.is_empty()).then_some(targets)
}

fn port_number(slice: &EndpointSlice, port: &PortOf<'_>) -> Option<u16> {
    let mut ports = slice.ports().filter(|candidate| candidate.name == port.name);
    ports
        .find(|candidate| Protocol::parse(Some(candidate.protocol)) == Some(port.protocol))
        .map(|candidate| candidate.number)
}

/// An endpoint, as far as it matters who is sent there.
struct Candidate {
    target: Target,
    standing: Standing,
    is_local: bool,
    node_hint: Hint,
    zone_hint: Hint,
}

/// For whom an endpoint is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    /// It does not say.
    None,
    /// For others.
    Others,
    /// For this node, or its zone.
    Here,
}

impl Candidate {
    fn of(endpoint: Endpoint<'_>, port: u16, ip: Ip, here: &Here) -> Option<Self> {
        let address = endpoint.address();
        if Ip::of(address) != ip {
            return None;
        }
        let zone = here.zone.as_deref();
        Some(Self {
            target: Target { address, port },
            standing: endpoint.standing(),
            is_local: endpoint.node() == Some(&*here.node),
            node_hint: hint(endpoint.for_nodes().map(|name| name == here.node)),
            zone_hint: hint(endpoint.for_zones().map(|name| Some(name) == zone)),
        })
    }
}

/// `names` tell for each hint whether it is for this node.
fn hint(names: impl Iterator<Item = bool>) -> Hint {
    names.fold(Hint::None, |before, is_here| match (before, is_here) {
        (Hint::Here, _) | (_, true) => Hint::Here,
        _ => Hint::Others,
    })
}

/// How far the hints of a Service's endpoints are followed: only where every ready one has such a
/// hint, and at least one is meant for this node. Otherwise somebody would be left without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Near {
    Node,
    Zone,
    Anywhere,
}

impl Near {
    fn of(candidates: &[Candidate]) -> Self {
        let followed = |hint: fn(&Candidate) -> Hint| {
            let ready = || candidates.iter().filter(|one| one.standing == Standing::Ready);
            ready().all(|one| hint(one) != Hint::None) && ready().any(|one| hint(one) == Hint::Here)
        };
        if followed(|one| one.node_hint) {
            Self::Node
        } else if followed(|one| one.zone_hint) {
            Self::Zone
        } else {
            Self::Anywhere
        }
    }

    fn allows(self, candidate: &Candidate) -> bool {
        match self {
            Self::Node => candidate.node_hint == Hint::Here,
            Self::Zone => candidate.zone_hint == Hint::Here,
            Self::Anywhere => true,
        }
    }
}

/// Puts endpoints in an order in which as few as possible change their number: those that stay keep
/// theirs, new ones take the numbers of those that went, and only then the last fill the gaps.
pub(crate) fn arrange(before: &[Target], wanted: &BTreeSet<Target>) -> Vec<Target> {
    if before.is_empty() {
        return wanted.iter().copied().collect();
    }
    let mut wanted = wanted.clone();
    let count = wanted.len();
    let mut places: Vec<Option<Target>> =
        before.iter().map(|target| wanted.remove(target).then_some(*target)).collect();
    // Those beyond the new end move to a gap before it, like new ones.
    let beyond: Vec<Target> = places.iter().skip(count).copied().flatten().collect();
    places.resize(count, None);
    let mut arriving = beyond.into_iter().chain(wanted);
    places.into_iter().filter_map(|place| place.or_else(|| arriving.next())).collect()
}
