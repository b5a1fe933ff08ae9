//! What has a name: Services and their endpoints, kept so that every question is a look-up and every
//! change touches its own names only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;

use super::label;
use crate::state::{Change, ClusterState, EndpointSlice, Standing};

/// What is said of a Service under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The addresses that stand for all of its endpoints.
    Addresses(Vec<IpAddr>),
    /// It is headless: the addresses are those of its endpoints.
    Endpoints,
    /// Another name.
    Alias(String),
}

/// An address of an endpoint that takes requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NamedEndpoint<'a> {
    pub(crate) address: IpAddr,
    /// Its name below the Service's, if it has one of its own.
    hostname: Option<&'a str>,
    slice: &'a EndpointSlice,
}

impl NamedEndpoint<'_> {
    /// Its label below the Service's name: its host name, else its address.
    pub(crate) fn label(&self) -> String {
        self.hostname.map_or_else(|| label::of_address(self.address), str::to_owned)
    }

    /// Name, protocol and number of each port.
    pub(crate) fn ports(&self) -> impl Iterator<Item = Port<'_>> {
        let ports = self.slice.ports();
        ports.map(|port| Port::new(Some(port.name), Some(port.protocol), port.number))
    }
}

/// A port, with its name and protocol as objects have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port<'a> {
    /// Empty: it has none.
    pub(crate) name: &'a str,
    pub(crate) protocol: &'a str,
    pub(crate) number: u16,
}

impl<'a> Port<'a> {
    fn new(name: Option<&'a str>, protocol: Option<&'a str>, number: u16) -> Self {
        Self { name: name.unwrap_or_default(), protocol: protocol.unwrap_or("TCP"), number }
    }
}

/// All that has a name.
#[derive(Debug, PartialEq)]
pub(crate) struct Names {
    services: HashMap<ObjectKey, Arc<Service>>,
    /// By Service, with their own names, by which they are sorted. Nearly always one: a map would be mostly
    /// room for more.
    slices: HashMap<ObjectKey, Vec<(String, Arc<EndpointSlice>)>>,
    /// Which Service a slice is of, by the slice's key.
    owners: HashMap<ObjectKey, ObjectKey>,
    /// How many Services each namespace has.
    namespaces: HashMap<String, usize>,
    /// Which Services an address stands for.
    service_addresses: BTreeSet<(IpAddr, Arc<ObjectKey>)>,
    /// Which slices an address is in: sorted pairs, at some forty bytes for each endpoint of the cluster.
    endpoint_addresses: BTreeSet<(IpAddr, Arc<ObjectKey>)>,
    /// Comes before every other key.
    first: Arc<ObjectKey>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            services: HashMap::new(),
            slices: HashMap::new(),
            owners: HashMap::new(),
            namespaces: HashMap::new(),
            service_addresses: BTreeSet::new(),
            endpoint_addresses: BTreeSet::new(),
            first: Arc::new(ObjectKey::new("", "")),
        }
    }
}

/// Objects with names, as a state has them.
pub(crate) type Objects = (Vec<(ObjectKey, Arc<Service>)>, Vec<(ObjectKey, Arc<EndpointSlice>)>);

/// What became of an object; nothing: it is gone.
#[derive(Debug)]
pub(crate) enum Renewal {
    Service(ObjectKey, Option<Arc<Service>>),
    Slice(ObjectKey, Option<Arc<EndpointSlice>>),
}

/// Takes the objects out of a state, for whoever must not hold it for long.
pub(crate) fn objects(state: &ClusterState) -> Objects {
    let services = state.services.iter().map(|(key, one)| (key.clone(), Arc::clone(one)));
    let slices = state.endpoint_slices.iter().map(|(key, one)| (key.clone(), Arc::clone(one)));
    (services.collect(), slices.collect())
}

impl Names {
    /// The names of objects.
    pub(crate) fn of((services, slices): Objects) -> Self {
        let mut names = Self::default();
        for (key, service) in services {
            names.put_service(&key, Some(service));
        }
        for (key, slice) in slices {
            names.put_slice(&key, Some(slice));
        }
        names
    }

