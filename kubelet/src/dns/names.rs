//! What has a name: Services and their endpoints, kept so that every question is a look-up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use proto::ObjectKey;
use proto::k8s::api::core::v1::Service;
use proto::k8s::api::discovery::v1::{Endpoint, EndpointSlice};

use crate::state::{Change, ClusterState};

/// Tells whose endpoints a slice has.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What is said of a Service under its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// The addresses that stand for all of its endpoints.
    Addresses(Vec<IpAddr>),
    /// It is headless: its endpoints have names of their own.
    Endpoints,
    /// Another name.
    Alias(String),
}

/// An endpoint that takes requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedEndpoint {
    /// Its label below the Service's name.
    pub(crate) label: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// Name, protocol and number of each port.
    pub(crate) ports: Vec<(String, String, u16)>,
}

/// Whose address it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Holder {
    Service(ObjectKey),
    /// By its label below the Service's name.
    Endpoint(ObjectKey, String),
}

/// All that has a name.
#[derive(Debug, Default)]
pub(crate) struct Names {
    services: HashMap<ObjectKey, Arc<Service>>,
    /// By Service, then by their own names.
    slices: HashMap<ObjectKey, BTreeMap<String, Arc<EndpointSlice>>>,
    /// Which Service a slice is of, by the slice's key.
    owners: HashMap<ObjectKey, ObjectKey>,
    /// How many Services each namespace has.
    namespaces: HashMap<String, usize>,
    holders: HashMap<IpAddr, BTreeSet<Holder>>,
    /// What each Service stands for in `holders`.
    held: HashMap<ObjectKey, Vec<(IpAddr, Holder)>>,
}

impl Names {
    /// The names in a state.
    pub(crate) fn of(state: &ClusterState) -> Self {
        let mut names = Self::default();
        for (key, service) in &state.services {
            names.put_service(key, Some(Arc::clone(service)));
        }
        for (key, slice) in &state.endpoint_slices {
            names.put_slice(key, Some(Arc::clone(slice)));
        }
        names
    }

    /// Follows a change of the state; tells whether everything has to be looked at instead.
    pub(crate) fn follow(&mut self, change: &Change, state: &ClusterState) -> bool {
        match change {
            Change::Everything => return true,
            Change::Service(key) => self.put_service(key, state.services.get(key).cloned()),
            Change::EndpointSlice(key) => {
                self.put_slice(key, state.endpoint_slices.get(key).cloned());
            }
            _ => {}
        }
        false
    }

    fn put_service(&mut self, key: &ObjectKey, service: Option<Arc<Service>>) {
        let there = service.is_some();
        let before = match service {
            Some(service) => self.services.insert(key.clone(), service),
            None => self.services.remove(key),
        };
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
        self.hold(key);
    }

    fn put_slice(&mut self, key: &ObjectKey, slice: Option<Arc<EndpointSlice>>) {
        let owner = slice.as_ref().and_then(|slice| owner_of(key, slice));
        let before = match &owner {
            Some(owner) => self.owners.insert(key.clone(), owner.clone()),
            None => self.owners.remove(key),
        };
        if let Some(before) = before.filter(|before| Some(before) != owner.as_ref()) {
            self.take_slice(&before, &key.name);
            self.hold(&before);
        }
        if let (Some(owner), Some(slice)) = (owner, slice) {
            self.slices.entry(owner.clone()).or_default().insert(key.name.clone(), slice);
            self.hold(&owner);
        }
    }

