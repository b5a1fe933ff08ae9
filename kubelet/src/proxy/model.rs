//! The cluster's Services as this node knows them, and the rulesets that follow.
//!
//! A change touches the Service it is about: what belongs to it is found by indexes, and looked at
//! anew; all other Services are left alone, however many there are. Told everything, the model does
//! the same for each Service, so that both ways lead to the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;

use super::address::Frontend;
use super::endpoints::{Endpoints, Here, ready_here};
use super::ranges::Ranges;
use super::ruleset::{Ruleset, ServicePort};
use super::service::{
    Entrance, Kind, entrances, health_check_port, port_name, port_of, service_port,
};
use crate::network::PodHostPorts;
use crate::nft::expr::Ip;
use crate::state::EndpointSlice;

/// What is new.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Whether the lists hold all that there is; otherwise, what changed.
    pub(crate) everything: bool,
    /// What became of Services; nothing: they are gone.
    pub(crate) services: Vec<(ObjectKey, Option<Arc<Service>>)>,
    /// What became of endpoint slices; nothing: they are gone.
    pub(crate) slices: Vec<(ObjectKey, Option<Arc<EndpointSlice>>)>,
    /// Where this node is, and what it has, as of now.
    pub(crate) place: Place,
}

/// This node, as far as rules depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) here: Here,
    /// The node's own addresses.
    pub(crate) addresses: Vec<IpAddr>,
    /// By version of IP, of those that this node has to do with.
    pub(crate) ranges: BTreeMap<Ip, Ranges>,
}

/// What is served at frontends that changed, before.
pub(crate) type Changed = BTreeMap<Frontend, Option<Arc<ServicePort>>>;

/// What a load balancer asks of this node about a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HealthCheck {
    /// At which port.
    pub(crate) port: u16,
    /// How many endpoints of the Service are ready here.
    pub(crate) endpoints: usize,
}

/// Everything, indexed by what changes together.
#[derive(Debug, Default)]
pub(crate) struct Model {
    place: Place,
    services: HashMap<ObjectKey, Known>,
    /// The Service that each slice is of.
    slices: HashMap<ObjectKey, ObjectKey>,
    /// Who wants to serve a frontend. The first has it.
    claims: HashMap<Frontend, Vec<Claim>>,
    rulesets: BTreeMap<Ip, Ruleset>,
    /// Ports of Services that are not served at a frontend since others have it.
    conflicts: BTreeMap<Frontend, BTreeSet<String>>,
    health: BTreeMap<ObjectKey, HealthCheck>,
}

/// A Service, and what is said of it. Slices may come before their Service.
#[derive(Debug, Default)]
struct Known {
    service: Option<Arc<Service>>,
    /// In no order. Nearly always one: a map would be mostly room for more.
    slices: Vec<(ObjectKey, Arc<EndpointSlice>)>,
    /// What it claims.
    entrances: Vec<Entrance>,
}

/// A Service wants to serve a frontend. In the order in which it is given: own addresses first, then
/// the older Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Claim {
    is_entrance: bool,
    created: Option<Timestamp>,
    service: ObjectKey,
    kind: Kind,
    port: usize,
}

impl Model {
    /// One that carries on from what is in the kernel.
    pub(crate) fn carrying_on(place: Place, found: Vec<Ruleset>) -> Self {
        let mut rulesets: BTreeMap<Ip, Ruleset> =
            found.into_iter().map(|ruleset| (ruleset.ip, ruleset)).collect();
        for (ip, ranges) in &place.ranges {
            rulesets.entry(*ip).or_insert_with(|| Ruleset::new(*ip, ranges.clone()));
        }
        Self { place, rulesets, ..Self::default() }
    }

    /// By version of IP.
    pub(crate) fn rulesets(&self) -> &BTreeMap<Ip, Ruleset> {
        &self.rulesets
    }

    /// By version of IP.
    pub(crate) fn ranges(&self) -> &BTreeMap<Ip, Ranges> {
        &self.place.ranges
    }

    /// What load balancers ask of this node.
    pub(crate) fn health(&self) -> &BTreeMap<ObjectKey, HealthCheck> {
        &self.health
    }