    /// What leads from these names to those of other objects. Objects that both have in common are
    /// passed over, so that what a master says a second time costs next to nothing.
    pub(crate) fn renewals(&self, (services, slices): Objects) -> Vec<Renewal> {
        let mut renewals = Vec::new();
        let kept: HashSet<&ObjectKey> = services.iter().map(|(key, _)| key).collect();
        let gone = self.services.keys().filter(|key| !kept.contains(key));
        renewals.extend(gone.map(|key| Renewal::Service(key.clone(), None)));
        let kept: HashSet<&ObjectKey> = slices.iter().map(|(key, _)| key).collect();
        let gone = self.owners.keys().filter(|key| !kept.contains(key));
        renewals.extend(gone.map(|key| Renewal::Slice(key.clone(), None)));
        for (key, service) in services {
            if !self.services.get(&key).is_some_and(|known| Arc::ptr_eq(known, &service)) {
                renewals.push(Renewal::Service(key, Some(service)));
            }
        }
        for (key, slice) in slices {
            let slices = self.owners.get(&key).and_then(|owner| self.slices.get(owner));
            let mut known = slices.into_iter().flatten().filter(|(name, _)| *name == key.name);
            if !known.any(|(_, known)| Arc::ptr_eq(known, &slice)) {
                renewals.push(Renewal::Slice(key, Some(slice)));
            }
        }
        renewals
    }

    /// Takes one in.
    pub(crate) fn renew(&mut self, renewal: Renewal) {
        match renewal {
            Renewal::Service(key, service) => self.put_service(&key, service),
            Renewal::Slice(key, slice) => self.put_slice(&key, slice),
        }
    }

    /// Follows a change of the state, but for a change of everything.
    pub(crate) fn follow(&mut self, change: &Change, state: &ClusterState) {
        match change {
            Change::Service(key) => self.put_service(key, state.services.get(key).cloned()),
            Change::EndpointSlice(key) => {
                self.put_slice(key, state.endpoint_slices.get(key).cloned());
            }
            _ => {}
        }
    }