    fn take_slice(&mut self, owner: &ObjectKey, name: &str) {
        if let Some(slices) = self.slices.get_mut(owner) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices.remove(owner);
            }
        }
    }

    /// Notes which addresses lead to the Service's names.
    fn hold(&mut self, key: &ObjectKey) {
        let holds: Vec<(IpAddr, Holder)> = match self.told(key) {
            Some(Told::Addresses(addresses)) => addresses
                .into_iter()
                .map(|address| (address, Holder::Service(key.clone())))
                .collect(),
            Some(Told::Endpoints) => self
                .endpoints(key)
                .flat_map(|endpoint| {
                    let holder = Holder::Endpoint(key.clone(), endpoint.label);
                    endpoint.addresses.into_iter().map(move |address| (address, holder.clone()))
                })
                .collect(),
            Some(Told::Alias(_)) | None => Vec::new(),
        };
        let before = if holds.is_empty() {
            self.held.remove(key)
        } else {
            self.held.insert(key.clone(), holds.clone())
        };
        for (address, holder) in before.into_iter().flatten() {
            if let Some(holders) = self.holders.get_mut(&address) {
                holders.remove(&holder);
                if holders.is_empty() {
                    self.holders.remove(&address);
                }
            }
        }
        for (address, holder) in holds {
            self.holders.entry(address).or_default().insert(holder);
        }
    }

    /// What stands under a Service's name; nothing if there is no such Service.
    pub(crate) fn told(&self, key: &ObjectKey) -> Option<Told> {
        let spec = self.services.get(key)?.spec.as_ref();
        if spec.and_then(|spec| spec.type_.as_deref()) == Some("ExternalName") {
            let name = spec.and_then(|spec| spec.external_name.clone()).unwrap_or_default();
            return Some(Told::Alias(name));
        }
        let one = spec.and_then(|spec| spec.cluster_ip.as_ref());
        if one.is_some_and(|address| address == "None") {
            return Some(Told::Endpoints);
        }
        let several = spec.iter().flat_map(|spec| spec.cluster_ips.iter().flatten());
        let mut addresses: Vec<IpAddr> =
            several.chain(one).filter_map(|address| address.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        Some(Told::Addresses(addresses))
    }

    /// Name, protocol and number of a Service's ports.
    pub(crate) fn ports(&self, key: &ObjectKey) -> Vec<(String, String, u16)> {
        let spec = self.services.get(key).and_then(|service| service.spec.as_ref());
        let ports = spec.iter().flat_map(|spec| spec.ports.iter().flatten());
        let told = ports.filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            Some(port_of(port.name.as_deref(), port.protocol.as_deref(), number))
        });
        told.collect()
    }

    /// The endpoints of a Service that take requests, as its slices have them.
    pub(crate) fn endpoints(&self, key: &ObjectKey) -> impl Iterator<Item = NamedEndpoint> + '_ {
        let slices = self.slices.get(key).into_iter().flat_map(BTreeMap::values);
        slices.flat_map(|slice| {
            let ports = slice.ports.iter().flatten().filter_map(|port| {
                let number = u16::try_from(port.port?).ok()?;
                Some(port_of(port.name.as_deref(), port.protocol.as_deref(), number))
            });
            let ports: Vec<_> = ports.collect();
            let ready = slice.endpoints.iter().flatten().filter(|endpoint| is_ready(endpoint));
            ready.filter_map(move |endpoint| named(endpoint, &ports))
        })
    }

    /// Whether a namespace has any Service.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.contains_key(namespace)
    }

    /// Whose address it is.
    pub(crate) fn holders(&self, address: IpAddr) -> impl Iterator<Item = &Holder> {
        self.holders.get(&address).into_iter().flatten()
    }
}

fn owner_of(key: &ObjectKey, slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some(ObjectKey::new(&*key.namespace, &**name))
}

fn port_of(name: Option<&str>, protocol: Option<&str>, number: u16) -> (String, String, u16) {
    let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
    (name.unwrap_or_default().to_owned(), protocol, number)
}

/// An endpoint that does not say takes requests.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn named(endpoint: &Endpoint, ports: &[(String, String, u16)]) -> Option<NamedEndpoint> {
    let addresses: Vec<IpAddr> =
        endpoint.addresses.iter().filter_map(|address| address.parse().ok()).collect();
    let first = addresses.first()?;
    let stated = endpoint.hostname.clone().filter(|name| !name.is_empty());
    // Unlike the address itself, this is a label.
    let label = stated.unwrap_or_else(|| first.to_string().replace(['.', ':'], "-"));
    Some(NamedEndpoint { label, addresses, ports: ports.to_vec() })
}
