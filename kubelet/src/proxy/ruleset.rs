//! What the kernel should do for Services: a value, one for each version of IP.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::address::{Frontend, Protocol, Target, any};
use super::endpoints::arrange;
use super::program::{Door, Shape, Side};
use super::ranges::Ranges;
use crate::network::PodHostPorts;
use crate::nft::expr::Ip;

/// A choice between endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The endpoints, by place.
    pub(crate) targets: Vec<Target>,
    /// Where clients stay with an endpoint, its number in the same place: an endpoint keeps it for
    /// good, and it is not given again.
    pub(crate) numbers: Vec<u32>,
    /// No number so high was given yet.
    pub(crate) next_number: u32,
}

impl Choice {
    /// Between these endpoints: as few as possible change their places, none its number.
    pub(crate) fn between(
        wanted: &BTreeSet<Target>,
        has_affinity: bool,
        before: Option<&Self>,
    ) -> Self {
        let placed = before.map(|before| before.targets.as_slice()).unwrap_or_default();
        let mut choice = Self { targets: arrange(placed, wanted), ..Self::default() };
        if has_affinity {
            choice.give_numbers(before);
        }
        choice
    }

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

/// What becomes of those for whom there is no endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Otherwise {
    /// They are told so.
    Reject,
    /// They hear nothing: there are endpoints, but this node is not to lead there. Whoever sent them
    /// here, as a load balancer, is to try another node.
    Drop,
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
    /// Where clients are sent.
    pub(crate) choice: Choice,
    /// Where this node and its pods are sent instead.
    pub(crate) inside: Option<Choice>,
    /// When there is nowhere to send a client.
    pub(crate) otherwise: Otherwise,
    /// From where one may turn to it; nothing means from everywhere.
    pub(crate) sources: Option<Vec<IpNet>>,
}

impl ServicePort {
    /// The choices to be made for a frontend; those between nothing are none.
    pub(crate) fn shapes(&self, at: Frontend) -> impl Iterator<Item = (Shape, &Choice)> {
        let door = if at.address.is_unspecified() { Door::NodePort } else { Door::Address };
        let sides = [(Side::Everybody, Some(&self.choice)), (Side::Inside, self.inside.as_ref())];
        sides.into_iter().filter_map(move |(side, choice)| {
            let choice = choice?;
            let count = u32::try_from(choice.targets.len()).unwrap_or(u32::MAX);
            let shape = Shape { door, side, count, affinity: self.affinity };
            (count > 0).then_some((shape, choice))
        })
    }

    /// All endpoints that somebody may be sent to.
    pub(crate) fn targets(&self) -> impl Iterator<Item = &Target> {
        let inside = self.inside.iter().flat_map(|inside| &inside.targets);
        self.choice.targets.iter().chain(inside)
    }
}

/// What belongs to no Service: all that chains depend on, and what follows from this node's pods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) ranges: Ranges,
    pub(crate) host_ports: BTreeMap<Frontend, Target>,
    /// The choices that are made.
    pub(crate) shapes: BTreeSet<Shape>,
    /// Behind which doors this node and its pods have a choice of their own.
    pub(crate) inside: BTreeSet<Door>,
    /// How many bits are fixed by the ranges that clients have to be in.
    pub(crate) prefixes: BTreeSet<u8>,
    /// Pods of this node that may reach themselves through a service.
    pub(crate) hairpins: BTreeSet<IpAddr>,
}

/// All that the kernel should do for the Services of one version of IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruleset {
    pub(crate) ip: Ip,
    pub(crate) frame: Frame,
    /// Cluster addresses, node ports and external addresses alike. Shared between versions, so that
    /// what is unchanged is seen at once.
    services: BTreeMap<Frontend, Arc<ServicePort>>,
    /// How many frontends or endpoints each part of the frame is there for.
    shapes: BTreeMap<Shape, usize>,
    prefixes: BTreeMap<u8, usize>,
    hairpins: BTreeMap<IpAddr, usize>,
}

impl Ruleset {
    /// Without any Service.
    pub(crate) fn new(ip: Ip, ranges: Ranges) -> Self {
        Self {
            ip,
            frame: Frame { ranges, ..Frame::default() },
            services: BTreeMap::new(),
            shapes: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            hairpins: BTreeMap::new(),
        }
    }

    /// By frontend.
    pub(crate) fn services(&self) -> &BTreeMap<Frontend, Arc<ServicePort>> {
        &self.services
    }