    fn put_service(&mut self, key: &ObjectKey, service: Option<Arc<Service>>) {
        let there = service.is_some();
        let held: Vec<IpAddr> = service.as_deref().map(addresses_of_service).unwrap_or_default();
        let before = match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
        let shared = Arc::new(key.clone());
        for address in before.as_deref().map(addresses_of_service).unwrap_or_default() {
            self.service_addresses.remove(&(address, Arc::clone(&shared)));
        }
        self.service_addresses
            .extend(held.into_iter().map(|address| (address, Arc::clone(&shared))));
        match (before.is_some(), there) {
            (false, true) => *self.namespaces.entry(key.namespace.clone()).or_default() += 1,
            (true, false) => {
                let count = self.namespaces.entry(key.namespace.clone()).or_default();
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.namespaces.remove(&key.namespace);
                }
            }
            _ => {}
        }
    }

    fn put_slice(&mut self, key: &ObjectKey, slice: Option<Arc<EndpointSlice>>) {
        let slice = slice.and_then(|slice| Some((slice.owner(key)?, slice)));
        let before = self.owners.get(key).cloned();
        let taken = before.as_ref().and_then(|owner| self.take_slice(owner, &key.name));
        let old = taken.as_deref().map(addresses_of_slice).unwrap_or_default();
        let new = match slice {
            Some((owner, slice)) => {
                let new = addresses_of_slice(&slice);
                self.owners.insert(key.clone(), owner.clone());
                let slices = self.slices.entry(owner).or_default();
                // It was taken out above.
                let place = slices.partition_point(|(name, _)| *name < key.name);
                slices.reserve_exact(1);
                slices.insert(place, (key.name.clone(), slice));
                new
            }
            None => {
                self.owners.remove(key);
                BTreeSet::new()
            }
        };
        let shared = Arc::new(key.clone());
        for address in old.difference(&new) {
            self.endpoint_addresses.remove(&(*address, Arc::clone(&shared)));
        }
        for address in new.difference(&old) {
            self.endpoint_addresses.insert((*address, Arc::clone(&shared)));
        }
    }

    fn take_slice(&mut self, owner: &ObjectKey, name: &str) -> Option<Arc<EndpointSlice>> {
        let slices = self.slices.get_mut(owner)?;
        let place = slices.iter().position(|(known, _)| known == name);
        let taken = place.map(|place| slices.remove(place).1);
        if slices.is_empty() {
            self.slices.remove(owner);
        }
        taken
    }

    /// What stands under a Service's name; nothing if there is no such Service, or none that DNS
    /// could tell of.
    pub(crate) fn told(&self, key: &ObjectKey) -> Option<Told> {
        let service = self.services.get(key)?;
        let spec = service.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let name = spec.and_then(|spec| spec.external_name.clone()).unwrap_or_default();
            // An address is nobody's alias, as in CoreDNS.
            let is_name = !name.is_empty() && name.parse::<IpAddr>().is_err();
            return is_name.then_some(Told::Alias(name));
        }
        if spec.and_then(|spec| spec.cluster_ip.as_deref()) == Some("None") {
            return Some(Told::Endpoints);
        }
        Some(Told::Addresses(addresses_of_service(service)))
    }

    /// Name, protocol and number of a Service's ports.
    pub(crate) fn ports(&self, key: &ObjectKey) -> impl Iterator<Item = Port<'_>> {
        let spec = self.services.get(key).and_then(|service| service.spec.as_ref());
        spec.into_iter().flat_map(|spec| spec.ports.iter().flatten()).filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some(Port::new(port.name.as_deref(), port.protocol.as_deref(), number))
        })
    }

    /// The endpoints of a Service that take requests, as its slices have them.
    pub(crate) fn endpoints(&self, key: &ObjectKey) -> impl Iterator<Item = NamedEndpoint<'_>> {
        let slices = self.slices.get(key).into_iter().flatten();
        slices.flat_map(|(_, slice)| endpoints_of(slice))
    }

    /// The addresses of a Service's endpoint, by its label below the Service's name.
    pub(crate) fn endpoint(&self, key: &ObjectKey, label: &str) -> Vec<IpAddr> {
        let of_that_name = self.endpoints(key).filter(|one| one.hostname == Some(label));
        let mut found: Vec<IpAddr> = of_that_name.map(|one| one.address).collect();
        if let Some(address) = label::address(label) {
            let unnamed = self
                .endpoints_at(address)
                .any(|(owner, endpoint)| owner == key && endpoint.hostname.is_none());
            found.extend(unnamed.then_some(address));
        }
        found
    }

    /// Whether a namespace has any Service.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// The Services that an address stands for.
    pub(crate) fn services_at(&self, address: IpAddr) -> impl Iterator<Item = &ObjectKey> {
        self.service_addresses
            .range((address, Arc::clone(&self.first))..)
            .take_while(move |(at, _)| *at == address)
            .map(|(_, key)| &**key)
    }

    /// The endpoints at an address, each with its Service.
    pub(crate) fn endpoints_at(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (&ObjectKey, NamedEndpoint<'_>)> {
        let slices = self.endpoint_addresses.range((address, Arc::clone(&self.first))..);
        let slices = slices.take_while(move |(at, _)| *at == address);
        slices.flat_map(move |(_, key)| {
            let owner = self.owners.get(&**key);
            let slice = owner.and_then(|owner| Some((owner, self.slices.get(owner)?)));
            let slice = slice.and_then(|(owner, slices)| {
                Some((
                    owner,
                    slices.iter().find(|(name, _)| *name == key.name).map(|(_, one)| one)?,
                ))
            });
            slice.into_iter().flat_map(move |(owner, slice)| {
                let there = endpoints_of(slice).filter(move |one| one.address == address);
                there.map(move |endpoint| (owner, endpoint))
            })
        })
    }
}

/// The addresses that stand for a Service; none if it is headless.
fn addresses_of_service(service: &Service) -> Vec<IpAddr> {
    let spec = service.spec.iter();
    let several = spec.clone().flat_map(|spec| spec.cluster_ips.iter().flatten());
    let one = spec.filter_map(|spec| spec.cluster_ip.as_ref());
    let mut addresses: Vec<IpAddr> =
        several.chain(one).filter_map(|address| address.parse().ok()).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

fn addresses_of_slice(slice: &EndpointSlice) -> BTreeSet<IpAddr> {
    endpoints_of(slice).map(|endpoint| endpoint.address).collect()
}

fn endpoints_of(slice: &EndpointSlice) -> impl Iterator<Item = NamedEndpoint<'_>> {
    // Those of a Service that publishes addresses which are not ready are called ready by who makes the
    // slices.
    let ready = slice.endpoints().filter(|endpoint| endpoint.standing() == Standing::Ready);
    ready.flat_map(move |endpoint| {
        let hostname = endpoint.hostname();
        endpoint.addresses().map(move |address| NamedEndpoint { address, hostname, slice })
    })
}