    /// Ports of Services that are not served since others have their addresses.
    pub(crate) fn conflicts(&self) -> BTreeSet<&String> {
        self.conflicts.values().flatten().collect()
    }

    /// How many frontends are served.
    pub(crate) fn frontends(&self) -> usize {
        self.rulesets.values().map(|ruleset| ruleset.services().len()).sum()
    }

    /// Puts the host ports of this node's pods in place of those that were.
    pub(crate) fn set_host_ports(&mut self, pods: &BTreeMap<String, PodHostPorts>) {
        self.rulesets.values_mut().for_each(|ruleset| ruleset.set_host_ports(pods));
    }

    /// Takes in where this node is, and nothing else: while no master was heard, what the kernel does
    /// for Services is newer than what else is known of them.
    pub(crate) fn stay(&mut self, place: Place) {
        self.move_to(place);
    }

    /// Takes news in; returns what was done before at each frontend where something else is done now.
    pub(crate) fn update(&mut self, news: News) -> Changed {
        let moved = self.move_to(news.place);
        let mut touched = BTreeSet::new();
        let mut changed = Changed::new();
        if news.everything {
            self.forget_missing(&news.services, &news.slices, &mut touched);
        }
        for (key, service) in news.services {
            self.put_service(&key, service);
            touched.insert(key);
        }
        for (key, slice) in news.slices {
            self.put_slice(key, slice, &mut touched);
        }
        if moved {
            touched.extend(self.services.keys().cloned());
        }
        let mut contested = BTreeSet::new();
        for key in &touched {
            self.claim_anew(key, &mut contested);
        }
        if news.everything || moved {
            // What was taken over and is nobody's any more.
            let served = self.rulesets.values().flat_map(|ruleset| ruleset.services().keys());
            contested.extend(served.filter(|at| !self.claims.contains_key(at)).copied());
        }
        self.give(&contested, &mut changed);
        for key in touched {
            self.check_health(&key);
            if self.services.get(&key).is_some_and(Known::is_nothing) {
                self.services.remove(&key);
            }
        }
        changed
    }

    /// Whether that concerns all Services.
    fn move_to(&mut self, place: Place) -> bool {
        if self.place == place {
            return false;
        }
        let everywhere = self.place.here != place.here
            || self.place.addresses != place.addresses
            || !self.place.ranges.keys().eq(place.ranges.keys());
        self.rulesets.retain(|ip, _| place.ranges.contains_key(ip));
        for (ip, ranges) in &place.ranges {
            let new = || Ruleset::new(*ip, ranges.clone());
            self.rulesets.entry(*ip).or_insert_with(new).set_ranges(ranges.clone());
        }
        self.place = place;
        everywhere
    }

    fn forget_missing(
        &mut self,
        services: &[(ObjectKey, Option<Arc<Service>>)],
        slices: &[(ObjectKey, Option<Arc<EndpointSlice>>)],
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        let services: BTreeSet<&ObjectKey> = services.iter().map(|(key, _)| key).collect();
        let slices: BTreeSet<&ObjectKey> = slices.iter().map(|(key, _)| key).collect();
        for (key, known) in &mut self.services {
            if !services.contains(key) && known.service.take().is_some() {
                touched.insert(key.clone());
            }
        }
        let gone: Vec<ObjectKey> =
            self.slices.keys().filter(|key| !slices.contains(key)).cloned().collect();
        for key in gone {
            self.put_slice(key, None, touched);
        }
    }

    fn put_service(&mut self, key: &ObjectKey, service: Option<Arc<Service>>) {
        match service {
            Some(service) => {
                self.services.entry(key.clone()).or_default().service = Some(service);
            }
            None => {
                if let Some(known) = self.services.get_mut(key) {
                    known.service = None;
                }
            }
        }
    }

    fn put_slice(
        &mut self,
        key: ObjectKey,
        slice: Option<Arc<EndpointSlice>>,
        touched: &mut BTreeSet<ObjectKey>,
    ) {
        let of = slice.as_deref().and_then(|slice| slice.owner(&key));
        // Its label may have changed.
        if let Some(before) = self.slices.remove(&key) {
            if let Some(known) = self.services.get_mut(&before) {
                known.slices.retain(|(known, _)| *known != key);
                known.slices.shrink_to_fit();
            }
            touched.insert(before);
        }
        if let (Some(service), Some(slice)) = (of, slice) {
            let slices = &mut self.services.entry(service.clone()).or_default().slices;
            slices.reserve_exact(1);
            slices.push((key.clone(), slice));
            self.slices.insert(key, service.clone());
            touched.insert(service);
        }
    }