    /// Puts what is done for a frontend in place of what was; returns that.
    pub(crate) fn put(
        &mut self,
        at: Frontend,
        service: Option<Arc<ServicePort>>,
    ) -> Option<Arc<ServicePort>> {
        // What comes is counted before what goes, so that what stays never reaches nought.
        if let Some(service) = &service {
            self.count(at, service, Count::Up);
        }
        let before = match service {
            Some(service) => self.services.insert(at, service),
            None => self.services.remove(&at),
        };
        if let Some(before) = &before {
            self.count(at, before, Count::Down);
        }
        before
    }

    /// The same Services, for other ranges.
    pub(crate) fn set_ranges(&mut self, ranges: Ranges) {
        if self.frame.ranges == ranges {
            return;
        }
        let moved = self.frame.ranges.own != ranges.own;
        self.frame.ranges = ranges;
        if moved {
            self.hairpins.clear();
            self.frame.hairpins.clear();
            let services: Vec<Arc<ServicePort>> = self.services.values().cloned().collect();
            let ports: Vec<Target> = self.frame.host_ports.values().copied().collect();
            let targets = services.iter().flat_map(|service| service.targets()).chain(&ports);
            for target in targets {
                self.count_hairpin(target.address, Count::Up);
            }
        }
    }

    /// Puts the host ports of this node's pods in place of those that were.
    pub(crate) fn set_host_ports(&mut self, pods: &BTreeMap<String, PodHostPorts>) {
        self.take_host_ports(host_ports(self.ip, pods));
    }

    /// Likewise, of those that are in the kernel.
    pub(crate) fn take_host_ports(&mut self, ports: BTreeMap<Frontend, Target>) {
        if ports == self.frame.host_ports {
            return;
        }
        for target in ports.values() {
            self.count_hairpin(target.address, Count::Up);
        }
        for target in std::mem::replace(&mut self.frame.host_ports, ports).values() {
            self.count_hairpin(target.address, Count::Down);
        }
    }

    fn count(&mut self, at: Frontend, service: &ServicePort, step: Count) {
        for (shape, _) in service.shapes(at) {
            step.count(shape, &mut self.shapes, &mut self.frame.shapes);
        }
        for range in service.sources.iter().flatten() {
            step.count(range.prefix_len(), &mut self.prefixes, &mut self.frame.prefixes);
        }
        for target in service.targets() {
            self.count_hairpin(target.address, step);
        }
        self.frame.inside = self
            .frame
            .shapes
            .iter()
            .filter(|shape| shape.side == Side::Inside)
            .map(|shape| shape.door)
            .collect();
    }

    fn count_hairpin(&mut self, address: IpAddr, step: Count) {
        if self.frame.ranges.own.is_some_and(|own| own.contains(&address)) {
            step.count(address, &mut self.hairpins, &mut self.frame.hairpins);
        }
    }
}

/// One more or one less.
#[derive(Clone, Copy)]
enum Count {
    Up,
    Down,
}

impl Count {
    /// `present` has what is counted at least once.
    fn count<T: Copy + Ord>(
        self,
        what: T,
        counts: &mut BTreeMap<T, usize>,
        present: &mut BTreeSet<T>,
    ) {
        let count = counts.entry(what).or_default();
        match self {
            Self::Up => *count += 1,
            Self::Down => *count = count.saturating_sub(1),
        }
        if *count == 0 {
            counts.remove(&what);
            present.remove(&what);
        } else {
            present.insert(what);
        }
    }
}

fn host_ports(ip: Ip, pods: &BTreeMap<String, PodHostPorts>) -> BTreeMap<Frontend, Target> {
    let mut ports = BTreeMap::new();
    for pod in pods.values() {
        let of_version = |address: &&IpAddr| Ip::of(**address) == ip;
        let Some(address) = pod.addresses.iter().find(of_version) else { continue };
        for port in &pod.ports {
            let Some(protocol) = Protocol::parse(Some(&port.protocol)) else { continue };
            let on = port.host_ip.unwrap_or(any(ip));
            if Ip::of(on) != ip {
                continue;
            }
            let at = Frontend { address: on, protocol, port: port.host_port };
            let target = Target { address: *address, port: port.container_port };
            // The scheduler keeps pods with the same host port apart; while one goes and
            // another comes, the first by uid has it.
            ports.entry(at).or_insert(target);
        }
    }
    ports
}