    /// Puts a Service's claims in place of those it had; `contested` are the frontends of both.
    fn claim_anew(&mut self, key: &ObjectKey, contested: &mut BTreeSet<Frontend>) {
        let Some(known) = self.services.get_mut(key) else { return };
        let service = known.service.as_deref();
        let new = service.map(entrances).unwrap_or_default();
        let created = service
            .and_then(|service| service.metadata.creation_timestamp.as_ref())
            .map(|time| time.0);
        let old = std::mem::replace(&mut known.entrances, new.clone());
        for Entrance { at, .. } in old {
            if let Some(claims) = self.claims.get_mut(&at) {
                claims.retain(|claim| claim.service != *key);
                if claims.is_empty() {
                    self.claims.remove(&at);
                }
            }
            contested.insert(at);
        }
        for Entrance { at, port, kind } in new {
            if !self.rulesets.contains_key(&at.ip()) {
                continue;
            }
            let claims = self.claims.entry(at).or_default();
            let is_entrance = kind != Kind::Cluster;
            claims.push(Claim { is_entrance, created, service: key.clone(), kind, port });
            claims.sort();
            contested.insert(at);
        }
    }

    /// Finds out anew what is done for each of these frontends.
    fn give(&mut self, contested: &BTreeSet<Frontend>, changed: &mut Changed) {
        // The entrances of one port have the same endpoints.
        let mut endpoints: HashMap<(ObjectKey, usize, Ip), Endpoints> = HashMap::new();
        for at in contested {
            self.note_conflicts(*at);
            let owner = self.claims.get(at).and_then(|claims| claims.first());
            let Some(ruleset) = self.rulesets.get(&at.ip()) else { continue };
            let before = ruleset.services().get(at);
            let after = owner.and_then(|claim| {
                let known = self.services.get(&claim.service)?;
                let service = known.service.as_deref()?;
                let entrance = Entrance { at: *at, port: claim.port, kind: claim.kind };
                let port = port_of(service, &entrance)?;
                let of = (claim.service.clone(), claim.port, at.ip());
                let endpoints = endpoints.entry(of).or_insert_with(|| {
                    Endpoints::of(known.slices(), &port, at.ip(), &self.place.here)
                });
                let before = before.map(Arc::as_ref);
                let own = &self.place.addresses;
                Some(service_port(&claim.service, service, &entrance, endpoints, before, own))
            });
            if before.map(Arc::as_ref) == after.as_ref() {
                continue;
            }
            let Some(ruleset) = self.rulesets.get_mut(&at.ip()) else { continue };
            let before = ruleset.put(*at, after.map(Arc::new));
            changed.insert(*at, before);
        }
    }

    fn note_conflicts(&mut self, at: Frontend) {
        self.conflicts.remove(&at);
        let claims = self.claims.get(&at).map(Vec::as_slice).unwrap_or_default();
        let Some((owner, others)) = claims.split_first() else { return };
        // A Service may name the same frontend twice.
        let others = others
            .iter()
            .filter(|claim| (&claim.service, claim.port) != (&owner.service, owner.port))
            .filter_map(|claim| {
                let service = self.services.get(&claim.service)?.service.as_deref()?;
                Some(port_name(&claim.service, service, claim.port))
            });
        let others: BTreeSet<String> = others.collect();
        if !others.is_empty() {
            self.conflicts.insert(at, others);
        }
    }

    fn check_health(&mut self, key: &ObjectKey) {
        let known = self.services.get(key);
        let port = known.and_then(|known| health_check_port(known.service.as_deref()?));
        match (known, port) {
            (Some(known), Some(port)) => {
                let endpoints = ready_here(known.slices(), &self.place.here);
                self.health.insert(key.clone(), HealthCheck { port, endpoints });
            }
            _ => {
                self.health.remove(key);
            }
        }
    }
}

impl Known {
    fn slices(&self) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.iter().map(|(_, slice)| slice)
    }

    fn is_nothing(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}
